"""The evidence of a selection: the rounds and epochs from which it is computed, and their bits."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import orjson
from anyio import to_thread
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.draw import Deviation
from mild_core.sources import pick_samples
from mild_core.types import RoundBits, SelectionOptions
from mild_core.wrong_predictions import ClassNumbers
from mild_service.errors import NoEpochs, RoundNotOpen, StoreDamaged, StoreUnavailable
from mild_service.models import AnnotationRef, Epoch, Round, Run
from mild_service.store import Store, StoredRound, StoredSamples

T = TypeVar("T")

CORE_VERSION = version("mild-selection")
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """The inputs of a selection at one point in time: records of rounds and epochs, without their bits.

    Attributes
    ----------
    run
        The run.
    rounds
        Rounds whose epochs are used, oldest first; the selection is made for the last round.
    until_epoch
        Last epoch that is used in the last round; None uses all epochs.
    options
        Options of the selection.
    finishing
        True while the round is being finished; partial epochs from logs are then used too.
    by_draw
        Whether the random audit makes the cut. Never where a round is finished: the answers must not reach a training.
    """

    run: Run
    rounds: Sequence[Round]
    until_epoch: int | None
    options: SelectionOptions
    finishing: bool = False
    by_draw: bool = False

    @property
    def round(self) -> Round:
        """The round for which the selection is made."""
        return self.rounds[-1]

    def used_epochs(self, round_: Round) -> list[Epoch]:
        """Return the epochs of a round that the selection uses, ascending."""
        if self._uses_committed(round_):
            return list(round_.epochs.values())
        last_epoch = self.until_epoch if round_ is self.round else None
        return [
            epoch
            for number, epoch in round_.all_epochs.items()
            if (last_epoch is None or number <= last_epoch)
            and (not epoch.partial or (self.finishing and epoch.kind == "logs"))
        ]

    @property
    def epochs(self) -> list[Epoch]:
        """The epochs of all rounds that the selection uses."""
        return [epoch for round_ in self.rounds for epoch in self.used_epochs(round_)]

    def _uses_committed(self, round_: Round) -> bool:
        """Return whether the selection uses the committed epochs of a round, all of them and no other."""
        uses_partial = self.finishing and bool(round_.partial_epochs)
        return not uses_partial and (self.until_epoch is None or round_ is not self.round)

    @property
    def annotation_refs(self) -> tuple[AnnotationRef | None, AnnotationRef | None]:
        """References to the labels and to the audit; None for the one that the options do not use."""
        return (
            self.run.labels if self.options.needs_labels else None,
            self.run.audit if self.options.audit == "fit" or self.by_draw else None,
        )

    @property
    def deviation(self) -> Deviation | None:
        """How the selection differs from the choice that was recorded with the run's draw; None without a draw."""
        if self.run.draw is None:
            return None
        uses_all = self.until_epoch is None or self.until_epoch >= max(self.round.all_epochs)
        return self.run.draw.find_deviation(self.options, self.round.number, None if uses_all else self.until_epoch)

    @property
    def digest(self) -> str:
        """Digest of all inputs of the selection, including the version of the core."""
        spec = self.run.spec
        parts: list[Any] = [CORE_VERSION, spec.num_samples, spec.observe, asdict(self.options)]
        parts += [ref and ref.digest for ref in self.annotation_refs]
        for round_ in self.rounds:
            sets = [ref and ref.digest for ref in (round_.members, round_.planted)]
            parts.append([sets, self._digest_epochs(round_)])
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]

    def _digest_epochs(self, round_: Round) -> str:
        """Return the digest of the epochs of a round that the selection uses."""
        if self._uses_committed(round_):
            return round_.committed_digest
        used = {epoch.number: epoch for epoch in self.used_epochs(round_)}
        return replace(round_, epochs=used).committed_digest


