"""What a reader of the dashboard should look at, a sentence each."""

from collections.abc import Sequence

from mild_core.alarms import alarms as of_rounds
from mild_service.best import VALIDATION
from mild_service.state import Round, Run

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
        for name, scalar in (("test accuracy", "test_accuracy"), ("validation accuracy", VALIDATION))
    }
    found = of_rounds(None, None, accuracies)
    if run.status == "failed":
        found.append("the training has failed")
    if run.status == "running" and now - run.updated_at > _SILENT_SECONDS:
        found.append("nothing has come for more than an hour, though the run is not finished")
    return found
