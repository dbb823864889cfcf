"""The calls of the HTTP API, one method a route; `api_results` has the calls that read results."""

import base64
import dataclasses
import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, SupportsFloat

from numpy.typing import ArrayLike

from mild_client import logs
from mild_client.api_results import OptionChanges, ResultCalls, ServiceCalls
from mild_client.arguments import (
    SampleSet,
    check_sample_ids,
    needs_n_samples,
    to_array,
    to_bitmap,
    to_classes,
    to_epoch_body,
    to_indices,
    to_integer,
    to_labels_body,
    to_mask,
    to_metrics,
    to_path,
    to_spec,
)
from mild_client.backend import Position
from mild_client.errors import NotFound
from mild_client.events import Event, EventStream
from mild_client.logs import EpochKey, LogPart, SamplesBy
from mild_client.requests import (
    BITMAP,
    NDJSON,
    NPY,
    JsonObject,
    Request,
    build_attempt_header,
    build_round_path,
    build_run_path,
    drop_none,
)
from mild_client.transport import Transport
from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.draw import DRAW_SIZE
from mild_core.errors import ParameterError
from mild_core.log_columns import format_class_names, format_columns
from mild_core.types import EpochBits, RunSpec

_LOG_TIMEOUT = 600.0
"""Seconds that the service may take to merge a log of gigabytes."""
_IDS_PER_PAGE = 100_000
"""External ids in one response."""