class EvidenceReader:
    """Collects the evidence of selections, and reads its bits and annotations from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def gather(
        self,
        run: Run,
        number: int,
        options: SelectionOptions,
        until_epoch: int | None = None,
        finishing: bool = False,
        last_rounds: Sequence[Round] = (),
        by_draw: bool = False,
    ) -> Evidence:
        """Collect the evidence for a selection of one round.

        Parameters
        ----------
        run, number
            The run, and the number of the round.
        options
            Options of the selection.
        until_epoch
            Last epoch that is used in the round; None uses all epochs.
        finishing
            Whether the round is being finished, so that partial epochs from logs are used too.
        last_rounds
            Records of the round and of some before it, oldest first, which the caller has just read.
        by_draw
            Whether the random audit makes the cut.
        """
        if number > run.round:
            raise RoundNotOpen(
                f"round {number} of run {run.run_id!r} has not begun, round {run.round} is open; "
                f"finish the rounds before it first, or wait for it with round={number}&wait=60"
            )
        first = 0 if options.evidence == "pooled" else number
        last_rounds = last_rounds[max(len(last_rounds) - (number + 1 - first), 0) :]
        rounds = await self._store.rounds.get(run, range(first, number + 1 - len(last_rounds)))
        evidence = Evidence(run, [*rounds, *last_rounds], until_epoch, options, finishing, by_draw)
        if not evidence.used_epochs(evidence.round):
            suffix = "" if until_epoch is None else f" up to epoch {until_epoch}"
            raise NoEpochs(
                f"round {number} of run {run.run_id!r} has no epochs{suffix}, at least 1 is needed; put one with "
                f"PUT /runs/{run.run_id}/rounds/{number}/epochs/0"
            )
        return evidence

    async def extend_to_all_rounds(self, evidence: Evidence) -> Evidence:
        """Return the evidence with all earlier rounds added, even those that the options do not use."""
        if evidence.rounds[0].number == 0:
            return evidence
        pooled = replace(evidence.options, evidence="pooled")
        return await self.gather(
            evidence.run, evidence.round.number, pooled, evidence.until_epoch, last_rounds=evidence.rounds
        )

    async def read_consistently(
        self, evidence: Evidence, read: Callable[[Evidence], Awaitable[T]]
    ) -> tuple[Evidence, T]:
        """Call `read` with the evidence, and repeat with new evidence if epochs were replaced in the meantime.

        Returns
        -------
        evidence
            The evidence with which `read` succeeded.
        result
            The result of `read`.
        """
        was_unchanged = False
        for _ in range(_ATTEMPTS):
            try:
                return evidence, await read(evidence)
            except StoreDamaged:
                run = await self._store.runs.refresh(evidence.run)
                fresh = await self.gather(
                    run,
                    evidence.round.number,
                    evidence.options,
                    evidence.until_epoch,
                    evidence.finishing,
                    by_draw=evidence.by_draw,
                )
                is_unchanged = (
                    fresh.round.version == evidence.round.version and fresh.annotation_refs == evidence.annotation_refs
                )
                if is_unchanged and was_unchanged:  # not at the first failure, which may result from an earlier change
                    raise
                was_unchanged, evidence = is_unchanged, fresh
        raise StoreUnavailable(
            f"round {evidence.round.number} of run {evidence.run.run_id!r} was changed while it was read, {_ATTEMPTS} "
            "times in a row; ask again once fewer epochs are being replaced"
        )

    async def open_samples(self, evidence: Evidence) -> StoredSamples:
        """Return the samples of the evidence as a source, with the annotations that its options use.

        Epochs in which no sample was observed are left out: nothing is known of them.
        """
        _, audit = evidence.annotation_refs
        annotations = Annotations(
            audit=None if audit is None else await self._store.annotations.read_audit(evidence.run, audit),
            deviation=evidence.deviation,
        )
        n_samples, has_labels = evidence.run.spec.num_samples, evidence.run.labels is not None
        annotations = annotations.restrict_to_options(n_samples, evidence.options, has_labels=has_labels)
        epochs = [[epoch for epoch in evidence.used_epochs(r) if epoch.n_observed != 0] for r in evidence.rounds]
        return await self._open(evidence, epochs, annotations)

    async def _open(
        self, evidence: Evidence, epochs: Sequence[Sequence[Epoch]], annotations: Annotations
    ) -> StoredSamples:
        """Return the samples of the evidence as a source, with these epochs of its rounds."""
        members = evidence.round.members
        return self._store.open_samples(
            evidence.run,
            [StoredRound.from_epochs(round_, used) for round_, used in zip(evidence.rounds, epochs, strict=True)],
            evidence.annotation_refs[0],
            None if members is None else await self._store.bitmaps.read_set(evidence.run, members),
            annotations,
        )

    async def load_bits(self, evidence: Evidence, samples: NDArray[np.int64] | None = None) -> Sequence[RoundBits]:
        """Read the bits of all epochs of the evidence at once, one `RoundBits` per round, oldest first.

        Parameters
        ----------
        evidence
            The evidence.
        samples
            Shape (n,), ascending indices of the samples to read; None for all.
        """
        evidence = replace(evidence, options=SelectionOptions())
        source = await self._open(evidence, [evidence.used_epochs(r) for r in evidence.rounds], Annotations())
        if samples is not None:
            return await to_thread.run_sync(pick_samples, source, samples)
        return await to_thread.run_sync(source.read_rounds, slice(0, bitmap.n_bytes(source.n_samples)))

    async def read_wrong_predictions(
        self, evidence: Evidence, samples: NDArray[np.int64]
    ) -> tuple[ClassNumbers, ClassNumbers]:
        """Read predicted classes and labels, shape (n_epochs, n) each, of the epochs that have wrong predictions."""
        parts = []
        for round_ in evidence.rounds:
            epochs = [epoch for epoch in evidence.used_epochs(round_) if epoch.has_wrong_predictions]
            parts.append(await self._store.wrong_predictions.read_samples(evidence.run, round_.number, epochs, samples))
        predicted, labels = (np.concatenate([pair[row] for pair in parts]) for row in (0, 1))
        return predicted, labels
