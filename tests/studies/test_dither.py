"""The study of dither: which trainings it makes, one of them in small, and the order of its rows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.recordings import Half
from studies import dither, runner
from studies.dither import DEFAULT, NOISES
from studies.heads import load_half
from studies.programme import Case, Inputs, Row, Section, read_rows

SECTION: Section = dither


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Features of three classes that a head tells apart, most of the time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    features = 2 * np.eye(3)[labels] @ rng.standard_normal((3, 20)) + rng.standard_normal((600, 20))
    np.savez(tmp_path / "a.npz", features=features, labels=labels)
    np.savez(tmp_path / "cifar-n-labels.npz", c10_worse_label=labels)
    return Inputs("cpu", "judging", tmp_path, {"a": tmp_path / "a.npz", "b": tmp_path / "a.npz"})


def make_row(noise: str, level: float, half: Half = "judging", **values: float | str) -> Row:
    """Return a row in which the bits are ahead, unless `values` say otherwise."""
    result: Mapping[str, Any] = {"auc": 0.9, "f1": 0.9, "loss_auc": 0.8, "loss_f1": 0.8, "everyone_f1": 0.7}
    case: Case = {"features": "a", "noise": noise, "weight_decay": None, "dither": level, "half": half, "seed": 5}
    return Row("dither", case, {**result, "verdict": "weak", "always": 0.1, "never": 0.1, **values}, 1.0, "machine")


def test_choosing_and_judging_share_neither_images_nor_seeds(tmp_path: Path, inputs: Inputs) -> None:
    names: tuple[Half, Half] = ("choosing", "judging")
    halves = {half: SECTION.list_cases(replace(inputs, half=half)) for half in names}
    assert not {case["seed"] for case in halves["choosing"]} & {case["seed"] for case in halves["judging"]}
    assert {case["features"] for case in halves["choosing"]} == {"a", "b"}
    np.savez(tmp_path / "few.npz", features=np.arange(40.0).reshape(20, 2), labels=np.arange(20) % 2)
    data = [load_half(tmp_path / "few.npz", inputs.human_labels, "human:worse", half, seed=0) for half in halves]
    parts = [list(range(0, 20, 2)), list(range(20, 40, 2))]
    assert [half.x_train[:, 0].tolist() for half in data] == parts
    assert [half.x_test[:, 0].tolist() for half in data] == parts[::-1]


def test_a_training_ranks_wrong_labels(inputs: Inputs) -> None:
    case = make_row("symmetric:0.4", DEFAULT).case
    assert case.keys() == SECTION.list_cases(inputs)[0].keys()
    (settings,) = dither.list_settings({**case, "weight_decay": 0.1, "dither": 0.0})
    assert (settings.weight_decay, settings.dither, settings.epochs) == (0.1, 0.0, dither.EPOCHS)
    result = SECTION.run_case(case, inputs)
    assert result["everyone_f1"] == pytest.approx(2 * 0.73 / 1.73, abs=0.03)
    assert result["auc"] > 0.9
    assert result["loss_auc"] > 0.9
    assert result.keys() == make_row("none", 0.0).result.keys()


def test_lost_rows_come_first_with_the_reason(tmp_path: Path) -> None:
    won = [make_row(noise, DEFAULT) for noise in NOISES[:2]]
    lost = make_row(NOISES[3], DEFAULT, auc=0.7, f1=0.6, verdict="unimodal")
    rows = [*won, lost]
    plain = [replace(row, case={**row.case, "dither": 0.0}) for row in rows]
    lines = [
        line for line in SECTION.format_rows([*rows, *plain], tmp_path).splitlines() if "| a, " in line or "**a" in line
    ]
    assert len(lines) == 3
    assert lines[0].startswith(f"| **a, {NOISES[3]}** | 1 | 0.700 |")
    assert lines[0].endswith(
        "| AUC: the mean loss by 0.100, it sums real numbers; F1: the mixture on the mean loss by 0.200; "
        "1 of 1 verdicts keep everyone |"
    )
    assert lines[1].endswith("| 1 weak | - |")


def test_the_page_is_made_from_the_rows() -> None:
    rows = runner.find_current_rows(read_rows(dither.STUDY.rows))
    assert rows
    assert dither.format_page(rows) == (dither.RESULTS / "dither.md").read_text()
