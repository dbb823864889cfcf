"""The story: rounds of bits -> metric -> fit -> cut -> clean set."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap, verdict
from mild_core.dynamics import MAX_EPOCHS
from mild_core.errors import ParameterError
from mild_core.estimate import UNKNOWN, estimates
from mild_core.metrics import EPSILON, Scores, score
from mild_core.mixture import Mixture, fit_mixture
from mild_core.observation import Observation
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
        With `threshold` ``bayes``, ``posterior``, ``scale`` or an estimated ``fraction``, a verdict of ``unimodal`` or
        ``insufficient`` keeps every scored sample: where the evidence cannot tell, nobody is dropped.

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
    used = rounds if options.evidence == "pooled" else rounds[-1:]
    scores = score(used, options.metric)
    counts = np.bincount(scores.bins, minlength=scores.n_bins).astype(np.float64)
    enough, reasons = verdict.sufficient(counts)
    if not enough:
        threshold = _threshold(scores, counts, options, None)
        return _selection(scores, counts, options, threshold, None, "insufficient", reasons)
    return _fitted(scores, counts, options)


def _fitted(scores: Scores, counts: Floats, options: SelectionOptions) -> Selection:
    """Fit, judge and cut."""
    observation = Observation.of(scores) if options.metric == "mild-simple" else None
    cells, seen_through = (counts, None) if observation is None else (observation.counts, observation.likelihood)
    mixture = fit_mixture(cells, options.fit, seen_through)
    found, reasons = verdict.judge(mixture)
    threshold = _threshold(scores, counts, options, None if found == "unimodal" else mixture)
    estimated = UNKNOWN
    if threshold.cut is not None and found != "unimodal":
        estimated = estimates(mixture, cells, threshold.cut, seen_through)
    posterior = np.full(scores.values.size, np.nan, dtype=np.float32)
    cell = scores.bins if observation is None else observation.cell
    posterior[scores.scored] = mixture.noisy_posterior(seen_through)[cell]
    return _selection(scores, counts, options, threshold, mixture, found, reasons, posterior, estimated)


def _threshold(scores: Scores, counts: Floats, options: SelectionOptions, believed: Mixture | None) -> Threshold:
    """The cut that a given number or a believed fit makes; without either every scored sample is kept."""
    rule = options.threshold
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
    scores: Scores,
    counts: Floats,
    options: SelectionOptions,
    threshold: Threshold,
    mixture: Mixture | None,
    found: Verdict,
    reasons: tuple[str, ...],
    posterior: NDArray[np.float32] | None = None,
    estimated: Mapping[str, Estimate | None] = UNKNOWN,
) -> Selection:
    """Put the pieces together."""
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
        histogram=Histogram(scores.origin, scores.width, counts),
        densities=None if mixture is None else mixture.densities * counts.sum(),
    )
