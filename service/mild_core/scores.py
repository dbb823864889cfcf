"""Per-sample scores: how hard a sample was to memorise and how easy to forget. Low is clean.

With ``z`` misclassified epochs in ``sz`` segments and ``m`` memorised epochs in ``sm`` segments (arXiv 2306.11560):

- ``mild``: ``z / max(sz, 1) - m / max(sm, 1)``, memorisation difficulty minus forgetting difficulty, in -E..E;
- ``mild-simple``: ``z - m``, in -E..E in steps of two: the simplified metric, which the published code computes;
- ``forgetting``: transitions from memorised to misclassified (Toneva et al. 2019), in 0..E;
- ``first-learned``: epochs before the first memorised one, in 0..E.

Over several rounds of ``E_1, E_2, …`` epochs the value is ``sum(E) * mean(v_r / E_r)`` over the rounds in which the
sample was observed: the plain sum where all rounds are equally long, and equal weight for every round where they are
not. A round's counts are scaled to its length where epochs were not observed; segments never cross rounds.

A round in which a sample's label was broken on purpose does not count for it. Where there is no other, the sample is
`planted`: its value says how broken labels are learnt.

Samples that were not observed in every epoch: what was seen, given what happened.

A sample seen in ``k`` of ``E`` epochs, ``y`` of them misclassified, is a draw without replacement from its ``z``
misclassified ones: ``P(y | z, k) = Hypergeometric(y; E, z, k)``. Its likelihood under a component is the sum over
``z``, and its posterior depends on ``(y, k)``, so that few observations move it little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.dynamics import Dynamics, dynamics, first_learned
from mild_core.mixture.weibull import Floats
from mild_core.types import Metric, RoundBits

MAX_BINS = 512
"""Bins of a histogram at most: more would cost time and memory and tell a fit nothing."""
EPSILON = 1e-6
"""Slack, in bins, that keeps a sum of fractions on the whole number that it stands for."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all samples, and the grid of bins that a fit works on.

    Attributes
    ----------
    values
        Shape (n_samples,), low is clean; NaN where a sample was never observed.
    origin, width, n_bins
        Bin ``j`` of ``0..n_bins-1`` holds the scores in ``(origin + width * (j - 1), origin + width * j]``.
    observed, expected
        Shape (n_samples,), epochs over all rounds in which the sample was, and should have been, observed.
    coverage
        Shape (n_samples,), share of the epochs in which the sample was observed, every round weighing the same.
    n_epochs
        Epochs of all rounds together.
    planted
        Shape (n_samples,), samples whose label was broken on purpose in every round in which they were observed; None
        where there are none. Their values are not about their own label.
    """

    values: Floats
    origin: float
    width: float
    n_bins: int
    observed: NDArray[np.int32]
    expected: NDArray[np.int32]
    coverage: Floats
    n_epochs: int
    planted: NDArray[np.bool_] | None = None

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Samples seen in at least half of the epochs in which they should have been, shape (n_samples,)."""
        return (self.observed > 0) & (2 * self.observed >= self.expected)

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """Samples that were seen often enough, with their own label, to be judged, shape (n_samples,)."""
        return self.seen if self.planted is None else self.seen & ~self.planted

    @property
    def unobserved(self) -> NDArray[np.bool_]:
        """Samples that should have been seen and mostly were not, shape (n_samples,)."""
        return (self.expected > 0) & (2 * self.observed < self.expected)

    @cached_property
    def bins(self) -> NDArray[np.int64]:
        """Bin of each scored sample, shape (n_scored,)."""
        return bins_of(self.values[self.scored], self.origin, self.width, self.n_bins)

    @property
    def planted_bins(self) -> NDArray[np.int64]:
        """Bin of each planted sample that was seen often enough, shape (n_planted,)."""
        planted = np.zeros_like(self.seen) if self.planted is None else self.seen & self.planted
        return bins_of(self.values[planted], self.origin, self.width, self.n_bins)

    def cut_at(self, value: float) -> int:
        """The last bin whose scores are all at most `value`; -1 if there is none."""
        position = np.floor((value - self.origin) / self.width + EPSILON)
        return int(np.clip(position, -1, self.n_bins - 1))

    def value_of(self, cut: int) -> float:
        """The largest score in bin `cut`."""
        return self.origin + self.width * cut


