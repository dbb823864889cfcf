"""Ways to combine the evidence of several rounds, for `studies.pooling`.

A way gets each sample's share of misclassified epochs in every round and the members of each round, and returns the
suspicion of each sample and the kept samples.
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
"""Epochs over which the true histograms are smoothed."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A training up to one of its rounds.

    Attributes
    ----------
    name
        Name of the recording.
    epochs
        Number of epochs of each round.
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
        """Count the misclassified epochs of a recording's first rounds."""
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

    def list_populations(self, number: int) -> list[Mask]:
        """List the masks of the observed members and non-members of a round, shape (n_samples,) each; no empty ones."""
        is_observed, members = ~np.isnan(self.misclassified[number]), self.members[number]
        return [part for part in (is_observed & members, is_observed & ~members) if part.any()]

    def count_misclassified(self, number: int) -> NDArray[np.int64]:
        """Return the misclassified epochs of a round, shape (n_samples,); 0 where there are none to count."""
        counts: NDArray[np.int64] = np.rint(np.nan_to_num(self.misclassified[number]) * self.epochs).astype(np.int64)
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """Suspicion of each sample (high is mislabelled), and mask of the kept samples, shape (n_samples,) each."""

    suspicion: Floats
    kept: Mask


def cut_by_default(trace: Trace, shares: Floats) -> Judgement:
    """Cut shares of misclassified epochs by the default fit and rule."""
    counts, mixture = _fit_counts(shares, trace.misclassified.shape[0] * trace.epochs)
    return Judgement(shares, np.ones(counts.size, dtype=np.bool_) if mixture is None else counts <= find_cut(mixture))


def _fit_counts(shares: Floats, n_epochs: int) -> tuple[NDArray[np.intp], Mixture | None]:
    """Return the misclassified epochs, shape (n_samples,), and the default fit of them where they are sufficient."""
    counts = np.rint(shares * n_epochs).astype(np.intp)
    histogram = np.bincount(counts, minlength=n_epochs + 1).astype(np.float64)
    return counts, fit_mixture(histogram) if check_sufficiency(histogram)[0] else None


def pool_rounds(trace: Trace, weights: Floats | float = 1.0, shares: Floats | None = None) -> Judgement:
    """Cut the weighted mean of the rounds' shares."""
    shares = trace.misclassified if shares is None else shares
    weights = np.broadcast_to(weights, shares.shape) * ~np.isnan(shares)
    return cut_by_default(trace, (np.nan_to_num(shares) * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-9))


def weigh_newer_rounds(trace: Trace) -> Judgement:
    """Weigh round r by r + 1."""
    return pool_rounds(trace, np.arange(1.0, len(trace.misclassified) + 1)[:, None])


def judge_by_latest_round(trace: Trace) -> Judgement:
    return cut_by_default(trace, trace.misclassified[-1])


def make_member_weighing(members: float, others: float) -> Callable[[Trace], Judgement]:
    """Weigh the rounds that a sample was a member of, and those that it was held out from, differently."""
    return lambda trace: pool_rounds(trace, np.where(trace.members, members, others))


def judge_by_held_out_rounds(trace: Trace) -> Judgement:
    """Judge a sample that was not a member in some rounds by those alone."""
    was_held_out = (~trace.members).any(axis=0)
    return pool_rounds(trace, np.where(was_held_out, ~trace.members, trace.members).astype(np.float64))


def make_shift(share: float) -> Callable[[Trace], Judgement]:
    """Reduce the misclassified share of non-members by a fixed share of a round's epochs."""

    def shift(trace: Trace) -> Judgement:
        shares = trace.misclassified.copy()
        for number in trace.later:
            others = ~trace.members[number]
            shares[number, others] = np.maximum(shares[number, others] - share, 0)
        return pool_rounds(trace, shares=shares)

    return shift


