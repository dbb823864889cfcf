"""Names of all keys and fields that the service writes. Every key starts with the namespace (``mild``).

==================================  ======  =========================================================================
key (after the namespace)           type    holds
==================================  ======  =========================================================================
``:runs``                           zset    all at score 0: ``<created, ms, 13 digits>:<run_id>``, for listing by age
``:{run_id}:run``                   hash    the run's record: uid, config, tags, status, ttl, attempt, round, times, …
``:{run_id}:<uid>:round:<r>``       hash    state, version, members, planted, times; once finished: set, selection, fit
``:{run_id}:<uid>:epochs:<r>``      hash    epoch -> ``attempt:digest:planes:n_correct:n_observed:kind:state:in/of``
``:{run_id}:<uid>:shards:<r>``      hash    ``<epoch>:<shard>`` -> ``name:digest:n_correct:n_observed``
``:{run_id}:<uid>:metrics:<r>``     hash    epoch -> JSON of scalars and its checksum
``:{run_id}:<uid>:chunk:<r>:0``     hash    chunk 0 of every bitmap of the round, a field per epoch and set
``:{run_id#c}:<uid>:chunk:<r>:<c>`` hash    chunk c >= 1 of the same fields
``:{run_id#c}:<uid>:votes:<r>:<c>`` hash    wrong predictions of chunk c (c 0: tag ``{run_id}``), a field per epoch
``:{run_id}:<uid>:events``           stream  the run's latest events, numbered from 1: ``<number>-0``
``:{run_id}:<uid>:truth:0``         hash    chunk 0 of given labels and of the audit, a field each
``:{run_id#c}:<uid>:truth:<c>``     hash    chunk c >= 1 of the same fields
``:{run_id#c}:<uid>:ids:<c>``       hash    external ids of chunk c (c 0: tag ``{run_id}``), in pieces of 8,192 lines
``:{run_id}:<uid>:cache:<digest>``  hash    a computed selection: summary, fit, ``bits:<c>``; expires
``:{run_id}:<uid>:cached``          set     digests of these, to delete them with the run; expires after the last
``:{run_id}:<uid>:lock:<digest>``   string  lock of its computation; expires
``:schema``                         string  version of these names and formats (`servers`)
``:credentials``                    hash    digest of an API key's secret -> JSON of the key; revoked ones stay, marked
``:credentials:used``               hash    key id -> when it was last used, ms
``:session:<digest>``               string  digest of the key that has opened a session; expires
``:quota:<key_id>``                 zset    ids of the runs that a key has created, by time
``:touched:{<tag>}``                string  empty, deleted at once: a write for ``WAIT`` to wait for (`context`)
==================================  ======  =========================================================================

The braces are Redis Cluster's hash tag: all keys of a run except chunks >= 1 are in one slot, so that one script
can check and commit. Keys without braces are global: each is in the slot of its name and is changed on its own.
A run id holds neither ``#`` nor braces, so no two runs share a tag. ``uid`` is drawn at creation.

Values of the hashes ``chunk``, ``votes``, ``truth``, ``ids`` and ``cache`` end with a checksum (`values`).

Fields of a chunk hash are immutable and named by their content: ``<epoch>:<attempt>:<digest>`` for an epoch and
``set:<digest>`` for members, planted samples and selections; a shard is called ``<epoch>:<shard>:<name>`` by a name
that its writer has drawn at random, so that a merged shard can be deleted: no other writer uses the same field.
Those of a truth hash are ``labels:<version>:<digest>`` and ``audit:<version>:<digest>``; those of an ids hash
``<upload>:<piece>``, and the run's record names the upload. A field that no record names is never read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mild_service.models import AnnotationName, AnnotationRef, Epoch

_DIGEST_LENGTH = 32
"""Characters of a digest in a field's name; the random name of a shard is shorter."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys of one namespace."""

    namespace: str = "mild"

    @property
    def runs(self) -> str:
        """Key of the index of all runs."""
        return f"{self.namespace}:runs"

    @property
    def schema(self) -> str:
        """Key of the store's schema version."""
        return f"{self.namespace}:schema"

    @property
    def credentials(self) -> str:
        """Key of the API keys by the digests of their secrets."""
        return f"{self.namespace}:credentials"

    @property
    def credentials_used(self) -> str:
        """Key of the times at which the API keys were last used."""
        return f"{self.namespace}:credentials:used"

    def session(self, digest: str) -> str:
        """Return the key of a session with this digest of its id."""
        return f"{self.namespace}:session:{digest}"

    def quota(self, key_id: str) -> str:
        """Return the key of the runs that an API key has created."""
        return f"{self.namespace}:quota:{key_id}"

    def run(self, run_id: str) -> str:
        """Return the key of a run's record."""
        return f"{self.namespace}:{{{run_id}}}:run"

    def of_run(self, run_id: str, uid: str, n_chunks: int = 1) -> "RunKeys":
        """Return the names of the keys of a run whose bitmaps have `n_chunks` chunks."""
        return RunKeys(self.namespace, run_id, uid, n_chunks)

    def same_slot(self, key: str) -> str:
        """Return a key in the same slot as `key`. A key without a hash tag becomes the hash tag as a whole."""
        _, brace, rest = key.partition("{")
        return f"{self.namespace}:touched:{{{rest.partition('}')[0] if brace else key}}}"