def bins_of(values: NDArray[np.floating], origin: float, width: float, n_bins: int) -> NDArray[np.int64]:
    """Bin of each of some scored samples' values on the grid of `Scores`, shape of `values`."""
    position: Floats = np.subtract(
        values, origin, dtype=np.float64
    )  # the rest in place: new memory costs more than arithmetic
    position /= width
    position -= EPSILON
    np.ceil(position, out=position)
    np.clip(position, 0, n_bins - 1, out=position)
    bins: NDArray[np.int64] = position.astype(np.int64)
    return bins


def score(rounds: Sequence[RoundBits], metric: Metric) -> Scores:
    """Score every sample over `rounds`.

    Parameters
    ----------
    rounds
        One or more rounds of the same samples, oldest first.
    metric
        One of the four metrics of this module.
    """
    n_samples = rounds[0].n_samples
    planted = only_planted(rounds)
    rates, coverage = (np.zeros(n_samples) for _ in range(2))
    observed, expected = (np.zeros(n_samples, dtype=np.int32) for _ in range(2))
    seen_rounds = np.zeros(n_samples, dtype=np.uint16)
    for given in rounds:
        bits, ignored = about_own_labels(given, planted)
        counts = dynamics(bits)
        # Scaled by 1 / observed: an epoch that was not observed says nothing, so the others speak for it. Whoever was
        # not observed at all has the value 0.
        rate = _VALUES[metric](counts, bits)
        rate /= np.maximum(counts.observed, 1)
        rates += rate
        seen_rounds += counts.observed > 0
        observed += counts.observed
        expected += _expected(bits)
        if ignored is not None:
            expected[ignored] -= np.int32(bits.n_epochs)
        coverage += counts.observed / max(bits.n_epochs, 1)
    n_epochs = sum(bits.n_epochs for bits in rounds)
    coverage /= max(sum(bits.n_epochs > 0 for bits in rounds), 1)
    rates *= n_epochs
    with np.errstate(invalid="ignore"):  # nobody's 0 / 0 is NaN
        rates /= seen_rounds
    origin, width, n_bins = _grid(metric, n_epochs)
    own = None if planted is None else bitmap.unpack(planted, n_samples)
    return Scores(rates, origin, width, n_bins, observed, expected, coverage, n_epochs, own)


def only_planted(rounds: Sequence[RoundBits]) -> Bitmap | None:
    """Samples whose label was broken in every round in which they were observed, shape (n_bytes,); None: nobody."""
    broken = [bits.planted for bits in rounds if bits.planted is not None]
    if not broken:
        return None
    own = np.zeros(bitmap.n_bytes(rounds[0].n_samples), dtype=np.uint8)
    for bits in rounds:
        seen = bitmap.full(bits.n_samples) if bits.observed is None else np.bitwise_or.reduce(bits.observed, axis=0)
        own |= seen if bits.planted is None else seen & ~bits.planted
    planted: Bitmap = np.bitwise_or.reduce(broken, axis=0)
    return planted & ~own


def about_own_labels(bits: RoundBits, alone: Bitmap | None) -> tuple[RoundBits, NDArray[np.bool_] | None]:
    """A round without the samples that it says nothing of, and who those are; None: nobody.

    `alone` are those that are left in as they have no other round, see `only_planted`.
    """
    if bits.planted is None or alone is None:
        return bits, None
    ignored = bits.planted & ~alone
    if not ignored.any():
        return bits, None
    everyone = np.broadcast_to(bitmap.full(bits.n_samples), bits.correct.shape)
    observed = (everyone if bits.observed is None else bits.observed) & ~ignored
    left = replace(bits, correct=bits.correct & ~ignored, observed=observed)
    named = _named(bits)
    return left, bitmap.unpack(ignored if named is None else ignored & named, bits.n_samples)


def _named(bits: RoundBits) -> Bitmap | None:
    """Who should have been observed, shape (n_bytes,); None: everyone."""
    return None if bits.expects == "all" else bits.members


def _expected(bits: RoundBits) -> NDArray[np.int32] | int:
    """Epochs in which each sample should have been observed, shape (n_samples,); one number where it is everyone's."""
    named = _named(bits)
    return bits.n_epochs if named is None else bitmap.unpack(named, bits.n_samples) * np.int32(bits.n_epochs)


