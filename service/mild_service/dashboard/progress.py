"""The course of a run: what is known of each epoch without reading a bit.

What a reader of the dashboard should look at, a sentence each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mild_core.alarms import find_alarms
from mild_service.models import Round, Run
from mild_service.selecting.selections import VALIDATION_METRIC


@dataclass(frozen=True, slots=True)
class Course:
    """Epochs of all rounds, one behind the other.

    Attributes
    ----------
    rows
        Round, epoch, share of the observed samples whose given label was predicted, then the accuracies; None where one
        is missing.
    accuracies
        Names of the scalars that are accuracies.
    """

    rows: list[list[float | None]]
    accuracies: list[str]

    def drawn(self) -> dict[str, Any]:
        """For the chart: a list per column."""
        columns = [list(column) for column in zip(*self.rows, strict=True)] or [[] for _ in range(3)]
        return {"columns": columns, "accuracies": self.accuracies}


def course_of(run: Run, rounds: Sequence[Round]) -> Course:
    """The course of the rounds of a run."""
    scalars = {name for held in rounds for metrics in held.metrics.values() for name in metrics}
    accuracies = sorted(name for name in scalars if "accuracy" in name)
    rows: list[list[float | None]] = []
    for held in rounds:
        members_only = run.spec.observe == "members" and held.members is not None
        n_expected = held.members.n_members if held.members and members_only else run.spec.num_samples
        for number in sorted({*held.epochs, *held.metrics}):
            epoch, metrics = held.epochs.get(number), held.metrics.get(number, {})
            share = None
            if epoch is not None and (n_observed := n_expected if epoch.n_observed is None else epoch.n_observed):
                share = epoch.n_correct / n_observed
            rows.append([held.number, number, share, *(metrics.get(name) for name in accuracies)])
    return Course(rows, accuracies)


_SILENT_SECONDS = 3600.0


def of_run(run: Run, rounds: Sequence[Round], now: float) -> list[str]:
    """What is alarming about a run.

    Parameters
    ----------
    run, rounds
        As they stand; the rounds may be the last few only.
    now
        Unix time in seconds.
    """
    last = [held.metrics[max(held.metrics)] for held in rounds if held.finished and held.metrics]
    accuracies = {
        name: [metrics[scalar] for metrics in last if scalar in metrics]
        for name, scalar in (("test accuracy", "test_accuracy"), ("validation accuracy", VALIDATION_METRIC))
    }
    found = find_alarms(None, None, accuracies)
    if run.status == "failed":
        found.append("the training has failed")
    if run.status == "running" and now - run.updated_at > _SILENT_SECONDS:
        found.append("nothing has come for more than an hour, though the run is not finished")
    return found
