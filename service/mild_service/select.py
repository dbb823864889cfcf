"""The read path: which round, stored or computed, and its identity before any work is done."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from mild_core.bitmap import Bitmap
from mild_core.types import RoundBits, SelectionOptions
from mild_service.compute import CORE_VERSION, Computer, Evidence
from mild_service.config import Settings
from mild_service.errors import LimitExceeded
from mild_service.state import Round, Run
from mild_service.store import Store
from mild_service.telemetry import Telemetry

Which: TypeAlias = int | Literal["latest"]

_POLL_SECONDS = (0.05, 0.5)
"""First and longest pause between two looks of a long-poll."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A selection to be sent.

    Attributes
    ----------
    identity
        Equal identities give equal answers; empty for bits that are stored nowhere.
    document
        The JSON, without `indices`.
    n_samples, bitmap
        The kept samples, shape (n_bytes,).
    """

    identity: str
    document: Mapping[str, Any]
    n_samples: int
    bitmap: Bitmap


@dataclass(frozen=True, slots=True)
class Choice:
    """A selection that has been decided on, but neither loaded nor computed.

    Attributes
    ----------
    run
        The run.
    round
        The round that is selected from.
    identity
        Equal identities give equal answers.
    evidence
        What to compute from; None when the round's stored set answers.
    """

    run: Run
    round: Round
    identity: str
    evidence: Evidence | None


class Selections:
    """Answers to who is clean."""

    def __init__(self, store: Store, computer: Computer, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._computer = computer
        self._settings = settings
        self._telemetry = telemetry
        self._closing = False

    def close(self) -> None:
        """End all long-polls."""
        self._closing = True

    async def choose(
        self, run: Run, which: Which, changes: Mapping[str, Any], until_epoch: int | None = None
    ) -> Choice:
        """Decide what answers: a finished round's stored set, unless `changes` or `until_epoch` ask for another.

        Raises
        ------
        ParameterError
            If `changes` are not options of a selection.
        RoundNotOpen, NoEpochs
            If there is nothing to select from.
        """
        number = max(run.round - 1, 0) if which == "latest" else which
        options = replace(run.config.options, **changes).checked()
        if until_epoch is None and options == run.config.options and number <= run.round:
            (round_,) = await self._store.rounds.get(run, range(number, number + 1))
            if round_.finished:
                return Choice(run, round_, f"stored:{run.uid}:{number}", None)
        evidence = await self._computer.gather(run, number, options, until_epoch)
        return Choice(run, evidence.round, _identity(evidence), evidence)

    async def answer(self, choice: Choice) -> Answer:
        """Load or compute a selection."""
        run, round_ = choice.run, choice.round
        if choice.evidence is None:
            assert round_.selection is not None, "a finished round has its selection"
            assert round_.selected is not None, "a finished round has its set"
            self._telemetry.selections.labels("stored").inc()
            members = await self._store.bits.read_set(run, round_.selected)
            return Answer(choice.identity, round_.selection, run.config.n_samples, members)
        evidence, computed = await self._computer.compute(choice.evidence)
        head = {
            "run_id": run.run_id,
            "round": round_.number,
            "basis": "computed",
            "provisional": not evidence.round.finished,
        }
        document = {**head, **computed.summary, "core_version": CORE_VERSION}
        return Answer(_identity(evidence), document, run.config.n_samples, computed.bitmap)

    async def fit(self, choice: Choice) -> Mapping[str, Any]:
        """What a selection was read off: histogram, densities, components, threshold, verdict, reasons."""
        head = {"run_id": choice.run.run_id, "round": choice.round.number}
        if choice.evidence is None:
            assert choice.round.fit is not None, "a finished round has its fit"
            return {**head, "provisional": False, **choice.round.fit}
        evidence, computed = await self._computer.compute(choice.evidence)
        return {**head, "provisional": not evidence.round.finished, **computed.fit}

    async def stateless(self, rounds: list[RoundBits], options: SelectionOptions) -> Answer:
        """Select from bits that are stored nowhere."""
        computed = await self._computer.stateless(rounds, options)
        head = {"run_id": None, "round": len(rounds) - 1, "basis": "computed", "provisional": False}
        n_samples = rounds[0].n_samples
        return Answer("", {**head, **computed.summary, "core_version": CORE_VERSION}, n_samples, computed.bitmap)

    async def wait(self, run: Run, number: int, seconds: float) -> Run:
        """Return the run once a round is finished, or as it is after `seconds`.

        Between two looks no connection to the store is held.

        Raises
        ------
        LimitExceeded
            If `seconds` are more than the limit.
        RunNotFound
            If the run goes meanwhile.
        """
        if not 0 <= seconds <= self._settings.max_wait_seconds:
            raise LimitExceeded(
                f"wait is {seconds:g} seconds, this service takes 0..{self._settings.max_wait_seconds:g}; "
                "ask again after a shorter wait"
            )
        deadline = time.monotonic() + seconds
        pause, longest = _POLL_SECONDS
        while run.round <= number and not self._closing and (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, longest)
            run = await self._store.runs.get(run.run_id)
        return run


def _identity(evidence: Evidence) -> str:
    return f"computed:{evidence.round.number}:{evidence.round.finished}:{evidence.digest}"
