"""Alarms: sets of low measured quality, and accuracies that no longer rise.

The three alarms are those of the paper (arXiv 2306.11560). They are reported and never change a training: true labels
and the test set evaluate a training and must not steer it. Only a plateau of the accuracy on held-out given labels may
end one (`find_plateau`).
"""

from collections.abc import Mapping, Sequence

MIN_PRECISION = 0.9
MIN_RECALL = 0.5
PATIENCE = 2
"""Rounds without a rise of an accuracy that make a plateau."""
MIN_RISE = 0.002
"""Smallest difference of two accuracies that counts as a rise."""


def find_alarms(precision: float | None, recall: float | None, accuracies: Mapping[str, Sequence[float]]) -> list[str]:
    """Return one sentence for every alarm that holds after the last round; empty without an alarm.

    Parameters
    ----------
    precision, recall
        Measured precision and recall of the selection of the last round. A value of None, which stands for "not
        measured", raises no alarm.
    accuracies
        Accuracies at the end of every round, oldest first, by the name of the accuracy, such as ``test accuracy``.
    """
    messages = []
    if precision is not None and precision < MIN_PRECISION:
        messages.append(f"measured precision {precision:.3f} is below {MIN_PRECISION:.2f}")
    if recall is not None and recall < MIN_RECALL:
        messages.append(f"measured recall {recall:.3f} is below {MIN_RECALL:.2f}")
    for name, values in accuracies.items():
        if (best := find_plateau(values)) is not None:
            messages.append(f"{name} is at a plateau: {PATIENCE} rounds without a rise above {best:.3f}")
    return messages


def find_plateau(accuracies: Sequence[float], patience: int = PATIENCE) -> float | None:
    """Return the accuracy at which a training has reached a plateau, or None if it has not.

    A plateau is reached if none of the last `patience` rounds exceeds the best earlier accuracy by `MIN_RISE`.

    Parameters
    ----------
    accuracies
        Accuracy at the end of every round, oldest first.
    patience
        Number of rounds without a rise that make a plateau, at least 1.

    Returns
    -------
    float | None
        The best accuracy before the last `patience` rounds; None if there is no plateau, or no earlier round.
    """
    earlier, latest = accuracies[:-patience], accuracies[-patience:]
    if not earlier or max(latest) >= max(earlier) + MIN_RISE:
        return None
    return max(earlier)
