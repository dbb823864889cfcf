"""The story: rounds of bits -> metric -> fit -> cut -> clean set.

How far a set repeats whom its round was trained on.

A network has learnt its members and not the others, so a selection tends to keep the ones and to drop the others,
whatever their labels. Agreement with the members says how far that goes, beside what two sets of these sizes would
share if they had nothing to do with each other. It is told and never acted upon: a set that is right settles too, and
the number is the same (docs/method.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap, forgetting, verdict
from mild_core.audit import Annotations, Audit
from mild_core.bitmap import Bitmap
from mild_core.class_cuts import ClassCuts, Classes, cut_classes, described, group
from mild_core.dynamics import MAX_EPOCHS
from mild_core.errors import ParameterError
from mild_core.estimate import UNKNOWN, curves_of, estimates
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.mixture.weibull import Floats
from mild_core.results import Curves, Estimate, Histogram, MemberOverlap, Selection, Threshold
from mild_core.scores import EPSILON, Observation, Scores, score
from mild_core.threshold import fitted_cut, floored, fraction_cut
from mild_core.types import RoundBits, SelectionOptions, Verdict
from mild_core.verdict import noise_bound


def measure_member_overlap(kept: Bitmap, members: Bitmap | None, judged: Bitmap) -> MemberOverlap | None:
    """Compare a set with its round's members, among the samples that were judged.

    Parameters
    ----------
    kept, members, judged
        Shape (n_bytes,) each; `members` None is everyone.

    Returns
    -------
    MemberOverlap | None
        None where all who were judged are members, or none of them is: there is nothing to repeat.
    """
    n_judged = bitmap.popcount(judged)
    n_members = n_judged if members is None else bitmap.popcount(members & judged)
    if members is None or n_members in (0, n_judged):
        return None
    of_members, of_kept = n_members / n_judged, bitmap.popcount(kept & judged) / n_judged
    return MemberOverlap(
        agreement=1 - bitmap.popcount((kept ^ members) & judged) / n_judged,
        by_chance=of_members * of_kept + (1 - of_members) * (1 - of_kept),
    )


def select(
    rounds: Sequence[RoundBits], options: SelectionOptions | None = None, annotations: Annotations | None = None
) -> Selection:
    """Select the samples whose labels can be trusted after the last of `rounds`.

    Parameters
    ----------
    rounds
        One or more rounds of one run, oldest first; the set is the last one's.
    options
        None takes the defaults.
    annotations
        Given labels and an audit, where the options ask for them.

    Returns
    -------
    Selection
        A verdict of ``unimodal`` or ``insufficient`` keeps every scored sample, unless a `value` or a `fraction` is
        given: where the evidence cannot tell, nobody is dropped. A planted sample's own label is judged by later rounds
        alone.

    Raises
    ------
    ParameterError
        If an option is invalid or asks for labels that are not there, there is no round, or a round has more than
        `MAX_EPOCHS` epochs.
    """
    options = (options or SelectionOptions()).checked()
    if not rounds:
        raise ParameterError("there are 0 rounds to select from; give at least one round of epochs")
    longest = max(bits.n_epochs for bits in rounds)
    if longest > MAX_EPOCHS:
        raise ParameterError(f"a round has {longest} epochs, at most {MAX_EPOCHS} are counted; give every second one")
    judged = _judged(rounds, options, (annotations or Annotations()).checked(rounds[0].n_samples, options))
    found = _selected(judged, options)
    return replace(
        found, member_overlap=measure_member_overlap(found.bitmap, rounds[-1].members, bitmap.pack(found.scored))
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """What a fit sees.

    Attributes
    ----------
    rounds
        Those that are scored.
    scores
        Of all samples.
    counts
        Histogram of the scored ones, shape (n_bins,).
    cells, likelihood, cell
        Samples per cell, shape (n_cells,), what the cells say of the bins, shape (n_cells, n_bins) or None where they
        are the bins, and each scored sample's cell.
    noise_bound
        Largest noise rate that planted noise allows; None where it does not tell.
    audit
        Whose label was checked, where the fit is to know it.
    checked
        The same, scored samples found clean and found mislabelled per cell, shape (2, n_cells), or None.
    classes
        The scored samples by their given label, where classes have a say.
    """

    rounds: Sequence[RoundBits]
    scores: Scores
    counts: Floats
    cells: Floats
    likelihood: Floats | None
    cell: NDArray[np.integer]
    noise_bound: float | None
    audit: Audit | None
    checked: Floats | None
    classes: Classes | None


def _evidence(rounds: Sequence[RoundBits], options: SelectionOptions, annotations: Annotations) -> _Evidence:
    """Score the rounds that the options ask for, and let planted noise of any of them speak."""
    used = rounds if options.evidence == "pooled" else rounds[-1:]
    scores = score(used, options.metric)
    counts = _histogram(scores, scores.bins)
    observation = Observation.of(scores) if options.metric == "mild-simple" else None
    cells, likelihood, cell = counts, None, scores.bins
    if observation is not None:
        cells, likelihood, cell = observation.counts, observation.likelihood, observation.cell
    checked, classes = None, None
    if annotations.audit is not None:
        found, clean = (mask[scores.scored] for mask in annotations.audit.masks)
        checked = np.stack([_bincount(cell[part], cells.size) for part in (clean, found & ~clean)])
    if annotations.labels is not None:
        classes = group(annotations.labels[scores.scored], scores.bins, scores.n_bins, cell, cells.size)
    bound = _noise_bound(rounds, used, scores, options)
    return _Evidence(used, scores, counts, cells, likelihood, cell, bound, annotations.audit, checked, classes)


def _noise_bound(
    rounds: Sequence[RoundBits], used: Sequence[RoundBits], scores: Scores, options: SelectionOptions
) -> float | None:
    """The noise rate that the planted samples of the first round that has some allow; None where they do not tell."""
    with_planted = [bits for bits in rounds if bits.planted is not None and bits.planted.any()]
    if not with_planted:
        return None
    # By its own counts: over several rounds planted samples are not learnt as mislabelled ones are, since their own
    # label is back.
    alone = len(used) == 1 and used[0] is with_planted[0]
    apart = scores if alone else score(with_planted[:1], options.metric)
    return noise_bound(_histogram(apart, apart.bins), _histogram(apart, apart.planted_bins))


def _histogram(scores: Scores, bins: NDArray[np.integer]) -> Floats:
    return _bincount(bins, scores.n_bins)


def _bincount(places: NDArray[np.integer], n_places: int) -> Floats:
    counts: Floats = np.bincount(places, minlength=n_places).astype(np.float64)
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """Evidence, its fit, and what may be believed of it.

    Attributes
    ----------
    evidence, mixture
        What was fitted, and the fit; None where the evidence is not enough for one.
    verdict, reasons
        What may be believed.
    mislabelled
        Shape (n_bytes,), the samples that are likelier mislabelled than not; None without a fit.
    early
        Whether it is of the first quarter of the epochs.
    """

    evidence: _Evidence
    mixture: Mixture | None
    verdict: Verdict
    reasons: tuple[str, ...]
    mislabelled: Bitmap | None = None
    early: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether there are two populations to be told apart."""
        return self.verdict in ("separable", "weak")


