"""`LocalSelector`, which selects in the training process, without a service."""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_client.arguments import SampleSet, to_bitmap, to_bits, to_classes, to_integer, to_path, to_spec
from mild_client.backend import (
    EndStatus,
    Position,
    RoundFit,
    RoundResult,
    RunState,
    check_epoch_order,
    compute_sample_weights,
)
from mild_client.errors import LocalStateError, ResumeError
from mild_core import bitmap, selection
from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_core.errors import CorrectNotObservedError, ParameterError, get_reason
from mild_core.results import Selection
from mild_core.types import EpochBits, RoundBits, RunSpec, SelectionOptions
from mild_core.wrong_predictions import MAX_CLASS, describe_unknown_classes

logger = logging.getLogger(__name__)

_LABELS = "round-0/labels.npy"
_PLANTED = "round-0/planted.bits"

SelectFunction: TypeAlias = Callable[[Sequence[RoundBits], SelectionOptions, Annotations | None], Selection]


@dataclass
class _LocalRound:
    """Bits of one round, and once it is finished, its result and the probabilities of being mislabelled."""

    members: Bitmap | None = None
    planted: Bitmap | None = None
    epochs: dict[int, EpochBits] = field(default_factory=dict)
    result: RoundResult | None = None
    posterior: NDArray[np.float32] | None = None


