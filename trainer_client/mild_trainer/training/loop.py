"""The loop over rounds: train on the members, record the bits, select the clean set, and train on that."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_client import ClientError, LocalSelector, RunSpec, SelectionBackend
from mild_client.backend import EndStatus
from mild_core import bitmap
from mild_core.agreement import HeldOutAgreement, measure_agreement
from mild_core.alarms import find_plateau
from mild_core.bitmap import Bitmap
from mild_core.sample_ids import find_id_error
from mild_core.types import take_class_names
from mild_trainer.data import Dataset
from mild_trainer.data.imbalance import describe_class_prior
from mild_trainer.errors import DataError
from mild_trainer.noise import draw_stratified_order
from mild_trainer.settings import TrainSettings
from mild_trainer.training import checkpoint, preparation
from mild_trainer.training.checkpoint import Checkpoint
from mild_trainer.training.distributed import Ranks, share_backend
from mild_trainer.training.finetune import FinishResult
from mild_trainer.training.history import (
    History,
    RoundRecord,
    SetMetrics,
    find_set_round,
)
from mild_trainer.training.progress import Reporter, format_count, format_duration
from mild_trainer.training.trainer import Trainer

logger = logging.getLogger(__name__)


def find_stop_reason(
    settings: TrainSettings, records: Sequence[RoundRecord], held_out_agreement: HeldOutAgreement | None, n_next: int
) -> str | None:
    """Return why there is no further round, as a sentence without a full stop; None if there is a further round.

    Training stops when the labels carry no signal, two consecutive clean sets agree, the clean set has fewer than two
    samples, the validation accuracy is at a plateau, or the number of rounds is reached.

    Parameters
    ----------
    settings
        Settings of the training, with the limits for stopping.
    records
        Records of the finished rounds, oldest first.
    held_out_agreement
        The agreement of the given labels with held-out predictions; None if it was not measured.
    n_next
        Number of training samples of the next round.
    """
    if held_out_agreement is not None and not held_out_agreement.carries_signal:
        return "networks trained on half of the samples do not predict the others' labels better than by chance"
    if not records:
        return None
    last = records[-1]
    if len(records) > 1 and last.overlap >= settings.agree:
        return f"two consecutive clean sets agree (Jaccard {last.overlap:.3f}, asked {settings.agree:g})"
    if n_next < 2:
        return f"round {last.round} kept {format_count(n_next, 'sample')}, and training takes at least 2"
    if (best := find_plateau(get_validation_accuracies(records), settings.patience)) is not None:
        return (
            f"validation accuracy is at a plateau ({format_count(settings.patience, 'round')} without a rise above "
            f"{best:.3f})"
        )
    if len(records) >= settings.rounds:
        return "the only round is done" if settings.rounds == 1 else f"all {settings.rounds} rounds are done"
    return None


def get_validation_accuracies(records: Sequence[RoundRecord]) -> list[float]:
    """Return the validation accuracy of each round; empty without held-out samples."""
    return [record.validation_accuracy for record in records if record.validation_accuracy is not None]


_FOLDS = 2
_MIN_SAMPLES = 2 * _FOLDS
"""Smallest data set: training needs two samples in each fold."""


def measure_held_out_agreement(
    settings: TrainSettings, data: Dataset, trainer: Trainer, reporter: Reporter
) -> HeldOutAgreement:
    """Measure how well networks trained on one half of the samples predict the given labels of the other half.

    Parameters
    ----------
    settings, data
        Settings of the training, and its data set with the given labels.
    trainer
        Trains the two networks, each as in round 0. Afterwards it has the weights of the second one, until
        `Trainer.initialise_round` draws new ones.
    reporter
        Receives the progress.
    """
    if data.n_samples < _MIN_SAMPLES:
        raise DataError(
            f"{data.name} has {data.n_samples} training samples and held-out agreement takes at least {_MIN_SAMPLES}; "
            "leave out --verify"
        )
    folds = assign_folds(data.y_train, settings.seed)
    predicted = np.empty_like(data.y_train)
    for number in range(_FOLDS):
        title, in_other_fold = f"held-out fold {number}", folds != number
        members = bitmap.pack(in_other_fold) & trainer.trainable
        started = time.perf_counter()
        reporter.on_round_start(title, bitmap.popcount(members), settings.count_epochs(0))
        test_accuracy = trainer.train_comparison_network(members)
        predicted[~in_other_fold] = trainer.predict_labels()[~in_other_fold]
        reporter.on_comparison_end(title, test_accuracy, time.perf_counter() - started)
    return measure_agreement(data.y_train, predicted, data.n_classes, folds)


def assign_folds(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Assign the samples of every class to the folds in turn; return each sample's fold, shape (n_samples,)."""
    folds = np.empty(len(labels), dtype=np.int64)
    folds[draw_stratified_order(labels, (seed, 2))] = np.arange(len(labels)) % _FOLDS
    return folds


