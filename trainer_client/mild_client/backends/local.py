"""`LocalSelector`, which selects in the training process, without a service."""

import dataclasses
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_client.arguments import (
    SampleSet,
    check_sample_ids,
    to_bitmap,
    to_classes,
    to_epoch_body,
    to_integer,
    to_metrics,
    to_path,
    to_spec,
)
from mild_client.backend import (
    EndStatus,
    Position,
    RoundFit,
    RoundResult,
    RunState,
    check_epoch_order,
    compute_sample_weights,
)
from mild_client.backends.record_log import Record, RecordLog
from mild_client.compatibility import VERSION
from mild_client.errors import LocalStateError, ResumeError, SpoolFull
from mild_core import bitmap, selection
from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_core.errors import CorrectNotObservedError, ParameterError, get_reason
from mild_core.results import Selection
from mild_core.types import EpochBits, RoundBits, RunSpec, SelectionOptions
from mild_core.wrong_predictions import MAX_CLASS, describe_unknown_classes

logger = logging.getLogger(__name__)

SelectFunction: TypeAlias = Callable[[Sequence[RoundBits], SelectionOptions, Annotations | None], Selection]


@dataclass
class _LocalRound:
    """Bits of one round, and once it is finished, its result and the probabilities of being mislabelled."""

    members: Bitmap | None = None
    planted: Bitmap | None = None
    epochs: list[EpochBits] = field(default_factory=list)
    result: RoundResult | None = None
    posterior: NDArray[np.float32] | None = None


