"""Ways to put the evidence of several rounds together, for `studies.pooling`.

A way sees each sample's share of misclassified epochs in every round and who was a member of it, and says how suspect
each sample is and whom it keeps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from benchmarks.recordings import Recording
from benchmarks.recovery import find_cut
from benchmarks.truth import Mask
from mild_core import bitmap
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.verdict import check_sufficiency

Floats = NDArray[np.float64]
DEFAULT = "pooled (default)"
_BLUR = 1.5
"""Epochs over which the truth's histograms are smoothed."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A training up to one of its rounds.

    Attributes
    ----------
    name
        Of the recording.
    epochs
        Of each round.
    misclassified
        Shape (n_rounds, n_samples), share of each round's epochs; NaN where the label was broken on purpose.
    members, clean
        Shape (n_rounds, n_samples) and (n_samples,).
    """

    name: str
    epochs: int
    misclassified: Floats
    members: Mask
    clean: Mask

    @classmethod
    def of(cls, recording: Recording, n_rounds: int) -> "Trace":
        """Count a recording's first rounds."""
        n, rounds = recording.n_samples, recording.rounds[:n_rounds]
        shares = np.stack([1 - bitmap.unpack(r.correct_eval, n).mean(axis=0) for r in rounds])
        if recording.planted is not None:
            shares[0, bitmap.unpack(recording.planted, n)] = np.nan
        members = np.stack([bitmap.unpack(r.members, n) for r in rounds])
        return cls(recording.name, len(rounds[0].correct_eval), shares, members, recording.is_clean)

    @property
    def later(self) -> range:
        """Rounds that were trained on some of the samples."""
        return range(1, len(self.misclassified))

    def populations(self, number: int) -> list[Mask]:
        """Whom a round tells something of, members and non-members apart, each of shape (n_samples,)."""
        seen = ~np.isnan(self.misclassified[number])
        return [part for part in (seen & self.members[number], seen & ~self.members[number]) if part.any()]

    def counts(self, number: int) -> NDArray[np.int64]:
        """Misclassified epochs of a round, shape (n_samples,); 0 where there is nothing to count."""
        counts: NDArray[np.int64] = np.rint(np.nan_to_num(self.misclassified[number]) * self.epochs).astype(np.int64)
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """How suspect each sample is (high is mislabelled), and whom the way keeps, shape (n_samples,) each."""

    suspicion: Floats
    kept: Mask


def cut(trace: Trace, shares: Floats) -> Judged:
    """The default fit and cut on a share of misclassified epochs per sample, by counts alone."""
    counts, mixture = _fitted(shares, trace.misclassified.shape[0] * trace.epochs)
    return Judged(shares, np.ones(counts.size, dtype=np.bool_) if mixture is None else counts <= find_cut(mixture))


def _fitted(shares: Floats, n_epochs: int) -> tuple[NDArray[np.intp], Mixture | None]:
    """Misclassified epochs, shape (n_samples,), and the default fit of their histogram where there is enough of it."""
    counts = np.rint(shares * n_epochs).astype(np.intp)
    histogram = np.bincount(counts, minlength=n_epochs + 1).astype(np.float64)
    return counts, fit_mixture(histogram) if check_sufficiency(histogram)[0] else None


def mean(trace: Trace, weights: Floats | float = 1.0, shares: Floats | None = None) -> Judged:
    """Weighted mean of the rounds' shares, and the default cut on it."""
    shares = trace.misclassified if shares is None else shares
    weights = np.broadcast_to(weights, shares.shape) * ~np.isnan(shares)
    return cut(trace, (np.nan_to_num(shares) * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-9))


def newer(trace: Trace) -> Judged:
    """Round r weighs r + 1."""
    return mean(trace, np.arange(1.0, len(trace.misclassified) + 1)[:, None])


def latest(trace: Trace) -> Judged:
    return cut(trace, trace.misclassified[-1])


def weighing(members: float, others: float) -> Callable[[Trace], Judged]:
    """The rounds that a sample was a member of, and those that it was held out from, weigh differently."""
    return lambda trace: mean(trace, np.where(trace.members, members, others))


def held_out(trace: Trace) -> Judged:
    """Whoever was not a member in some round is judged by such rounds alone."""
    ever = (~trace.members).any(axis=0)
    return mean(trace, np.where(ever, ~trace.members, trace.members).astype(np.float64))


