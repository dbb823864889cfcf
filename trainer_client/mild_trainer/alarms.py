"""What a person should look at: sets that are measured to be bad, and rounds that bring nothing any more.

The three alarms are those of the paper. They are told and never acted upon: the truth and the test set are there to
judge a training, not to steer it.
"""

from collections.abc import Sequence

from mild_trainer.history import RoundRecord

LEAST_PRECISION = 0.9
LEAST_RECALL = 0.5
PATIENCE = 2
"""Rounds without a rise of the test accuracy that make a plateau."""
RISE = 0.002
"""Least rise of the test accuracy that counts as one."""


def alarms(rounds: Sequence[RoundRecord]) -> list[str]:
    """What is alarming after the last of `rounds`, a sentence each.

    Precision and recall are those against the truth, or else those that the run's audit measures; where neither is
    known they raise no alarm.
    """
    precision, recall = _measured(rounds[-1])
    found = []
    if precision is not None and precision < LEAST_PRECISION:
        found.append(f"measured precision {precision:.3f} is below {LEAST_PRECISION:.2f}")
    if recall is not None and recall < LEAST_RECALL:
        found.append(f"measured recall {recall:.3f} is below {LEAST_RECALL:.2f}")
    before, recent = rounds[:-PATIENCE], rounds[-PATIENCE:]
    if before:
        best = max(record.test_accuracy for record in before)
        if max(record.test_accuracy for record in recent) < best + RISE:
            found.append(f"test accuracy is at a plateau: {PATIENCE} rounds without a rise above {best:.3f}")
    return found


def _measured(record: RoundRecord) -> tuple[float | None, float | None]:
    """Precision and recall of a round's set; None where nobody knows."""
    if record.agreement is not None:
        return record.agreement.precision, record.agreement.recall
    audited = record.summary.get("measured") or {}
    return audited.get("precision"), audited.get("recall")