class LocalSelector:
    """`SelectionBackend` that keeps the bits of a run in memory and selects in this process.

    Parameters
    ----------
    folder
        Folder with the log of the run (`RecordLog`), to which every call is written, so that an interrupted training
        can resume; or such a log. None keeps the bits in memory only.
    select
        Function that selects a clean set from the bits of all rounds.

    Attributes
    ----------
    n_unwritten
        Number of records that could not be written, such as on a full disk, which does not end a training.
    """

    def __init__(
        self, folder: str | PathLike[str] | RecordLog | None = None, select: SelectFunction = selection.select
    ) -> None:
        if folder is not None and not isinstance(folder, RecordLog):
            folder = RecordLog(to_path(folder, "folder"))
        self._log = folder
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
        state = self.restore(spec, resume_from)
        self.append_open(resume_from)
        return state

    def restore(self, spec: RunSpec, resume_from: Position | None) -> RunState:
        """Set the run to what was written before `resume_from`, or to an empty run, without writing anything.

        Raises
        ------
        ResumeError
            If epochs before `resume_from` are missing from the folder.
        """
        self._spec = to_spec(spec)
        self._reset()
        if resume_from is not None:
            if self._log is None:
                raise ResumeError("cannot resume: this selector was given no folder to keep bits in; pass one")
            try:
                for entry in self._log.read():
                    if entry.record is not None:
                        self._replay(entry.record)
            except OSError as error:
                raise ResumeError(
                    f"cannot resume: {self._log.path} cannot be read ({get_reason(error)}); allow it, or start anew"
                ) from error
            self._discard_from(resume_from)
            n_epochs = [len(each.epochs) for each in self._rounds]
            if len(n_epochs) <= resume_from.round or n_epochs[-1] != resume_from.epoch or not all(n_epochs[:-1]):
                raise ResumeError(
                    f"cannot resume at round {resume_from.round}, epoch {resume_from.epoch}: {self._log.folder} holds "
                    f"{n_epochs} epochs of rounds 0..{len(n_epochs) - 1}; start anew"
                )
        return RunState(round=len(self._rounds) - 1, attempt=1)

    def append_open(self, resume_from: Position | None, is_sent: bool = False) -> None:
        """Write that the run was opened, at the service, too, if `is_sent`; a new run replaces an earlier one."""
        self.n_unwritten = 0
        if self._log is not None:
            self._log.is_full = False  # there may be room again
        position = None
        if resume_from is not None:
            position = {name: to_integer(value, name) for name, value in dataclasses.asdict(resume_from).items()}
        self.append(Record("open", {"spec": self._spec.as_json(), "resume_from": position}), is_sent=is_sent)

    def append(self, record: Record, is_durable: bool = True, is_sent: bool = False) -> None:
        """Write a record to the folder, if there is one; count it if the disk is full."""
        if self._log is None:
            return
        try:
            if record.kind == "open" and record.meta["resume_from"] is None:
                self._log.clear()
            self._log.append(record, is_durable, is_sent)
        except SpoolFull as error:
            self.n_unwritten += 1
            if self.n_unwritten == 1:
                logger.error(
                    "run %s: %s. The training goes on with the bits in memory and selects in this process; nothing "
                    "more of the run is kept, to be resumed from or sent",
                    self._spec.run_id,
                    error,
                )

    def warn_unwritten(self) -> None:
        """Log how many records could not be written, if there are any."""
        if self.n_unwritten and self._log is not None:
            logger.warning(
                "run %s: %d records were not kept, as %s was full: the run cannot be resumed behind what is there, and "
                "they are not sent",
                self._spec.run_id,
                self.n_unwritten,
                self._log.folder,
            )

    def put_labels(self, labels: ArrayLike) -> None:
        """Store the given labels, shape (n_samples,), which are needed for fits and minimum shares per class.

        Raises
        ------
        ParameterError
            If the array does not have one label per sample, or a label is no class of the run.
        """
        labels = to_classes(labels, "labels", self._spec.num_samples)
        n_classes = self._spec.num_classes or MAX_CLASS + 1
        if (examples := describe_unknown_classes(labels, np.arange(labels.size), n_classes)) is not None:
            raise ParameterError(f"labels are outside 0..{n_classes - 1}, such as {examples}")
        self._annotations = Annotations(labels)
        body = io.BytesIO()
        np.save(body, labels, allow_pickle=False)
        self.append(Record("labels", {}, body.getvalue()))

    @property
    def labels(self) -> NDArray[np.integer] | None:
        """The given labels, shape (n_samples,); None if they were not set."""
        return None if self._annotations is None else self._annotations.labels

    def put_sample_ids(self, ids: Sequence[str]) -> None:
        """Store the external id of each sample; no set depends on them."""
        self.append(Record("sample_ids", {}, "\n".join(check_sample_ids(ids)).encode()))

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
        if stored is None or not np.array_equal(stored, planted):
            first_round = self._get_open_round(0)
            if first_round.epochs:
                raise LocalStateError(
                    f"round 0 has {len(first_round.epochs)} epochs already, so its planted samples are fixed; "
                    "give them before its first epoch"
                )
            first_round.planted = planted
        self.append(Record("planted", {}, planted.tobytes()))

    def read_rounds(self, spec: RunSpec, n_rounds: int) -> tuple[RoundBits, ...]:
        """Return the bits of the first `n_rounds` rounds, which are finished, of the folder; the folder stays as it is.

        Raises
        ------
        ResumeError
            If epochs of these rounds are missing from the folder.
        """
        self.restore(spec, Position(n_rounds, 0))
        return self.collect_rounds()

    def put_members(self, round: int, members: SampleSet) -> None:
        """Store the samples that `round`, the open round, trains on: a bitmap, a mask, or indices."""
        round, members = to_integer(round, "round"), to_bitmap(members, "members bitmap", self._spec.num_samples)
        self._get_open_round(round).members = members
        self.append(Record("members", {"round": round}, members.tobytes()))

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Store the correctness bits of all samples for one epoch of the open round.

        Raises
        ------
        CorrectNotObservedError
            If the run observes members only, and a sample that is no member is marked as correct.
        LocalStateError
            If the epoch leaves a gap behind the ones before, or is stored with other bits.
        """
        n_samples, round, epoch = self._spec.num_samples, to_integer(round, "round"), to_integer(epoch, "epoch")
        body = to_epoch_body(bits, n_samples=n_samples)
        bits, current = EpochBits.from_body(body, n_samples), self._get_open_round(round)
        check_epoch_order(Position(round, len(current.epochs)), round, epoch)
        if self._spec.observe == "members" and bits.observed is None and current.members is not None:
            n_outside = bitmap.popcount(bits.correct & ~current.members)
            if n_outside:
                raise CorrectNotObservedError(
                    f"{n_outside} samples are correct but no members of round {round}, and the run observes members "
                    "only; clear the others' bits, or give an observed bitmap"
                )
        if epoch == len(current.epochs):
            current.epochs.append(bits)
            self.append(Record("epoch", {"round": round, "epoch": epoch}, body))
        elif current.epochs[epoch].to_body() != body:
            raise LocalStateError(
                f"epoch {epoch} of round {round} is stored with other bits; the next one is {len(current.epochs)}: "
                f"number each epoch once, or open the run with resume_from=Position({round}, {epoch})"
            )

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store scalars of an epoch, such as ``train_loss``; no set depends on them."""
        if numbers := to_metrics(metrics):
            position = {"round": to_integer(round, "round"), "epoch": to_integer(epoch, "epoch")}
            self.append(Record("metrics", {**position, "metrics": numbers}), is_durable=False)

    def finish(self, round: int) -> RoundResult:
        """Select the clean set from the bits up to this round, open the next round, and return the result.

        Raises
        ------
        LocalStateError
            If the round is not open, has no epoch, or has a gap in its epochs.
        EmptySetError
            If no sample can be kept.
        """
        round = to_integer(round, "round")
        if (stored := self.get_result(round)) is not None:
            return stored
        current = self._get_open_round(round)
        if not current.epochs:
            raise LocalStateError(f"round {round} has 0 epochs, at least 1 is needed; put one before finishing it")
        selected = self._select(self.collect_rounds(), self._spec.selection, self._annotations)
        selection.check_not_empty(selected.bitmap, selected.reasons)
        result = RoundResult(
            round, selected.n_samples, selected.bitmap, selected.summary(), RoundFit.from_selection(selected)
        )
        current.posterior = selected.noisy_posterior
        self.end_round(result)
        return result

    def get_result(self, round: int) -> RoundResult | None:
        """Return the result of a round; None unless it was finished in this process."""
        return self._rounds[round].result if round < len(self._rounds) else None

    def end_round(self, result: RoundResult, is_sent: bool = False) -> None:
        """Finish the open round with a result, and open the next round; `is_sent` if the service has selected it."""
        self._get_open_round(result.round).result = result
        self._rounds.append(_LocalRound(members=result.selected))
        meta = {"round": result.round, "core_version": VERSION}
        self.append(Record("finish", meta, result.selected.tobytes()), is_sent=is_sent)

    def set_status(self, status: EndStatus) -> None:
        """Store that the training ends, and log what could not be written."""
        self.append(Record("status", {"status": status}))
        self.warn_unwritten()

    def compute_weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each sample's given label is right, shape (n_samples,).

        The probability is 0 where the sample has no score. `result` is that of a finished round.

        Raises
        ------
        LocalStateError
            If the round is not finished, or was selected by the service and is not the last finished round.
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
        """Return the bits of all rounds that have epochs, in the order of the rounds."""
        rounds = [r for r in self._rounds if r.epochs]
        if not rounds:
            raise LocalStateError("the run has 0 epochs, at least 1 is needed; put one before selecting")
        return tuple(self._make_round_bits(r) for r in rounds)

    def _make_round_bits(self, local_round: _LocalRound) -> RoundBits:
        """Stack the epochs of a round."""
        correct = np.stack([bits.correct for bits in local_round.epochs])
        observed = [bits.observed for bits in local_round.epochs]
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

    def _replay(self, record: Record) -> None:
        """Repeat a write of an earlier process; one that others before it are missing for has no effect."""
        n_samples, number = self._spec.num_samples, record.meta.get("round", 0)
        if number >= len(self._rounds):
            return
        local_round = self._rounds[number]
        match record.kind:
            case "open":
                position, n_stored = record.meta["resume_from"], record.meta["spec"]["num_samples"]
                if n_stored != n_samples:
                    raise ResumeError(
                        f"cannot resume: the stored run has {n_stored} samples, got {n_samples}; give the data set "
                        "that it was written with, or start anew"
                    )
                self._reset() if position is None else self._discard_from(Position(**position))
            case "labels":
                self._annotations = Annotations(np.load(io.BytesIO(record.body), allow_pickle=False))
            case "planted":
                local_round.planted = bitmap.validate(record.body, n_samples)
            case "members":
                local_round.members = bitmap.validate(record.body, n_samples)
            case "epoch" if record.meta["epoch"] <= len(local_round.epochs):
                # An epoch that is there already follows an opening that the disk has lost.
                self._discard_from(Position(number, record.meta["epoch"]))
                local_round.epochs.append(EpochBits.from_body(record.body, n_samples))
            case "finish" if local_round is self._rounds[-1]:
                self._rounds.append(_LocalRound(members=bitmap.validate(record.body, n_samples)))

    def _reset(self) -> None:
        """Discard all that was written to the run."""
        self._rounds, self._annotations = [_LocalRound()], None

    def _discard_from(self, position: Position) -> None:
        """Discard all rounds and epochs from a position on."""
        del self._rounds[position.round + 1 :]
        if len(self._rounds) > position.round:
            del self._rounds[position.round].epochs[position.epoch :]
