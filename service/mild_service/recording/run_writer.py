"""The write path: runs opened and resumed, members put, rounds finished; epochs are in `epochs` and `shards`."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import InvalidInput
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
    RunConfig,
    RunStatus,
)
from mild_service.observability import Telemetry
from mild_service.recording.capacity import Capacity, RunQuota
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.evidence import CORE_VERSION
from mild_service.store import RunPage, Store, stale_attempt_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What `PUT /runs/{run_id}` asks for. Names are those of `RunConfig`; what was not said is not in them.

    Attributes
    ----------
    n_samples
        Samples of the run.
    fixed
        Other immutable fields that were given.
    options
        Fields of the selection that were given.
    planned
        Expectations that were given.
    tags, ttl_seconds
        As given; None when not.
    resume_from
        Round and epoch to go on at.
    """

    n_samples: int
    fixed: Mapping[str, Any]
    options: Mapping[str, Any]
    planned: Mapping[str, Any]
    tags: Mapping[str, str] | None
    ttl_seconds: int | None
    resume_from: tuple[int, int] | None


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
        self, run_id: str, opening: Opening, caller: ApiKey = ANONYMOUS, condition: Precondition = NO_PRECONDITION
    ) -> tuple[Run, bool]:
        """Open a run, or resume it; return its record and whether it was created, which counts for `caller`.

        `condition` is on the run's uid: whoever knows it writes to no run that was deleted and opened again.

        Raises
        ------
        LimitExceeded, ParameterError
            If a number is past its limit, or the selection's options are impossible.
        RunConflict
            If the run exists and a given immutable field differs.
        RoundFinished, RoundNotOpen
            If `resume_from` is not in the open round.
        RunLimit
            If the caller may not create another one.
        PreconditionFailed
            If the run is not as `condition` demands.
        StoreFull
            If the store has no room for another one.
        """
        check_range("num_samples", opening.n_samples, 1, self._settings.max_samples, "MILD_MAX_SAMPLES")
        if opening.resume_from is not None:
            check_position(self._settings, *opening.resume_from)
        opening = replace(opening, planned=_with_pictures(opening.planned))
        config = RunConfig(opening.n_samples, **opening.fixed, **opening.planned)
        config = replace(config, options=replace(config.options, **opening.options).checked())
        if condition.digests is not None:
            await self._check_there(run_id, condition)
        await self._capacity.check(run_id, config)
        while True:
            async with self._quota.reserve(caller, run_id) as place:
                run, place.created = await self._store.runs.open(
                    run_id,
                    config,
                    opening.tags or {},
                    opening.ttl_seconds or self._settings.ttl_seconds,
                    opening.resume_from[0] if opening.resume_from else None,
                )
            if place.created:
                return run, True
            condition.check(f"run {run_id!r}", run.uid)
            _check_same(run, opening)
            try:
                return await self._open_again(run, opening), False
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

    async def _open_again(self, run: Run, opening: Opening) -> Run:
        """Change what the opening of a run that is there may change; return its record."""
        if opening.resume_from is not None:
            await self._store.rounds.resume(run, *opening.resume_from)
        if opening.tags is not None or opening.ttl_seconds is not None or opening.planned:
            await self._store.runs.patch(
                run,
                tags=opening.tags,
                ttl_seconds=opening.ttl_seconds,
                config=replace(run.config, **opening.planned) if opening.planned else None,
            )
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

    async def patch(
        self,
        run_id: str,
        tags: Mapping[str, str] | None,
        status: RunStatus | None,
        ttl_seconds: int | None,
        picture_url: str | None = None,
    ) -> Run:
        """Change tags, status, time to live or the pictures' address; None leaves them, an empty address takes it away.

        Raises
        ------
        ParameterError
            If the address is none that pages may show pictures from.
        """
        planned = _with_pictures({} if picture_url is None else {"picture_url": picture_url})
        run = await self.find(run_id)
        config = replace(run.config, **planned) if planned else None
        await self._store.runs.patch(run, tags, status, ttl_seconds, config)
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
                f"the members of round {round_} are 0 of {run.config.n_samples} samples, at least 1 is needed; "
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
            evidence = await self._computer.evidence.gather(run, number, run.config.options, finishing=True)
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


def _with_pictures(planned: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was given, with the pictures' address checked; an empty one is none."""
    if "picture_url" not in planned:
        return planned
    template = planned["picture_url"]
    return {**planned, "picture_url": check_image_url(template) if template else None}


def _check_same(run: Run, opening: Opening) -> None:
    """Compare what was given with what the run was opened with."""
    names = {"n_samples": "num_samples", "n_classes": "num_classes", "forward_pass": "pass"}
    pairs = [
        (names.get(name, name), getattr(run.config, name), value)
        for name, value in {"n_samples": opening.n_samples, **opening.fixed}.items()
    ]
    pairs += [(f"selection.{f}", getattr(run.config.options, f), value) for f, value in opening.options.items()]
    for name, held, got in pairs:
        if held != got:
            raise RunConflict(
                f"run {run.run_id!r} was opened with {name} {held!r}, got {got!r}; send the same, "
                "or choose another run id"
            )
