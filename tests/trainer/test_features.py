"""Trainings on features: reading them, noise on them, and everything that a training writes."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from mild_core.errors import ParameterError
from mild_trainer import cli, noise
from mild_trainer.data import Dataset, files, guess_dataset, load
from mild_trainer.data.feature_arrays import compute_feature_statistics
from mild_trainer.errors import DataError
from mild_trainer.settings import TrainSettings
from mild_trainer.training import device_samples
from mild_trainer.training.device_samples import Batches, DeviceFeatures
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.network import build_network
from tests.trainer.trainings import Killed, KilledAfter, outcome, weights

CPU = torch.device("cpu")


def make_features(n_samples: int = 240, n_features: int = 12, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Three classes around points of their own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n_samples)
    centres = 3 * np.random.default_rng(99).standard_normal((3, n_features))
    return {"x_train": (centres[labels] + rng.standard_normal((n_samples, n_features))) * 10 + 50, "y_train": labels}


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{**make_features(), **arrays})
    return path


@pytest.mark.parametrize(
    ("given", "kept"), [("float16", "float16"), ("float32", "float32"), ("float64", "float32"), ("int32", "float32")]
)
def test_features_are_read_in_any_type_of_numbers(tmp_path: Path, given: str, kept: str) -> None:
    values = make_features()["x_train"].astype(given)
    data = load("features", write(tmp_path / "a.npz", x_train=values))
    assert data.x_train.dtype == kept
    assert np.array_equal(data.x_train, values.astype(kept))
    assert data.describe().startswith("a: 240 training and no test samples of 12 features, 3 classes: 0 ")


@pytest.mark.parametrize("names", [("vectors", "labels"), ("x_train", "classes_of_mine"), ("a", "b")])
def test_of_two_arrays_those_of_other_names_are_told_by_their_shapes(names: tuple[str, str], tmp_path: Path) -> None:
    values = make_features()
    arrays: dict[str, Any] = dict(zip(names, values.values(), strict=True))
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(guess_dataset(tmp_path / "a.npz"), tmp_path / "a.npz")
    assert np.array_equal(data.x_train, values["x_train"].astype(np.float32))
    assert np.array_equal(data.y_train, values["y_train"])


def test_an_id_is_no_label(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=make_features()["x_train"], ids=np.arange(240))
    with pytest.raises(DataError, match="lacks y_train, got ids"):
        load("features", tmp_path / "a.npz")


def test_python_objects_are_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    arrays = make_features()
    np.savez(tmp_path / "a.npz", x_train=arrays["x_train"], y_train=arrays["y_train"].astype(object))
    with pytest.raises(DataError, match=r"a\.npz: y_train holds Python objects.*y_train\.astype\(str\)"):
        load("features", tmp_path / "a.npz")


def test_a_file_of_features_is_told_from_one_of_images(tmp_path: Path) -> None:
    labels, vectors = np.zeros(5, dtype=int), np.zeros((5, 3))
    both: dict[str, dict[str, Any]] = {
        "features": {"x": vectors, "y": labels},
        "npz": {"x": np.zeros((5, 2, 2)), "y": vectors},  # images, and one-hot labels
    }
    for name, arrays in both.items():
        np.savez(tmp_path / "a.npz", **arrays)
        assert guess_dataset(tmp_path / "a.npz") == name
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 4), dtype=np.uint8), y=labels)  # pixels in rows: their owner decides
    assert guess_dataset(tmp_path / "a.npz") == "npz"
    (tmp_path / "a.npz").write_bytes(b"damaged")
    assert guess_dataset(tmp_path / "a.npz") == "npz"


def test_features_go_before_images_of_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "both.npz"
    arrays = make_features()
    images = np.zeros((240, 8, 8), dtype=np.uint8)
    both: dict[str, Any] = {"images": images, "features": arrays["x_train"], "labels": arrays["y_train"]}
    np.savez(path, test_features=arrays["x_train"][:5], **both)
    with pytest.raises(DataError, match="lacks y_test"):
        load("features", path)
    np.savez(path, **both)
    data = load("features", path)
    assert data.x_train.shape == (240, 12)
    assert data.notes == ("arrays: x_train is features, y_train is labels", "not read: images")


def test_constant_features_are_told_and_do_no_harm(tmp_path: Path) -> None:
    values = make_features()["x_train"]
    values[:, [1, 4]] = 7.3
    data = load("features", write(tmp_path / "a.npz", x_train=values))
    assert data.notes == ("constant: 2 of 12 features, which tell nothing",)
    samples = DeviceFeatures(data.x_train, data.y_train, *data.compute_channel_statistics(), CPU)
    ((_, x, _),) = samples.iter_plain(torch.arange(samples.n_samples), 240)
    assert float(x[:, [1, 4]].abs().max()) < 1e-5
    assert torch.isfinite(x).all()


def broken(row: int, column: int, value: float) -> NDArray[Any]:
    values = make_features()["x_train"]
    values[row, column] = value
    return values


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": broken(17, 4, np.nan)}, r"x_train\[17, 4\] is nan, and features have to be finite"),
        ({"x_train": broken(3, 0, -np.inf)}, r"x_train\[3, 0\] is -inf"),
        (
            {"x_train": broken(3, 0, 1e39)},
            r"x_train\[3, 0\] is 1e\+39, and features have to be .* float32",
        ),
        ({"x_train": np.zeros((240, 12))}, "no feature differs between training samples"),
        ({"x_train": np.zeros((240, 4, 4))}, r"x_train is float64 of shape \(240, 4, 4\).*or take --dataset npz"),
        ({"x_train": np.zeros(240)}, r"x_train is float64 of shape \(240,\); save x_train as floats of shape"),
        ({"x_train": np.zeros((240, 0))}, r"shape \(240, 0\); save x_train as floats"),
        ({"x_train": np.full((240, 2), "cat")}, r"<U3 of shape \(240, 2\); save x_train as floats"),
        (
            {"x_train": np.zeros((12, 240))},
            "12 rows of features have 240 labels; give .* the wrong way round",
        ),
        ({"x_train": np.ones((239, 12))}, "239 rows of features have 240 labels; give one each$"),
        (
            {"x_test": np.ones((5, 11)), "y_test": np.arange(5) % 3},
            r"samples are \(12,\), test samples \(11,\)",
        ),
        ({"x_test": broken(2, 1, np.nan)[:5], "y_test": np.arange(5) % 3}, r"x_test\[2, 1\] is nan"),
        ({"ids": np.arange(3)}, "ids has 3 entries for 240 training samples"),
    ],
)
def test_features_that_cannot_be_used_are_refused_with_the_place(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load("features", write(tmp_path / "a.npz", **arrays))


def test_images_and_features_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="take --dataset features for features"):
        load("npz", write(tmp_path / "a.npz"))
    with pytest.raises(DataError, match="the features data set is read from a file and none was given"):
        load("features")
    with pytest.raises(ParameterError, match=r"model is resnet8 and .* holds vectors; .* linear, mlp"):
        TrainSettings.for_dataset("features", model="resnet8")
    with pytest.raises(ParameterError, match="model is mlp and dataset is digits, which holds images"):
        TrainSettings.for_dataset("digits", model="mlp")
    with pytest.raises(ParameterError, match="dither is 1, and digits holds no features"):
        TrainSettings.for_dataset("digits", dither=1.0)
    with pytest.raises(ParameterError, match="data_on is host, and features are kept on the device"):
        TrainSettings.for_dataset("features", data_on="host")


def test_more_than_the_free_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.npz")
    data = load("features", path)
    monkeypatch.setattr(files, "measure_free_bytes", lambda: 1000.0)
    with pytest.raises(DataError, match=r"holds arrays of [\d,]+ bytes, and 1,000 bytes of memory are free"):
        load("features", path)
    monkeypatch.setattr(files, "measure_free_bytes", lambda: 11_519.0)
    with pytest.raises(ParameterError, match=r"12 features take 11,520 bytes as float32, and 11,519"):
        DeviceFeatures(data.x_train, data.y_train, *data.compute_channel_statistics(), CPU)


def test_free_memory_is_that_of_the_system_or_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    monkeypatch.setattr(files, "_MEMORY_FACTS", facts)
    assert files.measure_free_bytes() == 42 * 1024
    facts.unlink()
    assert files.measure_free_bytes() == float("inf")


def test_statistics_are_those_of_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    from mild_trainer.data import feature_arrays

    monkeypatch.setattr(feature_arrays, "_BLOCK_VALUES", 100)  # several blocks
    values = (1e4 + np.random.default_rng(0).standard_normal((1000, 3))).astype(np.float32)
    mean, std = compute_feature_statistics(values)
    assert mean == pytest.approx(values.astype(np.float64).mean(axis=0))
    assert std == pytest.approx(values.astype(np.float64).std(axis=0), rel=1e-5)


def on_device(dither: float, n_samples: int = 400, n_features: int = 50) -> tuple[DeviceFeatures, torch.Tensor]:
    """Features, and what they are without noise."""
    values = np.random.default_rng(0).standard_normal((n_samples, n_features)).astype(np.float32)
    samples = DeviceFeatures(values, np.arange(n_samples), *compute_feature_statistics(values), CPU, dither)
    ((_, plain, _),) = samples.iter_plain(torch.arange(samples.n_samples), n_samples)
    return samples, plain


def collect(batches: Batches) -> torch.Tensor:
    return torch.cat([x for _, x, _ in batches])


@pytest.mark.parametrize("most_values", [1 << 23, 3000])
def test_training_and_recording_passes_are_dithered_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch, most_values: int
) -> None:
    monkeypatch.setattr(device_samples, "_MAX_NOISE_VALUES", most_values)
    samples, plain = on_device(dither=0.5)
    assert plain.mean(0).abs().max() < 1e-6
    assert torch.allclose(plain.std(0, correction=0), torch.ones(50), atol=1e-5)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    for passes in (samples.iter_augmented, samples.iter_plain):
        drawn = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
        first, again, other = (collect(passes(order, 32, generator)) - plain[order] for generator in drawn)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert float(first.mean()) == pytest.approx(0, abs=0.03)
        assert float(first.std()) == pytest.approx(0.5, rel=0.05)
        assert np.unique(first.numpy(), axis=0).shape == (400, 50)  # no sample has the noise of another
    assert torch.equal(collect(samples.iter_plain(order, 32)), plain[order])


def test_without_dither_all_passes_are_the_same() -> None:
    samples, plain = on_device(dither=0.0)
    everyone, generator = torch.arange(400), torch.Generator()
    assert torch.equal(collect(samples.iter_augmented(everyone, 32, generator)), plain)
    assert torch.equal(collect(samples.iter_plain(everyone, 32, generator)), plain)
    assert collect(samples.iter_augmented(torch.arange(33), 32, generator)).shape == (33, 50)


@pytest.mark.parametrize(("name", "n_weights"), [("linear", 12 * 3 + 3), ("mlp", 12 * 256 + 256 + 256 * 3 + 3)])
def test_heads_have_one_layer_or_two(name: Any, n_weights: int) -> None:
    network = build_network(name, 12, 3)
    assert sum(each.numel() for each in network.parameters()) == n_weights
    assert network(torch.zeros(5, 12)).shape == (5, 3)
    assert TrainSettings.for_dataset("features", model="mlp").weight_decay == 0.1


def test_noise_by_instance_follows_the_features() -> None:
    arrays = make_features(3000)
    values = arrays["x_train"].astype(np.float32) / 1e3  # however small their scale
    noisy, wrong = noise.apply_noise("instance:0.4", arrays["y_train"], 3, 0, values)
    assert wrong.mean() == pytest.approx(0.4, abs=0.04)
    own = arrays["y_train"] == 0
    turned = {label: values[own & wrong & (noisy == label)].mean(axis=0) for label in (1, 2)}
    assert np.abs(turned[1] - turned[2]).max() > values[own].std() / 5


@pytest.fixture
def features(tmp_path: Path) -> Path:
    test = make_features(60, seed=1)
    ids = [f"{i:03}.txt" for i in range(240)]
    names = np.array(["ant", "bee", "cow"])
    return write(tmp_path / "mine.npz", x_test=test["x_train"], y_test=test["y_train"], ids=ids, class_names=names)


def train(features: Path, out: Path, *options: str) -> str:
    arguments = ["train", "--dataset", "features", "--data-dir", str(features), "--out", str(out), "--local"]
    result = CliRunner().invoke(cli.app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_training_on_features_writes_all_that_one_on_images_does(features: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    options = ["--noise", "symmetric:0.4", "--rounds", "2", "--validation", "0.1", "--model", model]
    output = train(features, out, *options, "--oracle", "--finish", "mixmatch")
    assert "mine: 240 training and 60 test samples of 12 features, 3 classes: ant " in output
    with (out / "clean.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"{i:03}.txt" for i in range(240)]
    assert {row["label"] for row in rows} == {"ant", "bee", "cow"}
    results = json.loads((out / "summary.json").read_text())
    assert results["dataset"]["shape"] == [12]
    assert results["rounds"][-1]["f1"] > 0.9
    assert results["oracle"]["test_accuracy"] > 0.9
    assert results["finish"]["test_accuracy"] > 0.9
    page, card = (out / "report.html").read_text(), (out / "README.md").read_text()
    assert "most suspicious samples" in page
    assert "<img" not in page
    assert "240 training and 60 test samples" in page
    assert f'build_network("{model}", n_inputs=12, n_classes=3)' in card
    review = CliRunner().invoke(cli.app, ["review", str(out), "--out", str(tmp_path / "review.csv")])
    assert review.exit_code == 0, review.output
    assert (tmp_path / "review.csv").read_text().count(".txt") == 200


def test_a_contrastive_finish_takes_heads(features: Path, tmp_path: Path) -> None:
    train(
        features,
        tmp_path / "out",
        "--rounds",
        "1",
        "--epochs",
        "8",
        "--noise",
        "symmetric:0.4",
        "--finish",
        "contrastive",
    )
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_interrupted_training_goes_on_with_the_same_bits(features: Path, tmp_path: Path) -> None:
    settings = TrainSettings.for_dataset(
        "features", data_dir=features, noise="symmetric:0.4", epochs=4, rounds=2, agree=1.0, threads=1
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run_rounds(settings, out=whole)
    with pytest.raises(Killed):
        run_rounds(settings, out=parts, reporter=KilledAfter(epochs=6))
    resumed = run_rounds(settings, out=parts, resume=True)
    assert outcome(resumed) == outcome(expected)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_dither_changes_what_is_recorded(features: Path) -> None:
    def record(dither: float) -> NDArray[Any]:
        settings = TrainSettings.for_dataset("features", epochs=3, rounds=1, dither=dither, threads=1, plant=0.0)
        return np.stack([bits.correct for bits in run_rounds(settings, data=data, keep_bits=True).rounds[0].bits])

    data: Dataset = load("features", features).with_noise("symmetric:0.4", 0)
    assert np.array_equal(record(1.0), record(1.0))
    assert not np.array_equal(record(0.0), record(1.0))
