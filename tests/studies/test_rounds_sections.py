"""The sections over rounds: a small training of each, its table, and the order of the rows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from mild_trainer.data import load
from studies import finish, first_experiments, imbalance, scores, sensitivity, stability
from studies.programme import Case, Inputs, Row, Section
from studies.trainings import explain_accuracy, load_case, make_settings

SECTIONS: Mapping[str, Section] = {
    "first_experiments": first_experiments,
    "stability": stability,
    "imbalance": imbalance,
    "scores": scores,
    "sensitivity": sensitivity,
    "finish": finish,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Features of ten classes that a head tells apart, most of the time."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 3000)
    features = 1.5 * rng.standard_normal((10, 20))[labels] + rng.standard_normal((3000, 20))
    np.savez(folder / "lite2.npz", features=features.astype(np.float32), labels=labels)
    human_labels = np.where(rng.random(3000) < 0.3, (labels + 1) % 10, labels).astype(np.uint8)
    np.savez(folder / "cifar-n-labels.npz", c10_worse_label=human_labels, c10_aggre_label=human_labels)
    return Inputs("cpu", "judging", folder, {"lite2": folder / "lite2.npz"})


def _make_row(name: str, case: Case, result: Mapping[str, Any]) -> Row:
    return Row(name, case, result, 1.0, "machine")


def _list_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "finish"])
def test_a_section_runs_and_shows_its_cases(name: str, inputs: Inputs, tmp_path: Path) -> None:
    section = SECTIONS[name]
    cases = [case for case in section.list_cases(inputs) if case["data"] == "lite2" and case["seed"] == 5]
    kinds = [key for key in cases[0] if key not in ("data", "noise", "half", "seed", "initial", "model")]
    case_of_kind = {tuple(case[key] for key in kinds): case for case in reversed(cases)}
    rows = [_make_row(name, case, section.run_case(case, inputs)) for case in list(case_of_kind.values())[:5]]
    text = section.format_rows(rows, tmp_path)
    assert "nan" not in text
    assert len(_list_lines(text)) > len(rows) / 2


@pytest.mark.slow
def test_all_finishes_train_on_the_same_set(inputs: Inputs, tmp_path: Path) -> None:
    case: Case = {"data": "digits", "noise": "symmetric:0.4", "epochs": 1, "half": "judging", "seed": 5}
    result = finish.run_case(case, inputs)
    assert list(result["accuracies"]) == [settings.finish for settings in finish.list_settings(case)]
    assert result["precision"] > 0.9
    losing = {**result, "accuracies": {"supervised": 0.5, "mixmatch": 0.4, "contrastive": 0.6}}
    text = finish.format_rows([_make_row("finish", case, losing)], tmp_path)
    lines = _list_lines(text)[1:]
    assert lines[0].startswith("| **digits, symmetric:0.4, 1 epochs, mixmatch** | 1 |")
    assert lines[0].endswith(f"| it shares its passes with the {1 - result['kept']:.0%} that are dropped |")
    assert lines[1].startswith("| digits, symmetric:0.4, 1 epochs, contrastive | 1 |")
    assert "does not help in 1 of 2 rows. It helps, in most seeds: digits, symmetric:0.4, 1 epochs, contrast" in text


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_cases_are_distinct_and_of_the_half(name: str, profile: Any, inputs: Inputs) -> None:
    for half, seeds in (("choosing", range(5)), ("judging", range(5, 10))):
        cases = SECTIONS[name].list_cases(replace(inputs, profile=profile, half=half))  # type: ignore[arg-type]  # of their literals
        assert cases
        assert len({str(sorted(case.items(), key=str)) for case in cases}) == len(cases)
        assert {case["half"] for case in cases} == {half}
        assert {int(case["seed"] or 0) for case in cases} <= set(seeds)


def test_the_published_protocol_has_its_network_and_stages() -> None:
    settings = make_settings({"data": "cifar10", "noise": "symmetric:0.4", "half": "judging", "seed": 5}, epochs=20)
    assert (settings.model, settings.rounds, settings.first_epochs, settings.epochs) == ("resnet34", 27, 70, 20)
    published = make_settings({"data": "cifar100", "seed": 5}, **stability.LOOPS["published"])
    assert (published.observe, published.weights, published.epochs) == ("members", "carry", 50)


def test_a_case_has_noise_of_its_seed_and_true_labels(inputs: Inputs) -> None:
    case: Case = {"data": "digits", "noise": "symmetric:0.4", "half": "judging", "seed": 5}
    first, again, other = (load_case({**case, "seed": seed}, inputs) for seed in (5, 5, 6))
    assert (first.y_train == again.y_train).all()
    assert (first.y_train != other.y_train).any()
    assert first.y_train_clean is not None
    assert (first.y_train_clean == load("digits").y_train).all()
    assert 1 - (first.y_train == first.y_train_clean).mean() == pytest.approx(0.36, abs=0.03)


def test_loops_that_lose_come_first_and_in_bold(tmp_path: Path) -> None:
    stable = {"threshold": [0.5, 0.5, 0.4], "f1": [0.8, 0.9, 0.95], "kept": [0.6] * 3, "jaccard": [0.9] * 3}
    stable |= {"accuracy": [0.7, 0.8, 0.8], "precision": [0.8, 0.9, 0.95], "recall": [0.8, 0.9, 0.95]}
    losing = {**stable, "f1": [0.8, 0.9, 0.5], "recall": [0.8, 0.9, 0.4], "threshold": [None, None, None]}
    rows = [
        _make_row("stability", {"data": "a", "noise": "n", "loop": loop, "half": "judging", "seed": seed}, result)
        for loop, result in (("all, pooled", stable), ("published", losing))
        for seed in (5, 6)
    ]
    text = stability.format_rows(rows, tmp_path)
    lines = _list_lines(text)
    assert lines[1].startswith("| **a, n, *published*** | 2 | 3.0 |")
    assert lines[1].endswith("| recall falls from 0.900 to 0.400 |")
    assert lines[2].startswith("| a, n, *all, pooled* | 2 |")
    assert "*published* loses F1 after round 1 in 1 of 1 rows (at worst -0.400, a, n)" in text
    assert "*all, pooled* loses F1 after round 1 in 0 of 1 rows" in text
    assert "moves by 0.100 a round at most" in text
    assert (tmp_path / "results-stability.svg").exists()


def test_a_fixed_threshold_that_is_ahead_says_where_the_fit_cuts(tmp_path: Path) -> None:
    fixed = {"0": 0.8, "0.25": 0.7, "0.5": 0.82, "0.75": 0.8}
    result = {"threshold": [0.4, 0.4], "precision": [0.9, 0.9], "recall": [0.7, 0.9], "f1": [0.8, 0.9], "auc": 0.9}
    result |= {"accuracy": [0.7, 0.8], "accuracy_true_set": 0.9, "fixed_f1": fixed}
    whole = {**result, "threshold": [None, 0.4]}
    high = {**result, "precision": [0.6, 0.9]}
    won = {**result, "fixed_f1": {**fixed, "0": 0.9}}
    rows = [
        _make_row(
            "first_experiments", {"data": "a", "noise": noise, "way": "fitted", "half": "judging", "seed": 5}, each
        )
        for noise, each in (("won", won), ("low", result), ("high", high), ("whole", whole))
    ]
    lines = [line for line in _list_lines(first_experiments.format_rows(rows, tmp_path)) if "0.700 | 0.8" in line]
    assert lines[0].startswith("| **a, high** |")
    assert lines[0].endswith("| F1 by 0.020: the fit cuts high, 40% of the kept labels are wrong |")
    assert lines[1].endswith("| F1 by 0.020: the fit cuts low, 30% of the right labels are dropped |")
    assert lines[2].endswith("| F1 by 0.020: the fit keeps everyone in 1 of 1 seeds |")
    assert lines[3].endswith("| 0.800 | - |")
    assert lines[3].startswith("| a, won |")


def test_fits_and_epochs_that_are_ahead_say_where_they_cut(tmp_path: Path) -> None:
    def make_row(noise: str, factor: float, f1: float, **others: float) -> Row:
        case: Case = {"data": "a", "noise": noise, "initial": 0, "factor": factor, "half": "judging", "seed": 5}
        fit = {"threshold": 0.5, "accuracy": 0.8, "verdict": "weak"}
        names = sensitivity.FITS if factor == 1 else [sensitivity.DEFAULT_FIT]
        fits = {name: {**fit, "f1": others.get(name, f1)} for name in names}
        if "grouped" in fits:
            fits["grouped"] |= {"threshold": None}
        return _make_row("sensitivity", case, {"epochs": round(20 * factor), "fits": fits})

    rows = [make_row("n", 1.0, 0.9, grouped=0.95), make_row("n", 2.0, 0.92), make_row("n", 0.5, 0.9)]
    text = sensitivity.format_rows([*rows, make_row("m", 2.0, 0.9)], tmp_path)
    lost = [line for line in _list_lines(text) if "**" in line]
    loss = "F1 by 0.0200: it cuts at 0.500, the default cuts at 0.500; accuracy +0.000; 2 times the passes |"
    assert lost[0].startswith("| **a, n, 40 epochs** | 1 |")
    assert lost[0].endswith(f"| {loss}")
    assert lost[1].startswith("| **a, n, `grouped`** | 1 |")
    assert lost[1].endswith("| F1 by 0.0500: it keeps everyone, the default cuts at 0.500; accuracy +0.000 |")
    assert len(lost) == 2
    assert "ahead of the default in F1 in 1 of 5 rows" in text


@pytest.mark.parametrize(
    ("best_cut", "reason"),
    [
        (0.96, "F1 by 0.1000, at the best cut by 0.0600: the full metric ranks better"),
        (0.94, "F1 by 0.1000, at the best cut by 0.0400: the fit to the full metric cuts at a better place"),
    ],
)
def test_the_full_metric_is_ahead_for_its_ranking_or_its_cut(best_cut: float, reason: str, tmp_path: Path) -> None:
    def make_row(noise: str, f1: float) -> Row:
        measures = {"auc": (0.9, 0.9), "best_f1": (0.9, best_cut), "f1": (0.8, f1)}
        result = {name: dict(zip(("mild-simple", "mild"), pair, strict=True)) for name, pair in measures.items()}
        counts = {"clean": [9, 1, 0], "mislabelled": [0, 1, 9]}
        case: Case = {"data": "a", "noise": noise, "model": "linear", "half": "judging", "seed": 5}
        return _make_row("scores", case, {**result, "counts": counts, "cut": 1, "verdict": "weak", "fits": {}})

    lines = _list_lines(scores.format_rows([make_row("n:1", 0.8), make_row("n:2", 0.9)], tmp_path))
    assert lines[1].startswith("| **a linear, n:2** | 1 |")
    assert lines[1].endswith(f"| {reason} |")
    assert lines[2].endswith("| 0.800 | 0.800 | - |")


def test_the_paired_test_is_that_of_scipy() -> None:
    gains = np.array([0.1, -0.2, 0.3, 0.4, 0.5, 0.0])
    p, effect = scores.compare_pairs(gains)
    assert p == pytest.approx(wilcoxon(gains[:-1]).pvalue)
    assert effect == pytest.approx((1 - 2 + 3 + 4 + 5) / 15)
    assert scores.compare_pairs(np.zeros(3)) == (1.0, 0.0)


def test_shifted_images_have_less_contrast() -> None:
    images = np.random.default_rng(0).integers(0, 2, (20, 16, 16, 3), dtype=np.uint8) * 200
    shifted = imbalance.shift_images(images, np.random.default_rng(1))
    assert shifted.mean() == pytest.approx(images.mean(), abs=3)
    assert shifted.std() < images.std() / 2


@pytest.mark.parametrize(
    ("accuracies", "precision", "recall", "reason"),
    [
        ((0.8, 0.9, 0.9), 0.5, 0.5, ""),
        ((0.8, 0.7, 0.8), 0.5, 0.5, "the true clean set brings nothing either"),
        ((0.8, 0.7, 0.9), 0.9, 0.6, "40% of the right labels are dropped"),
        ((0.8, 0.7, 0.9), 0.0, 0.0, "100% of the right labels are dropped"),
        ((0.8, 0.7, 0.9), 0.6, 0.9, "40% of the kept labels are wrong"),
    ],
)
def test_a_loss_of_accuracy_has_its_reason(
    accuracies: tuple[float, float, float], precision: float, recall: float, reason: str
) -> None:
    assert explain_accuracy(accuracies, precision, recall) == reason
