"""What a selection is computed from: which epochs count, and their bits, read as of one instant."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import orjson

from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.types import RoundBits, SelectionOptions
from mild_service.errors import NoEpochs, RoundNotOpen, StoreDamaged, StoreUnavailable
from mild_service.models import AnnotationRef, Epoch, Round, Run
from mild_service.store import Store

T = TypeVar("T")

CORE_VERSION = version("mild-selection")
_READS = 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a selection is computed from, as it stood at one instant.

    Attributes
    ----------
    run
        The run.
    rounds
        Oldest first; the last one is the one that is selected from.
    until_epoch
        Last epoch of the last round that counts; None means all.
    options
        Resolved options.
    finishing
        Epochs that logs are still filling up count, as they stand: the round is being finished with them.
    """

    run: Run
    rounds: Sequence[Round]
    until_epoch: int | None
    options: SelectionOptions
    finishing: bool = False

    @property
    def round(self) -> Round:
        """The round that is selected from."""
        return self.rounds[-1]

    def epochs(self, round_: Round) -> list[Epoch]:
        """Epochs of a round that count, ascending."""
        until = self.until_epoch if round_ is self.round else None
        return [
            epoch
            for number, epoch in round_.all_epochs.items()
            if (until is None or number <= until) and (not epoch.partial or (self.finishing and epoch.kind == "logs"))
        ]

    @property
    def annotation_refs(self) -> tuple[AnnotationRef | None, AnnotationRef | None]:
        """Labels and audit, where they have a say."""
        return (
            self.run.labels if self.options.by_class else None,
            self.run.audit if self.options.audit == "fit" else None,
        )

    @property
    def digest(self) -> str:
        """Of everything that decides the selection."""
        spec = self.run.spec
        parts: list[Any] = [CORE_VERSION, spec.num_samples, spec.observe, asdict(self.options)]
        parts += [ref and ref.digest for ref in self.annotation_refs]
        for round_ in self.rounds:
            sets = [ref and ref.digest for ref in (round_.members, round_.planted)]
            parts.append([sets, [[epoch.number, epoch.digest] for epoch in self.epochs(round_)]])
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]


class EvidenceReader:
    """Gathers evidence, and reads it out of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def gather(
        self,
        run: Run,
        number: int,
        options: SelectionOptions,
        until_epoch: int | None = None,
        finishing: bool = False,
        known: Round | None = None,
    ) -> Evidence:
        """Read what a selection of round `number` would be computed from.

        `known` is that round where it has just been read; those before it are finished, so any instant does for them.

        Raises
        ------
        RoundNotOpen
            If the round has not begun.
        NoEpochs
            If no epoch counts.
        """
        if number > run.round:
            raise RoundNotOpen(
                f"round {number} of run {run.run_id!r} has not begun, round {run.round} is open; "
                f"finish the rounds before it first, or wait for it with round={number}&wait=60"
            )
        first = 0 if options.evidence == "pooled" else number
        rounds = await self._store.rounds.get(run, range(first, number + (known is None)))
        if known is not None:
            rounds = [*rounds, known]
        evidence = Evidence(run, rounds, until_epoch, options, finishing)
        if not evidence.epochs(evidence.round):
            upto = "" if until_epoch is None else f" up to epoch {until_epoch}"
            raise NoEpochs(
                f"round {number} of run {run.run_id!r} has no epochs{upto}, at least 1 is needed; put one with "
                f"PUT /runs/{run.run_id}/rounds/{number}/epochs/0"
            )
        return evidence

    async def extend_to_all_rounds(self, evidence: Evidence) -> Evidence:
        """The same with all rounds before, whether or not they count."""
        if evidence.rounds[0].number == 0:
            return evidence
        pooled = replace(evidence.options, evidence="pooled")
        return await self.gather(evidence.run, evidence.round.number, pooled, evidence.until_epoch)

    async def read_consistently(
        self, evidence: Evidence, read: Callable[[Evidence], Awaitable[T]]
    ) -> tuple[Evidence, T]:
        """Read `evidence`, again if it changes meanwhile; return also what it is by then.

        Raises
        ------
        StoreDamaged
            If committed bits are missing.
        StoreUnavailable
            If epochs were replaced faster than they could be read.
        """
        suspected = False
        for _ in range(_READS):
            try:
                return evidence, await read(evidence)
            except StoreDamaged:
                run = await self._refresh(evidence.run)
                fresh = await self.gather(
                    run, evidence.round.number, evidence.options, evidence.until_epoch, evidence.finishing
                )
                unchanged = (
                    fresh.round.version == evidence.round.version and fresh.annotation_refs == evidence.annotation_refs
                )
                if unchanged and suspected:  # not at once: the reading that failed may have been begun before a change
                    raise
                suspected, evidence = unchanged, fresh
        raise StoreUnavailable(
            f"round {evidence.round.number} of run {evidence.run.run_id!r} was changed while it was read, {_READS} "
            "times in a row; ask again once fewer epochs are being replaced"
        )

    async def load_bits(self, evidence: Evidence) -> list[RoundBits]:
        """Read the bits of `evidence`, as the core takes them.

        Raises
        ------
        StoreDamaged
            If committed bits are not there (any more).
        """
        return [await self._round_bits(evidence.run, round_, evidence.epochs(round_)) for round_ in evidence.rounds]

    async def load_annotations(self, evidence: Evidence) -> Annotations:
        """Labels and audit, as far as they have a say.

        Raises
        ------
        StoreDamaged
            If they are not there (any more).
        """
        run, truth = evidence.run, self._store.annotations
        labels, audit = evidence.annotation_refs
        return Annotations(
            None if labels is None else await truth.read_labels(run, labels, np.arange(run.spec.num_samples)),
            None if audit is None else await truth.read_audit(run, audit),
        )

    async def _refresh(self, run: Run) -> Run:
        """The run's record now; of a run that was opened anew the old one, whose reads find nothing."""
        fresh = await self._store.runs.get(run.run_id)
        return fresh if fresh.uid == run.uid else run

    async def _round_bits(self, run: Run, round_: Round, epochs: Sequence[Epoch]) -> RoundBits:
        spec = run.spec
        correct, observed = await self._store.bitmaps.read_epochs(run, round_.number, epochs)
        members, planted = [
            None if ref is None else await self._store.bitmaps.read_set(run, ref)
            for ref in (round_.members, round_.planted)
        ]
        told = [epoch.planes == 2 for epoch in epochs]
        rows = observed if all(told) else [row if t else None for row, t in zip(observed, told, strict=True)]
        bits = RoundBits.of(spec.num_samples, correct, rows, members, spec.observe, planted)
        n_epochs = epochs[-1].number + 1
        return bits if n_epochs == len(epochs) else _with_gaps(bits, [epoch.number for epoch in epochs], n_epochs)


def _with_gaps(bits: RoundBits, numbers: Sequence[int], n_epochs: int) -> RoundBits:
    """Spread epochs over n_epochs; one that is missing is one in which nobody was seen."""
    correct = np.zeros((n_epochs, bits.correct.shape[1]), dtype=np.uint8)
    observed = np.zeros_like(correct)
    correct[numbers] = bits.correct
    observed[numbers] = bitmap.full(bits.n_samples) if bits.observed is None else bits.observed
    return replace(bits, correct=correct, observed=observed)
