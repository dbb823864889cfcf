"""Names of all keys and fields that the service writes. Every key starts with the namespace (``mild``).

==================================  ======  =========================================================================
key (after the namespace)           type    holds
==================================  ======  =========================================================================
``:runs``                           zset    all at score 0: ``<created, ms, 13 digits>:<run_id>``, for listing by age
``:{run_id}:run``                   hash    the run's record: uid, config, tags, status, ttl, attempt, round, times, …
``:{run_id}:<uid>:round:<r>``       hash    state, version, members, planted, times; once finished: set, selection, fit
``:{run_id}:<uid>:epochs:<r>``      hash    epoch -> ``attempt:digest:planes:n_correct:n_observed:kind:state:in/of``
``:{run_id}:<uid>:shards:<r>``      hash    ``<epoch>:<shard>`` -> ``name:digest:n_correct:n_observed``
``:{run_id}:<uid>:metrics:<r>``     hash    epoch -> JSON of scalars
``:{run_id}:<uid>:chunk:<r>:0``     hash    chunk 0 of every bitmap of the round, a field per epoch and set
``:{run_id#c}:<uid>:chunk:<r>:<c>`` hash    chunk c >= 1 of the same fields
``:{run_id#c}:<uid>:votes:<r>:<c>`` hash    wrong predictions of chunk c (c 0: tag ``{run_id}``), a field per epoch
``:{run_id}:<uid>:events``           stream  the run's latest events, numbered from 1: ``<number>-0``
``:{run_id}:<uid>:truth:0``         hash    chunk 0 of given labels and of the audit, a field each
``:{run_id#c}:<uid>:truth:<c>``     hash    chunk c >= 1 of the same fields
``:{run_id#c}:<uid>:ids:<c>``       hash    external ids of chunk c (c 0: tag ``{run_id}``), in pieces of 8,192 lines
``:{run_id}:<uid>:cache:<digest>``  hash    a computed selection: summary, fit, ``bits:<c>``; expires
``:{run_id}:<uid>:cached``          set     digests of these, so that they go with the run; expires after the last
``:{run_id}:<uid>:lock:<digest>``   string  lock of its computation; expires
``:schema``                         string  version of all of this (`schema`)
``:credentials``                    hash    digest of an API key's secret -> JSON of the key; revoked ones stay, marked
``:credentials:used``               hash    key id -> when it was last used, ms
``:session:<digest>``               string  digest of the key that a session was begun with; expires
``:quota:<key_id>``                 zset    ids of the runs that a key has created, by time
``:touched:{<tag>}``                string  empty, gone at once: written so that replicas can be waited for (`writes`)
==================================  ======  =========================================================================

The braces are Redis Cluster's hash tag: all keys of a run except chunks >= 1 are in one slot, so that one script
can check and commit. Keys without braces are global: each is in the slot of its name and is changed on its own.
A run id holds neither ``#`` nor braces, so no two runs share a tag. ``uid`` is drawn at creation.

Fields of a chunk hash are immutable and named by their content: ``<epoch>:<attempt>:<digest>`` for an epoch and
``set:<digest>`` for members, planted samples and selections; a shard is called ``<epoch>:<shard>:<name>`` by a name
that its writer has drawn at random, so that a merged shard can be deleted: no other writer uses the same field.
Those of a truth hash are ``labels:<version>:<digest>`` and ``audit:<version>:<digest>``; those of an ids hash
``<upload>:<piece>``, and the run's record names the upload. A field that no record names is never read.
"""

from dataclasses import dataclass

from mild_service.models import AnnotationName, AnnotationRef


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys of one namespace."""

    namespace: str = "mild"

    @property
    def runs(self) -> str:
        """Index of all runs."""
        return f"{self.namespace}:runs"

    @property
    def schema(self) -> str:
        """Schema version of the store."""
        return f"{self.namespace}:schema"

    def run(self, run_id: str) -> str:
        """Record of a run."""
        return f"{self.namespace}:{{{run_id}}}:run"

    def round(self, run_id: str, uid: str, round_: int) -> str:
        """Record of a round."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:round:{round_}"

    def epochs(self, run_id: str, uid: str, round_: int) -> str:
        """Commit records of a round."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:epochs:{round_}"

    def shards(self, run_id: str, uid: str, round_: int) -> str:
        """Records of the shards of a round's epochs."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:shards:{round_}"

    def metrics(self, run_id: str, uid: str, round_: int) -> str:
        """Scalars of a round."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:metrics:{round_}"

    def chunk(self, run_id: str, uid: str, round_: int, chunk: int) -> str:
        """One chunk of every bitmap of a round."""
        tag = f"{run_id}#{chunk}" if chunk else run_id
        return f"{self.namespace}:{{{tag}}}:{uid}:chunk:{round_}:{chunk}"

    def wrong_predictions(self, run_id: str, uid: str, round_: int, chunk: int) -> str:
        """One chunk of a round's wrong predictions."""
        tag = f"{run_id}#{chunk}" if chunk else run_id
        return f"{self.namespace}:{{{tag}}}:{uid}:votes:{round_}:{chunk}"

    def annotations(self, run_id: str, uid: str, chunk: int) -> str:
        """One chunk of a run's labels and of its audit."""
        tag = f"{run_id}#{chunk}" if chunk else run_id
        return f"{self.namespace}:{{{tag}}}:{uid}:truth:{chunk}"

    def events(self, run_id: str, uid: str) -> str:
        """A run's latest events."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:events"

    def sample_ids(self, run_id: str, uid: str, chunk: int) -> str:
        """One chunk of a run's external ids."""
        tag = f"{run_id}#{chunk}" if chunk else run_id
        return f"{self.namespace}:{{{tag}}}:{uid}:ids:{chunk}"

    def cache(self, run_id: str, uid: str, digest: str) -> str:
        """A computed selection."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:cache:{digest}"

    def cached(self, run_id: str, uid: str) -> str:
        """Digests of the computed selections."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:cached"

    def lock(self, run_id: str, uid: str, digest: str) -> str:
        """Lock of a computation of a selection."""
        return f"{self.namespace}:{{{run_id}}}:{uid}:lock:{digest}"

    @property
    def credentials(self) -> str:
        """API keys by the digest of their secret."""
        return f"{self.namespace}:credentials"

    @property
    def credentials_used(self) -> str:
        """When each API key was last used."""
        return f"{self.namespace}:credentials:used"

    def session(self, digest: str) -> str:
        """A session, by the digest of its id."""
        return f"{self.namespace}:session:{digest}"

    def quota(self, key_id: str) -> str:
        """Runs that an API key has created."""
        return f"{self.namespace}:quota:{key_id}"

    def touched(self, key: str) -> str:
        """Return a key in the same slot as `key`: with its hash tag, or, without braces, its whole name as the tag."""
        _, brace, rest = key.partition("{")
        return f"{self.namespace}:touched:{{{rest.partition('}')[0] if brace else key}}}"


def epoch_field(epoch: int, attempt: int, digest: str) -> str:
    """Field of an epoch in a chunk hash."""
    return f"{epoch}:{attempt}:{digest}"


def shard_field(epoch: int, shard: int, name: str) -> str:
    """Field of one shard in a chunk hash."""
    return f"{epoch}:{shard}:{name}"


def set_field(digest: str) -> str:
    """Field of a set of samples in a chunk hash."""
    return f"set:{digest}"


def annotation_field(name: AnnotationName, ref: AnnotationRef) -> str:
    """Field of labels or of an audit in a truth hash."""
    return f"{name}:{ref.version}:{ref.digest}"
