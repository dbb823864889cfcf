"""The best of a run's finished rounds: by the audit, or else by how well their networks agree with held-out labels."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.evaluation import evaluate
from mild_service.conflicts import RoundsNotComparable
from mild_service.state import Round, Run

VALIDATION = "validation_accuracy"
"""The scalar of an epoch that compares rounds: the share of held-out labels that the network predicts."""


async def best_round(
    run: Run, rounds: Sequence[Round], audit: Audit, measurable: Callable[[Round], Awaitable[Bitmap]]
) -> int:
    """Number of the best finished round; of equals, the first.

    An audit that has found a clean sample compares the sets by their F1. Without one, the rounds are compared by the
    last `VALIDATION` of each, if all of them have one.

    Parameters
    ----------
    run, rounds
        The run, and its finished rounds.
    audit
        All that is known; empty where there is none.
    measurable
        Reads a round's set to hold against the audit, shape (n_bytes,).

    Raises
    ------
    RoundsNotComparable
        If there is nothing to compare, or nothing to compare by.
    """
    if not rounds:
        raise RoundsNotComparable(
            f"run {run.run_id!r} has 0 finished rounds, the best one is chosen among at least 1; "
            "finish a round, or ask for round=latest"
        )
    if audit.n_clean:
        return _first_best({held.number: evaluate(await measurable(held), None, audit).f1 for held in rounds})
    validated = {held.number: _validated(held) for held in rounds}
    if None in validated.values():
        n_known = sum(value is not None for value in validated.values())
        raise RoundsNotComparable(
            f"run {run.run_id!r} cannot compare its rounds: {n_known} of its {len(rounds)} finished rounds have a "
            f"{VALIDATION} and all need one, or 1 audited sample that is clean, got 0; put what was checked with "
            f"PUT /runs/{run.run_id}/audit, or {VALIDATION} among the metrics of every round's last epoch"
        )
    return _first_best(validated)


def _first_best(values: Mapping[int, float | None]) -> int:
    return max(sorted(values), key=lambda number: values[number] or 0.0)


def _validated(held: Round) -> float | None:
    """The last `VALIDATION` of a round; None where it has none."""
    told = [metrics[VALIDATION] for metrics in held.metrics.values() if VALIDATION in metrics]
    return told[-1] if told else None
