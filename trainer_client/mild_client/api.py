"""Every call of the service as a flow: one method a route, written once for both clients.

Those about the service itself are in `service_calls`, those that send logs in `log_calls`, and those that read what a
round gave in `result_calls`.

The calls that send prediction logs.

Posting one is idempotent, as a record that is stored already changes nothing: a post whose answer was lost is repeated.
"""

import base64
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client import logs
from mild_client.api_results import ResultCalls, ServiceCalls, document
from mild_client.backend import Position, RunSpec
from mild_client.errors import NotFound
from mild_client.events import EventStream
from mild_client.logs import Part, Place
from mild_client.requests import BITMAP, NDJSON, NPY, Answer, Flow, Request, attempt_header
from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits

_PATIENCE = 600.0
"""Seconds that a log of gigabytes may take to be merged."""


class LogCalls(ServiceCalls):
    """Flows that send logs, in as many posts as the service's limits ask for."""

    def log_predictions(
        self,
        run_id: str,
        epoch: int,
        samples: NDArray[np.integer] | NDArray[np.str_],
        predicted: NDArray[np.integer],
        labels: NDArray[np.integer],
        round: int = 0,
        complete: bool = False,
        attempt: int | None = None,
    ) -> Flow[Answer]:
        """Merge predictions into an epoch, each array of shape (n_records,); return what became of it.

        `samples` are indices, or external ids.

        An epoch fills up over several calls, and is committed once everyone whom the run observes is in, or a call says
        `complete`. Large logs are sent in several posts. The same record again changes nothing, so all of it may be
        repeated.
        """
        limits = yield from self.limits()
        parts = logs.of_arrays((round, epoch), samples, predicted, labels, limits)
        return (yield from self._post_log(run_id, parts, complete, attempt))

    def post_records(
        self, run_id: str, records: Iterable[Mapping[str, Any]], complete: bool = False, attempt: int | None = None
    ) -> Flow[Answer]:
        """Merge records into their epochs: ``epoch``, ``sample``, and ``correct``, or ``predicted`` and ``label``.

        They are taken one by one and sent in several posts, each of them all or nothing.
        """
        limits = yield from self.limits()
        return (yield from self._post_log(run_id, logs.of_records(records, limits), complete, attempt))

    def push(
        self,
        run_id: str,
        file: str | PathLike[str],
        complete: bool = False,
        media_type: str | None = None,
        attempt: int | None = None,
    ) -> Flow[Answer]:
        """Stream a log's file, and return what the service did with it.

        The extension says its format: .json, .ndjson, .jsonl, .csv, .arrows or .parquet, with .gz or .zst behind it
        where it is compressed; `media_type` wins. A file longer than the service takes in one post is cut between
        lines.

        Raises
        ------
        ParameterError
            If the extension says nothing of the format.
        TooLarge
            If it is too long for one post and cannot be cut.
        """
        limits = yield from self.limits()
        return (yield from self._post_log(run_id, logs.of_file(Path(file), media_type, limits), complete, attempt))

    def _post_log(self, run_id: str, parts: Iterator[Part], complete: bool, attempt: int | None) -> Flow[Answer]:
        """Post a log part by part.

        A part that says ``complete`` closes the epochs that it names, and later parts may name them again. So only the
        last part says it; and of the others, what names an epoch that is still partial then is sent once more.
        """
        n_records, epochs, naming = 0, dict[Place, Answer](), dict[Place, Part]()
        part = next(parts, None)
        while part is not None:
            following = next(parts, None)
            answer = yield from self._post_part(run_id, part, complete and following is None, attempt)
            n_records += answer["records"]
            reminder = part.reminding()
            for told in answer["epochs"]:
                place = told["round"], told["epoch"]
                epochs[place] = told
                if told["state"] == "partial" and complete:
                    naming[place] = reminder
                else:
                    naming.pop(place, None)
            part = following
        for part in {id(reminder): reminder for reminder in naming.values()}.values():
            answer = yield from self._post_part(run_id, part, True, attempt)
            epochs |= {(told["round"], told["epoch"]): told for told in answer["epochs"]}
        return {"run_id": run_id, "records": n_records, "epochs": list(epochs.values())}

    def _post_part(self, run_id: str, part: Part, complete: bool, attempt: int | None) -> Flow[Answer]:
        request = Request(
            "POST",
            f"/runs/{run_id}/predictions",
            {"complete": "true"} if complete else {},
            {**part.headers(), **attempt_header(attempt)},
            part.content,
            patience=_PATIENCE,
        )
        return document((yield request))


_IDS = 100_000
"""External ids in one answer."""


