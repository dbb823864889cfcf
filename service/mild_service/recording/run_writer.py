"""Writing runs and rounds: opening, resuming, changing and deleting runs, setting members, finishing rounds."""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import InvalidInput
from mild_core.fields import get_wire_name
from mild_core.selection import check_not_empty
from mild_core.types import CHANGEABLE_FIELDS, RunSpec, SelectionOptions
from mild_service.api_keys import ANONYMOUS, ApiKey
from mild_service.config import Settings
from mild_service.errors import EpochGap, RoundFinished, RunConflict, RunNotFound, StoreError
from mild_service.image_urls import check_image_url
from mild_service.models import (
    NO_PRECONDITION,
    CommitOutcome,
    ComputedSelection,
    Epoch,
    Precondition,
    Round,
    Run,
    RunStatus,
)
from mild_service.observability import Telemetry
from mild_service.recording.capacity import Capacity
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.evidence import CORE_VERSION
from mild_service.store import RunPage, Store, stale_attempt_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ClientSet:
    """The selection that an offline client has computed and used, and the version of the core of that client."""

    bitmap: Bitmap
    core_version: str


class RunWriter:
    """Changes runs and rounds, after checks of limits and preconditions."""

    def __init__(self, store: Store, computer: SelectionComputer, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._computer = computer
        self._settings = settings
        self._telemetry = telemetry
        self._capacity = Capacity(store, settings, telemetry)

    async def open(
        self,
        spec: RunSpec,
        sent_fields: Collection[str] = (),
        resume_from: tuple[int, int] | None = None,
        caller: ApiKey = ANONYMOUS,
        precondition: Precondition = NO_PRECONDITION,
    ) -> tuple[Run, bool]:
        """Create a run, or reopen an existing one; return the record of the run and whether it was created.

        Parameters
        ----------
        spec
            The requested run.
        sent_fields
            Names of the fields that the client has sent; an option of the selection is named as ``selection.metric``.
            An existing run must have the same values, except for changeable fields, which are updated.
        resume_from
            Round and epoch at which to continue: this epoch and all later ones of the open round are deleted.
        caller
            The key to which a new run and what it takes of the store are counted.
        precondition
            Precondition on the uid of the run, which changes if the run is deleted and created again.
        """
        self._settings.check_limit("num_samples", spec.num_samples, "max_samples")
        spec.check_class_names()
        if resume_from is not None:
            self._settings.check_position(*resume_from)
        spec = replace(
            spec,
            selection=spec.selection.validate_for_run(),
            picture_url=check_image_url(spec.picture_url) if spec.picture_url else None,
            ttl_seconds=spec.ttl_seconds or self._settings.ttl_seconds,
        )
        run_id = spec.run_id
        if precondition.digests is not None:
            await self._check_existing(run_id, precondition)
        while True:
            async with self._capacity.reserve(spec, caller) as reservation:
                run, created = await self._store.runs.open(spec, None if resume_from is None else resume_from[0])
                reservation.created = created
            if created:
                return run, True
            precondition.check(f"run {run_id!r}", run.uid)
            _check_immutable_fields(run, spec, sent_fields)
            try:
                return await self._reopen(run, spec, sent_fields, resume_from), False
            except RunNotFound:
                continue  # deleted just now: create it

    async def check_capacity(self) -> None:
        """Update the metrics of the store's memory, and log a warning if the memory is nearly full."""
        await self._capacity.measure()

    async def _check_existing(self, run_id: str, precondition: Precondition) -> None:
        """Check a precondition that requires the run to exist, so that opening does not create the run."""
        uid = None
        with suppress(RunNotFound):
            uid = (await self.find(run_id)).uid
        precondition.check(f"run {run_id!r}", uid)

    async def _reopen(
        self, run: Run, spec: RunSpec, sent_fields: Collection[str], resume_from: tuple[int, int] | None
    ) -> Run:
        """Resume an existing run and update its changeable fields; return its record."""
        if resume_from is not None:
            await self._store.rounds.resume(run, *resume_from)
        changes = {name: getattr(spec, name) for name in CHANGEABLE_FIELDS if name in sent_fields}
        if changes:
            await self._store.runs.patch(run, changes)
        return await self._store.runs.get(run.run_id)

    async def find(self, run_id: str) -> Run:
        """Read the record of a run."""
        return await self._store.runs.get(run_id)

    async def read_rounds(self, run: Run, first: int = 0) -> list[Round]:
        """Read the rounds of a run from number `first` to the open one."""
        return await self._store.rounds.get(run, range(first, run.round + 1))

    async def list_page(self, limit: int, cursor: str | None, prefix: str = "") -> RunPage:
        """List up to `limit` runs after `cursor` whose ids start with `prefix`, newest first."""
        return await self._store.runs.list_page(limit, cursor, prefix)

    async def patch(self, run_id: str, changes: Mapping[str, Any], status: RunStatus | None) -> Run:
        """Change fields of a run's spec and its status; return the new record of the run.

        Parameters
        ----------
        run_id
            Id of the run.
        changes
            New values by the name of the field in `RunSpec`. An empty `picture_url` removes the URL.
        status
            New status; None keeps the current one.
        """
        if "picture_url" in changes:
            template = changes["picture_url"]
            changes = {**changes, "picture_url": check_image_url(template) if template else None}
        await self._store.runs.patch(await self.find(run_id), changes, status)
        return await self.find(run_id)

    async def delete(self, run_id: str) -> None:
        """Delete a run with all its data."""
        run = await self.find(run_id)
        await self._store.runs.delete(run_id, run.uid)

    async def put_members(self, run: Run, round_: int, members: Bitmap, attempt: int | None) -> tuple[bool, int]:
        """Check and set the members of the open round. Parameters and values as in `RoundStore.put_set`."""
        self._settings.check_position(round_)
        if not members.any():
            raise InvalidInput(
                f"the members of round {round_} are 0 of {run.spec.num_samples} samples, at least 1 is needed; "
                "send the samples that the model is trained on"
            )
        return await self._store.rounds.put_set(run, "members", round_, members, attempt)

    async def put_planted(self, run: Run, planted: Bitmap, attempt: int | None) -> tuple[bool, int]:
        """Set the planted samples of round 0, as `RoundStore.put_set` does."""
        return await self._store.rounds.put_set(run, "planted", 0, planted, attempt)

    async def put_metrics(
        self, run: Run, round_: int, epoch: int, metrics: Mapping[str, float], attempt: int | None, replace: bool
    ) -> CommitOutcome:
        """Check the numbers and store the metrics of an epoch, as `RoundStore.put_metrics` does."""
        self._settings.check_position(round_, epoch)
        return await self._store.rounds.put_metrics(run, round_, epoch, metrics, attempt, replace)

    async def finish(
        self, run: Run, number: int, allow_gaps: bool, attempt: int | None, client_set: ClientSet | None
    ) -> None:
        """Freeze a round with its selection, and open the next round. A finished round stays as it is.

        The selection is computed first. Then one script stores the selection and freezes the round, provided that
        nothing has changed in the meantime. So a crash at any point leaves the round either open, or finished with its
        selection.

        Parameters
        ----------
        run, number
            The run, and the number of the round.
        allow_gaps
            Whether epochs and shards may be missing; otherwise they are an error. Epochs that are not stored are left
            out; samples of missing shards count as unobserved.
        attempt
            The writer's attempt; None accepts the current one.
        client_set
            Set to store instead of the computed one; None stores the computed one.
        """
        self._settings.check_position(number)
        while (run := await self.find(run.run_id)).round <= number:
            if attempt not in (None, run.attempt):
                raise stale_attempt_error(run.run_id, run.attempt, attempt)  # before the computation, not only after it
            await self._merge_shards(run, number, allow_gaps, attempt)
            evidence = await self._computer.evidence.gather(run, number, run.spec.selection, finishing=True)
            evidence, computed = await self._computer.compute(evidence)
            _check_gaps(evidence.round, allow_gaps)
            if _unmerged_epochs(evidence.round):
                continue  # new shards arrived during the computation
            selected, document = _choose_set(run, number, computed, client_set)
            try:
                if await self._store.rounds.finish(run, evidence.round, selected, document, computed.fit, attempt):
                    await self._collect_garbage(run, number)
                    return
            except RoundFinished:
                continue  # finished by another request

    async def _merge_shards(self, run: Run, number: int, allow_gaps: bool, attempt: int | None) -> None:
        """Commit the epochs that are written in shards; incomplete ones only if gaps are allowed."""
        if number > run.round:
            return
        (round_,) = await self._store.rounds.get(run, range(number, number + 1))
        _check_gaps(round_, allow_gaps)
        for epoch in _unmerged_epochs(round_):
            await self._store.shards.merge(run, number, epoch, attempt)

    async def _collect_garbage(self, run: Run, number: int) -> None:
        """Delete the data of a finished round to which no record refers; only log errors of the store."""
        try:
            await self._store.rounds.collect_garbage(run, number)
        except StoreError as error:  # only costs memory
            logger.warning("round %d of a run was finished, but not cleaned up: %s", number, error)


def _choose_set(
    run: Run, number: int, computed: ComputedSelection, client_set: ClientSet | None
) -> tuple[Bitmap, dict[str, Any]]:
    """Return the set to store, which is the client's set if there is one, and the JSON of the selection."""
    head = {"run_id": run.run_id, "round": number, "basis": "stored", "provisional": False}
    document = {**head, **computed.summary, "core_version": CORE_VERSION}
    if client_set is None:
        check_not_empty(computed.bitmap, computed.summary["reasons"])
        return computed.bitmap, document
    check_not_empty(client_set.bitmap, ["the client's set keeps no sample; leave out `selected`, or send a set"])
    differs = bitmap.popcount(client_set.bitmap ^ computed.bitmap)
    document |= {
        "basis": "client",
        "num_selected": bitmap.popcount(client_set.bitmap),
        "client_core_version": client_set.core_version,
        "differs": differs,
    }
    if differs:
        # These describe the computed set, not the client's.
        document |= dict.fromkeys(("member_overlap", "guarantee", "bounds"))
    return client_set.bitmap, document


def _unmerged_epochs(round_: Round) -> list[Epoch]:
    """Return the epochs of a round whose shards are not merged yet."""
    return [epoch for epoch in round_.partial_epochs.values() if epoch.kind == "shards"]


def _check_gaps(round_: Round, allow_gaps: bool) -> None:
    """Check that no epochs or shards of a round are missing, unless gaps are allowed."""
    if allow_gaps:
        return
    if incomplete := [epoch for epoch in _unmerged_epochs(round_) if epoch.is_missing_shards]:
        first = incomplete[0]
        raise EpochGap(
            f"epoch {first.number} of round {round_.number} has {first.n_stored_shards} of {first.n_shards} shards; "
            "put the others, or finish with allow_gaps to count their samples as unobserved"
        )
    if missing := round_.missing_epochs:
        numbers = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise EpochGap(
            f"round {round_.number} has {len(round_.all_epochs)} of the epochs 0..{max(round_.all_epochs)}, "
            f"{len(missing)} are missing: {numbers}; put them, or finish with allow_gaps if they were never recorded"
            + (", as in a log that counts its epochs from 1" if missing == [0] else "")
        )


def _check_immutable_fields(run: Run, spec: RunSpec, sent_fields: Collection[str]) -> None:
    """Check that the immutable fields that the client has sent equal those of the existing run."""
    pairs = [
        (get_wire_name(field), getattr(run.spec, field.name), getattr(spec, field.name))
        for field in fields(RunSpec)
        if field.name in sent_fields and field.name not in (*CHANGEABLE_FIELDS, "selection")
    ]
    pairs += [
        (f"selection.{field.name}", getattr(run.spec.selection, field.name), getattr(spec.selection, field.name))
        for field in fields(SelectionOptions)
        if f"selection.{field.name}" in sent_fields
    ]
    for name, stored, requested in pairs:
        if stored != requested:
            raise RunConflict(
                f"run {run.run_id!r} was opened with {name} {stored!r}, got {requested!r}; send the same, "
                "or choose another run id"
            )
