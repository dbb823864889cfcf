"""Planted noise: what labels that are known to be wrong say of all the others.

The histogram of samples whose label was broken on purpose is a sample of the noisy component. A noise rate of ``w``
puts at least ``w`` times the planted samples' share into every upper tail, and a tail holds no more than there is: the
smallest ratio of the tails bounds ``w`` (mixture proportion estimation, Blanchard, Lee and Scott 2010).
"""

import numpy as np

from mild_core.weibull import Floats

MIN_PLANTED = 10
"""Planted samples below which nothing is concluded from them."""
_Z = 2.0
_LEAST_TAIL = 0.05
"""Tails of which the planted samples fill less say nothing."""


def noise_bound(counts: Floats, planted: Floats) -> float | None:
    """The noise rate that is exceeded once in twenty times or so, as far as planted noise is like the other.

    Parameters
    ----------
    counts, planted
        Histograms of the samples with their own label and of the planted ones, shape (n_bins,) each.

    Returns
    -------
    float | None
        In 0..1; None where there are under `MIN_PLANTED` planted samples, or no others.

    Notes
    -----
    The planted share of each tail is taken two standard errors low, at the end of its Wilson interval: it is estimated
    from few samples, and the smallest of many ratios is one whose share came out large.
    """
    total, n_planted = counts.sum(), planted.sum()
    if n_planted < MIN_PLANTED or total == 0:
        return None
    tail, share = (np.cumsum(h[::-1])[::-1] / h.sum() for h in (counts, planted))
    spread = _Z * np.sqrt(share * (1 - share) / n_planted + _Z**2 / (4 * n_planted**2))
    least = (share + _Z**2 / (2 * n_planted) - spread) / (1 + _Z**2 / n_planted)
    told = least > _LEAST_TAIL
    return float(np.min(tail[told] / least[told], initial=1.0))