class LogCalls(ServiceCalls):
    """Calls that send prediction logs, split into requests within the service's limits.

    The calls may be repeated: a record that is stored already changes nothing.
    """

    async def log_predictions(
        self,
        run_id: str,
        epoch: int,
        samples: ArrayLike,
        predicted: ArrayLike,
        labels: ArrayLike,
        round: int = 0,
        complete: bool = False,
        attempt: int | None = None,
        samples_by: SamplesBy | None = None,
    ) -> JsonObject:
        """Send predictions of some samples for an epoch, and return the number of records and the state of the epoch.

        Several calls may fill one epoch. Large logs are sent in several requests.

        Parameters
        ----------
        run_id, round, epoch, attempt
            The epoch, and the number of this writer (None: the current one).
        samples
            Shape (n_records,), indices or external ids of the samples.
        predicted, labels
            Shape (n_records,), the predicted classes and the given labels.
        complete
            Whether to commit the epoch now. Otherwise the service commits the epoch once it has all observed samples.
        samples_by
            Whether `samples` are external ids or indices. None: a text is an id; a number is one if the run has a
            number for an id.
        """
        limits = await self.limits()
        key = to_integer(round, "round"), to_integer(epoch, "epoch")
        samples = to_array(samples, "samples")
        classes = to_classes(predicted, "predicted", samples.size), to_classes(labels, "labels", samples.size)
        parts = logs.split_arrays(key, samples, *classes, limits)
        return await self._post_log(run_id, parts, complete, attempt, samples_by=samples_by)

    async def post_records(
        self,
        run_id: str,
        records: Iterable[Mapping[str, Any]],
        complete: bool = False,
        attempt: int | None = None,
        samples_by: SamplesBy | None = None,
        class_names: Sequence[str] | None = None,
    ) -> JsonObject:
        """Send prediction records, and return their number and the states of their epochs.

        The records are read one by one and sent in several requests. The service stores either all records of a
        request or none.

        Parameters
        ----------
        run_id, attempt
            The run, and the number of this writer (None: the current one).
        records
            Each has ``epoch``, ``sample``, and either ``correct`` or ``predicted`` and ``label``. ``round`` is 0 by
            default.
        complete
            Whether to commit the epochs even if samples are missing.
        samples_by
            How the records name samples, as in `log_predictions`.
        class_names
            Names of the classes 0, 1, …, where ``predicted`` and ``label`` are names.
        """
        limits = await self.limits()
        parts, names = logs.split_records(records, limits), _format_names(class_names)
        return await self._post_log(run_id, parts, complete, attempt, samples_by=samples_by, class_names=names)

    async def push(
        self,
        run_id: str,
        file: str | PathLike[str],
        complete: bool = False,
        media_type: str | None = None,
        attempt: int | None = None,
        samples_by: SamplesBy | None = None,
        columns: Mapping[str, str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> JsonObject:
        """Send a log file to a run, and return the number of records and the states of their epochs.

        A file that is too long for one request is split between lines.

        Parameters
        ----------
        run_id, attempt
            The run, and the number of this writer (None: the current one).
        file
            Path of the file, which is read in pieces.
        complete
            Whether to commit the epochs even if samples are missing.
        media_type
            Content type of the file. None takes that of its first bytes and its extension: .json, .ndjson, .jsonl,
            .csv, .arrows, .arrow, .feather or .parquet, followed by .gz or .zst if the file is compressed.
        samples_by
            How the log names samples, as in `log_predictions`.
        columns
            Column of each field that has another name in the log, such as ``{"sample": "id"}``.
        class_names
            Names of the classes 0, 1, …, where the log gives them by name.

        Raises
        ------
        ParameterError
            If there is no such file, or `media_type` is None and the content type is unknown.
        TooLarge
            If the file is too long for one request and its format cannot be split.
        """
        limits = await self.limits()
        parts = logs.split_file(to_path(file, "file"), media_type, limits)
        fields, names = format_columns(columns) if columns else None, _format_names(class_names)
        return await self._post_log(
            run_id, parts, complete, attempt, samples_by=samples_by, columns=fields, class_names=names
        )

    async def _post_log(
        self, run_id: str, parts: Iterator[LogPart], complete: bool, attempt: int | None, **params: str | None
    ) -> JsonObject:
        """Send the parts of a log one by one, and return the number of records and the states of their epochs.

        A request with ``complete`` commits all epochs of its records, and later parts may have records of the same
        epochs. So only the last part is sent with ``complete``. For other epochs that are still partial after it, one
        record of each is sent again with ``complete``.
        """
        n_records, epochs, epoch_parts = 0, dict[EpochKey, JsonObject](), dict[EpochKey, LogPart]()
        part = next(parts, None)
        while part is not None:
            following = next(parts, None)
            answer = await self._post_part(run_id, part, complete and following is None, attempt, **params)
            n_records += answer["records"]
            sent_epochs = {(epoch["round"], epoch["epoch"]): epoch for epoch in answer["epochs"]}
            epochs |= sent_epochs
            epoch_parts |= dict.fromkeys(sent_epochs, part.make_epochs_part())
            part = following
        partial_parts = [epoch_parts[key] for key, epoch in epochs.items() if complete and epoch["state"] == "partial"]
        for part in {id(part): part for part in partial_parts}.values():
            answer = await self._post_part(run_id, part, True, attempt, **params)
            epochs |= {(epoch["round"], epoch["epoch"]): epoch for epoch in answer["epochs"]}
        return {"run_id": run_id, "records": n_records, "epochs": list(epochs.values())}

    async def _post_part(
        self, run_id: str, part: LogPart, complete: bool, attempt: int | None, **params: str | None
    ) -> JsonObject:
        path, query = build_run_path(run_id, "predictions"), drop_none(**params, complete=complete or None)
        headers = {**part.build_headers(), **build_attempt_header(attempt)}
        request = Request("POST", path, query, headers, part.content, "max_log_bytes", _LOG_TIMEOUT)
        return await self._fetch(request, "records", "epochs")


def _format_names(class_names: Sequence[str] | None) -> str | None:
    return None if class_names is None else format_class_names(list(map(str, class_names)))


class Calls(LogCalls, ResultCalls):
    """All calls of `MildClient` and `AsyncMildClient`, one method a route; a call that waits is a coroutine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _with_deadline(self, seconds: float) -> "Calls":
        """Return the same calls, whose requests give up after `seconds`."""
        return Calls(self._transport.with_deadline(seconds))

    async def open_run(self, spec: RunSpec, resume_from: Position | None = None) -> JsonObject:
        """Open a run, or resume an existing run of the same properties, and return its state.

        Epochs from `resume_from` on are deleted, to be written again. Without `resume_from`, no epoch is deleted.
        """
        body = to_spec(spec).as_json() | drop_none(resume_from=resume_from and dataclasses.asdict(resume_from))
        path = build_run_path(body.pop("run_id"))
        return await self._fetch(Request.with_json("PUT", path, body), "attempt", "round")

    async def list_runs(self, limit: int = 50, cursor: str | None = None) -> JsonObject:
        """Return one page of the runs, newest first, as in the HTTP API.

        `limit` is the number of runs of a page, and `cursor` the ``next_cursor`` of the previous page. The
        ``next_cursor`` of the last page is None.
        """
        return await self._fetch(Request("GET", "/runs", drop_none(limit=limit, cursor=cursor)))

    async def get_run(self, run_id: str) -> JsonObject:
        """Return the state of a run and of its rounds, as in the HTTP API."""
        return await self._fetch(Request("GET", build_run_path(run_id)))

    async def patch_run(
        self,
        run_id: str,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
        ttl_seconds: int | None = None,
        picture_url: str | None = None,
    ) -> JsonObject:
        """Change the properties of a run that are not None, and return the state of the run.

        Parameters
        ----------
        run_id
            The run.
        tags, status
            New tags, and the new status.
        ttl_seconds
            Time in seconds until the run is deleted.
        picture_url
            Address of the samples' images for the dashboard, with ``{id}`` or ``{index}`` in it, such as
            ``https://host/{id}.png``. An empty address removes the images.
        """
        body = drop_none(tags=tags, status=status, ttl_seconds=ttl_seconds, picture_url=picture_url)
        return await self._fetch(Request.with_json("PATCH", build_run_path(run_id), body))

    async def delete_run(self, run_id: str) -> None:
        """Delete a run and all of its data, if it exists."""
        try:
            await self._send(Request("DELETE", build_run_path(run_id)))
        except NotFound as error:  # also the response to a repeated request
            if error.code != "run-not-found":
                raise

    async def put_labels(self, run_id: str, labels: ArrayLike) -> None:
        """Store the given labels, shape (n_samples,). They cannot change after the first epoch."""
        await self._send(Request.with_body("PUT", build_run_path(run_id, "labels"), to_labels_body(labels), NPY))

    async def put_sample_ids(self, run_id: str, ids: Iterable[str]) -> JsonObject:
        """Store the external ids of all samples, in index order. They cannot change after the first epoch."""
        lines = "\n".join(map(json.dumps, check_sample_ids(ids))).encode()
        path = build_run_path(run_id, "sample-ids")
        return await self._fetch(Request.with_body("PUT", path, lines, NDJSON, limit="max_log_bytes"))

    async def sample_ids(self, run_id: str) -> list[str]:
        """Return the external ids of all samples, in index order.

        Raises
        ------
        Conflict
            If the run has no external ids (``no-sample-ids``).
        """
        return await self._fetch_pages(build_run_path(run_id, "sample-ids"), {}, "sample_ids", _IDS_PER_PAGE)

    async def put_audit(self, run_id: str, indices: ArrayLike, clean: ArrayLike) -> JsonObject:
        """Store for the samples at `indices` whether the given label is right (`clean`), and return the changes.

        The result counts the marks that are new or changed, as in the HTTP API.
        """
        samples = to_indices(indices, "indices")
        body = {"indices": samples.tolist(), "clean": to_mask(clean, "clean", samples.size).tolist()}
        return await self._fetch(Request.with_json("PUT", build_run_path(run_id, "audit"), body))

    async def audit(self, run_id: str, n_samples: int) -> Audit:
        """Return the audit of a run: whether each checked label is right, and which samples were drawn."""
        answer = await self._fetch(Request("GET", build_run_path(run_id, "audit")), "indices", "clean")
        audit = Audit.from_marks(answer["indices"], answer["clean"], n_samples)
        if (draw := answer.get("draw")) is not None:  # absent from services of earlier versions
            audit = dataclasses.replace(audit, random=bitmap.from_indices(draw["indices"], n_samples))
        return audit

    async def draw_audit(
        self, run_id: str, n: int = DRAW_SIZE, round: int | None = None, changes: OptionChanges | None = None
    ) -> JsonObject:
        """Draw samples to audit at random, record the selection to make, and return the draw, as in the HTTP API.

        Once each sample of ``["draw"]["indices"]`` has a mark (`put_audit`), selections have a guarantee and bounds.
        The same call again returns the same draw.

        Parameters
        ----------
        run_id, n
            The run, and the number of samples to draw.
        round
            A finished round, from whose judged samples they are drawn; None for the latest.
        changes
            Options of the recorded selection, by name, that differ from those of the run with ``threshold="fdr"``.

        Raises
        ------
        Conflict
            If the round is not finished (``round-open``), or samples of another draw are marked (``draw-answered``).
        """
        number = None if round is None else to_integer(round, "round")
        body = {"n": to_integer(n, "n", 1), "round": number, "options": dict(changes or {})}
        return await self._fetch(Request.with_json("POST", build_run_path(run_id, "audit", "draw"), body))

    async def get_draw(self, run_id: str) -> JsonObject | None:
        """Return the random draw of a run's audit, as in the HTTP API; None without one."""
        draw: JsonObject | None = (await self._fetch(Request("GET", build_run_path(run_id, "audit")))).get("draw")
        return draw

    async def put_planted(self, run_id: str, planted: SampleSet, attempt: int | None = None) -> None:
        """Store the samples that round 0 trains on with planted (wrong) labels: a bitmap, a mask, or indices.

        Call it before the first epoch of round 0.
        """
        await self._put_set(run_id, build_run_path(run_id, "planted"), planted, "planted", attempt)

    async def planted(self, run_id: str, n_samples: int) -> Bitmap:
        """Return the bitmap, shape (n_bytes,), of the samples that round 0 trained on with planted (wrong) labels."""
        return await self._fetch_bitmap(build_run_path(run_id, "planted"), n_samples, "planted samples of the service")

    async def put_members(self, run_id: str, round: int, members: SampleSet, attempt: int | None = None) -> None:
        """Store the samples that a round trains on: a bitmap, a mask, or indices; the round must have no epochs."""
        await self._put_set(run_id, build_round_path(run_id, round, "members"), members, "members", attempt)

    async def members(self, run_id: str, n_samples: int, round: int) -> Bitmap:
        """Return the bitmap, shape (n_bytes,), of the samples that a round trains on."""
        return await self._fetch_bitmap(build_round_path(run_id, round, "members"), n_samples, "members")

    async def put_epoch(
        self, run_id: str, round: int, epoch: int, bits: EpochBits | bytes, attempt: int | None = None
    ) -> None:
        """Store the correctness bits of all samples for one epoch, as `EpochBits` or as a body of the HTTP API.

        The epoch is committed.

        Raises
        ------
        TooLarge
            If the bits are larger than the service accepts in one request.
        """
        path = build_round_path(run_id, round, "epochs", to_integer(epoch, "epoch"))
        await self._send(Request.with_body("PUT", path, to_epoch_body(bits), BITMAP, attempt))

    async def put_shard(
        self, run_id: str, round: int, epoch: int, shard: int, of: int, bits: EpochBits, attempt: int | None = None
    ) -> JsonObject:
        """Store one rank's part of an epoch, and return the state of the epoch.

        The epoch is committed once all shards are stored.

        Parameters
        ----------
        run_id, round, epoch, attempt
            The epoch, and the number of this writer (None: the current one).
        shard, of
            Number of this shard, from 0 to `of` - 1, and the number of shards.
        bits
            Bits over all samples of the run. `observed` marks the samples that this rank has seen.

        Raises
        ------
        ParameterError
            If `bits.observed` is None.
        """
        if bits.observed is None:
            raise ParameterError(
                f"shard {shard} of {of} does not say which samples it observed; give EpochBits with `observed`, over "
                "all samples of the run"
            )
        path = build_round_path(
            run_id, round, "epochs", to_integer(epoch, "epoch"), "shards", to_integer(shard, "shard")
        )
        body, params = to_epoch_body(bits), {"of": to_integer(of, "of", 1)}
        return await self._fetch(Request.with_body("PUT", path, body, BITMAP, attempt, params=params))

    async def get_round(self, run_id: str, round: int) -> JsonObject:
        """Return the state of a round and its epochs, as in the HTTP API."""
        return await self._fetch(Request("GET", build_round_path(run_id, round)))

    async def get_epoch(self, run_id: str, round: int, epoch: int) -> JsonObject:
        """Return the state of an epoch and the samples that it lacks, as in the HTTP API."""
        path = build_round_path(run_id, round, "epochs", to_integer(epoch, "epoch"))
        return await self._fetch(Request("GET", path))

    async def put_metrics(
        self, run_id: str, round: int, epoch: int, metrics: Mapping[str, SupportsFloat], attempt: int | None = None
    ) -> None:
        """Store scalars, such as ``train_loss``, with an epoch.

        A metric that is not finite, or is no number, is dropped with a warning.
        """
        path = build_round_path(run_id, round, "metrics", to_integer(epoch, "epoch"))
        if numbers := to_metrics(metrics):
            await self._send(Request.with_json("PUT", path, numbers, attempt))

    async def finish(
        self,
        run_id: str,
        round: int,
        attempt: int | None = None,
        allow_gaps: bool = False,
        used: Bitmap | None = None,
        core_version: str | None = None,
    ) -> JsonObject:
        """Freeze a round and return its selection, as in the HTTP API.

        Parameters
        ----------
        run_id, round, attempt
            The round, and the number of this writer (None: the current one).
        allow_gaps
            Whether missing epochs count as unobserved. Otherwise they are an error.
        used
            Shape (n_bytes,), a clean set that was selected without the service and is in use already. The service
            stores it, and ``differs`` in the result counts the samples in which the service's own set differs.
        core_version
            Version of this package that selected `used`.
        """
        path, params = build_round_path(run_id, round, "finish"), drop_none(allow_gaps=allow_gaps or None)
        if used is None:
            return await self._fetch(Request("POST", path, params, build_attempt_header(attempt)))
        body = {"selected": base64.b64encode(used.tobytes()).decode(), "core_version": core_version}
        return await self._fetch(Request.with_json("POST", path, body, attempt, params=params))

    async def _put_set(self, run_id: str, path: str, samples: SampleSet, name: str, attempt: int | None) -> None:
        """Store a set of samples as a bitmap; the run is asked for its size where masks or indices need it."""
        if needs_n_samples(samples):
            state = await self._fetch(Request("GET", build_run_path(run_id)), "num_samples")
            samples = to_bitmap(samples, name, state["num_samples"])
        body = samples if isinstance(samples, bytes) else to_array(samples, name).tobytes()
        await self._send(Request.with_body("PUT", path, body, BITMAP, attempt))

    def events(self, run_id: str, last_event_id: str | None = None) -> AsyncGenerator[Event, None]:
        """Iterate over the events of a run as they happen, until the run is deleted.

        The stored events after `last_event_id` come first; None stands for all stored events. After a lost connection,
        the iteration continues with the event after the last one read.

        Raises
        ------
        NotFound
            If the run does not exist.
        """
        return self._transport.iter_events(EventStream(run_id, last_event_id))
