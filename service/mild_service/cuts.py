"""Every cut of a selection as JSON values, read off a fit that was kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mild_core.evaluation import Evaluation
from mild_core.results import Curves, Estimate, Histogram
from mild_core.sweep import Cut, sweep


def document(
    fit: Mapping[str, Any], measured: Sequence[Evaluation] | None = None, by_mark: bool = False
) -> dict[str, Any]:
    """The sweep of a selection.

    Parameters
    ----------
    fit
        As `Selections.fit` gives it.
    measured
        What an audit says of each cut; None measures nothing.
    by_mark
        Whoever was checked is kept by their mark, whatever the cut.
    """
    curves, grid = fit["curves"], fit["histogram"]
    found = sweep(
        grid and Histogram(grid["origin"], grid["width"], np.array(grid["counts"])),
        curves and Curves(**{name: np.array(rows) for name, rows in curves.items()}),
        measured,
        by_mark,
    )
    head = {name: fit[name] for name in ("run_id", "round", "provisional", "metric", "threshold", "verdict")}
    return {**head, "cuts": [_cut(cut) for cut in found]}


def _cut(cut: Cut) -> dict[str, Any]:
    measured = cut.measured
    return {
        "cut": cut.cut,
        "value": cut.value,
        "num_kept": cut.kept,
        "estimated": {**_estimated("precision", cut.precision), **_estimated("recall", cut.recall)},
        "measured": measured and {"precision": measured.precision, "recall": measured.recall, "f1": measured.f1},
    }


def _estimated(name: str, found: Estimate | None) -> dict[str, float | None]:
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
