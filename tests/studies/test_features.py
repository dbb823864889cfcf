"""The section of the features: what a case measures, and the tables of the peers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from benchmarks import judges, truth
from studies import features, peer_tables
from studies.peer_tables import EVERYONE, OURS, PEERS, RIGHT
from studies.programme import Case, Inputs, Row

PEER = "AUM, threshold samples"


def make_row(noise: str, ours: float, peer: float, verdict: str = "weak", seed: int = 5) -> Row:
    """Return a row in which all methods have an F1 and an AUC of 0.5, ours and one peer others."""
    values: dict[str, Any] = dict.fromkeys(("auc", "f1", "best_f1", "found", "accuracy"), 0.5)
    methods = {name: dict(values) for name in PEERS} | {RIGHT: {"accuracy": 0.9}}
    methods[PEER] |= {"f1": peer}
    methods[OURS] = {**values, "f1": ours, "auc": 0.8, "best_f1": 0.95}
    case: Case = {"features": "lite2", "noise": noise, "half": "judging", "seed": seed}
    with_prior = {OURS: {**methods[OURS], "f1": 0.97}, "AUM, same passes": {**values, "auc": 0.9}}
    verdicts = {"verdict": verdict, "verdict_with_prior": "separable"}
    result = {"methods": methods, "methods_with_prior": with_prior, **verdicts, "noise_rate": 0.4}
    return Row("features", case, result, 1.0, "machine")


@pytest.mark.slow
def test_a_case_measures_every_method(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 1200)
    vectors = 2 * np.eye(3)[labels] @ rng.standard_normal((3, 20)) + rng.standard_normal((1200, 20))
    np.savez(tmp_path / "a.npz", features=vectors.astype(np.float32), labels=labels)
    inputs = Inputs("cpu", "judging", None, {"a": tmp_path / "a.npz"})
    noises = [case["noise"] for case in features.list_cases(inputs)]
    assert "pairflip:0.4" in noises
    assert "human:worse" not in noises
    case: Case = {"features": "a", "noise": "symmetric:0.4", "half": "judging", "seed": 5}
    result = features.run_case(case, inputs)
    methods = result["methods"]
    assert set(methods) == {OURS, RIGHT, *PEERS}
    assert result["noise_rate"] == pytest.approx(0.27, abs=0.03)
    assert methods[EVERYONE]["f1"] == pytest.approx(2 * 0.73 / 1.73, abs=0.03)
    assert min(methods[name]["auc"] for name in (OURS, *PEERS[:-1])) > 0.8
    for measure in ("auc", "best_f1", "found"):  # wrong events are our score
        assert methods[OURS][measure] == methods["wrong events, beta mixture"][measure]
    assert methods[RIGHT]["accuracy"] > 0.9
    with_prior = result["methods_with_prior"]
    assert set(with_prior) < set(methods)
    assert with_prior[OURS]["auc"] == with_prior["wrong events, beta mixture"]["auc"]
    assert with_prior[OURS]["auc"] > 0.8
    assert "accuracy" in with_prior[OURS]


def test_lost_rows_come_first_with_the_reason(tmp_path: Path) -> None:
    rows = [make_row("none", 0.9, 0.8), make_row("symmetric:0.4", 0.9, 0.92, "unimodal")]
    text = peer_tables.format_comparison(rows, tmp_path / "plot.svg")
    first, second = (line for line in text.splitlines() if "0.800 (0.800" in line)
    assert first.startswith("| **lite2, symmetric:0.4** | 1 | 0.400 |")
    assert f"F1: {PEER} by 0.020" in first
    assert "the best one cut of our scores has 0.950; 1 of 1 verdicts keep everyone" in first
    assert second.startswith("| lite2, none | 1 |")
    assert second.endswith("| - |")
    assert "in 1 of 2 rows, on AUC in 2, on F1 in 1; behind by more than 0.01 in 1, and by 0.020 at most" in text
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_what_a_class_prior_changes_stands_before_the_peers_that_get_it_too() -> None:
    text = peer_tables.format_prior_comparison([make_row("symmetric:0.4", 0.9, 0.92)])
    assert "| lite2, symmetric:0.4 | 0.800 | 0.800 | 0.900 | 0.970 | 0.500 | 0.500 | 0.500 | 0.900 |" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| **lite2"))
    assert "| 0.900, AUM, same passes | 0.970 (0.970 to 0.970) | 0.920, AUM, threshold samples |" in line
    assert "1 separable" in line


def test_a_method_has_one_colour_in_both_panels() -> None:
    row = make_row("symmetric:0.4", 0.9, 0.8)
    row.result["methods"]["AUM, same passes"] = {"auc": 0.9, "f1": None}  # in the first panel alone
    figure = peer_tables.plot_groups(peer_tables.group_rows([row]))
    colours = [
        {str(points.get_label()): to_hex(np.asarray(points.get_facecolor())[0]) for points in axes.collections}
        for axes in figure.axes
    ]
    assert colours[0].keys() - colours[1].keys() == {"AUM, same passes"}
    assert all(colours[0][name] == colours[1][name] for name in colours[0].keys() & colours[1].keys())


def test_it_is_said_where_training_on_everyone_is_better(tmp_path: Path) -> None:
    rows = [make_row(f"symmetric:0.{rate}", 0.9, 0.8) for rate in (2, 4, 6)]
    for row, accuracy in zip(rows, (0.4, 0.5, 0.6), strict=True):
        row.result["methods"][OURS]["accuracy"] = accuracy
    text = peer_tables.format_comparison(rows, tmp_path / "plot.svg")
    assert "our set is ahead in 1 of 3 rows, level in 1 and behind in 1.\n" in text


def test_the_headline_has_a_line_for_each_noise_that_is_there() -> None:
    rows = [make_row("human:worse", 0.9, 0.8, seed=5), make_row("human:worse", 0.8, 0.8, seed=6)]
    lines = peer_tables.format_headline(rows, "lite2", ("human:worse", "none"), "[x](y)")
    assert lines == [f"| [x](y) | human:worse | 0.850 (0.800 to 0.900); 0.970 | 0.800, {PEER} | 0.500 |"]


def test_ties_are_found_in_random_order() -> None:
    clean = np.array([True, True, False, False])
    assert truth.measure_found_share(np.array([0.0, 1.0, 1.0, 1.0]), clean) == pytest.approx(2 / 3)
    assert truth.measure_found_share(np.array([0.0, 0.0, 1.0, 1.0]), clean) == 1.0
    assert truth.measure_found_share(np.zeros(2), clean[:2]) is None


def test_wrong_events_are_counted_and_cut_between_the_two_groups() -> None:
    correct = np.ones((20, 100), dtype=bool)
    correct[:18, 70:] = False
    correct[:2, :40] = False
    judgement = judges.judge_by_wrong_events(correct)
    assert judgement.kept is not None
    assert judgement.suspicion.tolist() == [2] * 40 + [0] * 30 + [18] * 30
    assert (judgement.kept == (np.arange(100) < 70)).all()


def test_neighbours_outvote_a_wrong_label() -> None:
    angles = np.concatenate([np.linspace(0, 0.1, 20), np.linspace(1, 1.1, 20)])
    labels = np.repeat([0, 1], 20)
    labels[5] = 1
    judgement = judges.judge_by_neighbours(np.stack([np.cos(angles), np.sin(angles)], axis=1), labels, 2)
    assert judgement.kept is not None
    assert np.flatnonzero(~judgement.kept).tolist() == [5]
    assert judgement.suspicion.argmax() == 5
