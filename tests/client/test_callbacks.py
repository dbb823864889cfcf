"""The callbacks in the frameworks: whatever the data, the model and the length of a training are."""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mild_client import LocalSelector, Position, RunSpec
from mild_client.errors import LocalStateError
from mild_core import bitmap
from mild_core.errors import EmptySetError, ParameterError
from mild_core.types import EpochBits

os.environ.setdefault("KERAS_BACKEND", "torch")  # noqa: TID251  # read when keras is imported

import keras
import lightning
import transformers

from mild_client.callbacks.keras import MildCallback as KerasCallback
from mild_client.callbacks.lightning import MildCallback as LightningCallback
from mild_client.callbacks.transformers import MildCallback as TrainerCallback
from mild_client.callbacks.transformers import attach

N = 40
LABELS = np.arange(N) % 2
INPUTS = np.where(LABELS == 1, 1.0, -1.0)[:, None].astype(np.float32)


class Recorder(LocalSelector):
    """A backend that keeps the number and the bits of each epoch that it takes."""

    def __init__(self, spec: RunSpec | None = None, folder: Path | None = None, at: Position | None = None) -> None:
        super().__init__(folder)
        self.put: list[tuple[int, int, NDArray[np.bool_], NDArray[np.bool_]]] = []
        self.open(spec or RunSpec("run", num_samples=N), at)

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        super().put_epoch(round, epoch, bits)
        observed = bitmap.full(N) if bits.observed is None else bits.observed
        self.put.append((round, epoch, bitmap.unpack(bits.correct, N), bitmap.unpack(observed, N)))

    @property
    def epochs(self) -> list[tuple[int, int]]:
        return [(round, epoch) for round, epoch, _, _ in self.put]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the frameworks
        yield


# Hugging Face


class Net(torch.nn.Module):
    """A model whose outputs are a dict, whose sign is that of the label, and which takes two columns."""

    def __init__(self, n_outputs: int = 2, scale: float = 1.0, labels: str = "labels") -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, n_outputs, bias=False)
        torch.nn.init.constant_(self.linear.weight, scale)
        if n_outputs > 1:
            torch.nn.init.constant_(self.linear.weight[0], -scale)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.linear(inputs)
        return {"loss": logits.mean() * 0, "logits": logits, "hidden": inputs}


def rows(**more: Any) -> list[dict[str, Any]]:
    return [{"inputs": torch.tensor(INPUTS[index]), "labels": int(LABELS[index]), **more} for index in range(N)]


def make_trainer(folder: Path, data: Any, model: torch.nn.Module | None = None, **options: Any) -> transformers.Trainer:
    arguments: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 7,
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "use_cpu": True,
    }
    collator = options.pop("data_collator", None)
    return transformers.Trainer(
        model or Net(),
        transformers.TrainingArguments(str(folder), **{**arguments, **options}),
        train_dataset=data,
        data_collator=collator,
    )


@pytest.mark.parametrize("more", [{}, {"idx": 3}, {"text": "columns that the model does not take"}])
def test_the_trainers_own_columns_are_evaluated(more: dict[str, Any], tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path, rows(**more))
    callback = attach(trainer, recorder)
    trainer.train()
    assert recorder.epochs == [(0, 0), (0, 1)]
    assert all(correct.all() and observed.all() for _, _, correct, observed in recorder.put)
    assert callback.result is not None


def test_the_trainers_own_collator_and_label_names_are_used(tmp_path: Path) -> None:
    recorder = Recorder()

    def collate(batch: list[tuple[float, int]]) -> dict[str, torch.Tensor]:
        values, labels = zip(*batch, strict=True)
        return {"inputs": torch.tensor(values)[:, None], "target": torch.tensor(labels)}

    class Renamed(Net):
        def forward(self, inputs: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return super().forward(inputs)

    pairs = list(zip(INPUTS[:, 0].tolist(), LABELS.tolist(), strict=True))
    trainer = make_trainer(
        tmp_path, pairs, Renamed(), data_collator=collate, label_names=["target"], remove_unused_columns=False
    )
    attach(trainer, recorder)
    trainer.train()
    assert all(correct.all() for _, _, correct, _ in recorder.put)


def test_another_data_set_is_evaluated_in_its_order(tmp_path: Path) -> None:
    half = rows()[: N // 2]
    recorder = Recorder()
    trainer = make_trainer(tmp_path, half)
    swapped = [{**row, "labels": 1 - row["labels"]} if index % 4 == 0 else row for index, row in enumerate(rows())]
    trainer.add_callback(TrainerCallback(recorder, trainer, swapped))  # type: ignore[arg-type]
    trainer.train()
    assert (recorder.put[0][2] == (np.arange(N) % 4 > 0)).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_steps": 4}, [0]),  # of ten steps an epoch
        ({"max_steps": 10}, [0]),
        ({"max_steps": 13}, [0, 1]),
        ({"num_train_epochs": 0.5}, [0]),
        ({"num_train_epochs": 2.5}, [0, 1, 2]),
        ({"num_train_epochs": 3, "gradient_accumulation_steps": 3}, [0, 1, 2]),
    ],
)
def test_an_epoch_that_is_cut_short_has_the_next_number(
    options: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path, rows(), **options)
    attach(trainer, recorder)
    trainer.train()
    assert [epoch for _, epoch in recorder.epochs] == expected