def shifted(share: float) -> Callable[[Trace], Judged]:
    """Non-members count as misclassified in a fixed share of a round's epochs less."""

    def way(trace: Trace) -> Judged:
        shares = trace.misclassified.copy()
        for number in trace.later:
            others = ~trace.members[number]
            shares[number, others] = np.maximum(shares[number, others] - share, 0)
        return mean(trace, shares=shares)

    return way


def shifted_as_fitted(trace: Trace) -> Judged:
    """The same, by what being a member is worth to samples alike: both kinds told apart by the rounds before."""
    shares = trace.misclassified.copy()
    for number in trace.later:
        found, inside = _before(trace, number), trace.members[number]
        effects = []
        for weight in (1 - found, found):
            sizes = np.array([weight[part].sum() for part in (inside, ~inside)])
            means = [np.average(shares[number, part], weights=weight[part] + 1e-9) for part in (inside, ~inside)]
            effects.append((means[1] - means[0], 1 / (1 / np.maximum(sizes, 1e-9)).sum()))
        effect = np.average([value for value, _ in effects], weights=[size for _, size in effects])
        shares[number, ~inside] = np.maximum(shares[number, ~inside] - max(effect, 0), 0)
    return mean(trace, shares=shares)


def _before(trace: Trace, number: int) -> Floats:
    """Probability of being mislabelled by the pooled rounds before `number`, shape (n_samples,)."""
    seen = np.nan_to_num(trace.misclassified[:number])
    n_epochs = number * trace.epochs
    shares = seen.sum(axis=0) / np.maximum((~np.isnan(trace.misclassified[:number])).sum(axis=0), 1)
    counts, mixture = _fitted(shares, n_epochs)
    return np.full(shares.size, 0.5) if mixture is None else mixture.compute_noisy_posterior()[counts]


def fitted_ratios(trace: Trace) -> Judged:
    """Add up likelihood ratios, of a mixture fitted to each round's members and one to its non-members."""
    total, prior = np.zeros(trace.clean.size), 0.0
    for number in range(len(trace.misclassified)):
        counts = trace.counts(number)
        for part in trace.populations(number):
            found = fit_mixture(np.bincount(counts[part], minlength=trace.epochs + 1).astype(np.float64))
            if number == 0:
                prior = float(np.log(found.weights[1] / found.weights[0]))
            ratio = np.maximum.accumulate(np.log((found.masses[1] + 1e-6) / (found.masses[0] + 1e-6)))
            total[part] += np.clip(ratio, -8, 8)[counts[part]]
    return Judged(total, total + prior < 0)


def true_ratios(trace: Trace) -> Judged:
    """The same with the true histograms of both kinds, each sample's own count left out: what nobody has."""
    total = np.zeros(trace.clean.size)
    for number in range(len(trace.misclassified)):
        counts = trace.counts(number)
        for part in trace.populations(number):
            logs = [_log_likelihood(counts, part & kind, trace.epochs + 1) for kind in (trace.clean, ~trace.clean)]
            total[part] += (logs[1] - logs[0])[part]
    prior = np.log((~trace.clean).sum() / trace.clean.sum())
    return Judged(total, total + prior < 0)


def _log_likelihood(counts: NDArray[np.int64], kind: Mask, n_bins: int) -> Floats:
    """Of every sample's count among others of a kind, by their smoothed histogram, shape (n_samples,)."""
    blur = gaussian_filter1d(np.eye(n_bins), _BLUR, axis=0, mode="nearest")
    near = (blur @ np.bincount(counts[kind], minlength=n_bins))[counts] - kind * blur[counts, counts]
    logs: Floats = np.log((near + 0.5 / n_bins) / (kind.sum() - kind + 0.5))
    return logs


WAYS: Mapping[str, Callable[[Trace], Judged]] = {
    DEFAULT: mean,
    "latest round alone": latest,
    "newer rounds weigh more": newer,
    "non-members less 20% of a round": shifted(0.2),
    "non-members less 40% of a round": shifted(0.4),
    "non-members less the fitted effect": shifted_as_fitted,
    "held-out rounds weigh half": weighing(1.0, 0.5),
    "held-out rounds weigh 2": weighing(1.0, 2.0),
    "held-out rounds weigh 3": weighing(1.0, 3.0),
    "held-out rounds weigh 10": weighing(1.0, 10.0),
    "held-out rounds alone, where there are": held_out,
    "likelihood ratios, a fit per population": fitted_ratios,
    "likelihood ratios, known from the truth": true_ratios,
}
