"""The story: rounds of bits -> metric -> fit -> cut -> clean set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap, verdict
from mild_core.dynamics import MAX_EPOCHS
from mild_core.errors import ParameterError
from mild_core.estimate import UNKNOWN, estimates
from mild_core.metrics import EPSILON, Scores, score
from mild_core.mixture import Mixture, fit_mixture
from mild_core.observation import Observation
from mild_core.planted import noise_bound
from mild_core.threshold import fitted_cut, floored, fraction_cut
from mild_core.types import Estimate, Histogram, RoundBits, Selection, SelectionOptions, Threshold, Verdict
from mild_core.weibull import Floats


def select(rounds: Sequence[RoundBits], options: SelectionOptions | None = None) -> Selection:
    """Select the samples whose labels can be trusted after the last of `rounds`.

    Parameters
    ----------
    rounds
        One or more rounds of one run, oldest first; the set is the last one's.
    options
        None takes the defaults.

    Returns
    -------
    Selection
        A verdict of ``unimodal`` or ``insufficient`` keeps every scored sample, unless a `value` or a `fraction` is
        given: where the evidence cannot tell, nobody is dropped. A planted sample's own label is judged by later rounds
        alone.

    Raises
    ------
    ParameterError
        If an option is invalid, there is no round, or a round has more than `MAX_EPOCHS` epochs.
    """
    options = (options or SelectionOptions()).checked()
    if not rounds:
        raise ParameterError("there are 0 rounds to select from; give at least one round of epochs")
    longest = max(bits.n_epochs for bits in rounds)
    if longest > MAX_EPOCHS:
        raise ParameterError(f"a round has {longest} epochs, at most {MAX_EPOCHS} are counted; give every second one")
    evidence = _evidence(rounds, options)
    enough, reasons = verdict.sufficient(evidence.counts)
    if not enough:
        threshold = _threshold(evidence, options, None)
        return _selection(evidence, options, threshold, None, "insufficient", reasons)
    return _fitted(evidence, options)


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """What a fit sees.

    Attributes
    ----------
    scores
        Of all samples.
    counts
        Histogram of the scored ones, shape (n_bins,).
    cells, likelihood, cell
        Samples per cell, shape (n_cells,), what the cells say of the bins, shape (n_cells, n_bins) or None where they
        are the bins, and each scored sample's cell.
    known
        Samples of a known component per cell, shape (2, n_cells), or None.
    noise_bound
        Largest noise rate that planted noise allows; None where none was planted.
    """

    scores: Scores
    counts: Floats
    cells: Floats
    likelihood: Floats | None
    cell: NDArray[np.integer]
    known: Floats | None
    noise_bound: float | None


def _evidence(rounds: Sequence[RoundBits], options: SelectionOptions) -> _Evidence:
    """Score the rounds that the options ask for, and let planted noise of any of them speak."""
    used = rounds if options.evidence == "pooled" else rounds[-1:]
    scores = score(used, options.metric)
    counts = _histogram(scores, scores.bins)
    observation = Observation.of(scores) if options.metric == "mild-simple" else None
    cells, likelihood, cell = counts, None, scores.bins
    if observation is not None:
        cells, likelihood, cell = observation.counts, observation.likelihood, observation.cell
    with_planted = [bits for bits in rounds if bits.planted is not None and bits.planted.any()]
    if not with_planted:
        return _Evidence(scores, counts, cells, likelihood, cell, None, None)
    alone = len(used) == 1 and used[0] is with_planted[0]
    apart = scores if alone else score(with_planted[:1], options.metric)
    planted = _histogram(apart, apart.planted_bins)
    known = None
    if alone:
        # A round's planted samples are learnt as its mislabelled ones are; over several rounds they are not, since
        # their own label is back.
        told = planted if observation is None else observation.planted
        known = np.stack((np.zeros_like(told), told))
    return _Evidence(
        scores, counts, cells, likelihood, cell, known, noise_bound(_histogram(apart, apart.bins), planted)
    )


def _histogram(scores: Scores, bins: NDArray[np.integer]) -> Floats:
    return np.bincount(bins, minlength=scores.n_bins).astype(np.float64)


def _fitted(evidence: _Evidence, options: SelectionOptions) -> Selection:
    """Fit, judge and cut."""
    mixture = fit_mixture(evidence.cells, options.fit, evidence.likelihood, evidence.known)
    found, reasons = verdict.judge(mixture, evidence.noise_bound)
    threshold = _threshold(evidence, options, None if found == "unimodal" else mixture)
    estimated = UNKNOWN
    if threshold.cut is not None and found == "separable":
        estimated = estimates(mixture, evidence.cells, threshold.cut, evidence.likelihood, evidence.known)
    posterior = np.full(evidence.scores.values.size, np.nan, dtype=np.float32)
    posterior[evidence.scores.scored] = mixture.noisy_posterior(evidence.likelihood)[evidence.cell]
    return _selection(evidence, options, threshold, mixture, found, reasons, posterior, estimated)


def _threshold(evidence: _Evidence, options: SelectionOptions, believed: Mixture | None) -> Threshold:
    """The cut that a given number or a believed fit makes; without either every scored sample is kept."""
    rule, scores, counts = options.threshold, evidence.scores, evidence.counts
    if rule == "value" and options.value is not None:
        return Threshold(rule, options.value, scores.cut_at(options.value))
    if rule == "fraction" and options.fraction is not None and counts.any():
        cut = fraction_cut(counts, options.fraction)
    elif believed is not None:
        cut = fitted_cut(believed, counts, options)
    else:
        return Threshold(rule, None, None)
    cut = floored(cut, counts, options.min_keep)
    return Threshold(rule, scores.value_of(cut), cut)


def _selection(
    evidence: _Evidence,
    options: SelectionOptions,
    threshold: Threshold,
    mixture: Mixture | None,
    found: Verdict,
    reasons: tuple[str, ...],
    posterior: NDArray[np.float32] | None = None,
    estimated: Mapping[str, Estimate | None] = UNKNOWN,
) -> Selection:
    """Put the pieces together."""
    scores, counts = evidence.scores, evidence.counts
    kept = scores.scored
    if threshold.value is not None:
        # Half a millionth of a bin: sums of fractions stay on the whole number that they stand for.
        kept = kept & (scores.values <= threshold.value + scores.width * EPSILON)
    n_samples = scores.values.size
    return Selection(
        options=options,
        n_samples=n_samples,
        bitmap=bitmap.pack(kept),
        scores=scores.values.astype(np.float32),
        scored=scores.scored,
        noisy_posterior=np.full(n_samples, np.nan, dtype=np.float32) if posterior is None else posterior,
        threshold=threshold,
        components=() if mixture is None else mixture.components,
        verdict=found,
        reasons=reasons,
        estimated=estimated,
        epochs=scores.n_epochs,
        unobserved=int(scores.unobserved.sum()),
        planted=0 if scores.planted is None else int(scores.planted.sum()),
        histogram=Histogram(scores.origin, scores.width, counts),
        densities=None if mixture is None else mixture.densities * counts.sum(),
    )