def shift_by_fitted_effect(trace: Trace) -> Judgement:
    """Reduce it by the effect of membership on clean and on mislabelled samples, as divided by the earlier rounds."""
    shares = trace.misclassified.copy()
    for number in trace.later:
        p_noisy, is_member = _compute_earlier_posterior(trace, number), trace.members[number]
        effects = []
        for weight in (1 - p_noisy, p_noisy):
            sizes = np.array([weight[part].sum() for part in (is_member, ~is_member)])
            means = [np.average(shares[number, part], weights=weight[part] + 1e-9) for part in (is_member, ~is_member)]
            effects.append((means[1] - means[0], 1 / (1 / np.maximum(sizes, 1e-9)).sum()))
        effect = np.average([value for value, _ in effects], weights=[size for _, size in effects])
        shares[number, ~is_member] = np.maximum(shares[number, ~is_member] - max(effect, 0), 0)
    return pool_rounds(trace, shares=shares)


def _compute_earlier_posterior(trace: Trace, number: int) -> Floats:
    """Compute the probability of being mislabelled by the pooled rounds before `number`, shape (n_samples,)."""
    earlier = np.nan_to_num(trace.misclassified[:number])
    n_epochs = number * trace.epochs
    shares = earlier.sum(axis=0) / np.maximum((~np.isnan(trace.misclassified[:number])).sum(axis=0), 1)
    counts, mixture = _fit_counts(shares, n_epochs)
    return np.full(shares.size, 0.5) if mixture is None else mixture.compute_noisy_posterior()[counts]


def add_fitted_ratios(trace: Trace) -> Judgement:
    """Add up likelihood ratios, of a mixture fitted to each round's members and one to its non-members."""
    total, prior = np.zeros(trace.clean.size), 0.0
    for number in range(len(trace.misclassified)):
        counts = trace.count_misclassified(number)
        for part in trace.list_populations(number):
            mixture = fit_mixture(np.bincount(counts[part], minlength=trace.epochs + 1).astype(np.float64))
            if number == 0:
                prior = float(np.log(mixture.weights[1] / mixture.weights[0]))
            ratio = np.maximum.accumulate(np.log((mixture.masses[1] + 1e-6) / (mixture.masses[0] + 1e-6)))
            total[part] += np.clip(ratio, -8, 8)[counts[part]]
    return Judgement(total, total + prior < 0)


def add_true_ratios(trace: Trace) -> Judgement:
    """Add up likelihood ratios of the true histograms, without each sample's own count; only known in an experiment."""
    total = np.zeros(trace.clean.size)
    for number in range(len(trace.misclassified)):
        counts = trace.count_misclassified(number)
        for part in trace.list_populations(number):
            n_bins, kinds = trace.epochs + 1, (trace.clean, ~trace.clean)
            logs = [_compute_log_likelihood(counts, part & kind, n_bins) for kind in kinds]
            total[part] += (logs[1] - logs[0])[part]
    prior = np.log((~trace.clean).sum() / trace.clean.sum())
    return Judgement(total, total + prior < 0)


def _compute_log_likelihood(counts: NDArray[np.int64], kind: Mask, n_bins: int) -> Floats:
    """Compute the log-likelihood of each sample's count among the others of a kind, shape (n_samples,)."""
    blur = gaussian_filter1d(np.eye(n_bins), _BLUR, axis=0, mode="nearest")
    near = (blur @ np.bincount(counts[kind], minlength=n_bins))[counts] - kind * blur[counts, counts]
    logs: Floats = np.log((near + 0.5 / n_bins) / (kind.sum() - kind + 0.5))
    return logs


WAYS: Mapping[str, Callable[[Trace], Judgement]] = {
    DEFAULT: pool_rounds,
    "latest round alone": judge_by_latest_round,
    "newer rounds weigh more": weigh_newer_rounds,
    "non-members less 20% of a round": make_shift(0.2),
    "non-members less 40% of a round": make_shift(0.4),
    "non-members less the fitted effect": shift_by_fitted_effect,
    "held-out rounds weigh half": make_member_weighing(1.0, 0.5),
    "held-out rounds weigh 2": make_member_weighing(1.0, 2.0),
    "held-out rounds weigh 3": make_member_weighing(1.0, 3.0),
    "held-out rounds weigh 10": make_member_weighing(1.0, 10.0),
    "held-out rounds alone, where there are": judge_by_held_out_rounds,
    "likelihood ratios, a fit per population": add_fitted_ratios,
    "likelihood ratios, known from the truth": add_true_ratios,
}