def test_a_trainer_that_resumes_goes_on_at_its_epoch(tmp_path: Path) -> None:
    recorder = Recorder(folder=tmp_path / "bits")
    trainer = make_trainer(tmp_path / "a", rows(), num_train_epochs=1, save_strategy="epoch")
    attach(trainer, recorder)
    trainer.train()
    (checkpoint,) = (tmp_path / "a").glob("checkpoint-*")
    fresh = make_trainer(tmp_path / "b", rows(), num_train_epochs=3)
    attach(fresh, Recorder())
    with pytest.raises(LocalStateError, match=r"epoch 1 is put, and the next one of round 0 is 0; .*Position\(0, 1\)"):
        fresh.train(resume_from_checkpoint=str(checkpoint))
    resumed = Recorder(folder=tmp_path / "bits", at=Position(0, 1))
    trainer = make_trainer(tmp_path / "c", rows(), num_train_epochs=3)
    attach(trainer, resumed)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.epochs == [(0, 1), (0, 2)]


def test_a_second_training_is_the_next_round(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path, rows())
    attach(trainer, recorder)
    trainer.train()
    trainer.train()
    assert recorder.epochs == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_single_output_needs_a_threshold(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows(), Net(1))
    attach(trainer, Recorder())
    with pytest.raises(ParameterError, match="give threshold for a binary classifier"):
        trainer.train()
    recorder = Recorder()
    trainer = make_trainer(tmp_path, rows(), Net(1))
    attach(trainer, recorder, threshold=0.0)
    trainer.train()
    assert all(correct.all() for _, _, correct, _ in recorder.put)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"inputs": torch.ones(1)} for _ in range(N)], r"a batch holds inputs, of which labels are the labels"),
        ([{**row, "labels": row["labels"] + 1} for row in rows()], "the labels run from 1 to 2"),
        ([{**row, "labels": [0.0, 1.0]} for row in rows()], "several labels for a sample"),
    ],
)
def test_labels_that_are_none_are_refused(data: Any, message: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, data)
    attach(trainer, Recorder())
    with pytest.raises(ParameterError, match=message):
        trainer.train()


def test_a_trainer_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="the trainer has no train_dataset"):
        attach(make_trainer(tmp_path, None), Recorder())


def test_outputs_that_are_nan_are_unobserved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path, rows(), Net(scale=float("nan")))
    attach(trainer, recorder)
    with pytest.raises(EmptySetError, match="0 of 40 samples are scored"):
        trainer.train()
    assert not any(correct.any() or observed.any() for _, _, correct, observed in recorder.put)
    assert caplog.text.count("the outputs of 40 of 40 samples are NaN or infinite") == 1


class Shuffled(torch.utils.data.IterableDataset[Any]):
    """Yields the same samples in another order each time."""

    n_passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.n_passes += 1
        return iter([rows()[index] for index in np.random.default_rng(self.n_passes).permutation(N)])


def test_data_in_another_order_each_epoch_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, Shuffled(), max_steps=30)
    recorder = Recorder()
    attach(trainer, recorder)
    with pytest.raises(ParameterError, match="epoch 1: the labels are others than in the first epoch, or come in ano"):
        trainer.train()
    assert recorder.epochs == [(0, 0)]


def test_a_training_that_drops_its_last_batch_is_evaluated_whole(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "dataloader_drop_last": True,
        "per_device_train_batch_size": 24,
        "per_device_eval_batch_size": 24,
    }
    trainer = make_trainer(tmp_path, rows(), **options)
    recorder = Recorder()
    attach(trainer, recorder)
    trainer.train()
    assert trainer.args.dataloader_drop_last
    assert all(correct.all() for _, _, correct, _ in recorder.put)


# Keras


