"""The calls of the HTTP API, one method for each route, for both clients; those that read are in `api_results`."""

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
from mild_client.api_results import ResultCalls, ServiceCalls, parse_object
from mild_client.backend import Position
from mild_client.errors import NotFound
from mild_client.events import EventStream
from mild_client.logs import EpochKey, LogPart
from mild_client.requests import BITMAP, NDJSON, NPY, Call, JsonObject, Request, build_attempt_header
from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits, RunSpec

_LOG_TIMEOUT = 600.0
"""Seconds that the service may take to merge a log of gigabytes."""
_IDS_PER_PAGE = 100_000
"""External ids in one response."""


class LogCalls(ServiceCalls):
    """Calls that send prediction logs, split by the service's limits.

    They are idempotent, as a record that is stored already changes nothing.
    """

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
    ) -> Call[JsonObject]:
        """Merge predictions into an epoch and return its state; each array has shape (n_records,).

        `samples` are indices or external ids. Several calls may fill one epoch; it is committed once all observed
        samples are in, or when a call passes `complete`. Large logs are sent in several requests.
        """
        limits = yield from self.limits()
        parts = logs.split_arrays((round, epoch), samples, predicted, labels, limits)
        return (yield from self._post_log(run_id, parts, complete, attempt))

    def post_records(
        self, run_id: str, records: Iterable[Mapping[str, Any]], complete: bool = False, attempt: int | None = None
    ) -> Call[JsonObject]:
        """Merge records into their epochs: ``epoch``, ``sample``, and ``correct``, or ``predicted`` and ``label``.

        They are read one by one and sent in several requests; the service takes each request as a whole or not at all.
        """
        limits = yield from self.limits()
        return (yield from self._post_log(run_id, logs.split_records(records, limits), complete, attempt))

    def push(
        self,
        run_id: str,
        file: str | PathLike[str],
        complete: bool = False,
        media_type: str | None = None,
        attempt: int | None = None,
    ) -> Call[JsonObject]:
        """Stream a log file to a run, and return the state of its epochs.

        The format is that of `media_type`, or else of the extension: .json, .ndjson, .jsonl, .csv, .arrows or .parquet,
        followed by .gz or .zst where the file is compressed. A file longer than the service takes in one request is
        split between lines.

        Raises
        ------
        ParameterError
            If the extension does not tell the format.
        TooLarge
            If it is too long for one request and cannot be split.
        """
        limits = yield from self.limits()
        return (yield from self._post_log(run_id, logs.split_file(Path(file), media_type, limits), complete, attempt))

    def _post_log(self, run_id: str, parts: Iterator[LogPart], complete: bool, attempt: int | None) -> Call[JsonObject]:
        """Post a log part by part.

        A part with ``complete`` commits the epochs that it names, and later parts may name them too. So only the last
        part has it; for epochs of other parts that are still partial then, a small part is posted with ``complete``.
        """
        n_records, epochs, partial_epochs = 0, dict[EpochKey, JsonObject](), dict[EpochKey, LogPart]()
        part = next(parts, None)
        while part is not None:
            following = next(parts, None)
            answer = yield from self._post_part(run_id, part, complete and following is None, attempt)
            n_records += answer["records"]
            epochs_part = part.epochs_part()
            for epoch in answer["epochs"]:
                key = epoch["round"], epoch["epoch"]
                epochs[key] = epoch
                if epoch["state"] == "partial" and complete:
                    partial_epochs[key] = epochs_part
                else:
                    partial_epochs.pop(key, None)
            part = following
        for part in {id(part): part for part in partial_epochs.values()}.values():
            answer = yield from self._post_part(run_id, part, True, attempt)
            epochs |= {(epoch["round"], epoch["epoch"]): epoch for epoch in answer["epochs"]}
        return {"run_id": run_id, "records": n_records, "epochs": list(epochs.values())}

    def _post_part(self, run_id: str, part: LogPart, complete: bool, attempt: int | None) -> Call[JsonObject]:
        request = Request(
            "POST",
            f"/runs/{run_id}/predictions",
            {"complete": "true"} if complete else {},
            {**part.build_headers(), **build_attempt_header(attempt)},
            part.content,
            read_timeout=_LOG_TIMEOUT,
        )
        return parse_object((yield request))