def _judged(rounds: Sequence[RoundBits], options: SelectionOptions, annotations: Annotations) -> _Judged:
    """Fit and judge; by the early epochs where mislabelled samples are learnt by heart in the late ones."""
    whole = _fitted(_evidence(rounds, options, annotations), options)
    if whole.mislabelled is None or not whole.is_cut:
        return whole
    by_heart = forgetting.known_late(whole.evidence.rounds, whole.mislabelled)
    if by_heart is None or by_heart < verdict.BY_HEART:
        return whole
    early = _fitted(_evidence(forgetting.early(rounds), options, annotations), options)
    if not early.is_cut or (whole.verdict == "separable" and early.verdict == "weak"):
        return whole
    told = (
        f"{by_heart:.0%} of the likely mislabelled samples are known in the last quarter of the epochs "
        f"(learnt by heart from {verdict.BY_HEART:.0%}), so the first quarter judges"
    )
    return replace(early, early=True, reasons=(told, *early.reasons))


def _fitted(evidence: _Evidence, options: SelectionOptions) -> _Judged:
    """Fit, and judge the fit."""
    enough, reasons = verdict.sufficient(evidence.counts)
    if not enough:
        return _Judged(evidence, None, "insufficient", reasons)
    mixture = fit_mixture(evidence.cells, options.fit, evidence.likelihood, evidence.checked)
    scored, noisy = evidence.scores.scored, (mixture.noisy_posterior(evidence.likelihood) > 0.5)[evidence.cell]
    mislabelled = bitmap.pack(_spread(noisy, scored))
    forgotten = forgetting.forgotten(evidence.rounds, bitmap.pack(scored) & ~mislabelled)
    found, reasons = verdict.judge(mixture, evidence.noise_bound, forgotten)
    return _Judged(evidence, mixture, found, reasons, mislabelled)


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