@dataclass(frozen=True, slots=True)
class RunKeys:
    """Names of the keys of one run, whose bitmaps have `n_chunks` chunks."""

    namespace: str
    run_id: str
    uid: str
    n_chunks: int = 1

    @property
    def run(self) -> str:
        """Key of the run's record."""
        return f"{self.namespace}:{{{self.run_id}}}:run"

    @property
    def events(self) -> str:
        """Key of the latest events."""
        return self._name("events")

    @property
    def cached_digests(self) -> str:
        """Key of the digests of the cached selections."""
        return self._name("cached")

    def cached_selection(self, digest: str) -> str:
        """Return the key of a cached selection."""
        return self._name(f"cache:{digest}")

    def selection_lock(self, digest: str) -> str:
        """Return the key of the lock of a selection's computation."""
        return self._name(f"lock:{digest}")

    def round(self, round_: int) -> str:
        """Return the key of a round's record."""
        return self._name(f"round:{round_}")

    def epochs(self, round_: int) -> str:
        """Return the key of the commit records of a round's epochs."""
        return self._name(f"epochs:{round_}")

    def shards(self, round_: int) -> str:
        """Return the key of the records of the shards of a round's epochs."""
        return self._name(f"shards:{round_}")

    def metrics(self, round_: int) -> str:
        """Return the key of a round's metrics."""
        return self._name(f"metrics:{round_}")

    def chunk(self, round_: int, chunk: int) -> str:
        """Return the key of one chunk of all bitmaps of a round."""
        return self._name(f"chunk:{round_}:{chunk}", chunk)

    def wrong_predictions(self, round_: int, chunk: int) -> str:
        """Return the key of one chunk of a round's wrong predictions."""
        return self._name(f"votes:{round_}:{chunk}", chunk)

    def annotations(self, chunk: int) -> str:
        """Return the key of one chunk of the labels and the audit."""
        return self._name(f"truth:{chunk}", chunk)

    def sample_ids(self, chunk: int) -> str:
        """Return the key of one chunk of the external ids."""
        return self._name(f"ids:{chunk}", chunk)

    def list_chunks(self, round_: int) -> list[str]:
        """Return the keys of all chunks of the bitmaps of a round."""
        return [self.chunk(round_, chunk) for chunk in range(self.n_chunks)]

    def list_wrong_predictions(self, round_: int) -> list[str]:
        """Return the keys of all chunks of the wrong predictions of a round."""
        return [self.wrong_predictions(round_, chunk) for chunk in range(self.n_chunks)]

    def list_annotations(self) -> list[str]:
        """Return the keys of all chunks of the labels and the audit."""
        return [self.annotations(chunk) for chunk in range(self.n_chunks)]

    def list_written(self, round_: int) -> list[str]:
        """Return the keys of the scripts that write epochs and sets: run, round, epochs, chunk 0, shards, events."""
        return [
            self.run,
            self.round(round_),
            self.epochs(round_),
            self.chunk(round_, 0),
            self.shards(round_),
            self.events,
        ]

    def list_hashes(self, rounds: range) -> Iterator[str]:
        """Yield the key of every hash that the run may have in some rounds, except its record and what expires."""
        yield from self.list_annotations()
        yield from (self.sample_ids(chunk) for chunk in range(self.n_chunks))
        for round_ in rounds:
            yield from (name(round_) for name in (self.round, self.epochs, self.shards, self.metrics))
            yield from self.list_chunks(round_)
            yield from self.list_wrong_predictions(round_)

    def _name(self, name: str, chunk: int = 0) -> str:
        """Return the key with this name within the run, in the slot of a chunk."""
        tag = f"{self.run_id}#{chunk}" if chunk else self.run_id
        return f"{self.namespace}:{{{tag}}}:{self.uid}:{name}"


