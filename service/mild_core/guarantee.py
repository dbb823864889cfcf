"""Error control by a random audit: a cut with a bounded share of wrong labels, and bounds that hold for any noise.

`n` of `N` samples are drawn uniformly, without looking at them, and every drawn label is checked. What follows from the
answers does not depend on the noise, the network or the scores. All functions take counts by cut, for samples sorted
into bins whose scores ascend:

- `sizes`, shape (n_cuts,): samples up to each cut; the last one is `N`;
- `drawn`, `wrong`, shape (..., n_cuts): drawn samples up to each cut, and those of them found mislabelled. Leading axes
  are independent draws.

Sources: Jin and Candes, *Selection by Prediction with Conformal p-values* (JMLR 2023, arXiv 2210.01408); Benjamini and
Hochberg, *Controlling the False Discovery Rate* (1995).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mild_core.mixture.weibull import Floats
from mild_core.partial_observation import compute_hypergeometric_pmf

Counts = NDArray[np.int64]

UPPER_ERROR = 0.1
"""Probability that `upper` is too low."""
BOUND_ERROR = 0.05
"""Probability that the bounds of precision, and those of the dropped clean samples, are wrong at any cut."""
MAX_BOUND_CUTS = 10
"""Cuts at which exact limits are computed: they share the error, so more cuts make every limit wider."""
SMALLEST_BOUND_SHARE = 0.25
"""Share of the samples that the smallest of these cuts keeps at least."""


class DrawCounts(NamedTuple):
    """Counts of the samples, of the drawn ones and of those found mislabelled, up to each cut.

    Attributes
    ----------
    sizes, drawn, wrong
        Shape (n_cuts,) each.
    """

    sizes: Counts
    drawn: Counts
    wrong: Counts


def conformal_cut(sizes: Counts, drawn: Counts, wrong: Counts, alpha: float) -> Counts:
    """Find the largest cut whose expected share of wrong labels is at most `alpha`.

    Averaged over draws, the share of wrong labels among the kept samples that were not drawn is at most `alpha`, an
    empty set counting as 0. For a single draw it may be larger.

    Returns
    -------
    Counts
        Shape (...), the cut; -1 where no cut reaches `alpha`.

    Notes
    -----
    A sample with score ``t`` has the conformal p-value ``(1 + wrong(t)) / (n + 1)`` for the hypothesis that its label
    is wrong: if it is, its score is as likely to have any rank among those of the drawn wrong labels. The procedure of
    Benjamini and Hochberg on the ``N - n`` p-values of the other samples keeps scores up to the largest ``t`` with::

        (N - n) (1 + wrong(t)) / (n + 1)  <=  alpha (size(t) - drawn(t))
    """
    n_samples, n_drawn = sizes[..., -1:], drawn[..., -1:]
    passes = (n_samples - n_drawn) * (1 + wrong) <= alpha * (n_drawn + 1) * (sizes - drawn)
    return _last(passes)


def precision_cut(sizes: Counts, drawn: Counts, wrong: Counts, target: float) -> Counts:
    """Find the largest cut whose bound of precision is at least `target`; -1 where there is none.

    The bounds hold at all cuts at once, so they hold at this one, although the answers choose it.
    """
    precision, _ = bound_quality(sizes, drawn, wrong)
    return _last((precision >= target - 1e-9) & (sizes > 0))


def limit_undrawn_wrong(sizes: Counts, drawn: Counts, wrong: Counts, error: float = UPPER_ERROR) -> Counts:
    """Bound the wrong labels among the samples up to each cut that were not drawn, at all cuts at once.

    Returns
    -------
    Counts
        Shape (..., n_cuts), upper limits; the probability that any of them is too low is at most `error`.

    Notes
    -----
    Exact limits (`limit_wrong`) at few cuts, chosen from `sizes` alone, share the error equally (Bonferroni). Between
    two of them the limits follow without error: with the cut, the number of undrawn wrong labels grows, and by no more
    than the number of undrawn samples that are added.
    """
    cuts = choose_bound_cuts(sizes)
    undrawn = sizes - drawn
    limits = undrawn.copy()
    if cuts.size:
        at_cuts = limit_wrong(sizes[cuts], drawn[..., cuts], wrong[..., cuts], error / cuts.size)
        limits[..., cuts] = at_cuts - wrong[..., cuts]
    limits = np.minimum.accumulate(limits[..., ::-1], axis=-1)[..., ::-1]
    tightened: Counts = np.minimum.accumulate(limits - undrawn, axis=-1) + undrawn
    return tightened


def bound_quality(sizes: Counts, drawn: Counts, wrong: Counts, error: float = BOUND_ERROR) -> tuple[Floats, Floats]:
    """Bound precision and recall of the samples up to each cut from below, at all cuts at once.

    Returns
    -------
    precision, recall
        Shape (..., n_cuts) each. All bounds of precision hold with probability ``1 - error``, and all bounds together
        with probability ``1 - 2 * error``. The precision of an empty set is 1.

    Notes
    -----
    With ``W`` the limit of the wrong labels up to a cut and ``C`` the limit of the clean ones above it, precision is at
    least ``(size - W) / size`` and recall at least ``(size - W) / (size - W + C)``.
    """
    kept_clean = sizes - (wrong + limit_undrawn_wrong(sizes, drawn, wrong, error))
    above, drawn_above, clean_above = (
        (counts[..., -1:] - counts)[..., ::-1] for counts in (sizes, drawn, drawn - wrong)
    )
    dropped_clean = (clean_above + limit_undrawn_wrong(above, drawn_above, clean_above, error))[..., ::-1]
    precision = np.where(sizes > 0, kept_clean / np.maximum(sizes, 1), 1.0)
    return precision, kept_clean / np.maximum(kept_clean + dropped_clean, 1)


def bound_noise_rate_by_draw(n_samples: int, n_drawn: int, n_wrong: int) -> tuple[float, float]:
    """Bound the share of wrong labels among all samples: an exact 90% interval, 5% error on each side."""
    size, drawn, wrong = (np.array([count]) for count in (n_samples, n_drawn, n_wrong))
    high = int(limit_wrong(size, drawn, wrong, UPPER_ERROR / 2)[0])
    low = n_samples - int(limit_wrong(size, drawn, drawn - wrong, UPPER_ERROR / 2)[0])
    return low / n_samples, high / n_samples


def bound_wrong_share(n_kept: int, n_drawn: int, n_wrong: int) -> float:
    """Bound the share of wrong labels among the undrawn samples of a set that the answers did not choose, at 90%."""
    size, drawn, wrong = (np.array([count]) for count in (n_kept, n_drawn, n_wrong))
    limit = int(limit_wrong(size, drawn, wrong, UPPER_ERROR)[0]) - n_wrong
    return limit / max(n_kept - n_drawn, 1)


def limit_wrong(size: Counts, drawn: Counts, wrong: Counts, error: float) -> Counts:
    """Compute exact upper limits of the wrong labels in sets of which some samples were drawn.

    Parameters
    ----------
    size, drawn, wrong
        Samples of each set, the drawn ones among them, and those of these found mislabelled, of broadcastable shapes.
    error
        Probability that a limit is too low, at most 0.1.

    Returns
    -------
    Counts
        The largest numbers ``W`` of wrong labels with ``P(X <= wrong) > error``, ``X ~ Hypergeometric(size, W, drawn)``
        (Clopper and Pearson 1934, for draws without replacement).
    """
    size, drawn, wrong = np.broadcast_arrays(size, drawn, wrong)
    high: Counts = size - drawn + wrong  # the drawn samples found clean are clean
    low: Counts = np.minimum(wrong * size // np.maximum(drawn, 1), high)  # here the tail is about one half
    while (low < high).any():
        middle = (low + high + 1) // 2
        is_possible = _lower_tail(size, middle, drawn, wrong) > error
        low, high = np.where(is_possible, middle, low), np.where(is_possible, high, middle - 1)
    return low


def choose_bound_cuts(sizes: Counts) -> NDArray[np.intp]:
    """Choose at most `MAX_BOUND_CUTS` cuts from the sizes of the sets alone, in equal ratios of these sizes."""
    distinct_sizes, first_cuts = np.unique(sizes, return_index=True)
    first_cuts = first_cuts[distinct_sizes > 0]
    if first_cuts.size <= MAX_BOUND_CUTS:
        return first_cuts
    smallest = max(sizes[first_cuts[0]], SMALLEST_BOUND_SHARE * sizes[-1])
    wanted_sizes = np.geomspace(smallest, sizes[-1], MAX_BOUND_CUTS).clip(max=sizes[-1])
    return np.unique(np.searchsorted(sizes, wanted_sizes))


def _last(passes: NDArray[np.bool_]) -> Counts:
    """Last true position on the last axis; -1 where there is none."""
    n_cuts = passes.shape[-1]
    last: Counts = np.where(passes.any(axis=-1), n_cuts - 1 - np.argmax(passes[..., ::-1], axis=-1), -1)
    return last


def _lower_tail(size: Counts, n_wrong: Counts, drawn: Counts, wrong: Counts) -> Floats:
    """``P(X <= wrong)`` where `wrong` is at most about the mean of ``X``.

    Terms five standard deviations and more below `wrong` are left out: they are below 1e-20.
    """
    n_terms = int(min(wrong.max(), 10 + 5 * np.sqrt(drawn.max()))) + 1
    x = wrong[..., None] - np.arange(n_terms)
    tail: Floats = compute_hypergeometric_pmf(x, size[..., None], n_wrong[..., None], drawn[..., None]).sum(axis=-1)
    return tail
