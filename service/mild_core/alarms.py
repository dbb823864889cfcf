"""What a person should look at: sets that are measured to be bad, and rounds that bring nothing any more.

The three alarms are those of the paper. They are told and never acted upon: the truth and the test set are there to
judge a training, not to steer it.
"""

from collections.abc import Sequence

LEAST_PRECISION = 0.9
LEAST_RECALL = 0.5
PATIENCE = 2
"""Rounds without a rise of the test accuracy that make a plateau."""
RISE = 0.002
"""Least rise of the test accuracy that counts as one."""


def alarms(precision: float | None, recall: float | None, test_accuracies: Sequence[float]) -> list[str]:
    """What is alarming after the last of some rounds, a sentence each.

    Parameters
    ----------
    precision, recall
        Of the last round's set, as measured; None where nobody knows raises no alarm.
    test_accuracies
        At the end of each round, oldest first.
    """
    found = []
    if precision is not None and precision < LEAST_PRECISION:
        found.append(f"measured precision {precision:.3f} is below {LEAST_PRECISION:.2f}")
    if recall is not None and recall < LEAST_RECALL:
        found.append(f"measured recall {recall:.3f} is below {LEAST_RECALL:.2f}")
    before, recent = test_accuracies[:-PATIENCE], test_accuracies[-PATIENCE:]
    if before:
        best = max(before)
        if max(recent) < best + RISE:
            found.append(f"test accuracy is at a plateau: {PATIENCE} rounds without a rise above {best:.3f}")
    return found
