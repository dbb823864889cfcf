"""The order of suspicion: samples by decreasing score, and those of equal score by what else is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import Annotations
from mild_core.results import Selection
from mild_core.scores import exclude_planted, find_always_planted, score_samples
from mild_core.selection import select
from mild_core.statistics import MAX_CLASSES
from mild_core.types import RoundBits, SelectionOptions


@dataclass(frozen=True, slots=True, eq=False)
class TieBreaks:
    """What orders samples of equal score, the first attribute first; shape (n_samples,) each, NaN where unknown.

    Attributes
    ----------
    posterior
        Probability of being mislabelled, by the fit of the sample's class where labels are known: the higher, the more
        suspicious.
    first_learned
        Epochs before the sample was first classified as labelled (the metric ``first-learned``): the more, the more
        suspicious.
    disagreement
        How far the rounds are apart (`compare_rounds`): the less, the more suspicious.
    """

    posterior: NDArray[np.floating]
    first_learned: NDArray[np.floating]
    disagreement: NDArray[np.floating]


def measure_tie_breaks(
    rounds: Sequence[RoundBits], selection: Selection, labels: NDArray[np.integer] | None = None
) -> TieBreaks:
    """Measure what orders samples of equal score. With labels, classes are fitted, which takes about another selection.

    Parameters
    ----------
    rounds
        The rounds that the selection was computed from, oldest first.
    selection
        The selection.
    labels
        Shape (n_samples,), the given labels; None if they are unknown.
    """
    options, posterior = selection.options, selection.noisy_posterior
    if labels is not None and not options.per_class and np.unique(labels).size <= MAX_CLASSES:
        by_class = SelectionOptions(options.metric, options.fit, options.evidence, per_class=True)
        posterior = select(rounds, by_class, Annotations(labels)).noisy_posterior
    used_rounds = rounds if options.evidence == "pooled" else rounds[-1:]
    always_planted = find_always_planted(used_rounds)
    differences = []
    for bits in used_rounds:
        own_bits = exclude_planted(bits.drop_empty_epochs(), always_planted)[0]
        if own_bits.n_epochs:
            differences.append(score_samples([own_bits], "mild-simple").values / own_bits.n_epochs)
    disagreement = compare_rounds(differences, selection.n_samples)
    return TieBreaks(posterior, score_samples(used_rounds, "first-learned").values, disagreement)


def compare_rounds(differences: Sequence[NDArray[np.floating]], n_samples: int) -> NDArray[np.floating]:
    """Return how far the rounds are apart in each sample, shape (n_samples,); 0 where fewer than two observed it.

    `differences` has the score ``mild-simple`` of each round alone by its number of epochs, shape (n_samples,) each:
    from -1, always memorised, to 1, always misclassified; NaN where the round has no score.
    """
    highest, lowest = np.full(n_samples, -np.inf), np.full(n_samples, np.inf)
    for difference in differences:
        np.fmax(highest, difference, out=highest)
        np.fmin(lowest, difference, out=lowest)
    return np.where(np.isfinite(highest), highest - lowest, 0.0)


def rank_by_suspicion(scores: NDArray[np.floating], ties: TieBreaks) -> NDArray[np.int64]:
    """Return the indices of all samples, the most suspicious first, shape (n_samples,).

    Samples without a score come last. Where all is equal, the order is that of the indices.

    Parameters
    ----------
    scores
        Shape (n_samples,), low is clean; NaN where a sample has none.
    ties
        What orders samples of equal score.
    """
    score, posterior, learned = (
        np.nan_to_num(-values.astype(np.float32), nan=np.inf) for values in (scores, ties.posterior, ties.first_learned)
    )
    return np.lexsort((ties.disagreement.astype(np.float32), learned, posterior, score)).astype(np.int64)
