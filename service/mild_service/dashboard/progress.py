"""Progress of a run: its learning curve, its alarms and its random audit, which the dashboard shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.alarms import find_alarms, find_held_out_alarms
from mild_core.audit import Audit
from mild_core.draw import DrawChoice
from mild_service.models import Round, Run
from mild_service.selecting.selections import VALIDATION_METRIC


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The learning curve of a run: the epochs of all rounds, one after the other.

    Attributes
    ----------
    rows
        Per epoch: the round, the epoch, the share of the observed samples whose given label was predicted, and the
        accuracies. None stands for missing values.
    accuracies
        Names of the accuracies in `rows`.
    """

    rows: list[list[float | None]]
    accuracies: list[str]

    def chart_data(self) -> dict[str, Any]:
        """Return the data of the chart: one list per column, and the names of the accuracies."""
        columns = [list(column) for column in zip(*self.rows, strict=True)] or [[] for _ in range(3)]
        return {"columns": columns, "accuracies": self.accuracies}


def build_learning_curve(run: Run, rounds: Sequence[Round]) -> LearningCurve:
    """Build the learning curve of a run from the stored counts of its epochs."""
    scalars = {name for round_ in rounds for metrics in round_.metrics.values() for name in metrics}
    accuracies = sorted(name for name in scalars if "accuracy" in name)
    rows: list[list[float | None]] = []
    for round_ in rounds:
        members_only = run.spec.observe == "members" and round_.members is not None
        n_expected = round_.members.n_members if round_.members and members_only else run.spec.num_samples
        for number in sorted({*round_.epochs, *round_.metrics}):
            epoch, metrics = round_.epochs.get(number), round_.metrics.get(number, {})
            share = None
            if epoch is not None and (n_observed := n_expected if epoch.n_observed is None else epoch.n_observed):
                share = epoch.n_correct / n_observed
            rows.append([round_.number, number, share, *(metrics.get(name) for name in accuracies)])
    return LearningCurve(rows, accuracies)


_MAX_SILENT_SECONDS = 3600.0


def find_run_alarms(run: Run, rounds: Sequence[Round], now: float) -> list[str]:
    """Return the alarms of a run, one sentence each.

    Parameters
    ----------
    run, rounds
        The run, and all or the last few of its rounds.
    now
        Unix time in seconds.
    """
    last_metrics = [round_.metrics[max(round_.metrics)] for round_ in rounds if round_.finished and round_.metrics]
    accuracies = {
        name: [metrics[scalar] for metrics in last_metrics if scalar in metrics]
        for name, scalar in (("test accuracy", "test_accuracy"), ("validation accuracy", VALIDATION_METRIC))
    }
    alarms = [*find_alarms(None, None, accuracies), *_find_held_out_alarms(run, rounds)]
    if run.status == "failed":
        alarms.append("the training has failed")
    if run.status == "running" and now - run.updated_at > _MAX_SILENT_SECONDS:
        alarms.append("no data for more than an hour, although the run is not finished")
    return alarms


def _find_held_out_alarms(run: Run, rounds: Sequence[Round]) -> list[str]:
    """Return how the validation accuracy of the last finished round speaks against its fit."""
    last = next((round_ for round_ in reversed(rounds) if round_.finished and round_.metrics), None)
    if last is None or last.selection is None:
        return []
    accuracy = last.metrics[max(last.metrics)].get(VALIDATION_METRIC)
    if accuracy is None:
        return []
    noise = last.selection["fitted"]["noise_rate"]
    chance = None if run.spec.num_classes is None else 1 / run.spec.num_classes
    return find_held_out_alarms(accuracy, None, chance, None if noise is None else noise["low"])


@dataclass(frozen=True, slots=True, eq=False)
class DrawProgress:
    """The draw of a run's audit, and which of its samples are answered.

    Attributes
    ----------
    choice
        The selection that was recorded with the draw.
    indices
        Shape (n,), the drawn samples, ascending.
    answered
        Shape (n,), whether each of them is marked.
    """

    choice: DrawChoice
    indices: NDArray[np.int64]
    answered: NDArray[np.bool_]

    @property
    def n_answered(self) -> int:
        """Number of marked samples."""
        return int(self.answered.sum())

    @property
    def is_complete(self) -> bool:
        """Whether every drawn sample is marked."""
        return bool(self.answered.all())

    def find_next_unanswered(self, index: int) -> int | None:
        """Return the first drawn sample without a mark after `index`, or else before it; None if all are marked."""
        open_samples = self.indices[~self.answered]
        later = open_samples[open_samples > index]
        return int((later if later.size else open_samples)[0]) if open_samples.size else None

    def answer(self, index: int) -> Self:
        """Return the draw with one more answer."""
        return replace(self, answered=self.answered | (self.indices == index))


def find_draw(run: Run, audit: Audit) -> DrawProgress | None:
    """Return the draw of a run's audit; None without one."""
    if run.draw is None:
        return None
    indices = bitmap.first_indices(audit.drawn, audit.n_drawn)
    return DrawProgress(run.draw, indices, bitmap.get_sample_bits(audit.checked, indices))