def _selected(judged: _Judged, options: SelectionOptions) -> Selection:
    """Cut, and put the pieces together."""
    evidence, mixture, found = judged.evidence, judged.mixture, judged.verdict
    scores, classes, audit = evidence.scores, evidence.classes, evidence.audit
    believed = mixture if judged.is_cut else None
    threshold = _threshold(evidence, options, believed)
    kept = np.ones(int(scores.scored.sum()), dtype=np.bool_)
    if threshold.value is not None:
        # Half a millionth of a bin: sums of fractions stay on the whole number that they stand for.
        kept = scores.values[scores.scored] <= threshold.value + scores.width * EPSILON
    by_class: ClassCuts | None = None
    if classes is not None:
        by_class = cut_classes(classes, options, threshold, believed, evidence.likelihood)
        if threshold.rule != "value":
            kept = scores.bins <= by_class.cuts[classes.own]
    n_samples = scores.values.size
    by_cut = bitmap.pack(_spread(kept, scores.scored))
    curves = _curves(evidence, mixture, threshold, found)
    posterior = np.full(n_samples, np.nan, dtype=np.float32)
    if mixture is not None:
        posterior[scores.scored] = _posterior(evidence, mixture, by_class)
    return Selection(
        options=options,
        n_samples=n_samples,
        bitmap=by_cut if audit is None else (by_cut & ~audit.known) | audit.clean,
        by_cut=by_cut,
        scores=scores.values.astype(np.float32),
        scored=scores.scored,
        noisy_posterior=posterior,
        threshold=threshold,
        components=() if mixture is None else mixture.components,
        verdict=found,
        reasons=judged.reasons,
        estimated=_estimated(curves, threshold, classes is not None),
        epochs=scores.n_epochs,
        early=judged.early,
        unobserved=int(scores.unobserved.sum()),
        planted=0 if scores.planted is None else int(scores.planted.sum()),
        histogram=Histogram(scores.origin, scores.width, evidence.counts),
        densities=None if mixture is None else mixture.densities * evidence.counts.sum(),
        curves=curves if classes is None else None,
        classes=()
        if classes is None or by_class is None
        else described(classes, by_class, kept, found, fitted=threshold.cut is not None),
    )


def _spread(of_scored: NDArray[np.bool_], scored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What holds for scored samples, over all samples; the others are out."""
    out = np.zeros(scored.size, dtype=np.bool_)
    out[scored] = of_scored
    return out


def _posterior(evidence: _Evidence, mixture: Mixture, by_class: ClassCuts | None) -> Floats:
    """Probability of being mislabelled of each scored sample, by its class's fit where there is one."""
    if evidence.classes is None or by_class is None or not by_class.fits:
        of_all: Floats = mixture.noisy_posterior(evidence.likelihood)[evidence.cell]
        return of_all
    of_class = np.stack([fit.noisy_posterior(evidence.likelihood) for fit in by_class.fits])
    posterior: Floats = of_class[evidence.classes.own, evidence.cell]
    return posterior


def _curves(evidence: _Evidence, mixture: Mixture | None, threshold: Threshold, found: Verdict) -> Curves | None:
    """What is known of every cut; None where it cannot be identified."""
    if mixture is None or threshold.cut is None or found != "separable":
        return None
    return curves_of(mixture, evidence.cells, evidence.likelihood, evidence.checked)


def _estimated(curves: Curves | None, threshold: Threshold, in_classes: bool) -> Mapping[str, Estimate | None]:
    """What is known of the set; of one made by several cuts the noise rate alone, since intervals are of one cut."""
    if curves is None or threshold.cut is None:
        return UNKNOWN
    told = estimates(curves, threshold.cut)
    return {**UNKNOWN, "noise_rate": told["noise_rate"]} if in_classes else told