class Calls(LogCalls, ResultCalls):
    """The flows behind `MildClient` and `AsyncMildClient`: runs, what is put into their rounds, and what comes out."""

    def open_run(self, spec: RunSpec, resume_from: Position | None = None) -> Flow[Answer]:
        """Open a run, or open it again with the same properties; return its state."""
        body: Answer = {
            "num_samples": spec.n_samples,
            "num_classes": spec.n_classes,
            "observe": spec.observe,
            "pass": spec.forward_pass,
            "selection": dataclasses.asdict(spec.options),
            "expected_epochs": spec.expected_epochs,
            "expected_rounds": spec.expected_rounds,
            "tags": dict(spec.tags),
        }
        if resume_from is not None:
            body["resume_from"] = {"round": resume_from.round, "epoch": resume_from.epoch}
        return document((yield Request.of_json("PUT", f"/runs/{spec.run_id}", body)))

    def list_runs(self, limit: int = 50, cursor: str | None = None) -> Flow[Answer]:
        """Return some ``runs``, newest first, and the ``next_cursor`` to go on with; that is None at the end."""
        params: dict[str, str | int] = {"limit": limit} if cursor is None else {"limit": limit, "cursor": cursor}
        return document((yield Request("GET", "/runs", params)))

    def get_run(self, run_id: str) -> Flow[Answer]:
        """Return a run's state with its rounds."""
        return document((yield Request("GET", f"/runs/{run_id}")))

    def patch_run(
        self,
        run_id: str,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
        ttl_seconds: int | None = None,
        picture_url: str | None = None,
    ) -> Flow[Answer]:
        """Change a run's tags, status, time to live or the address of its pictures, and return its state.

        None leaves them. The dashboard shows pictures from an address such as ``https://host/{id}.png``, with ``{id}``
        or ``{index}`` in it; an empty one takes it away.
        """
        given = {
            "tags": tags and dict(tags),
            "status": status,
            "ttl_seconds": ttl_seconds,
            "picture_url": picture_url,
        }
        body = {name: value for name, value in given.items() if value is not None}
        return document((yield Request.of_json("PATCH", f"/runs/{run_id}", body)))

    def delete_run(self, run_id: str) -> Flow[None]:
        """Delete a run with all that belongs to it; afterwards there is none, whether or not there was one."""
        try:
            yield Request("DELETE", f"/runs/{run_id}")
        except NotFound as error:  # also what a repeated request gets whose first answer was lost
            if error.code != "run-not-found":
                raise

    def put_labels(self, run_id: str, labels: NDArray[np.integer]) -> Flow[None]:
        """Store the given labels, shape (n_samples,); they are fixed once an epoch is in."""
        body = io.BytesIO()
        np.save(body, labels, allow_pickle=False)
        yield from self.upload(Request.of_body("PUT", f"/runs/{run_id}/labels", body.getvalue(), NPY))

    def put_sample_ids(self, run_id: str, ids: Iterable[str]) -> Flow[Answer]:
        """Store the samples' external ids, in their order; they are fixed once an epoch is in."""
        lines = "\n".join(map(json.dumps, ids)).encode()
        return document((yield Request.of_body("PUT", f"/runs/{run_id}/sample-ids", lines, NDJSON)))

    def sample_ids(self, run_id: str) -> Flow[list[str]]:
        """Return all external ids, in the samples' order.

        Raises
        ------
        Conflict
            If the run has none (``no-sample-ids``).
        """
        ids: list[str] = []
        while True:
            params = {"offset": len(ids), "limit": _IDS}
            page = document((yield Request("GET", f"/runs/{run_id}/sample-ids", params)))["sample_ids"]
            ids += page
            if len(page) < _IDS:
                return ids

    def put_audit(self, run_id: str, indices: Sequence[int], clean: Sequence[bool]) -> Flow[Answer]:
        """Say of some samples whether their given label is true; return how many marks are new or changed."""
        body = {"indices": list(indices), "clean": list(clean)}
        return document((yield from self.upload(Request.of_json("PUT", f"/runs/{run_id}/audit", body))))

    def audit(self, run_id: str, n_samples: int) -> Flow[Audit]:
        """Return all marks of a run."""
        response = yield Request("GET", f"/runs/{run_id}/audit", headers={"Accept": BITMAP})
        return Audit.from_body(response.content, n_samples)

    def put_planted(self, run_id: str, planted: Bitmap, attempt: int | None = None) -> Flow[None]:
        """Say who is mislabelled on purpose in round 0, before its first epoch; `planted` has shape (n_bytes,)."""
        yield from self.upload(Request.of_body("PUT", f"/runs/{run_id}/planted", planted.tobytes(), BITMAP, attempt))

    def planted(self, run_id: str, n_samples: int) -> Flow[Bitmap]:
        """Return who was mislabelled on purpose in round 0, shape (n_bytes,)."""
        response = yield Request("GET", f"/runs/{run_id}/planted", headers={"Accept": BITMAP})
        return bitmap.check(response.content, n_samples, "planted samples of the service")

    def put_members(self, run_id: str, round: int, members: Bitmap, attempt: int | None = None) -> Flow[None]:
        """Set whom the model is trained on in a round that has no epochs yet; `members` has shape (n_bytes,)."""
        path = f"/runs/{run_id}/rounds/{round}/members"
        yield from self.upload(Request.of_body("PUT", path, members.tobytes(), BITMAP, attempt))

    def members(self, run_id: str, n_samples: int, round: int) -> Flow[Bitmap]:
        """Return whom the model is trained on in a round, shape (n_bytes,)."""
        response = yield Request("GET", f"/runs/{run_id}/rounds/{round}/members", headers={"Accept": BITMAP})
        return bitmap.check(response.content, n_samples, "members")

    def put_epoch(self, run_id: str, round: int, epoch: int, bits: EpochBits, attempt: int | None = None) -> Flow[None]:
        """Commit one epoch's bits.

        Raises
        ------
        TooLarge
            If the service takes no body of that size; an epoch cannot be cut.
        """
        path = f"/runs/{run_id}/rounds/{round}/epochs/{epoch}"
        yield from self.upload(Request.of_body("PUT", path, bits.to_body(), BITMAP, attempt))

    def put_shard(
        self, run_id: str, round: int, epoch: int, shard: int, of: int, bits: EpochBits, attempt: int | None = None
    ) -> Flow[Answer]:
        """Put one rank's share of an epoch, `shard` of 0 to `of` - 1; the epoch is committed when all are in.

        `bits` are over all samples of the run, and must say whom this rank has observed.

        Raises
        ------
        ParameterError
            If they do not.
        """
        if bits.observed is None:
            raise ParameterError(
                f"shard {shard} of {of} does not say whom it has observed; give EpochBits with `observed`, over all "
                "samples of the run"
            )
        path = f"/runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}"
        request = Request.of_body("PUT", path, bits.to_body(), BITMAP, attempt)
        return document((yield from self.upload(dataclasses.replace(request, params={"of": of}))))

    def get_round(self, run_id: str, round: int) -> Flow[Answer]:
        """Return how far a round's epochs are, in the wire's names."""
        return document((yield Request("GET", f"/runs/{run_id}/rounds/{round}")))

    def get_epoch(self, run_id: str, round: int, epoch: int) -> Flow[Answer]:
        """Return how far an epoch is, and who is missing, in the wire's names."""
        return document((yield Request("GET", f"/runs/{run_id}/rounds/{round}/epochs/{epoch}")))

    def put_metrics(
        self, run_id: str, round: int, epoch: int, metrics: Mapping[str, float], attempt: int | None = None
    ) -> Flow[None]:
        """Attach scalars to an epoch."""
        yield Request.of_json("PUT", f"/runs/{run_id}/rounds/{round}/metrics/{epoch}", dict(metrics), attempt)

    def finish(
        self,
        run_id: str,
        round: int,
        attempt: int | None = None,
        allow_gaps: bool = False,
        used: Bitmap | None = None,
        core_version: str | None = None,
    ) -> Flow[Answer]:
        """Freeze a round and return its selection, in the wire's names.

        Parameters
        ----------
        run_id, round, attempt
            Which, and as whom.
        allow_gaps
            Whether missing epochs count as unobserved.
        used
            Shape (n_bytes,), the set that was used already where it was made without the service: it is stored, and
            the answer's ``differs`` says in how many samples the service's own set is another.
        core_version
            Version of this package that made `used`.
        """
        path, params = f"/runs/{run_id}/rounds/{round}/finish", {"allow_gaps": "true"} if allow_gaps else {}
        if used is None:
            return document((yield Request("POST", path, params, attempt_header(attempt))))
        body = {"selected": base64.b64encode(used.tobytes()).decode(), "core_version": core_version}
        request = Request.of_json("POST", path, body, attempt)
        return document((yield from self.upload(dataclasses.replace(request, params=params))))

    def events(self, run_id: str, last_event_id: str | None = None) -> EventStream:
        """Iterate over what happens to a run, as it happens, until the run is gone.

        First comes what has happened since `last_event_id`, or since the oldest event that is kept. A connection that
        is lost is made again, behind the last event that was read.

        Raises
        ------
        NotFound
            If there is no such run.
        """
        return EventStream(run_id, last_event_id)