class LocalSelector:
    """`SelectionBackend` that keeps the bits of a run in memory and selects in this process.

    Parameters
    ----------
    folder
        Folder in which the bits are also stored, so that an interrupted training can resume. Each bitmap is a file in
        the format of the HTTP API (``round-0/epoch-3.bits``, ``round-0/planted.bits``, ``round-1/members.bits``). None
        keeps the bits in memory only.
    select
        Function that selects a clean set from the bits of all rounds.

    Attributes
    ----------
    n_unwritten
        Number of files that could not be written, such as on a full disk, which does not end a training.
    """

    def __init__(self, folder: str | PathLike[str] | None = None, select: SelectFunction = selection.select) -> None:
        self._folder = None if folder is None else to_path(folder, "folder")
        self._select = select
        self._spec = RunSpec(run_id="local", num_samples=0)
        self._rounds: list[_LocalRound] = []
        self._annotations: Annotations | None = None
        self.n_unwritten = 0

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Begin an empty run, or load the epochs before `resume_from`, the next epoch to write, from the folder.

        Raises
        ------
        ResumeError
            If epochs before `resume_from` are missing from the folder.
        """
        self._spec = to_spec(spec)
        if resume_from is None:
            self._annotations = None
            self._delete_files()
            self._rounds = [_LocalRound()]
        else:
            self._rounds = self._read_folder(resume_from)
        return RunState(round=len(self._rounds) - 1, attempt=1)

    def put_labels(self, labels: ArrayLike) -> None:
        """Store the given labels, shape (n_samples,), which are needed for fits and minimum shares per class.

        Raises
        ------
        ParameterError
            If the array does not have one label per sample, or a label is no class of the run.
        """
        labels = to_classes(labels, "labels", self._spec.num_samples)
        n_classes = self._spec.num_classes or MAX_CLASS + 1
        if (found := describe_unknown_classes(labels, np.arange(labels.size), n_classes)) is not None:
            raise ParameterError(f"labels are outside 0..{n_classes - 1}, such as {found}")
        self._annotations = Annotations(labels)
        if self._folder is not None:
            body = io.BytesIO()
            np.save(body, labels, allow_pickle=False)
            self._write_file(_LABELS, body.getvalue())

    @property
    def labels(self) -> NDArray[np.integer] | None:
        """The given labels, shape (n_samples,); None if they were not set."""
        return None if self._annotations is None else self._annotations.labels

    def put_sample_ids(self, ids: Sequence[str]) -> None:
        """Do nothing: no set depends on external ids."""

    def put_planted(self, planted: SampleSet) -> None:
        """Store which samples round 0 trains on with planted (wrong) labels: a bitmap, a mask, or indices.

        Repeating a call changes nothing.

        Raises
        ------
        LocalStateError
            If round 0 is finished or has epochs.
        """
        planted = to_bitmap(planted, "planted bitmap", self._spec.num_samples)
        stored = self._rounds[0].planted
        if stored is not None and np.array_equal(stored, planted):
            return
        first_round = self._get_open_round(0)
        if first_round.epochs:
            raise LocalStateError(
                f"round 0 has {len(first_round.epochs)} epochs already, so its planted samples are fixed; "
                "give them before its first epoch"
            )
        first_round.planted = planted
        self._write_file(_PLANTED, planted.tobytes())

    def read_rounds(self, spec: RunSpec, n_rounds: int) -> tuple[RoundBits, ...]:
        """Return the bits of the first `n_rounds` rounds of the folder, without changing the folder.

        Raises
        ------
        ResumeError
            If epochs of these rounds are missing from the folder.
        """
        self._spec = spec
        self._rounds = self._read_folder(Position(n_rounds, 0), delete_later_epochs=False)
        return self.collect_rounds()

    def put_members(self, round: int, members: SampleSet) -> None:
        """Store the samples that `round`, the open round, trains on: a bitmap, a mask, or indices."""
        members = to_bitmap(members, "members bitmap", self._spec.num_samples)
        self._get_open_round(round).members = members
        self._write_file(f"round-{round}/members.bits", members.tobytes())

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Store the correctness bits of all samples for one epoch of the open round.

        Raises
        ------
        CorrectNotObservedError
            If the run observes members only, and a sample that is no member is marked as correct.
        LocalStateError
            If the epoch leaves a gap behind the ones before, or is stored with other bits.
        """
        bits, epoch = to_bits(bits, n_samples=self._spec.num_samples), to_integer(epoch, "epoch")
        current = self._get_open_round(round)
        check_epoch_order(Position(round, len(current.epochs)), round, epoch)
        if self._spec.observe == "members" and bits.observed is None and current.members is not None:
            n_outside = bitmap.popcount(bits.correct & ~current.members)
            if n_outside:
                raise CorrectNotObservedError(
                    f"{n_outside} samples are correct but no members of round {round}, and the run observes members "
                    "only; clear the others' bits, or give an observed bitmap"
                )
        stored = current.epochs.setdefault(epoch, bits)
        if stored.to_body() != bits.to_body():
            raise LocalStateError(
                f"epoch {epoch} of round {round} is stored with other bits; the next one is {len(current.epochs)}: "
                f"number each epoch once, or open the run with resume_from=Position({round}, {epoch})"
            )
        self._write_file(f"round-{round}/epoch-{epoch}.bits", bits.to_body())

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Do nothing, as scalars of an epoch are not stored locally."""

    def finish(self, round: int) -> RoundResult:
        """Select the clean set from the bits up to this round, open the next round, and return the result.

        Raises
        ------
        LocalStateError
            If the round is not open, has no epoch, or has a gap in its epochs.
        EmptySetError
            If no sample can be kept.
        """
        if 0 <= round < len(self._rounds) and (stored := self._rounds[round].result) is not None:
            return stored
        current = self._get_open_round(round)
        if not current.epochs:
            raise LocalStateError(f"round {round} has 0 epochs, at least 1 is needed; put one before finishing it")
        selected = self._select(self.collect_rounds(), self._spec.selection, self._annotations)
        selection.check_not_empty(selected.bitmap, selected.reasons)
        current.result, current.posterior = _make_round_result(round, selected), selected.noisy_posterior
        self._begin_next_round(current.result)
        return current.result

    def adopt_result(self, result: RoundResult) -> None:
        """Finish the open round with a result that the service has selected, and open the next round."""
        current = self._get_open_round(result.round)
        current.result = result
        self._begin_next_round(result)

    def set_status(self, status: EndStatus) -> None:
        """Log what could not be written, as the training ends; a run in this process has no status."""
        if self.n_unwritten:
            logger.warning("run %s: %s", self._spec.run_id, self.describe_unwritten())

    def describe_unwritten(self) -> str:
        """Return a sentence with the number of files that could not be written; empty if there is none."""
        if not self.n_unwritten:
            return ""
        return f"{self.n_unwritten} files of bits could not be written to {self._folder}, which cannot be resumed from"

    def compute_weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each sample's given label is right, shape (n_samples,).

        The probability is 0 where the sample has no score. `result` is that of a finished round.


        Raises
        ------
        LocalStateError
            If the round is not finished, or was finished by `adopt_result` and is not the last finished round.
        """
        local_round = self._rounds[result.round] if result.round < len(self._rounds) else _LocalRound()
        if local_round.posterior is None and local_round.result is not None and result.round == len(self._rounds) - 2:
            local_round.posterior = self._select(
                self.collect_rounds(), self._spec.selection, self._annotations
            ).noisy_posterior
        if local_round.posterior is None:
            raise LocalStateError(f"round {result.round} was not finished here; finish it before asking for weights")
        return compute_sample_weights(local_round.posterior, result.selected, result.summary["verdict"])

    def collect_rounds(self) -> tuple[RoundBits, ...]:
        """Return the bits of all rounds that have epochs, in the order of the rounds.

        Raises
        ------
        LocalStateError
            If a round lacks an epoch before its last one, or no round has epochs.
        """
        rounds = [r for r in self._rounds if r.epochs] or self._rounds
        return tuple(self._make_round_bits(number, r) for number, r in enumerate(rounds))

    def _begin_next_round(self, result: RoundResult) -> None:
        """Open the next round, with the clean set of `result` as its training samples."""
        self._write_file(f"round-{result.round + 1}/members.bits", result.selected.tobytes())
        self._rounds.append(_LocalRound(members=result.selected))

    def _make_round_bits(self, number: int, local_round: _LocalRound) -> RoundBits:
        """Stack the epochs of a round; raise LocalStateError if one is missing."""
        n_epochs = len(local_round.epochs)
        missing = sorted(set(range(max(local_round.epochs, default=0) + 1)) - set(local_round.epochs))
        if missing:
            raise LocalStateError(
                f"round {number} has {n_epochs} epochs and lacks epoch {missing[0]}; "
                "put every epoch from 0 on before selecting"
            )
        epochs = [local_round.epochs[e] for e in range(n_epochs)]
        correct, observed = np.stack([e.correct for e in epochs]), [e.observed for e in epochs]
        return RoundBits.from_epochs(
            self._spec.num_samples, correct, observed, local_round.members, self._spec.observe, local_round.planted
        )

    def _get_open_round(self, round: int) -> _LocalRound:
        """Return `round`; raise LocalStateError if it is not the open round."""
        if round != len(self._rounds) - 1:
            raise LocalStateError(
                f"round {round} is not open, round {len(self._rounds) - 1} is; put what is new into that one"
            )
        return self._rounds[round]

    def _delete_files(self) -> None:
        """Delete the files of an earlier run in the folder, so that resuming does not read them."""
        if self._folder is not None:
            for path in (*self._folder.glob("round-*/*.bits"), self._folder / _LABELS):
                path.unlink(missing_ok=True)

    def _write_file(self, name: str, body: bytes) -> None:
        """Replace a file of the folder by `body`; do nothing without a folder, and only count it on a full disk."""
        if self._folder is None:
            return
        path = self._folder / name
        temporary_path = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary_path.write_bytes(body)
            temporary_path.replace(path)
        except OSError as error:
            for incomplete in (temporary_path, path):  # an earlier file under this name would be read for this one
                with contextlib.suppress(OSError):
                    incomplete.unlink(missing_ok=True)
            self.n_unwritten += 1
            if self.n_unwritten == 1:
                logger.error(
                    "run %s: %s cannot be written (%s). The training goes on with the bits in memory, and cannot be "
                    "resumed from %s if it is interrupted; make room on the disk",
                    self._spec.run_id,
                    path,
                    get_reason(error),
                    self._folder,
                )

    def _read_folder(self, until: Position, delete_later_epochs: bool = True) -> list[_LocalRound]:
        """Read the rounds up to `until`, the next epoch to write, and with `delete_later_epochs` delete later files."""
        if self._folder is None:
            raise ResumeError("cannot resume: this selector was given no folder to keep bits in; pass one")
        n_samples = self._spec.num_samples
        rounds = []
        for number in range(until.round + 1):
            folder = self._folder / f"round-{number}"
            members = folder / "members.bits"
            local_round = _LocalRound(
                members=bitmap.validate(members.read_bytes(), n_samples) if members.exists() else None
            )
            for path in folder.glob("epoch-*.bits"):
                epoch = int(path.stem.removeprefix("epoch-"))
                if number < until.round or epoch < until.epoch:
                    local_round.epochs[epoch] = EpochBits.from_body(path.read_bytes(), n_samples)
                elif delete_later_epochs:
                    path.unlink()
            rounds.append(local_round)
        labels = self._folder / _LABELS
        self._annotations = Annotations(np.load(labels, allow_pickle=False)) if labels.exists() else None
        planted = self._folder / _PLANTED
        if planted.exists():
            rounds[0].planted = bitmap.validate(planted.read_bytes(), n_samples)
        if len(rounds[-1].epochs) != until.epoch or not all(r.epochs for r in rounds[:-1]):
            raise ResumeError(
                f"cannot resume at round {until.round}, epoch {until.epoch}: {self._folder} holds "
                f"{[len(r.epochs) for r in rounds]} epochs of rounds 0..{until.round}; start anew"
            )
        return rounds


def _make_round_result(round: int, selected: Selection) -> RoundResult:
    return RoundResult(
        round, selected.n_samples, selected.bitmap, selected.summary(), RoundFit.from_selection(selected)
    )
