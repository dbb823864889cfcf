import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import judges, peers, truth
from benchmarks.judges import Judgement
from benchmarks.logits import RecordingTrainer, count_cost, predict_held_out
from mild_core import bitmap
from mild_trainer.data import Dataset, load
from mild_trainer.settings import TrainSettings


@pytest.fixture
def data() -> Dataset:
    """Two classes that any network tells apart, 60 samples, a sixth of them mislabelled."""
    labels = np.arange(60) % 2
    images = (labels[:, None, None, None] * 200 + np.zeros((60, 8, 8, 1))).astype(np.uint8)
    noisy_labels = labels.copy()
    noisy_labels[:10] = 1 - noisy_labels[:10]
    return Dataset("two", images, noisy_labels, images, labels, n_classes=2, y_train_clean=labels)


@pytest.fixture
def settings() -> TrainSettings:
    return TrainSettings(epochs=3, batch_size=16, device="cpu", threads=1)


def test_the_logits_are_those_that_made_the_bits(data: Dataset, settings: TrainSettings) -> None:
    recording = RecordingTrainer(settings, data).record()
    assert recording.logits.shape == (3, 60, 2)
    correct = recording.logits.argmax(axis=2) == data.y_train
    for epoch, bits in enumerate(recording.bits.correct):
        assert (bitmap.unpack(bits, 60) == correct[epoch]).all()


def test_held_out_logits_are_there_for_everyone(data: Dataset, settings: TrainSettings) -> None:
    logits = predict_held_out(settings, data, n_folds=2)
    assert logits.shape == (60, 2)
    assert np.isfinite(logits).all()
    assert count_cost(settings) == 12


def test_the_margin_is_to_the_best_other_class() -> None:
    logits = np.array([[[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]], dtype=np.float32)
    assert judges.compute_margins(logits, np.array([0, 2])).tolist() == [[1.0, -4.0]]


def test_a_gaussian_mixture_keeps_the_low_losses_and_the_known_rate_cuts_the_same_ranking() -> None:
    logits = np.zeros((2, 40, 2), dtype=np.float32)
    logits[:, :, 0] = np.linspace(4, 5, 40)
    labels = np.where(np.arange(40) < 30, 0, 1)
    judgement = judges.judge_by_mean_loss(logits, labels, seed=0)
    assert judgement.kept is not None
    assert (judgement.kept == (labels == 0)).all()
    assert judges.keep_lowest(judgement, 5).suspicion is judgement.suspicion
    assert truth.best_f1(judgement.suspicion, labels == 0) == 1.0


def test_threshold_samples_judge_everyone(data: Dataset, settings: TrainSettings) -> None:
    judgement = judges.judge_by_margin_threshold(settings, data)
    assert np.isfinite(judgement.suspicion).all()
    assert judgement.kept is not None
    assert judgement.kept.shape == (60,)


@pytest.mark.parametrize("seed", range(5))
def test_threshold_samples_are_drawn_without_regard_to_the_noise(seed: int) -> None:
    data = load("digits").with_noise("pairflip:0.4", seed)
    assert data.clean is not None
    indices = judges.draw_threshold_samples(data, seed)
    assert np.unique(indices).size == indices.size == 2 * 130
    assert 0.3 < (~data.clean[indices]).mean() < 0.5


def test_the_best_cut_keeps_ties_together() -> None:
    clean = np.array([True, True, False, False])
    assert truth.best_f1(np.array([0.0, 1.0, 1.0, 1.0]), clean) == pytest.approx(2 / 3)
    figures = peers.measure_figures("none", 0, "ranks", Judgement(np.array([0.0, 0.0, 1.0, 1.0]), None), clean)
    assert (figures.auroc, figures.auprc, figures.f1, figures.best_f1) == (1.0, 1.0, None, 1.0)


def test_a_small_run_writes_every_method(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    small = ["--limit", "100", "--epochs", "2", "--seeds", "0", "--noise", "symmetric:0.4", "--processes", "1"]
    peers.BENCHMARK.main([*small, "--out", str(tmp_path)])
    methods = [figures["method"] for figures in json.loads((tmp_path / "peers.json").read_text())]
    assert methods[:2] == [peers.EVERYTHING, peers.OURS]
    assert all(f"| {method} |" in (tmp_path / "peers.md").read_text() for method in methods)
