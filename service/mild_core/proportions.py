"""Intervals of shares that were counted in few trials."""

import numpy as np

from mild_core.mixture.weibull import Floats

Z = 2.0
"""Standard errors on either side: about 95% confidence."""


def bound_share(share: Floats | float, n_trials: int) -> tuple[Floats, Floats]:
    """Bound shares by Wilson's interval (1927), `Z` standard errors on either side.

    Parameters
    ----------
    share
        Observed shares, of any shape.
    n_trials
        Trials that each share was counted in, at least one.

    Returns
    -------
    low, high
        With the shape of `share`.
    """
    share = np.asarray(share, dtype=np.float64)
    spread = Z * np.sqrt(share * (1 - share) / n_trials + Z**2 / (4 * n_trials**2))
    centre = share + Z**2 / (2 * n_trials)
    return (centre - spread) / (1 + Z**2 / n_trials), (centre + spread) / (1 + Z**2 / n_trials)
