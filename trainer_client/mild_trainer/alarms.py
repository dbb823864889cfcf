"""The alarms (`mild_core.alarms`) of a training's rounds."""

from collections.abc import Sequence

from mild_core.alarms import alarms as alarms_of
from mild_trainer.history import RoundRecord
from mild_trainer.stops import validated


def alarms(rounds: Sequence[RoundRecord]) -> list[str]:
    """What is alarming after the last of `rounds`, a sentence each.

    Precision and recall are those against the truth, or else those that the run's audit measures; where neither is
    known they raise no alarm.
    """
    accuracies = {
        "test accuracy": [record.test_accuracy for record in rounds],
        "validation accuracy": validated(rounds),
    }
    return alarms_of(*_measured(rounds[-1]), accuracies)


def _measured(record: RoundRecord) -> tuple[float | None, float | None]:
    """Precision and recall of a round's set; None where nobody knows."""
    if record.agreement is not None:
        return record.agreement.precision, record.agreement.recall
    audited = record.summary.get("measured") or {}
    return audited.get("precision"), audited.get("recall")