_ORACLE_TITLE = "true clean set"


def run_rounds(
    settings: TrainSettings,
    backend: SelectionBackend | None = None,
    data: Dataset | None = None,
    reporter: Reporter | None = None,
    run_id: str = "train",
    out: Path | None = None,
    resume: bool = False,
    keep_bits: bool = False,
) -> History:
    """Train over rounds, each on the clean set that the previous round selected, and return the history.

    Where torch.distributed is initialised, all of its processes call this with the same settings; each trains on its
    shard, and all return the same history. `backend`, `reporter` and `out` are used on rank 0 only.

    Parameters
    ----------
    settings
        Settings of the training.
    backend
        Selects the clean sets; None for a `LocalSelector`.
    data
        The data set as read, before noise is applied; None reads the data set that the settings name.
    reporter
        Receives the progress; None reports nothing.
    run_id
        The run's id at the backend; a resumed training keeps the id in its checkpoint.
    out
        Folder for checkpoints and the last model; None writes neither.
    resume
        Whether to resume from the checkpoint in `out`.
    keep_bits
        Whether the records of rounds trained in this call include the bits of every epoch.
    """
    ranks = Ranks.current()
    stored_checkpoint = ranks.call_on_rank0(
        lambda: checkpoint.load_checkpoint(out, settings) if resume and out is not None else None
    )
    if data is None:
        data = preparation.read_dataset(settings)
    data = preparation.prepare_dataset(settings, data)
    if stored_checkpoint is not None and out is not None:
        checkpoint.check_data(stored_checkpoint, data, out)
    if not ranks.is_first:
        out, reporter = None, None
    backend = backend or LocalSelector(None if out is None else out / "bits")
    loop = _TrainingLoop(settings, data, backend, reporter or Reporter(), out, keep_bits, ranks)
    return loop.run(run_id, stored_checkpoint)