def _grid(metric: Metric, n_epochs: int) -> tuple[float, float, int]:
    """Origin, width and number of a metric's bins: fixed by the number of epochs, never by the data.

    Neighbouring values share a bin where there would be more than `MAX_BINS`.
    """
    lowest = -float(n_epochs) if metric in ("mild-simple", "mild") else 0.0
    step = 2.0 if metric == "mild-simple" else 1.0
    n_values = (2 if metric == "mild" else 1) * n_epochs + 1
    together = -(-n_values // MAX_BINS)
    return lowest + step * (together - 1), step * together, -(-n_values // together)


def _mild(counts: Dynamics, _: RoundBits) -> Floats:
    memorisation = counts.misclassified / np.maximum(counts.misclassified_segments, 1)
    forgetting = counts.memorised / np.maximum(counts.memorised_segments, 1)
    return memorisation - forgetting


def _mild_simple(counts: Dynamics, _: RoundBits) -> Floats:
    return counts.misclassified.astype(np.float64) - counts.memorised


def _forgetting(counts: Dynamics, _: RoundBits) -> Floats:
    return counts.forgotten.astype(np.float64)


def _first_learned(counts: Dynamics, bits: RoundBits) -> Floats:
    # Absolute epochs, so not stretched where some were not observed: undo the division by the observed ones.
    return first_learned(bits) * (counts.observed / max(counts.n_epochs, 1))


_VALUES: dict[Metric, Callable[[Dynamics, RoundBits], Floats]] = {
    "mild": _mild,
    "mild-simple": _mild_simple,
    "forgetting": _forgetting,
    "first-learned": _first_learned,
}


_MAX_LEVELS = 16
"""Distinct numbers of observed epochs told apart; finer ones are rounded to the nearest level."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The distinct ``(k, y)`` cells of the samples that were seen often enough.

    Attributes
    ----------
    counts
        Scored samples per cell, shape (n_cells,).
    likelihood
        ``P(cell | z)``, shape (n_cells, n_bins).
    cell
        Each scored sample's cell, shape (n_scored,).
    """

    counts: Floats
    likelihood: Floats
    cell: NDArray[np.intp]

    @classmethod
    def of(cls, scores: Scores) -> Self | None:
        """Cells of the samples; None when every one of them was observed in every epoch."""
        coverage = scores.coverage[scores.scored]
        if (coverage > 1 - EPSILON).all():
            return None
        # On the grid's scale, an epoch a bin: where bins hold several epochs, and where rounds of different lengths
        # weigh the same, plain counts would be on another one.
        top = scores.n_bins - 1
        rate = (scores.values[scores.scored] / scores.n_epochs + 1) / 2
        k = _coarsened(np.maximum(np.rint(coverage * top), 1).astype(np.int64))
        y = np.rint(rate * k).astype(np.int64)
        cells, cell = np.unique(k * (top + 1) + y, return_inverse=True)
        k, y = np.divmod(cells, top + 1)
        likelihood = hypergeometric(y[:, None], top, np.arange(top + 1)[None, :], k[:, None])
        return cls(np.bincount(cell).astype(np.float64), likelihood, cell)


def _coarsened(k: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round observed counts to at most `_MAX_LEVELS` levels."""
    levels = np.unique(k)
    if levels.size <= _MAX_LEVELS:
        return k
    grid = np.unique(np.linspace(levels[0], levels[-1], _MAX_LEVELS).round().astype(np.int64))
    return grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, k)]


def hypergeometric(y: NDArray[np.int64], n_epochs: int, z: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
    """``P(y | z, k)``: `y` misclassified among `k` epochs drawn from `n_epochs`, `z` of which were misclassified."""
    possible = (y <= z) & (k - y <= n_epochs - z)
    y, z = np.where(possible, y, 0), np.where(possible, z, 0)
    k = np.broadcast_to(k, y.shape)
    log_p = _log_choose(z, y) + _log_choose(n_epochs - z, np.where(possible, k - y, 0)) - _log_choose(n_epochs, k)
    return np.where(possible, np.exp(log_p), 0.0)


def _log_choose(n: NDArray[np.int64] | int, r: NDArray[np.int64]) -> Floats:
    return np.asarray(gammaln(np.asarray(n) + 1) - gammaln(r + 1) - gammaln(n - r + 1))
