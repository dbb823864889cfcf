"""The loop over rounds: train on the members, record the bits, select, and train again on the selected."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_client import CorrectnessTracker, LocalSelector, Position, RunSpec, SelectionBackend
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits
from mild_trainer import checkpoint, noise
from mild_trainer import data as datasets
from mild_trainer.augment import DeviceImages
from mild_trainer.checkpoint import Checkpoint
from mild_trainer.data import Dataset
from mild_trainer.engine import Machine, Trainee, evaluate, train_epoch
from mild_trainer.history import EpochRecord, History, RoundRecord
from mild_trainer.progress import Reporter, Silent
from mild_trainer.settings import TrainSettings
from mild_trainer.truth import Agreement, jaccard


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
    resumed = checkpoint.load(out, settings) if resume and out is not None else None
    if data is None:
        data = datasets.load(settings.dataset, settings.data_dir)
    data, clean = with_noise(data, settings)
    backend = backend or LocalSelector(None if out is None else out / "bits")
    training = _Training(settings, data, clean, backend, reporter or Silent(), out, keep_bits)
    return training.run(run_id, resumed)


def with_noise(data: Dataset, settings: TrainSettings) -> tuple[Dataset, NDArray[np.bool_] | None]:
    """Return the data set that is trained on, and whose label is true (None where nobody knows).

    Labels that are broken on purpose count as true before, unless the data set knows better.
    """
    if settings.limit:
        data = data.limited(settings.limit, settings.seed)
    truth = data.y_train_clean
    if truth is None and settings.noise != "none":
        truth = data.y_train
    given, _ = noise.apply(settings.noise, data.y_train, data.n_classes, settings.seed)
    data = replace(data, y_train=given, y_train_clean=truth)
    return data, None if truth is None else given == truth


class _Training:
    """A data set on the device, and the trainings on it."""

    def __init__(
        self,
        settings: TrainSettings,
        data: Dataset,
        clean: NDArray[np.bool_] | None,
        backend: SelectionBackend,
        reporter: Reporter,
        out: Path | None,
        keep_bits: bool,
    ) -> None:
        self.settings, self.data, self.clean = settings, data, clean
        self.backend, self.reporter, self.out, self.keep_bits = backend, reporter, out, keep_bits
        self.run_id = ""
        self.machine = Machine.choose(settings)
        device, dtype = self.machine.device, self.machine.dtype
        mean, std = data.normalisation()
        self.images = DeviceImages(data.x_train, data.y_train, mean, std, device, dtype, settings.pad, settings.flip)
        self.test_images = DeviceImages(data.x_test, data.y_test, mean, std, device, dtype)
        self.tracker = CorrectnessTracker(data.n_samples, device)

    def run(self, run_id: str, resumed: Checkpoint | None) -> History:
        self.run_id = run_id if resumed is None else resumed.run_id
        self.backend.open(self.spec(), None if resumed is None else resumed.position)
        records: list[RoundRecord] = []
        epochs: list[EpochRecord] = []
        if resumed is None:
            trainee = self.fresh(0)
            self.save(trainee, records, epochs)
        else:
            records, epochs = [*resumed.rounds], [*resumed.epochs]
            trainee = self.fresh(resumed.position.round)
            trainee.model.load_state_dict(resumed.model)
            trainee.optimiser.load_state_dict(resumed.optimiser)

        while (ended := self.ended(records)) is None:
            record = self.round(trainee, records, epochs)
            self.reporter.round_done(record)
            records.append(record)
            epochs = []
            if self.out is not None:
                checkpoint.save_model(self.out, trainee.model)
            trainee = self.following(trainee, len(records))
            self.save(trainee, records, epochs)

        return History(self.settings, self.data, self.clean, tuple(records), self.oracle(), ended)

    def ended(self, records: list[RoundRecord]) -> str | None:
        """Why there is to be no further round; None where there is."""
        if not records:
            return None
        last = records[-1]
        if len(records) > 1 and last.overlap >= self.settings.agree:
            return f"two consecutive clean sets agree (Jaccard {last.overlap:.3f}, asked {self.settings.agree:g})"
        if last.n_selected < 2:
            return f"round {last.round} kept {last.n_selected} samples, and training takes at least 2"
        if len(records) >= self.settings.rounds:
            return f"all {self.settings.rounds} rounds are done"
        return None

    def round(self, trainee: Trainee, records: list[RoundRecord], epochs: list[EpochRecord]) -> RoundRecord:
        """Train one round to its end, from the epochs on that are done, and select."""
        number, n_samples = len(records), self.data.n_samples
        members = records[-1].selected if records else bitmap.full(n_samples)
        everyone = bitmap.full(n_samples)
        inside, outside = self.indices(members), self.indices(everyone & ~members)
        self.reporter.round_started(f"round {number}", len(inside), self.settings.epochs)
        kept = []
        for epoch in range(len(epochs), self.settings.epochs):
            record, bits = self.epoch(trainee, number, epoch, inside, outside)
            self.backend.put_epoch(number, epoch, bits)
            self.backend.put_metrics(number, epoch, record.metrics())
            self.reporter.epoch_done(record)
            epochs.append(record)
            kept.append(bits)
            self.save(trainee, records, epochs)
        result = self.backend.finish(number)
        agreement = None
        if self.clean is not None:
            agreement = Agreement.of(bitmap.unpack(result.selected, n_samples), self.clean)
        return RoundRecord(
            round=number,
            members=members,
            selected=result.selected,
            epochs=tuple(epochs),
            summary=result.summary,
            fit=result.fit,
            agreement=agreement,
            overlap=jaccard(members, result.selected),
            bits=tuple(kept) if self.keep_bits else (),
        )

    def epoch(
        self, trainee: Trainee, number: int, epoch: int, inside: Tensor, outside: Tensor
    ) -> tuple[EpochRecord, EpochBits]:
        settings = self.settings
        started = time.perf_counter()
        in_training = None if settings.observe == "all" else self.tracker
        draws = self.generator(number, epoch)
        loss, accuracy = train_epoch(trainee, self.images, inside, settings, epoch, draws, in_training)
        if settings.observe == "all":
            evaluate(trainee, self.images, settings, tracker=self.tracker)
        elif settings.observe == "mixed":
            evaluate(trainee, self.images, settings, outside, self.tracker)
        test_accuracy = evaluate(trainee, self.test_images, settings)
        bits = self.tracker.take()
        if settings.observe == "members":
            bits = EpochBits(bits.n_samples, bits.correct)
        loss_, accuracy_, test_ = torch.stack([loss, accuracy, test_accuracy]).tolist()
        return EpochRecord(number, epoch, loss_, accuracy_, test_, time.perf_counter() - started), bits

    def oracle(self) -> float | None:
        if not self.settings.oracle or self.clean is None:
            return None
        members = bitmap.pack(self.clean)
        inside = self.indices(members)
        self.reporter.round_started("true clean set", len(inside), self.settings.epochs)
        trainee = self.fresh(0)
        for epoch in range(self.settings.epochs):
            train_epoch(trainee, self.images, inside, self.settings, epoch, self.generator(0, epoch))
        return float(evaluate(trainee, self.test_images, self.settings))

    def spec(self) -> RunSpec:
        settings = self.settings
        return RunSpec(
            run_id=self.run_id,
            n_samples=self.data.n_samples,
            n_classes=self.data.n_classes,
            observe=settings.observe,
            forward_pass=settings.forward_pass,
            options=settings.selection,
            expected_epochs=settings.epochs,
            expected_rounds=settings.rounds,
            tags={"dataset": self.data.name, "model": settings.model, "noise": settings.noise},
        )

    def save(self, trainee: Trainee, records: list[RoundRecord], epochs: list[EpochRecord]) -> None:
        """Write a checkpoint where one is due: between rounds always, between epochs as often as the settings say."""
        every, n_done = self.settings.checkpoint_every, len(epochs)
        between_rounds = n_done in (0, self.settings.epochs)
        if self.out is None or not every or not (between_rounds or n_done % every == 0):
            return
        state = Checkpoint(
            run_id=self.run_id,
            position=Position(len(records), n_done),
            rounds=tuple(records),
            epochs=tuple(epochs),
            model=trainee.model.state_dict(),
            optimiser=trainee.optimiser.state_dict(),
        )
        checkpoint.save(self.out, self.settings, state)

    def following(self, trainee: Trainee, number: int) -> Trainee:
        """The trainee of the next round."""
        if self.settings.weights == "fresh":
            return self.fresh(number)
        trainee.restart(self.settings)
        return trainee

    def fresh(self, number: int) -> Trainee:
        seed = _seed(self.settings.seed, 0, number)
        return Trainee(self.settings, self.machine, self.data.x_train.shape[-1], self.data.n_classes, seed)

    def generator(self, number: int, epoch: int) -> torch.Generator:
        return torch.Generator(self.machine.device).manual_seed(_seed(self.settings.seed, 1, number, epoch))

    def indices(self, members: Bitmap) -> Tensor:
        return torch.from_numpy(bitmap.to_indices(members, self.data.n_samples)).to(self.machine.device)


def _seed(*keys: int) -> int:
    """A seed for one purpose, independent of the seeds for all others."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))
