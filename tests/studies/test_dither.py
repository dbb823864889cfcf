"""The study of dither: which trainings it makes, one of them in small, and the order of its rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mild_trainer.settings import DEFAULTS
from studies.dither import NOISES, Case, Row, format_results, list_cases, run
from studies.heads import load_half
from studies.programme import Half

DITHER = float(DEFAULTS["features"]["dither"])
ROW = Row(Case("a", "symmetric:0.4", "linear", DITHER, "judging", 5), 0.9, 0.9, 0.8, 0.8, "weak", 0.4, 0.1, 0.1, 1.0)


def test_choosing_and_judging_share_neither_images_nor_seeds(tmp_path: Path) -> None:
    names: tuple[Half, Half] = ("choosing", "judging")
    halves = {half: list_cases(["a", "b"], half) for half in names}
    assert not {case.seed for case in halves["choosing"]} & {case.seed for case in halves["judging"]}
    np.savez(tmp_path / "a.npz", features=np.arange(40.0).reshape(20, 2), labels=np.arange(20) % 2)
    np.savez(tmp_path / "human.npz", c10_worse_label=np.arange(30) % 2)
    human = tmp_path / "human.npz"
    data = [load_half(tmp_path / "a.npz", human, "human:worse", half, seed=0) for half in halves]
    parts = [list(range(0, 20, 2)), list(range(20, 40, 2))]
    assert [half.x_train[:, 0].tolist() for half in data] == parts
    assert [half.x_test[:, 0].tolist() for half in data] == parts[::-1]


def test_a_training_ranks_wrong_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    features = 2 * np.eye(3)[labels] @ rng.standard_normal((3, 20)) + rng.standard_normal((600, 20))
    np.savez(tmp_path / "a.npz", features=features, labels=labels)
    case = Case("a", "symmetric:0.4", "linear", DITHER, "judging", 5)
    row = run(case, load_half(tmp_path / "a.npz", None, case.noise, case.half, case.seed))
    assert row.wrong == pytest.approx(0.27, abs=0.03)
    assert row.auc > 0.9
    assert row.loss_auc > 0.9


def test_lost_rows_come_first() -> None:
    won = [replace(ROW, case=replace(ROW.case, noise=noise)) for noise in NOISES[:2]]
    lost = replace(ROW, case=replace(ROW.case, noise=NOISES[3]), auc=0.7)
    rows = [*won, lost]
    plain = [replace(row, case=replace(row.case, dither=0.0)) for row in rows]
    lines = [line for line in format_results([*rows, *plain]).splitlines() if "a, linear" in line]
    assert len(lines) == 3
    assert lines[0].startswith(f"| **a, linear, {NOISES[3]}** | 1 | 0.700 |")
