"""The loop over rounds: train on the members, record the bits, select, and train again on the selected.

Why the rounds end: no signal, sets that agree, nobody left to train on, a plateau, or the cap.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_client import LocalSelector, Position, RunSpec, SelectionBackend
from mild_core import bitmap
from mild_core.agreement import HeldOutAgreement
from mild_core.alarms import find_plateau
from mild_core.bitmap import Bitmap
from mild_trainer.data import Dataset
from mild_trainer.planting import Planting
from mild_trainer.settings import TrainSettings
from mild_trainer.training import checkpoint, prepare
from mild_trainer.training.checkpoint import Checkpoint
from mild_trainer.training.distributed import RankBackend, Ranks
from mild_trainer.training.finetune import Finished
from mild_trainer.training.history import Agreement, EpochRecord, History, RoundRecord, jaccard
from mild_trainer.training.progress import Reporter, counted
from mild_trainer.training.trainer import Trainer
from mild_trainer.training.verify import verify


def stopped(
    settings: TrainSettings, records: Sequence[RoundRecord], verified: HeldOutAgreement | None, n_next: int
) -> str | None:
    """Say why there is to be no further round; None where there is.

    Parameters
    ----------
    settings
        With the thresholds.
    records
        Finished rounds, oldest first.
    verified
        The held-out agreement, where it was asked for.
    n_next
        Whom the next round would be trained on.
    """
    if verified is not None and not verified.carries_signal:
        return "networks trained on half of the samples do not predict the others' labels better than by chance"
    if not records:
        return None
    last = records[-1]
    if len(records) > 1 and last.overlap >= settings.agree:
        return f"two consecutive clean sets agree (Jaccard {last.overlap:.3f}, asked {settings.agree:g})"
    if n_next < 2:
        return f"round {last.round} kept {counted(n_next, 'sample')}, and training takes at least 2"
    if (best := find_plateau(validated(records), settings.patience)) is not None:
        return (
            f"validation accuracy is at a plateau ({counted(settings.patience, 'round')} without a rise above "
            f"{best:.3f})"
        )
    if len(records) >= settings.rounds:
        return "the only round is done" if settings.rounds == 1 else f"all {settings.rounds} rounds are done"
    return None


def validated(records: Sequence[RoundRecord]) -> list[float]:
    """Validation accuracy of each round; empty where nobody was held out."""
    return [record.validation_accuracy for record in records if record.validation_accuracy is not None]


_ORACLE = "true clean set"


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
    """Train over rounds and return what happened.

    Where torch.distributed is set up, all its processes call this with the same settings, each trains on its share,
    and all return the same; `backend`, `reporter` and `out` are rank 0's.

    Parameters
    ----------
    settings
        What to train.
    backend
        Who makes the clean sets; None selects in this process.
    data
        The data set as read, before its labels are broken; None reads the one that the settings name.
    reporter
        Is told of every step.
    run_id
        The run's name at the backend; a resumed training keeps its own.
    out
        Folder for checkpoints and the last model; None writes neither.
    resume
        Go on from the checkpoint in `out`.
    keep_bits
        Whether the records of rounds trained in this call keep every epoch's bits.

    Raises
    ------
    DataError
        If the data set is absent or damaged.
    CheckpointError
        If there is nothing to resume from, or it belongs to other settings.
    """
    ranks = Ranks.current()
    resumed = ranks.ask(lambda: checkpoint.load(out, settings) if resume and out is not None else None)
    if data is None:
        data = prepare.read(settings)
    data = prepare.prepare(settings, data)
    if not ranks.is_first:
        out, reporter = None, None
    backend = backend or LocalSelector(None if out is None else out / "bits")
    return _Rounds(settings, data, backend, reporter or Reporter(), out, keep_bits, ranks).run(run_id, resumed)


class _Rounds:
    """One run of `run_rounds`."""

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
        self.is_local = isinstance(backend, LocalSelector)
        self.backend = backend if ranks.world == 1 else RankBackend(ranks, backend)
        self.trainer = Trainer(settings, data)
        self.clean = data.clean
        if self.clean is not None:
            self.clean = self.clean & bitmap.unpack(self.trainer.trainable, data.n_samples)
        self.run_id = ""
        self.planting: Planting | None = None
        self.planting_seconds = 0.0
        self.records: list[RoundRecord] = []
        self.epochs: list[EpochRecord] = []
        self.verified: HeldOutAgreement | None = None
        self.weights: NDArray[np.float32] | None = None

    def run(self, run_id: str, resumed: Checkpoint | None) -> History:
        self.run_id = self.ranks.agree(run_id if resumed is None else resumed.run_id)
        self.backend.open(self.spec(), None if resumed is None else resumed.position)
        # In as few bytes as they fit: they go over the wire, once.
        self.backend.put_labels(self.data.y_train.astype(np.min_scalar_type(int(self.data.y_train.max()))))
        if resumed is None:
            if self.settings.verify:
                self.verified = self.ranks.agree(verify(self.settings, self.data, self.trainer, self.reporter))
                self.reporter.verified(self.verified)
            if self.ended() is None:
                self.plant()
            self.trainer.begin(0)
            self.save()
        else:
            self.restore(resumed)

        while (ended := self.ended()) is None:
            record = self.round()
            self.reporter.round_done(record)
            self.records.append(record)
            self.epochs = []
            if self.out is not None:
                checkpoint.save_model(self.out, self.trainer.trainee.model)
            if self.settings.weights == "fresh":
                self.trainer.begin(len(self.records))
            else:
                self.trainer.trainee.restart()
            self.save()

        oracle, finished = self.oracle(), self.finish()
        return History(
            self.settings,
            self.data,
            tuple(self.records),
            oracle,
            ended,
            self.verified,
            None if self.planting is None else self.planting.planted,
            finished,
            self.trainer.held_out if self.trainer.held_out.any() else None,
        )

    def plant(self) -> None:
        """Break labels on purpose for round 0, and tell the backend."""
        started = time.perf_counter()
        self.planting = self.ranks.agree(self.trainer.plant())
        if self.planting is not None:
            self.planting_seconds = time.perf_counter() - started
            self.reporter.planted(self.planting.n_planted, self.planting_seconds)
            self.trainer.use(self.planting)
            self.backend.put_planted(self.planting.planted)

    def ended(self) -> str | None:
        """Why there is to be no further round; None where there is."""
        return stopped(self.settings, self.records, self.verified, bitmap.popcount(self.members()))

    def members(self) -> Bitmap:
        """Whom the next round is trained on: all but those held out first, then the set, or who has a weight."""
        if not self.records:
            return self.trainer.trainable
        chosen = self.records[-1].selected if self.weights is None else bitmap.pack(self.weights > 0)
        return chosen & self.trainer.trainable  # an audit may have put samples into the set that are held out

    def round(self) -> RoundRecord:
        """Train one round to its end, from the epochs on that are done, and select."""
        number, n_samples, clean = len(self.records), self.data.n_samples, self.clean
        members = self.members()
        before = self.records[-1].selected if self.records else members
        # A round has members by itself: everyone in round 0, the set of the round before later.
        by_itself = before if number else bitmap.full(n_samples)
        if not self.epochs and not np.array_equal(members, by_itself):
            self.backend.put_members(number, members)
        self.reporter.round_started(f"round {number}", bitmap.popcount(members), self.settings.epochs_of(number))
        kept = []
        for epoch in range(len(self.epochs), self.settings.epochs_of(number)):
            record, bits = self.trainer.epoch(number, epoch, members, self.weights)
            if number == epoch == 0:
                record = record.with_planting(self.planting_seconds, self.trainer.planting_passes)
            self.backend.put_epoch(number, epoch, bits)
            self.backend.put_metrics(number, epoch, record.metrics())
            self.reporter.epoch_done(record)
            self.epochs.append(record)
            kept.append(bits)
            self.save()
        result = self.backend.finish(number)
        if self.settings.use == "weights":
            self.weights = self.backend.weights(result)
        return RoundRecord(
            round=number,
            members=members,
            selected=result.selected,
            epochs=tuple(self.epochs),
            summary=result.summary,
            fit=result.fit,
            agreement=None if clean is None else Agreement.of(bitmap.unpack(result.selected, n_samples), clean),
            overlap=self.overlap(number, before, result.selected),
            bits=tuple(kept) if self.keep_bits else (),
        )

    def overlap(self, number: int, before: Bitmap, selected: Bitmap) -> float:
        """Jaccard similarity of two consecutive sets; in round 1 without those whom round 0 could not judge."""
        judged = bitmap.full(self.data.n_samples)
        if number == 1 and self.planting is not None:
            judged &= ~self.planting.planted
        return jaccard(before & judged, selected & judged)

    def finish(self) -> Finished | None:
        """Train a fresh network on from the last set; None where that was not asked for, or the set is too small."""
        if self.settings.finish == "none" or not self.records:
            return None
        kept = self.records[-1].selected & self.trainer.trainable
        if bitmap.popcount(kept) < 2:
            return None
        finished = self.trainer.finish(kept)
        self.reporter.finished(finished)
        if self.out is not None:
            checkpoint.save_model(self.out, self.trainer.trainee.model)
        return finished

    def oracle(self) -> float | None:
        """Test accuracy of training on the true clean set; None where that is unknown, empty, or not asked for."""
        clean = self.clean
        if not self.settings.oracle or not self.records or clean is None or clean.sum() < 2:
            return None
        started = time.perf_counter()
        self.reporter.round_started(_ORACLE, int(clean.sum()), self.settings.epochs_of(0))
        test_accuracy = self.trainer.train_alone(bitmap.pack(clean))
        self.reporter.comparison_done(_ORACLE, test_accuracy, time.perf_counter() - started)
        return test_accuracy

    def spec(self) -> RunSpec:
        settings = self.settings
        return RunSpec(
            run_id=self.run_id,
            num_samples=self.data.n_samples,
            num_classes=self.data.n_classes,
            observe=settings.observe,
            forward_pass=settings.forward_pass,
            selection=settings.selection,
            expected_epochs=settings.epochs,
            expected_rounds=settings.rounds,
            tags={"dataset": self.data.name, "model": settings.model, "noise": settings.noise},
        )

    def save(self) -> None:
        """Write a checkpoint where one is due: between rounds always, between epochs as often as the settings say."""
        every, n_done = self.settings.checkpoint_every, len(self.epochs)
        between_rounds = n_done in (0, self.settings.epochs_of(len(self.records)))
        if self.out is None or not every or not (between_rounds or n_done % every == 0):
            return
        state = Checkpoint(
            run_id=self.run_id,
            local=self.is_local,
            position=Position(len(self.records), n_done),
            rounds=tuple(self.records),
            epochs=tuple(self.epochs),
            verified=self.verified,
            model=self.trainer.trainee.model.state_dict(),
            optimiser=self.trainer.trainee.optimiser.state_dict(),
            weights=self.weights,
            planting=self.planting,
        )
        checkpoint.save(self.out, self.settings, state)

    def restore(self, resumed: Checkpoint) -> None:
        self.records, self.epochs, self.verified = [*resumed.rounds], [*resumed.epochs], resumed.verified
        self.trainer.trainee.model.load_state_dict(resumed.model)
        self.trainer.trainee.optimiser.load_state_dict(resumed.optimiser)
        checkpoint.set_random_state(resumed.random)
        self.weights = resumed.weights
        self.planting = resumed.planting
        if self.planting is not None:
            self.trainer.use(self.planting)
            self.backend.put_planted(self.planting.planted)  # of a run that was lost before its first epoch