class Calls(LogCalls, ResultCalls):
    """All calls of `MildClient` and `AsyncMildClient`."""

    def open_run(self, spec: RunSpec, resume_from: Position | None = None) -> Call[JsonObject]:
        """Open a run, or open it again with the same properties; return its state."""
        body: JsonObject = {name: value for name, value in spec.as_json().items() if name != "run_id"}
        if resume_from is not None:
            body["resume_from"] = {"round": resume_from.round, "epoch": resume_from.epoch}
        return parse_object((yield Request.with_json("PUT", f"/runs/{spec.run_id}", body)))

    def list_runs(self, limit: int = 50, cursor: str | None = None) -> Call[JsonObject]:
        """Return one page of ``runs``, newest first, and the ``next_cursor`` of the next page, None at the end."""
        params: dict[str, str | int] = {"limit": limit} if cursor is None else {"limit": limit, "cursor": cursor}
        return parse_object((yield Request("GET", "/runs", params)))

    def get_run(self, run_id: str) -> Call[JsonObject]:
        """Return a run's state and its rounds."""
        return parse_object((yield Request("GET", f"/runs/{run_id}")))

    def patch_run(
        self,
        run_id: str,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
        ttl_seconds: int | None = None,
        picture_url: str | None = None,
    ) -> Call[JsonObject]:
        """Change a run's tags, status, time to live or image address, and return its state; None changes nothing.

        The dashboard shows images from an address such as ``https://host/{id}.png``, with ``{id}`` or ``{index}`` in
        it; an empty address removes them.
        """
        changes = {
            "tags": tags and dict(tags),
            "status": status,
            "ttl_seconds": ttl_seconds,
            "picture_url": picture_url,
        }
        body = {name: value for name, value in changes.items() if value is not None}
        return parse_object((yield Request.with_json("PATCH", f"/runs/{run_id}", body)))

    def delete_run(self, run_id: str) -> Call[None]:
        """Delete a run and all of its data, if it exists."""
        try:
            yield Request("DELETE", f"/runs/{run_id}")
        except NotFound as error:  # also the response to a repeated request
            if error.code != "run-not-found":
                raise

    def put_labels(self, run_id: str, labels: NDArray[np.integer]) -> Call[None]:
        """Store the given labels, shape (n_samples,); they cannot change after the first epoch."""
        body = io.BytesIO()
        np.save(body, labels, allow_pickle=False)
        yield from self.upload(Request.with_body("PUT", f"/runs/{run_id}/labels", body.getvalue(), NPY))

    def put_sample_ids(self, run_id: str, ids: Iterable[str]) -> Call[JsonObject]:
        """Store the samples' external ids, in the samples' order; they cannot change after the first epoch."""
        lines = "\n".join(map(json.dumps, ids)).encode()
        return parse_object((yield Request.with_body("PUT", f"/runs/{run_id}/sample-ids", lines, NDJSON)))

    def sample_ids(self, run_id: str) -> Call[list[str]]:
        """Return all external ids, in the samples' order.

        Raises
        ------
        Conflict
            If the run has none (``no-sample-ids``).
        """
        ids: list[str] = []
        while True:
            params = {"offset": len(ids), "limit": _IDS_PER_PAGE}
            page = parse_object((yield Request("GET", f"/runs/{run_id}/sample-ids", params)))["sample_ids"]
            ids += page
            if len(page) < _IDS_PER_PAGE:
                return ids

    def put_audit(self, run_id: str, indices: Sequence[int], clean: Sequence[bool]) -> Call[JsonObject]:
        """Mark whether the given labels of some samples are right; return how many marks are new or changed."""
        body = {"indices": list(indices), "clean": list(clean)}
        return parse_object((yield from self.upload(Request.with_json("PUT", f"/runs/{run_id}/audit", body))))

    def audit(self, run_id: str, n_samples: int) -> Call[Audit]:
        """Return the audit of a run: all of its marks."""
        response = yield Request("GET", f"/runs/{run_id}/audit", headers={"Accept": BITMAP})
        return Audit.from_body(response.content, n_samples)

    def put_planted(self, run_id: str, planted: Bitmap, attempt: int | None = None) -> Call[None]:
        """Set the samples whose labels are broken on purpose in round 0, before its first epoch; shape (n_bytes,)."""
        yield from self.upload(Request.with_body("PUT", f"/runs/{run_id}/planted", planted.tobytes(), BITMAP, attempt))

    def planted(self, run_id: str, n_samples: int) -> Call[Bitmap]:
        """Return the samples whose labels were broken on purpose in round 0, shape (n_bytes,)."""
        response = yield Request("GET", f"/runs/{run_id}/planted", headers={"Accept": BITMAP})
        return bitmap.check(response.content, n_samples, "planted samples of the service")

    def put_members(self, run_id: str, round: int, members: Bitmap, attempt: int | None = None) -> Call[None]:
        """Set the training samples of a round that has no epochs yet; `members` has shape (n_bytes,)."""
        path = f"/runs/{run_id}/rounds/{round}/members"
        yield from self.upload(Request.with_body("PUT", path, members.tobytes(), BITMAP, attempt))

    def members(self, run_id: str, n_samples: int, round: int) -> Call[Bitmap]:
        """Return the training samples of a round, shape (n_bytes,)."""
        response = yield Request("GET", f"/runs/{run_id}/rounds/{round}/members", headers={"Accept": BITMAP})
        return bitmap.check(response.content, n_samples, "members")

    def put_epoch(self, run_id: str, round: int, epoch: int, bits: EpochBits, attempt: int | None = None) -> Call[None]:
        """Commit one epoch's bits.

        Raises
        ------
        TooLarge
            If the service takes no body of that size; an epoch cannot be split.
        """
        path = f"/runs/{run_id}/rounds/{round}/epochs/{epoch}"
        yield from self.upload(Request.with_body("PUT", path, bits.to_body(), BITMAP, attempt))

    def put_shard(
        self, run_id: str, round: int, epoch: int, shard: int, of: int, bits: EpochBits, attempt: int | None = None
    ) -> Call[JsonObject]:
        """Put one rank's part of an epoch, `shard` of 0 to `of` - 1; the epoch is committed once all are in.

        `bits` cover all samples of the run, and have `observed`: the samples that this rank has seen.

        Raises
        ------
        ParameterError
            If `observed` is missing.
        """
        if bits.observed is None:
            raise ParameterError(
                f"shard {shard} of {of} does not say which samples it observed; give EpochBits with `observed`, over "
                "all samples of the run"
            )
        path = f"/runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}"
        request = Request.with_body("PUT", path, bits.to_body(), BITMAP, attempt)
        return parse_object((yield from self.upload(dataclasses.replace(request, params={"of": of}))))

    def get_round(self, run_id: str, round: int) -> Call[JsonObject]:
        """Return the state of a round and its epochs, as in the HTTP API."""
        return parse_object((yield Request("GET", f"/runs/{run_id}/rounds/{round}")))

    def get_epoch(self, run_id: str, round: int, epoch: int) -> Call[JsonObject]:
        """Return the state of an epoch and its missing samples, as in the HTTP API."""
        return parse_object((yield Request("GET", f"/runs/{run_id}/rounds/{round}/epochs/{epoch}")))

    def put_metrics(
        self, run_id: str, round: int, epoch: int, metrics: Mapping[str, float], attempt: int | None = None
    ) -> Call[None]:
        """Attach scalars to an epoch."""
        yield Request.with_json("PUT", f"/runs/{run_id}/rounds/{round}/metrics/{epoch}", dict(metrics), attempt)

    def finish(
        self,
        run_id: str,
        round: int,
        attempt: int | None = None,
        allow_gaps: bool = False,
        used: Bitmap | None = None,
        core_version: str | None = None,
    ) -> Call[JsonObject]:
        """Freeze a round and return its selection, as in the HTTP API.

        Parameters
        ----------
        run_id, round, attempt
            The round, and the writing attempt.
        allow_gaps
            Whether missing epochs count as unobserved.
        used
            Shape (n_bytes,), the clean set that was selected without the service and used already. It is stored, and
            ``differs`` in the result counts the samples in which the service's own set differs.
        core_version
            Version of this package that selected `used`.
        """
        path, params = f"/runs/{run_id}/rounds/{round}/finish", {"allow_gaps": "true"} if allow_gaps else {}
        if used is None:
            return parse_object((yield Request("POST", path, params, build_attempt_header(attempt))))
        body = {"selected": base64.b64encode(used.tobytes()).decode(), "core_version": core_version}
        request = Request.with_json("POST", path, body, attempt)
        return parse_object((yield from self.upload(dataclasses.replace(request, params=params))))

    def events(self, run_id: str, last_event_id: str | None = None) -> EventStream:
        """Iterate over the events of a run as they happen, until the run is deleted.

        The first ones are the stored events since `last_event_id`, or all stored events. A lost connection is opened
        again, after the last event that was read.

        Raises
        ------
        NotFound
            If there is no such run.
        """
        return EventStream(run_id, last_event_id)