def make_keras_model(n_outputs: int = 2) -> Any:
    weights = np.array([[-5.0, 5.0]] if n_outputs == 2 else [[5.0]], dtype=np.float32)
    activation = "softmax" if n_outputs == 2 else "sigmoid"
    model = keras.Sequential([keras.layers.Dense(n_outputs, activation=activation, use_bias=False)])
    model.build((None, 1))
    model.set_weights([weights])
    loss = "sparse_categorical_crossentropy" if n_outputs == 2 else "binary_crossentropy"
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model


@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist(), torch.from_numpy(LABELS), LABELS[:, None], LABELS > 0])
def test_keras_takes_labels_of_any_form(labels: Any) -> None:
    recorder = Recorder()
    make_keras_model().fit(INPUTS, LABELS, epochs=2, verbose=0, callbacks=[KerasCallback(recorder, INPUTS, labels)])
    assert recorder.epochs == [(0, 0), (0, 1)]
    assert all(correct.all() for _, _, correct, _ in recorder.put)


def test_a_sigmoid_is_cut_at_the_threshold() -> None:
    recorder = Recorder()
    callback = KerasCallback(recorder, INPUTS, LABELS, threshold=0.5)
    make_keras_model(1).fit(INPUTS, LABELS, epochs=1, verbose=0, callbacks=[callback])
    assert recorder.put[0][2].all()
    callback = KerasCallback(Recorder(), INPUTS, LABELS)
    with pytest.raises(ParameterError, match="give threshold for a binary classifier"):
        make_keras_model(1).fit(INPUTS, LABELS, epochs=1, verbose=0, callbacks=[callback])


def test_probabilities_above_a_threshold_of_logits_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    callback = KerasCallback(Recorder(), INPUTS, LABELS, threshold=0)
    make_keras_model(1).fit(INPUTS, LABELS, epochs=2, verbose=0, callbacks=[callback])
    assert caplog.text.count("every sample is predicted as class 1; give threshold=0.5 if they are prob") == 1


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # keras has no types
    """Batches of four samples with labels of any form."""

    def __init__(self, labels: Any) -> None:
        super().__init__()
        self._labels = labels

    def __len__(self) -> int:
        return N // 4

    def __getitem__(self, position: int) -> Any:
        part = slice(4 * position, 4 * position + 4)
        return INPUTS[part], self._labels[part]


def load_batches(**options: Any) -> Any:
    data = torch.utils.data.TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(LABELS))
    return torch.utils.data.DataLoader(data, batch_size=4, **options)


@pytest.mark.parametrize(
    "inputs", [load_batches(), Batches(LABELS), Batches(LABELS[:, None]), Batches(np.eye(2)[LABELS])]
)
def test_keras_evaluates_loaders(inputs: Any) -> None:
    recorder = Recorder()
    make_keras_model().fit(INPUTS, LABELS, epochs=2, verbose=0, callbacks=[KerasCallback(recorder, inputs, LABELS)])
    assert [correct.all() for _, _, correct, _ in recorder.put] == [True, True]


@pytest.mark.parametrize("inputs", [load_batches(shuffle=True), load_batches(sampler=range(8)), Batches(1 - LABELS)])
def test_keras_refuses_loaders_of_another_order(inputs: Any) -> None:
    with pytest.raises(ParameterError, match="which are not the 40 given ones from sample"):
        make_keras_model().fit(INPUTS, LABELS, verbose=0, callbacks=[KerasCallback(Recorder(), inputs, LABELS)])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat"] * N, "numpy.unique"),
        (np.eye(N), "from one-hot rows their argmax"),
        (LABELS + 1, "the labels run from 1 to 2"),
        (LABELS[1:], "labels of the same batch"),
    ],
)
def test_keras_refuses_labels_that_are_none(labels: Any, message: str) -> None:
    model = make_keras_model()
    with pytest.raises(ParameterError, match=message):
        model.fit(INPUTS, LABELS, verbose=0, callbacks=[KerasCallback(Recorder(), INPUTS, labels)])


def test_a_model_of_several_outputs_is_refused() -> None:
    inputs = keras.Input((1,))
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])
    model.compile("sgd", ["mse", "mse"])
    targets = [np.zeros((N, 2)), np.zeros((N, 2))]
    with pytest.raises(ParameterError, match="the model has 2 outputs"):
        model.fit(INPUTS, targets, verbose=0, callbacks=[KerasCallback(Recorder(), INPUTS, LABELS)])


