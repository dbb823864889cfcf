"""`RecordedRun`, which keeps a run in memory and in a log, and `LocalSelector`, which selects without a service."""

import contextlib
import dataclasses
import hashlib
import io
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_client.arguments import (
    SampleSet,
    check_sample_ids,
    to_bitmap,
    to_classes,
    to_epoch_body,
    to_integer,
    to_json,
    to_labels_body,
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


class RecordedRun:
    """Run whose bits are in memory, to select clean sets in this process, and whose writes are in a log, if it has one.

    A call is written to the log as a record, and what it changes is what a process that resumes reads from the record.
    A context manager, which calls `close`.

    Parameters
    ----------
    select
        Function that selects a clean set from the bits of all rounds.

    Attributes
    ----------
    n_unwritten
        Number of records that could not be written, such as on a full disk, which does not end a training.
    """

    def __init__(self, select: SelectFunction = selection.select) -> None:
        self._select = select
        self._log: RecordLog | None = None
        self._spec = RunSpec(run_id="unopened", num_samples=0)
        self._rounds: list[_LocalRound] = []
        self._annotations: Annotations | None = None
        self._digests: dict[str, bytes] = {}
        self.n_unwritten = self._n_reported = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes open the run, to which this one writes nothing more."""
        self._warn_unwritten()
        if self._log is not None:
            self._log.release()

    def _get_open_spec(self) -> RunSpec:
        """Return the properties of the run; raise an error if this process may not write to it."""
        if not self._rounds:
            raise LocalStateError("the run is not open; open it before anything is put")
        if self._log is not None:
            self._log.check_open()
        return self._spec

    def _restore(self, log: RecordLog | None, spec: RunSpec, resume_from: Position | None) -> RunState:
        """Set the run to what was written to `log` before `resume_from`, or to an empty run, and write nothing.

        Raises
        ------
        ResumeError
            If epochs before `resume_from` are missing from the log.
        """
        self._log, self._spec = log, to_spec(spec)
        self._reset()
        if resume_from is not None:
            if log is None:
                raise ResumeError("cannot resume: this selector was given no folder to keep bits in; pass one")
            try:
                for entry in log.read():
                    if entry.record is not None:
                        self._apply(entry.record)
            except OSError as error:
                raise ResumeError(
                    f"cannot resume: {log.path} cannot be read ({get_reason(error)}); allow it, or start anew"
                ) from error
            self._discard_from(resume_from)
            n_epochs = [len(each.epochs) for each in self._rounds]
            if len(n_epochs) <= resume_from.round or n_epochs[-1] != resume_from.epoch or not all(n_epochs[:-1]):
                raise ResumeError(
                    f"cannot resume at round {resume_from.round}, epoch {resume_from.epoch}: {log.folder} holds "
                    f"{n_epochs} epochs of rounds 0..{len(n_epochs) - 1}; start anew"
                )
        return RunState(round=len(self._rounds) - 1, attempt=1)

    def _write_open(self, resume_from: Position | None) -> None:
        """Write that the run was opened; a new run replaces an earlier one."""
        self.n_unwritten = self._n_reported = 0
        position = None if resume_from is None else to_json(dataclasses.asdict(resume_from))
        self._write(Record("open", {"spec": self._spec.as_json(), "resume_from": position}))

    def _write(self, record: Record, is_durable: bool = True) -> None:
        """Append a record to the log, if there is one, and apply it; count it if the disk is full."""
        run_id = self._get_open_spec().run_id
        try:
            if self._log is not None:
                if record.kind == "open" and record.meta["resume_from"] is None:
                    self._log.clear()
                self._log.append(record, is_durable)
        except SpoolFull as error:
            self.n_unwritten += 1
            if self.n_unwritten == 1:
                logger.error(
                    "run %s: %s. The training goes on with the bits in memory and selects in this process; nothing "
                    "more of the run is kept, to be resumed from or sent",
                    run_id,
                    error,
                )
        self._apply(record)

    def _write_once(self, record: Record) -> None:
        """Write a record, unless the last one of its kind had the same body, as where a training resumes."""
        self._get_open_spec()
        if self._digests.get(record.kind) != hashlib.sha256(record.body).digest():
            self._write(record)

    def _warn_unwritten(self) -> None:
        """Log how many records could not be written, if more are than were logged before."""
        if self.n_unwritten > self._n_reported and self._log is not None:
            self._n_reported = self.n_unwritten
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
        spec = self._get_open_spec()
        labels, n_classes = to_classes(labels, "labels", spec.num_samples), spec.num_classes or MAX_CLASS + 1
        if (examples := describe_unknown_classes(labels, np.arange(labels.size), n_classes)) is not None:
            raise ParameterError(f"labels are outside 0..{n_classes - 1}, such as {examples}")
        self._write_once(Record("labels", {}, to_labels_body(labels)))

    @property
    def labels(self) -> NDArray[np.integer] | None:
        """The given labels, shape (n_samples,); None if they were not set."""
        return None if self._annotations is None else self._annotations.labels

    def put_sample_ids(self, ids: Sequence[str]) -> None:
        """Store the external id of each sample; no set depends on them."""
        self._write_once(Record("sample_ids", {}, "\n".join(check_sample_ids(ids)).encode()))

    def put_planted(self, planted: SampleSet) -> None:
        """Store which samples round 0 trains on with planted (wrong) labels: a bitmap, a mask, or indices.

        Repeating a call changes nothing.

        Raises
        ------
        LocalStateError
            If round 0 is finished or has epochs.
        """
        planted = to_bitmap(planted, "planted bitmap", self._get_open_spec().num_samples)
        stored = self._rounds[0].planted
        is_new = stored is None or not np.array_equal(stored, planted)
        if is_new and (n_epochs := len(self._get_open_round(0).epochs)):
            raise LocalStateError(
                f"round 0 has {n_epochs} epochs already, so its planted samples are fixed; give them before its first "
                "epoch"
            )
        self._write_once(Record("planted", {}, planted.tobytes()))

    def put_members(self, round: int, members: SampleSet) -> None:
        """Store the samples that `round`, the open round, trains on: a bitmap, a mask, or indices."""
        n_samples, round = self._get_open_spec().num_samples, to_integer(round, "round")
        members = to_bitmap(members, "members bitmap", n_samples)
        self._get_open_round(round)
        self._write(Record("members", {"round": round}, members.tobytes()))

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Store the correctness bits of all samples for one epoch of the open round.

        Raises
        ------
        CorrectNotObservedError
            If the run observes members only, and a sample that is no member is marked as correct.
        LocalStateError
            If the epoch leaves a gap behind the ones before, or is stored with other bits.
        """
        spec, round, epoch = self._get_open_spec(), to_integer(round, "round"), to_integer(epoch, "epoch")
        body = to_epoch_body(bits, n_samples=spec.num_samples)
        bits, current = EpochBits.from_body(body, spec.num_samples), self._get_open_round(round)
        check_epoch_order(Position(round, len(current.epochs)), round, epoch)
        if spec.observe == "members" and bits.observed is None and current.members is not None:
            n_outside = bitmap.popcount(bits.correct & ~current.members)
            if n_outside:
                raise CorrectNotObservedError(
                    f"{n_outside} samples are correct but no members of round {round}, and the run observes members "
                    "only; clear the others' bits, or give an observed bitmap"
                )
        if epoch == len(current.epochs):
            self._write(Record("epoch", {"round": round, "epoch": epoch}, body))
        elif current.epochs[epoch].to_body() != body:
            raise LocalStateError(
                f"epoch {epoch} of round {round} is stored with other bits; the next one is {len(current.epochs)}: "
                f"number each epoch once, or open the run with resume_from=Position({round}, {epoch})"
            )

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store scalars of an epoch, such as ``train_loss``; no set depends on them."""
        if numbers := to_metrics(metrics):
            position = {"round": to_integer(round, "round"), "epoch": to_integer(epoch, "epoch")}
            self._write(Record("metrics", {**position, "metrics": numbers}), is_durable=False)

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
        if (stored := self._get_result(round)) is not None:
            return stored
        spec, current = self._get_open_spec(), self._get_open_round(round)
        if not current.epochs:
            raise LocalStateError(f"round {round} has 0 epochs, at least 1 is needed; put one before finishing it")
        selected = self._select(self.collect_rounds(), spec.selection, self._annotations)
        selection.check_not_empty(selected.bitmap, selected.reasons)
        result = RoundResult(
            round, selected.n_samples, selected.bitmap, selected.summary(), RoundFit.from_selection(selected)
        )
        self._end_round(result)
        current.posterior = selected.noisy_posterior
        return result

    def _get_result(self, round: int) -> RoundResult | None:
        """Return the result of a round; None unless it was finished in this process."""
        return self._rounds[round].result if round < len(self._rounds) else None

    def _end_round(self, result: RoundResult) -> None:
        """Finish the open round with a result, and open the next round."""
        current = self._get_open_round(result.round)
        meta = {"round": result.round, "core_version": VERSION}
        self._write(Record("finish", meta, result.selected.tobytes()))
        current.result = result

    def set_status(self, status: EndStatus) -> None:
        """Store that the training ends, and log what could not be written."""
        self._write(Record("status", {"status": status}))
        self._warn_unwritten()

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

    def _apply(self, record: Record) -> None:
        """Change the run as a record says; one that others before it are missing for has no effect."""
        n_samples, number = self._spec.num_samples, record.meta.get("round", 0)
        if number >= len(self._rounds):
            return
        local_round = self._rounds[number]
        if record.kind in ("labels", "sample_ids", "planted"):
            self._digests[record.kind] = hashlib.sha256(record.body).digest()
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
        self._rounds, self._annotations, self._digests = [_LocalRound()], None, {}

    def _discard_from(self, position: Position) -> None:
        """Discard all rounds and epochs from a position on."""
        del self._rounds[position.round + 1 :]
        if len(self._rounds) > position.round:
            del self._rounds[position.round].epochs[position.epoch :]


class LocalSelector(RecordedRun):
    """`SelectionBackend` that keeps the bits of a run in memory and selects in this process.

    Parameters
    ----------
    folder
        Folder with the log of the run, to which every call is written, so that an interrupted training can resume. One
        process at a time writes to it. None keeps the bits in memory only.
    select
        Function that selects a clean set from the bits of all rounds.

    Attributes
    ----------
    n_unwritten
        Number of records that could not be written, such as on a full disk, which does not end a training.
    """

    def __init__(self, folder: str | PathLike[str] | None = None, select: SelectFunction = selection.select) -> None:
        super().__init__(select)
        self._folder = None if folder is None else to_path(folder, "folder")

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Begin an empty run, or load the epochs before `resume_from`, the next epoch to write, from the folder.

        A selector of this process that has opened the folder before writes nothing more.

        Raises
        ------
        ResumeError
            If epochs before `resume_from` are missing from the folder.
        SpoolInUse
            If another process writes to the folder.
        """
        self.close()
        log = None if self._folder is None else RecordLog(self._folder)
        try:
            state = self._restore(log, spec, resume_from)
            if log is not None:
                path = log.folder.resolve()
                if (earlier := _open_logs.get(path)) is not None:
                    earlier.release(", as another selector of this process has opened it since")
                _open_logs[path] = log
                with contextlib.suppress(OSError):  # the first record says why nothing can be written
                    log.lock()
            self._write_open(resume_from)
        except BaseException:
            self.close()
            raise
        return state

    def read_rounds(self, spec: RunSpec, n_rounds: int) -> tuple[RoundBits, ...]:
        """Return the bits of the first `n_rounds` rounds, which are finished, of the folder; the folder stays as it is.

        Raises
        ------
        ResumeError
            If epochs of these rounds are missing from the folder.
        """
        self._restore(None if self._folder is None else RecordLog(self._folder), spec, Position(n_rounds, 0))
        return self.collect_rounds()


_open_logs: weakref.WeakValueDictionary[Path, RecordLog] = weakref.WeakValueDictionary()
"""Log of the last selector of this process that has opened a folder, by path."""