class _TrainingLoop:
    """One training over rounds, and its state."""

    def __init__(
        self,
        settings: TrainSettings,
        data: Dataset,
        backend: SelectionBackend,
        reporter: Reporter,
        out: Path | None,
        keep_bits: bool,
        ranks: Ranks,
    ) -> None:
        self.settings, self.data = settings, data
        self.reporter, self.out, self.keep_bits, self.ranks = reporter, out, keep_bits, ranks
        self.state = Checkpoint("", isinstance(backend, LocalSelector), checkpoint.describe_data(data))
        self.own_backend = backend
        self.backend = share_backend(ranks, backend)
        self.trainer = Trainer(settings, data)
        self.clean = data.clean
        if self.clean is not None:
            self.clean = self.clean & bitmap.unpack(self.trainer.trainable, data.n_samples)

    def run(self, run_id: str, stored_checkpoint: Checkpoint | None) -> History:
        """Run the whole training, from the beginning or from the stored checkpoint."""
        if stored_checkpoint is not None:
            self.state = replace(stored_checkpoint, is_local=self.state.is_local)
        self.state.run_id = self.ranks.broadcast_object(run_id if stored_checkpoint is None else self.state.run_id)
        self.backend.open(self.make_run_spec(), None if stored_checkpoint is None else self.state.position)
        try:
            return self.train(stored_checkpoint)
        except Exception as error:
            # Other processes may have ended, so this one speaks to its own backend. A service that has refused or is
            # away is not asked again.
            if self.ranks.is_first and not isinstance(error, ClientError):
                self.set_status(self.own_backend, "failed")
            raise

    def train(self, stored_checkpoint: Checkpoint | None) -> History:
        """Train all rounds of the open run, from the beginning or from the stored checkpoint."""
        # In the smallest type, as they are sent to the service.
        self.backend.put_labels(self.data.y_train.astype(np.min_scalar_type(int(self.data.y_train.max()))))
        if (ids := self.list_sample_ids()) is not None:
            self.backend.put_sample_ids(ids)
        if self.reporter.console is not None or type(self.reporter) is not Reporter:
            self.reporter.on_start(self.describe_start())
        if stored_checkpoint is None:
            if self.settings.verify:
                self.state.held_out_agreement = self.ranks.broadcast_object(
                    measure_held_out_agreement(self.settings, self.data, self.trainer, self.reporter)
                )
                self.reporter.on_agreement_measured(self.state.held_out_agreement)
            if self.find_stop_reason() is None:
                self.plant_labels()
            self.trainer.initialise_round(0)
            self.save_checkpoint_if_due()
        else:
            self.restore_checkpoint()

        while (stop_reason := self.find_stop_reason()) is None:
            record = self.train_round()
            self.reporter.on_round_end(record)
            self.state.rounds.append(record)
            self.state.epochs = []
            if self.out is not None:
                checkpoint.save_model(self.out, self.trainer.train_state.model)
            if self.settings.weights == "fresh":
                self.trainer.initialise_round(len(self.state.rounds))
            else:
                self.trainer.train_state.reset_optimiser()
            self.save_checkpoint_if_due()

        oracle_accuracy, finish_result = self.train_on_true_clean_set(), self.train_finish_network()
        self.set_status(self.backend, "finished")
        return History(
            self.settings,
            self.data,
            tuple(self.state.rounds),
            oracle_accuracy,
            stop_reason,
            self.state.held_out_agreement,
            None if self.state.planted_labels is None else self.state.planted_labels.planted,
            finish_result,
            self.trainer.held_out if self.trainer.held_out.any() else None,
            self.state.run_id,
        )

    def list_sample_ids(self) -> list[str] | None:
        """Return the id of each sample; None if there are none, or a run cannot have them."""
        if self.data.sample_ids is None:
            return None
        ids: list[str] = self.data.sample_ids.tolist()
        for index, sample_id in enumerate(ids):
            if (error := find_id_error(sample_id)) is not None:
                logger.warning("run %s names no samples, as the id of sample %d: %s", self.state.run_id, index, error)
                return None
        return ids

    def describe_start(self) -> list[str]:
        """Return lines about the data and what was skipped, the network, the device and the expected time."""
        settings, trainer = self.settings, self.trainer
        seconds = trainer.estimate_duration() if self.ranks.world_size == 1 else None
        duration = "" if seconds is None else f"; {format_duration(seconds)} at most"
        rounds = f"up to {settings.rounds} rounds" if settings.rounds > 1 else "1 round"
        return [
            self.data.describe(),
            *self.data.notes,
            *describe_class_prior(settings.class_prior, self.data.y_train, self.data.n_classes),
            f"{settings.model} on {trainer.describe_device()}: {rounds} of {format_count(settings.epochs, 'epoch')}, "
            f"batches of {settings.batch_size}{duration}",
        ]

    def set_status(self, backend: SelectionBackend, status: EndStatus) -> None:
        """Set the run's status; an error of the service is logged, as the training has ended without it."""
        try:
            backend.set_status(status)
        except ClientError as error:
            logger.warning("run %s could not be marked as %s: %s", self.state.run_id, status, error)

    def plant_labels(self) -> None:
        """Break labels on purpose for round 0, and send the planted samples to the backend."""
        started = time.perf_counter()
        self.state.planted_labels = labels = self.ranks.broadcast_object(self.trainer.draw_planted_labels())
        if labels is not None:
            seconds = time.perf_counter() - started
            self.reporter.on_labels_planted(labels.n_planted, seconds)
            self.trainer.use_planted_labels(labels, seconds)
            self.backend.put_planted(labels.planted)

    def find_stop_reason(self) -> str | None:
        """Return why there is no further round; None if there is a further round."""
        return find_stop_reason(
            self.settings, self.state.rounds, self.state.held_out_agreement, bitmap.popcount(self.get_next_members())
        )

    def get_next_members(self) -> Bitmap:
        """Return the training samples of the next round: all in round 0, then the clean set or those with a weight."""
        if not self.state.rounds:
            return self.trainer.trainable
        members = self.get_clean_set() if self.state.weights is None else bitmap.pack(self.state.weights > 0)
        return members & self.trainer.trainable  # an audit may have added held-out samples to the set

    def get_clean_set(self) -> Bitmap:
        """Return the clean set of the finished rounds, which a round without a cut does not replace."""
        return self.state.rounds[find_set_round([record.summary for record in self.state.rounds])].selected

    def train_round(self) -> RoundRecord:
        """Train the remaining epochs of the next round, select its clean set, and return its record."""
        number, n_samples, clean = len(self.state.rounds), self.data.n_samples, self.clean
        members = self.get_next_members()
        previous = self.state.rounds[-1].selected if self.state.rounds else members
        # Without a call, the members are all samples in round 0, and the previous set in later rounds.
        default_members = previous if number else bitmap.full(n_samples)
        if not self.state.epochs and not np.array_equal(members, default_members):
            self.backend.put_members(number, members)
        self.reporter.on_round_start(f"round {number}", bitmap.popcount(members), self.settings.count_epochs(number))
        epoch_bits = []
        for epoch in range(len(self.state.epochs), self.settings.count_epochs(number)):
            record, bits = self.trainer.run_epoch(number, epoch, members, self.state.weights)
            self.backend.put_epoch(number, epoch, bits)
            self.backend.put_metrics(number, epoch, record.to_metrics())
            self.reporter.on_epoch_end(record)
            self.state.epochs.append(record)
            epoch_bits.append(bits)
            self.save_checkpoint_if_due()
        result = self.backend.finish(number)
        is_replaced = find_set_round([*(record.summary for record in self.state.rounds), result.summary]) == number
        if self.settings.use == "weights" and is_replaced:
            self.state.weights = self.backend.compute_weights(result)
        return RoundRecord(
            round=number,
            members=members,
            selected=result.selected,
            epochs=tuple(self.state.epochs),
            summary=result.summary,
            fit=result.fit,
            agreement=None if clean is None else SetMetrics.compare(bitmap.unpack(result.selected, n_samples), clean),
            overlap=self.compute_overlap(number, previous, result.selected),
            bits=tuple(epoch_bits) if self.keep_bits else (),
        )

    def compute_overlap(self, number: int, previous: Bitmap, selected: Bitmap) -> float:
        """Return the Jaccard similarity of two consecutive clean sets; in round 1 without the planted samples."""
        compared = bitmap.full(self.data.n_samples)
        if number == 1 and self.state.planted_labels is not None:
            compared &= ~self.state.planted_labels.planted
        return bitmap.compute_jaccard(previous & compared, selected & compared)

    def train_finish_network(self) -> FinishResult | None:
        """Train a new network on the last clean set; return None if there is no finish, or the set is too small."""
        if self.settings.finish == "none" or not self.state.rounds:
            return None
        clean_set = self.get_clean_set() & self.trainer.trainable
        if bitmap.popcount(clean_set) < 2:
            return None
        finish_result = self.trainer.run_finish(clean_set)
        self.reporter.on_finish_end(finish_result)
        if self.out is not None:
            checkpoint.save_model(self.out, self.trainer.train_state.model)
        return finish_result

    def train_on_true_clean_set(self) -> float | None:
        """Train on the true clean set, and return the test accuracy.

        Return None without training if the settings do not ask for it, the set is unknown or too small, or there is no
        test set.
        """
        clean = self.clean
        if not self.settings.oracle or not self.state.rounds or clean is None or clean.sum() < 2:
            return None
        if not len(self.data.y_test):
            return None
        started = time.perf_counter()
        self.reporter.on_round_start(_ORACLE_TITLE, int(clean.sum()), self.settings.count_epochs(0))
        test_accuracy = self.trainer.train_comparison_network(bitmap.pack(clean))
        self.reporter.on_comparison_end(_ORACLE_TITLE, test_accuracy, time.perf_counter() - started)
        return test_accuracy

    def make_run_spec(self) -> RunSpec:
        """Return the spec with which this training opens its run."""
        settings = self.settings
        return RunSpec(
            run_id=self.state.run_id,
            num_samples=self.data.n_samples,
            num_classes=self.data.n_classes,
            class_names=take_class_names(self.data.class_names),
            observe=settings.observe,
            forward_pass=settings.forward_pass,
            selection=settings.selection,
            expected_epochs=settings.epochs,
            expected_rounds=settings.rounds,
            tags={"dataset": self.data.name, "model": settings.model, "noise": settings.noise},
        )

    def save_checkpoint_if_due(self) -> None:
        """Write a checkpoint between rounds and every `checkpoint_every` epochs."""
        every, n_done = self.settings.checkpoint_every, len(self.state.epochs)
        between_rounds = n_done in (0, self.settings.count_epochs(len(self.state.rounds)))
        if self.out is None or not every or not (between_rounds or n_done % every == 0):
            return
        state = replace(
            self.state,
            model_state=self.trainer.train_state.model.state_dict(),
            optimiser_state=self.trainer.train_state.optimiser.state_dict(),
            class_bias=self.trainer.tracker.class_bias,
            random_state=checkpoint.get_random_state(),
        )
        checkpoint.save_checkpoint(self.out, self.settings, state)

    def restore_checkpoint(self) -> None:
        """Set the network, its optimiser, and torch's random state to those of the checkpoint that was read."""
        state, train_state = self.state, self.trainer.train_state
        train_state.model.load_state_dict(state.model_state)
        train_state.optimiser.load_state_dict(dict(state.optimiser_state))
        checkpoint.set_random_state(state.random_state)
        self.trainer.tracker.class_bias = state.class_bias
        state.model_state = state.optimiser_state = {}
        if state.planted_labels is not None:
            self.trainer.use_planted_labels(state.planted_labels)
            self.backend.put_planted(state.planted_labels.planted)  # for a run that was lost before its first epoch