def test_epochs_that_are_missing_are_said_at_the_first_one(tmp_path: Path) -> None:
    trained = []

    class Count(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            trained.append(epoch)

    first = Recorder(folder=tmp_path)
    with pytest.raises(LocalStateError, match=r"epoch 5 is put, and the next one of round 0 is 0"):
        make_keras_model().fit(
            INPUTS,
            LABELS,
            initial_epoch=5,
            epochs=9,
            verbose=0,
            callbacks=[Count(), KerasCallback(first, INPUTS, LABELS)],
        )
    assert trained == [5]
    callback = KerasCallback(first, INPUTS, LABELS)
    make_keras_model().fit(INPUTS, LABELS, epochs=5, verbose=0, callbacks=[callback])
    resumed = Recorder(folder=tmp_path, at=Position(0, 5))
    callback = KerasCallback(resumed, INPUTS, LABELS)
    make_keras_model().fit(INPUTS, LABELS, initial_epoch=5, epochs=9, verbose=0, callbacks=[callback])
    assert [epoch for _, epoch in resumed.epochs] == [5, 6, 7, 8]


# Lightning


class Module(lightning.LightningModule):
    """A network that predicts each label rightly, and whose training step returns what it is told."""

    def __init__(self, n_outputs: int = 2, returns_logits: bool = True, skipped: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.net = Net(n_outputs)
        self._returns_logits, self._skipped = returns_logits, skipped

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx in self._skipped:
            return None
        inputs = batch[1] if isinstance(batch, list | tuple) else batch["inputs"]
        outputs = self.net(inputs)
        return {"loss": outputs["loss"], "logits": outputs["logits"]} if self._returns_logits else outputs["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def make_loader(data: Any = None) -> Any:
    tensors = torch.utils.data.TensorDataset(torch.arange(N), torch.from_numpy(INPUTS), torch.from_numpy(LABELS))
    return torch.utils.data.DataLoader(data or tensors, batch_size=4)


def make_lightning(callback: Any, folder: Path, **options: Any) -> lightning.Trainer:
    arguments: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    arguments |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    return lightning.Trainer(callbacks=[callback], **{**arguments, **options})


@pytest.mark.parametrize(("options", "n_seen"), [({"max_steps": 13}, [N, 12]), ({"max_epochs": 2}, [N, N])])
def test_a_fit_that_ends_within_an_epoch_observes_what_it_has_seen(
    options: dict[str, Any], n_seen: list[int], tmp_path: Path
) -> None:
    recorder = Recorder()
    make_lightning(LightningCallback(recorder, N), tmp_path, **options).fit(Module(), make_loader())
    assert recorder.epochs == [(0, 0), (0, 1)]
    assert [int(observed.sum()) for _, _, _, observed in recorder.put] == n_seen
    assert all((correct == observed).all() for _, _, correct, observed in recorder.put)


def test_a_second_fit_of_the_same_trainer_is_a_round_from_epoch_0(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = make_lightning(LightningCallback(recorder, N), tmp_path)
    trainer.fit(Module(), make_loader())
    trainer.fit_loop.max_epochs = 4
    trainer.fit(Module(), make_loader())
    assert recorder.epochs == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_fit_from_a_checkpoint_goes_on_at_its_epoch(tmp_path: Path) -> None:
    trainer = make_lightning(LightningCallback(Recorder(folder=tmp_path / "bits"), N), tmp_path)
    trainer.fit(Module(), make_loader())
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    resumed = Recorder(folder=tmp_path / "bits", at=Position(0, 2))
    trainer = make_lightning(LightningCallback(resumed, N), tmp_path, max_epochs=4)
    trainer.fit(Module(), make_loader(), ckpt_path=tmp_path / "state.ckpt")
    assert resumed.epochs == [(0, 2), (0, 3)]


def test_a_batch_that_a_step_skips_is_not_observed(tmp_path: Path) -> None:
    recorder = Recorder()
    make_lightning(LightningCallback(recorder, N), tmp_path).fit(Module(skipped=frozenset({0, 2})), make_loader())
    assert [np.flatnonzero(~observed).tolist() for _, _, _, observed in recorder.put] == 2 * [
        [0, 1, 2, 3, 8, 9, 10, 11]
    ]


def test_lightning_cuts_a_single_output_at_the_threshold(tmp_path: Path) -> None:
    recorder = Recorder()
    make_lightning(LightningCallback(recorder, N, threshold=0.0), tmp_path).fit(Module(1), make_loader())
    assert all(correct.all() for _, _, correct, _ in recorder.put)


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (Module(returns_logits=False), None, r"training_step returns a dict with loss, and logits are needed"),
        (Module(skipped=frozenset(range(N))), None, "training_step returns nothing in any batch of the epoch"),
        (Module(1), None, "give threshold for a binary classifier"),
        (Module(), rows(), r"a batch is a dict of 2, and \(indices, inputs, labels\) are needed"),
    ],
)
def test_lightning_refuses_what_has_no_class_for_each_sample(
    module: Module, data: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=message):
        make_lightning(LightningCallback(Recorder(), N), tmp_path).fit(module, make_loader(data))
