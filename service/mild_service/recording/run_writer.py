"""The write path: runs opened and resumed, members put, rounds finished; epochs are in `epochs` and `shards`."""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import InvalidInput
from mild_core.fields import wire_name
from mild_core.types import CHANGEABLE_FIELDS, RunSpec, SelectionOptions
from mild_service.api_keys import ANONYMOUS, ApiKey
from mild_service.config import Settings
from mild_service.errors import EpochGap, RoundFinished, RunConflict, RunNotFound, StoreError
from mild_service.image_urls import check_image_url
from mild_service.limits import check_position, check_range
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
from mild_service.recording.capacity import Capacity, RunQuota
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.evidence import CORE_VERSION
from mild_service.store import RunPage, Store, stale_attempt_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ClientSet:
    """The set that an offline client has used already, and what computed it."""

    bitmap: Bitmap
    core_version: str


class RunWriter:
    """The steps of the state machine, with the limits checked and the bits decoded."""

    def __init__(self, store: Store, computer: SelectionComputer, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._computer = computer
        self._settings = settings
        self._telemetry = telemetry
        self._quota = RunQuota(store, settings.max_runs_per_key)
        self._capacity = Capacity(store, settings, telemetry)

    async def open(
        self,
        spec: RunSpec,
        sent: Collection[str] = (),
        resume_from: tuple[int, int] | None = None,
        caller: ApiKey = ANONYMOUS,
        condition: Precondition = NO_PRECONDITION,
    ) -> tuple[Run, bool]:
        """Open a run, or resume it; return its record and whether it was created.

        Parameters
        ----------
        spec
            The run that is asked for.
        sent
            Names of the fields that the caller sent, options of the selection as ``selection.metric``: a run that
            exists must agree with these, or takes over those that may change.
        resume_from
            Round and epoch to continue at; later epochs of the open round are dropped.
        caller
            The key that a new run counts for.
        condition
            On the run's uid, so that a write reaches no run that was deleted and opened again.

        Raises
        ------
        LimitExceeded, ParameterError
            If a number is past its limit, or the selection's options are impossible.
        RunConflict
            If the run exists and an immutable field that was sent differs.
        RoundFinished, RoundNotOpen
            If `resume_from` is not in the open round.
        RunLimit
            If the caller may not create another one.
        PreconditionFailed
            If the run is not as `condition` demands.
        StoreFull
            If the store has no room for another one.
        """
        check_range("num_samples", spec.num_samples, 1, self._settings.max_samples, "MILD_MAX_SAMPLES")
        if resume_from is not None:
            check_position(self._settings, *resume_from)
        spec = replace(
            spec,
            selection=spec.selection.checked(),
            picture_url=check_image_url(spec.picture_url) if spec.picture_url else None,
            ttl_seconds=spec.ttl_seconds or self._settings.ttl_seconds,
        )
        run_id = spec.run_id
        if condition.digests is not None:
            await self._check_there(run_id, condition)
        await self._capacity.check(spec)
        while True:
            async with self._quota.reserve(caller, run_id) as place:
                run, place.created = await self._store.runs.open(spec, None if resume_from is None else resume_from[0])
            if place.created:
                return run, True
            condition.check(f"run {run_id!r}", run.uid)
            _check_same(run, spec, sent)
            try:
                return await self._open_again(run, spec, sent, resume_from), False
            except RunNotFound:
                continue  # deleted just now: create it

    async def check_capacity(self) -> None:
        """Note how full the store is, and say so where it is nearly full."""
        await self._capacity.measure()

    async def _check_there(self, run_id: str, condition: Precondition) -> None:
        """Check a condition that needs a run: opening one that is not there would make it."""
        uid = None
        with suppress(RunNotFound):
            uid = (await self.find(run_id)).uid
        condition.check(f"run {run_id!r}", uid)

    async def _open_again(
        self, run: Run, spec: RunSpec, sent: Collection[str], resume_from: tuple[int, int] | None
    ) -> Run:
        """Change what opening a run again may change; return its record."""
        if resume_from is not None:
            await self._store.rounds.resume(run, *resume_from)
        changes = {name: getattr(spec, name) for name in CHANGEABLE_FIELDS if name in sent}
        if changes:
            await self._store.runs.patch(run, changes)
        return await self._store.runs.get(run.run_id)

    async def find(self, run_id: str) -> Run:
        """A run's record.

        Raises
        ------
        RunNotFound
            If there is none.
        """
        return await self._store.runs.get(run_id)

    async def read_rounds(self, run: Run, first: int = 0) -> list[Round]:
        """All rounds of a run from `first` on, as they stand."""
        return await self._store.rounds.get(run, range(first, run.round + 1))

    async def list_page(self, limit: int, cursor: str | None, prefix: str = "") -> RunPage:
        """Some of the runs whose ids start with `prefix`, newest first."""
        return await self._store.runs.list_page(limit, cursor, prefix)

    async def patch(self, run_id: str, changes: Mapping[str, Any], status: RunStatus | None) -> Run:
        """Change fields of a run's spec by name, and its status; an empty address of pictures takes it away.

        Raises
        ------
        ParameterError
            If the address is none that pages may show pictures from.
        """
        if "picture_url" in changes:
            template = changes["picture_url"]
            changes = {**changes, "picture_url": check_image_url(template) if template else None}
        await self._store.runs.patch(await self.find(run_id), changes, status)
        return await self.find(run_id)

    async def delete(self, run_id: str) -> None:
        """Delete a run with all that belongs to it."""
        run = await self.find(run_id)
        await self._store.runs.delete(run_id, run.uid)

    async def put_members(self, run: Run, round_: int, members: Bitmap, attempt: int | None) -> tuple[bool, int]:
        """Set the members of the open round; return whether that changed anything, and how many they are."""
        check_position(self._settings, round_)
        if not members.any():
            raise InvalidInput(
                f"the members of round {round_} are 0 of {run.spec.num_samples} samples, at least 1 is needed; "
                "send the samples that the model is trained on"
            )
        return await self._store.rounds.put_members(run, round_, members, attempt)

    async def put_planted(self, run: Run, planted: Bitmap, attempt: int | None) -> tuple[bool, int]:
        """Set whose label was broken on purpose in round 0; return whether that changed anything, and how many."""
        return await self._store.rounds.put_planted(run, planted, attempt)

    async def put_metrics(
        self, run: Run, round_: int, epoch: int, metrics: Mapping[str, float], attempt: int | None, replace: bool
    ) -> CommitOutcome:
        """Store an epoch's scalars."""
        check_position(self._settings, round_, epoch)
        return await self._store.rounds.put_metrics(run, round_, epoch, metrics, attempt, replace)

    async def finish(
        self, run: Run, number: int, allow_gaps: bool, attempt: int | None, client_set: ClientSet | None
    ) -> None:
        """Freeze a round with its set and open the next; a finished round is left as it is.

        The set is computed first; one script then stores it and freezes the round, provided that nothing has changed
        meanwhile. So a crash at any point leaves the round open, or finished with its set.

        Raises
        ------
        RoundNotOpen, NoEpochs, EpochGap, StaleAttempt
            If the round cannot be finished.
        """
        check_position(self._settings, number)
        while (run := await self.find(run.run_id)).round <= number:
            if attempt not in (None, run.attempt):
                raise stale_attempt_error(run.run_id, run.attempt, attempt)  # before the work, not only after it
            await self._merge_shards(run, number, allow_gaps, attempt)
            evidence = await self._computer.evidence.gather(run, number, run.spec.selection, finishing=True)
            evidence, computed = await self._computer.compute(evidence)
            _check_gaps(evidence.round, allow_gaps)
            if _in_shards(evidence.round):
                continue  # begun just now
            selected, document = _stored(run, number, computed, client_set)
            try:
                if await self._store.rounds.finish(run, evidence.round, selected, document, computed.fit, attempt):
                    await self._collect_garbage(run, number)
                    return
            except RoundFinished:
                continue  # by somebody else, just now

    async def _merge_shards(self, run: Run, number: int, allow_gaps: bool, attempt: int | None) -> None:
        """Commit the epochs of which all shards are in, or, when gaps are allowed, some.

        Raises
        ------
        EpochGap
            If epochs or shards are missing that must not be.
        """
        if number > run.round:
            return
        (round_,) = await self._store.rounds.get(run, range(number, number + 1))
        _check_gaps(round_, allow_gaps)
        for epoch in _in_shards(round_):
            await self._store.shards.merge(run, number, epoch, attempt)

    async def _collect_garbage(self, run: Run, number: int) -> None:
        try:
            (round_,) = await self._store.rounds.get(run, range(number, number + 1))
            await self._store.bitmaps.collect_garbage(run, round_)
            await self._store.wrong_predictions.collect_garbage(run, round_)
        except StoreError as error:  # costs room, not truth
            logger.warning("round %d of a run was finished, but not cleaned up: %s", number, error)


def _stored(
    run: Run, number: int, computed: ComputedSelection, client_set: ClientSet | None
) -> tuple[Bitmap, dict[str, Any]]:
    """The set to store and its JSON."""
    head = {"run_id": run.run_id, "round": number, "basis": "stored", "provisional": False}
    document = {**head, **computed.summary, "core_version": CORE_VERSION}
    if client_set is None:
        return computed.bitmap, document
    differs = bitmap.popcount(client_set.bitmap ^ computed.bitmap)
    document |= {
        "basis": "client",
        "num_selected": bitmap.popcount(client_set.bitmap),
        "client_core_version": client_set.core_version,
        "differs": differs,
    }
    if differs:
        document["member_overlap"] = None  # of the service's own set, which is not the one that is answered
    return client_set.bitmap, document


def _in_shards(round_: Round) -> list[Epoch]:
    """Epochs whose shards have not been merged yet."""
    return [epoch for epoch in round_.partial_epochs.values() if epoch.kind == "shards"]


def _check_gaps(round_: Round, allow_gaps: bool) -> None:
    if allow_gaps:
        return
    if lacking := [epoch for epoch in _in_shards(round_) if epoch.is_missing_shards]:
        first = lacking[0]
        raise EpochGap(
            f"epoch {first.number} of round {round_.number} has {first.n_stored_shards} of {first.n_shards} shards; "
            "put the others, or finish with allow_gaps to count whom they would have observed as unobserved"
        )
    if missing := round_.missing_epochs:
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise EpochGap(
            f"round {round_.number} has {len(round_.all_epochs)} of the epochs 0..{max(round_.all_epochs)}, "
            f"{len(missing)} are missing: {shown}; put them, or finish with allow_gaps to count them as unobserved"
        )


def _check_same(run: Run, spec: RunSpec, sent: Collection[str]) -> None:
    """Compare the immutable fields that were sent with those that the run was opened with."""
    pairs = [
        (wire_name(field), getattr(run.spec, field.name), getattr(spec, field.name))
        for field in fields(RunSpec)
        if field.name in sent and field.name not in (*CHANGEABLE_FIELDS, "selection")
    ]
    pairs += [
        (f"selection.{field.name}", getattr(run.spec.selection, field.name), getattr(spec.selection, field.name))
        for field in fields(SelectionOptions)
        if f"selection.{field.name}" in sent
    ]
    for name, stored, requested in pairs:
        if stored != requested:
            raise RunConflict(
                f"run {run.run_id!r} was opened with {name} {stored!r}, got {requested!r}; send the same, "
                "or choose another run id"
            )
