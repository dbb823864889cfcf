"""Why the rounds end: no signal, sets that agree, nobody left to train on, a plateau, or the cap."""

from collections.abc import Sequence

from mild_core.agreement import HeldOutAgreement
from mild_core.alarms import plateau
from mild_trainer.history import RoundRecord
from mild_trainer.progress import counted
from mild_trainer.settings import TrainSettings


def stopped(
    settings: TrainSettings, records: Sequence[RoundRecord], verified: HeldOutAgreement | None, n_next: int
) -> str | None:
    """Say why there is to be no further round; None where there is.

    Parameters
    ----------
    settings
        With the thresholds.
    records
        Finished rounds, oldest first.
    verified
        The held-out agreement, where it was asked for.
    n_next
        Whom the next round would be trained on.
    """
    if verified is not None and not verified.carries_signal:
        return "networks trained on half of the samples do not predict the others' labels better than by chance"
    if not records:
        return None
    last = records[-1]
    if len(records) > 1 and last.overlap >= settings.agree:
        return f"two consecutive clean sets agree (Jaccard {last.overlap:.3f}, asked {settings.agree:g})"
    if n_next < 2:
        return f"round {last.round} kept {counted(n_next, 'sample')}, and training takes at least 2"
    if (best := plateau(validated(records), settings.patience)) is not None:
        return (
            f"validation accuracy is at a plateau ({counted(settings.patience, 'round')} without a rise above "
            f"{best:.3f})"
        )
    if len(records) >= settings.rounds:
        return "the only round is done" if settings.rounds == 1 else f"all {settings.rounds} rounds are done"
    return None


def validated(records: Sequence[RoundRecord]) -> list[float]:
    """Validation accuracy of each round; empty where nobody was held out."""
    return [record.validation_accuracy for record in records if record.validation_accuracy is not None]
