"""Alarms: sets of low measured quality, accuracies that no longer rise, and fits that held-out labels contradict.

The first three are those of the paper (arXiv 2306.11560). They are reported and never change a training: true labels
and the test set evaluate a training and must not steer it. Only a plateau of the accuracy on held-out given labels may
end one (`find_plateau`).
"""

from collections.abc import Mapping, Sequence

from mild_core.agreement import REQUIRED_ERRORS
from mild_core.proportions import bound_share

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


def find_held_out_alarms(
    accuracy: float, n_samples: int | None, chance: float | None, fitted_noise: float | None
) -> list[str]:
    """Return one sentence for every way in which held-out labels speak against a fit.

    Parameters
    ----------
    accuracy
        Share of the held-out samples whose given label a network predicts that was not trained on them.
    n_samples
        Number of held-out samples; None if it is unknown, which leaves their noise out.
    chance
        Share that agrees by chance; None if it is unknown or was compared with already.
    fitted_noise
        Lower end of the fitted noise rate; None without a fit.

    Notes
    -----
    A network that predicts true classes agrees with no more than the right labels, so the noise rate is at most one
    minus its agreement. Where wrong labels follow a pattern, a network can predict these, too.
    """
    lowest = accuracy if n_samples is None else float(bound_share(accuracy, n_samples)[0])
    noise_bound = 1 - lowest
    messages = []
    if chance is not None:
        error = 0.0 if n_samples is None else REQUIRED_ERRORS * (chance * (1 - chance) / n_samples) ** 0.5
        if accuracy <= chance + error:
            messages.append(
                f"{accuracy:.1%} of the held-out labels are predicted, by chance {chance:.1%}: the labels carry no "
                "signal, or the network does not generalise, and the set means nothing"
            )
    if fitted_noise is not None and fitted_noise > noise_bound:
        messages.append(
            f"the fit finds {fitted_noise:.1%} wrong labels or more, but {accuracy:.1%} of the held-out labels are "
            f"predicted, so at most {noise_bound:.1%} are wrong, unless wrong labels can be predicted: the fit may "
            "take hard samples for mislabelled ones"
        )
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