def epoch_field(epoch: Epoch) -> str:
    """Return the name of an epoch's field in a chunk hash."""
    return f"{epoch.number}:{epoch.attempt}:{epoch.digest}"


def shard_field(epoch: int, shard: int, name: str) -> str:
    """Return the name of a shard's field in a chunk hash."""
    return f"{epoch}:{shard}:{name}"


def set_field(digest: str) -> str:
    """Return the name of the field of a set of samples in a chunk hash."""
    return f"set:{digest}"


def piece_field(upload: str, piece: int) -> str:
    """Return the name of the field of a piece of external ids in an ids hash."""
    return f"{upload}:{piece}"


def annotation_field(name: AnnotationName, ref: AnnotationRef) -> str:
    """Return the name of the field of labels or of an audit in a truth hash."""
    return f"{name}:{ref.version}:{ref.digest}"


def name_in_run(key: str) -> str:
    """Return the name of a key within its run, such as ``chunk:0:1`` (round, chunk) or ``round:0``."""
    return key.partition("}:")[2].partition(":")[2]


_EPOCH_REMEDY = (
    "PUT the same epoch again, which restores it (one that was sent in logs, or in shards that are merged: drop it "
    "with resume_from, then send it again)"
)


def describe_value(key: str, field: str) -> tuple[str, str]:
    """Return what a field of a run's hash holds in words, and what restores it, for error messages."""
    run_id = key.partition("{")[2].partition("}")[0].partition("#")[0]
    kind, *numbers = name_in_run(key).split(":")
    first, *others = field.split(":")
    remedy = "restore a backup of the store"
    match kind:
        case "chunk" if first == "set" and others:
            what = f"chunk {numbers[1]} of the set {others[0][:12]}… of round {numbers[0]}"
            remedy = f"PUT the same members or planted samples again, or {remedy}"
        case "chunk" | "votes" if others:
            is_shard = kind == "chunk" and len(others[-1]) < _DIGEST_LENGTH
            part = f"shard {others[0]} of " if is_shard else "the wrong predictions of " if kind == "votes" else ""
            what = f"chunk {numbers[1]} of {part}epoch {first} of round {numbers[0]}"
            remedy = f"{_EPOCH_REMEDY}, or {remedy}"
        case "truth":
            what = f"chunk {numbers[0]} of the {first.replace('_', ' ')}"
            remedy = f"PUT the same labels again, or {remedy}" if first == "labels" else remedy
        case "ids" if others:
            what, remedy = f"piece {others[-1]} of the sample ids", f"PUT the same sample ids again, or {remedy}"
        case _:
            what = f"{field} in {name_in_run(key)}"
    return f"{what} of run {run_id!r}", remedy
