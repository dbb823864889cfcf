"""What a person should look at: sets that are measured to be bad, and rounds that bring nothing any more.

The three alarms are those of the paper. They are told and not acted upon: the truth and the test set are there to judge
a training, not to steer it. Only a plateau of the accuracy on held-out labels may end one (`plateau`).
"""

from collections.abc import Mapping, Sequence

LEAST_PRECISION = 0.9
LEAST_RECALL = 0.5
PATIENCE = 2
"""Rounds without a rise of an accuracy that make a plateau."""
RISE = 0.002
"""Least rise of an accuracy that counts as one."""


def alarms(precision: float | None, recall: float | None, accuracies: Mapping[str, Sequence[float]]) -> list[str]:
    """What is alarming after the last of some rounds, a sentence each.

    Parameters
    ----------
    precision, recall
        Of the last round's set, as measured; None where nobody knows raises no alarm.
    accuracies
        By what they are called, such as ``test accuracy``: at the end of each round, oldest first.
    """
    found = []
    if precision is not None and precision < LEAST_PRECISION:
        found.append(f"measured precision {precision:.3f} is below {LEAST_PRECISION:.2f}")
    if recall is not None and recall < LEAST_RECALL:
        found.append(f"measured recall {recall:.3f} is below {LEAST_RECALL:.2f}")
    for name, course in accuracies.items():
        if (best := plateau(course)) is not None:
            found.append(f"{name} is at a plateau: {PATIENCE} rounds without a rise above {best:.3f}")
    return found


def plateau(accuracies: Sequence[float], patience: int = PATIENCE) -> float | None:
    """Best accuracy before the last `patience` rounds, where none of these has risen above it by `RISE`; else None.

    Parameters
    ----------
    accuracies
        At the end of each round, oldest first.
    patience
        1 and up.
    """
    before, recent = accuracies[:-patience], accuracies[-patience:]
    if not before or max(recent) >= max(before) + RISE:
        return None
    return max(before)
