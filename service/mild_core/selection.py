"""Selection of the samples whose labels are likely right, from the bits of one or more rounds.

A selection scores the samples, fits a mixture to the histogram of the scores, judges the fit, chooses a cut, and
estimates the quality of the kept set.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.bitmap import Bitmap
from mild_core.class_cuts import ClassCuts, ClassGroups, cut_classes, describe_classes, group_by_class
from mild_core.dynamics import MAX_EPOCHS
from mild_core.errors import EmptySetError, ParameterError
from mild_core.estimate import NO_ESTIMATES, estimate_curves, read_estimates
from mild_core.forgetting import measure_forgetting, measure_late_memorisation, take_first_quarter
from mild_core.learning import MIN_LEARNING_EPOCHS, find_unfinished_training
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.mixture.weibull import Floats
from mild_core.random_audit import RandomAudit, is_cut_by_draw, judge_by_draw
from mild_core.results import Curves, Estimate, Histogram, MemberOverlap, Selection, Threshold
from mild_core.scores import EPSILON, PartialObservation, Scores, score_samples
from mild_core.threshold import apply_min_keep, choose_cut, find_fraction_cut
from mild_core.types import Fit, Metric, RoundBits, SelectionOptions, Verdict
from mild_core.verdict import (
    MIN_BINS,
    SEPARABLE_DISTANCE,
    SEPARABLE_MEMORISATION,
    SINGLE_WEIGHT,
    bound_noise_rate,
    check_sufficiency,
    judge_fit,
    measure_component_distance,
)

RoundLike: TypeAlias = RoundBits | NDArray[np.bool_] | NDArray[np.integer] | NDArray[np.floating]
"""One round: packed bits, or which samples the model predicted correctly, shape (n_epochs, n_samples)."""


def select(
    rounds: RoundLike | Sequence[RoundLike],
    options: SelectionOptions | None = None,
    annotations: Annotations | None = None,
) -> Selection:
    """Select the samples whose labels are likely right after the last of `rounds`.

    Parameters
    ----------
    rounds
        One round, or a sequence of rounds of the same samples, oldest first. A round is an array of shape (n_epochs,
        n_samples), or a `RoundBits`, which can also describe unobserved epochs, members and planted samples. The array
        has booleans or numbers 0 and 1, true where the model predicted the given label of a sample in an epoch. An
        array of more epochs than samples is probably transposed, and gives a warning.
    options
        Metric, fit, threshold rule and further options; None for the defaults.
    annotations
        Given labels and an audit, for the options that need them. Where all samples that were drawn at random are
        checked, the selection has a guarantee and bounds.

    Returns
    -------
    Selection
        The clean set with the fit and the verdict behind it. If the verdict is ``unimodal``, ``learning`` or
        ``insufficient``, every scored sample is kept, unless the options give a `value` or a `fraction`, or a random
        audit makes the cut. Every scored sample is also kept where a rule would keep none: the set is empty only where
        no sample can be kept, and the last reason says why. A planted sample is judged, with its own label, by the
        rounds in which it is not planted.

    Raises
    ------
    ParameterError
        If an option is invalid, an option needs labels or a random audit and there are none, `rounds` is empty, an
        array has another shape or type, the rounds differ in their number of samples, or a round has more than
        `MAX_EPOCHS` epochs.

    Examples
    --------
    >>> selection = select(correct)  # booleans, shape (n_epochs, n_samples)
    >>> selection.indices, selection.verdict
    """
    options = (options or SelectionOptions()).validate()
    packed_rounds = _pack_rounds(rounds)
    n_samples = packed_rounds[0].n_samples
    annotations = (annotations or Annotations()).restrict_to_options(n_samples, options)
    fit = _judge_rounds(packed_rounds, options, annotations)
    selection = judge_by_draw(_build_selection(fit, options), fit.evidence.random_audit, annotations.deviation)
    overlap = measure_member_overlap(selection.bitmap, packed_rounds[-1].members, bitmap.pack(selection.scored))
    return replace(selection, member_overlap=overlap)


def measure_member_overlap(kept: Bitmap, members: Bitmap | None, scored: Bitmap) -> MemberOverlap | None:
    """Measure, among the scored samples, how much the kept set overlaps with the members of its round.

    A network has learnt its members and not the other samples, so a selection tends to keep the members, right label or
    not. The agreement of the two sets is compared with that of two unrelated sets of the same sizes. The result is only
    reported and changes no selection: a correct set also converges, and then has the same agreement (docs/method.md).

    Parameters
    ----------
    kept
        Shape (n_bytes,), the kept samples.
    members
        Shape (n_bytes,), the samples that the model was trained on; None for all samples.
    scored
        Shape (n_bytes,), the scored samples.

    Returns
    -------
    MemberOverlap | None
        None if all or none of the scored samples are members.
    """
    n_scored = bitmap.popcount(scored)
    n_members = n_scored if members is None else bitmap.popcount(members & scored)
    if members is None or n_members in (0, n_scored):
        return None
    member_share, kept_share = n_members / n_scored, bitmap.popcount(kept & scored) / n_scored
    return MemberOverlap(
        agreement=1 - bitmap.popcount((kept ^ members) & scored) / n_scored,
        by_chance=member_share * kept_share + (1 - member_share) * (1 - kept_share),
    )


def _pack_rounds(rounds: RoundLike | Sequence[RoundLike]) -> list[RoundBits]:
    """Convert all rounds to packed bits, and check their number, their numbers of samples and their lengths."""
    sequence = rounds if isinstance(rounds, Sequence) else [rounds]
    packed_rounds = [_pack_round(bits) for bits in sequence]
    if not packed_rounds:
        raise ParameterError("there are 0 rounds to select from; give at least one round of epochs")
    sizes = {bits.n_samples for bits in packed_rounds}
    if len(sizes) > 1:
        raise ParameterError(
            f"the rounds have {' and '.join(map(str, sorted(sizes)))} samples; give rounds of the same samples, with "
            "one row per epoch and one column per sample"
        )
    longest = max(bits.n_epochs for bits in packed_rounds)
    if longest > MAX_EPOCHS:
        raise ParameterError(
            f"a round has {longest} epochs, at most {MAX_EPOCHS} are counted; give every second one, or transpose an "
            "array that has one row per sample"
        )
    for given, bits in zip(sequence, packed_rounds, strict=True):
        if bits.n_epochs > bits.n_samples and not isinstance(given, RoundBits):
            warnings.warn(
                f"a round has {bits.n_epochs} epochs of {bits.n_samples} samples; transpose it if its rows are samples",
                stacklevel=3,
            )
    return packed_rounds


def _pack_round(bits: RoundLike) -> RoundBits:
    """Convert one round to packed bits, and check its shape, type and values."""
    if isinstance(bits, RoundBits):
        return bits.drop_empty_epochs()
    try:
        correct = np.asarray(bits)
    except ValueError as error:
        raise ParameterError(
            "a round has epochs of different lengths; give an array of shape (n_epochs, n_samples) per round"
        ) from error
    if correct.ndim != 2 or not correct.shape[1]:
        cause = "with at least one sample"
        if correct.ndim == 1:
            cause = "stack the epochs of a round with numpy.stack"
        elif correct.ndim == 3:
            cause = "give several rounds as a list of arrays, one per round"
        raise ParameterError(
            f"a round has the shape {correct.shape}, an array of shape (n_epochs, n_samples) is needed; {cause}"
        )
    if correct.dtype.kind not in "biuf":
        raise ParameterError(
            f"a round has the type {correct.dtype}, booleans or numbers 0 and 1 are needed; compare predictions with "
            "the given labels (predicted == labels)"
        )
    is_correct = correct == 1
    if not (is_correct | (correct == 0)).all():
        raise ParameterError(
            f"a round has values in {correct.min()}..{correct.max()}, only 0 and 1 are allowed; compare predictions "
            "with the given labels (predicted == labels), and give packed bits as RoundBits"
        )
    return RoundBits(correct.shape[1], bitmap.pack(is_correct))


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """Data of a fit.

    Attributes
    ----------
    rounds
        The rounds that are scored.
    scores
        Scores of all samples.
    counts
        Shape (n_bins,), histogram of the scored samples.
    cell_counts
        Shape (n_cells,), number of scored samples in every cell (`PartialObservation`). Where every sample was observed
        in every epoch, the cells are the bins.
    cell_likelihood
        Shape (n_cells, n_bins), `PartialObservation.likelihood`; None where the cells are the bins.
    cell_indices
        Shape (n_scored,), cell of every scored sample.
    planted_bound
        Largest noise rate that planted samples allow if wrong labels are learnt like theirs; None if it is unknown.
    audit
        Marks of the checked samples; None unless the options use them for the fit.
    checked_counts
        Shape (2, n_cells), numbers of scored samples in every cell that are marked as clean and as mislabelled; None
        without `audit`.
    random_audit
        The drawn and checked samples among the scored ones; None without a complete random audit.
    groups
        The scored samples by given label; None unless the options ask for classes.
    """

    rounds: Sequence[RoundBits]
    scores: Scores
    counts: Floats
    cell_counts: Floats
    cell_likelihood: Floats | None
    cell_indices: NDArray[np.integer]
    planted_bound: float | None
    audit: Audit | None
    checked_counts: Floats | None
    random_audit: RandomAudit | None
    groups: ClassGroups | None


@dataclass(frozen=True, slots=True, eq=False)
class _JudgedFit:
    """A fit with its data and its verdict.

    Attributes
    ----------
    evidence
        The data.
    mixture
        The fit; None if the data are insufficient for a fit.
    verdict, reasons
        The verdict on the fit, and its reasons.
    memorisation
        Late memorisation of the samples that were misclassified in most epochs, 1 if there are none; None if it is
        unknown.
    anchored
        The fit ``anchored`` of the same data, where it was made too.
    early
        How often every round was cut to its first quarter.
    """

    evidence: _Evidence
    mixture: Mixture | None
    verdict: Verdict
    reasons: tuple[str, ...]
    memorisation: float | None = None
    anchored: Mixture | None = None
    early: int = 0

    @property
    def trusted_mixture(self) -> Mixture | None:
        """The fit if the verdict allows a cut by the fit, else None."""
        return self.mixture if self.verdict in ("separable", "weak") else None

    @property
    def distance(self) -> float:
        """Distance of the components in standard deviations; minus infinity if the verdict allows no cut."""
        return -np.inf if self.trusted_mixture is None else measure_component_distance(self.trusted_mixture)


def _judge_rounds(rounds: Sequence[RoundBits], options: SelectionOptions, annotations: Annotations) -> _JudgedFit:
    """Fit and judge the rounds, unless the network was still learning when training ended."""
    judged = _judge_epochs(rounds, options, annotations)
    if judged.trusted_mixture is None:
        return judged
    unfinished = find_unfinished_training(rounds[-1])
    if unfinished is not None:
        return replace(judged, verdict="learning", reasons=(unfinished, *judged.reasons))
    if judged.verdict == "separable" and rounds[-1].n_epochs < MIN_LEARNING_EPOCHS:
        reason = (
            f"a round of {rounds[-1].n_epochs} epochs does not show whether the network was still learning (separable "
            f"from {MIN_LEARNING_EPOCHS})"
        )
        return replace(judged, verdict="weak", reasons=(reason, *judged.reasons))
    return judged


def _judge_epochs(rounds: Sequence[RoundBits], options: SelectionOptions, annotations: Annotations) -> _JudgedFit:
    """Fit and judge all epochs, or only the first ones if mislabelled samples are memorised late.

    As long as the samples that were misclassified in most epochs are known in the last quarter of them, the first
    quarter of every round is judged too. In the first epochs right labels are still being learnt, so a fit of these
    needs components that are far apart. Of the fits that allow a cut, the one with the largest distance decides.
    """
    last = _fit_evidence(_collect_evidence(rounds, options, annotations), options)
    judged = [last]
    while last.memorisation is not None and last.memorisation > SEPARABLE_MEMORISATION:
        n_epochs, rounds = _count_epochs(rounds), take_first_quarter(rounds, MIN_BINS - 1)
        if _count_epochs(rounds) == n_epochs:
            break
        reason = (
            f"{last.memorisation:.0%} of the samples that were misclassified in most epochs are known in the last "
            f"quarter (memorised late above {SEPARABLE_MEMORISATION:.0%}), so the first quarter judges"
        )
        early = _fit_evidence(_collect_evidence(rounds, options, annotations), options)
        last = replace(early, early=last.early + 1, reasons=(reason, *early.reasons))
        if last.distance >= SEPARABLE_DISTANCE:
            judged.append(last)
    return max(judged, key=lambda fit: fit.distance)


def _count_epochs(rounds: Sequence[RoundBits]) -> int:
    """Count the epochs of all rounds."""
    return sum(bits.n_epochs for bits in rounds)


def _collect_evidence(rounds: Sequence[RoundBits], options: SelectionOptions, annotations: Annotations) -> _Evidence:
    """Collect the data of a fit from the rounds that the options ask for."""
    used_rounds = rounds if options.evidence == "pooled" else rounds[-1:]
    scores = score_samples(used_rounds, options.metric)
    counts = _count_per_bin(scores.bins, scores.n_bins)
    cell_counts, cell_likelihood, cell_indices = counts, None, scores.bins
    observation = PartialObservation.from_scores(scores) if options.metric == "mild-simple" else None
    if observation is not None:
        cell_counts, cell_likelihood = observation.counts, observation.likelihood
        cell_indices = observation.cell_indices
    checked_counts, groups = None, None
    audit = annotations.audit if options.audit == "fit" else None
    if audit is not None:
        known, clean = (mask[scores.scored] for mask in audit.masks)
        checked_counts = np.stack(
            [_count_per_bin(cell_indices[mask], cell_counts.size) for mask in (clean, known & ~clean)]
        )
    if annotations.labels is not None:
        labels = annotations.labels[scores.scored]
        groups = group_by_class(labels, scores.bins, scores.n_bins, cell_indices, cell_counts.size)
    return _Evidence(
        rounds=used_rounds,
        scores=scores,
        counts=counts,
        cell_counts=cell_counts,
        cell_likelihood=cell_likelihood,
        cell_indices=cell_indices,
        planted_bound=_bound_by_planted_noise(rounds, used_rounds, scores, options),
        audit=audit,
        checked_counts=checked_counts,
        random_audit=RandomAudit.from_audit(annotations.audit, scores.scored, scores.bins, scores.n_bins),
        groups=groups,
    )


def _bound_by_planted_noise(
    rounds: Sequence[RoundBits], used_rounds: Sequence[RoundBits], scores: Scores, options: SelectionOptions
) -> float | None:
    """Bound the noise rate by the planted samples of the first round that has any; None if there are too few."""
    planted_rounds = [bits for bits in rounds if bits.planted is not None and bits.planted.any()]
    if not planted_rounds:
        return None
    # Only the counts of that round are used: in later rounds, planted samples have their own label again.
    is_only_round = len(used_rounds) == 1 and used_rounds[0] is planted_rounds[0]
    planted_scores = scores if is_only_round else score_samples(planted_rounds[:1], options.metric)
    n_bins = planted_scores.n_bins
    counts = _count_per_bin(planted_scores.bins, n_bins)
    return bound_noise_rate(counts, _count_per_bin(planted_scores.planted_bins, n_bins))


def _count_per_bin(bins: NDArray[np.integer], n_bins: int) -> Floats:
    """Count the samples in every bin, shape (n_bins,)."""
    counts: Floats = np.bincount(bins, minlength=n_bins).astype(np.float64)
    return counts


def _fit_evidence(evidence: _Evidence, options: SelectionOptions) -> _JudgedFit:
    """Fit the mixture of the options to the histogram, and judge the fit."""
    is_sufficient, reasons = check_sufficiency(evidence.counts)
    if not is_sufficient:
        return _JudgedFit(evidence, None, "insufficient", reasons)
    memorisation = _measure_memorisation(evidence, options.metric)
    if options.fit != "tailed":
        return _judge_mixture(evidence, options.fit, memorisation)
    anchored = _judge_mixture(evidence, "anchored", memorisation)
    if anchored.verdict != "separable":
        return anchored
    tailed = _judge_mixture(evidence, "tailed", memorisation)
    # Structured noise fits the tail too: a fit with tails that finds noise but separates nothing decides nothing.
    finds_noise = tailed.mixture is not None and tailed.mixture.weights[1] >= SINGLE_WEIGHT
    chosen = anchored if finds_noise and tailed.verdict != "separable" else tailed
    return replace(chosen, anchored=anchored.mixture)


def _judge_mixture(evidence: _Evidence, kind: Fit, memorisation: float | None) -> _JudgedFit:
    """Fit one kind of mixture, and judge the fit."""
    mixture = _fit_mixture(evidence, kind)
    scored = evidence.scores.scored
    is_clean = (mixture.compute_noisy_posterior(evidence.cell_likelihood) <= 0.5)[evidence.cell_indices]
    forgetting = measure_forgetting(evidence.rounds, bitmap.pack(_expand_to_samples(is_clean, scored)))
    verdict, reasons = judge_fit(mixture, forgetting, memorisation, evidence.planted_bound)
    return _JudgedFit(evidence, mixture, verdict, reasons, memorisation)


def _fit_mixture(evidence: _Evidence, kind: Fit) -> Mixture:
    """Fit one kind of mixture."""
    return fit_mixture(evidence.cell_counts, kind, evidence.cell_likelihood, evidence.checked_counts)


def _measure_memorisation(evidence: _Evidence, metric: Metric) -> float | None:
    """Measure the late memorisation of the samples that were misclassified in most epochs; 1 if there are none."""
    scores = evidence.scores if metric == "mild-simple" else score_samples(evidence.rounds, "mild-simple")
    hard = bitmap.pack(scores.scored & (scores.values > EPSILON))
    return measure_late_memorisation(evidence.rounds, hard) if hard.any() else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _KeptSet:
    """The samples that cuts keep.

    Attributes
    ----------
    threshold, class_cuts
        The common cut, and the cuts of the classes; None unless the options ask for classes.
    kept
        Shape (n_scored,), whether the cuts keep each scored sample.
    cut_bitmap, bitmap
        Shape (n_bytes,) each, the same of all samples, and with checked samples by their mark.
    """

    threshold: Threshold
    class_cuts: ClassCuts | None
    kept: NDArray[np.bool_]
    cut_bitmap: Bitmap
    bitmap: Bitmap


def _choose_set(
    evidence: _Evidence, options: SelectionOptions, mixture: Mixture | None
) -> tuple[_KeptSet, tuple[str, ...]]:
    """Cut by the options, with the reasons for keeping others; where marks drop all that is kept, keep all others."""
    threshold, reasons = _choose_threshold(evidence, options, mixture)
    chosen = _cut_set(evidence, options, threshold, mixture)
    if chosen.bitmap.any():
        return chosen, reasons
    everyone = _cut_set(evidence, replace(options, per_class=False), Threshold(options.threshold, None, None), None)
    return everyone, (_explain_empty_set(evidence, everyone),)


def _cut_set(evidence: _Evidence, options: SelectionOptions, threshold: Threshold, mixture: Mixture | None) -> _KeptSet:
    """Keep the samples that the cuts and the audit keep."""
    class_cuts: ClassCuts | None = None
    if evidence.groups is not None:
        class_cuts = cut_classes(evidence.groups, options, threshold, mixture, evidence.cell_likelihood)
    kept = _cut_scored_samples(evidence, threshold, class_cuts)
    cut_bitmap = bitmap.pack(_expand_to_samples(kept, evidence.scores.scored))
    return _KeptSet(threshold, class_cuts, kept, cut_bitmap, _follow_marks(cut_bitmap, evidence, options))


def _explain_empty_set(evidence: _Evidence, everyone: _KeptSet) -> str:
    """Say why the set of a cut is empty, what was done instead, and what to change."""
    scores = evidence.scores
    n_scored, n_kept = int(scores.scored.sum()), bitmap.popcount(everyone.bitmap)
    if not n_scored:
        return (
            f"no sample can be kept: 0 of {scores.values.size} samples are scored ({int(scores.unobserved.sum())} were "
            "observed in less than half of the epochs); record more epochs, in which samples have their own label"
        )
    if not n_kept:
        return f"no sample can be kept: all {n_scored} scored samples are marked as mislabelled; check the marks"
    return (
        f"every sample up to the cut is marked as mislabelled, so the {n_kept} others are kept; check the marks, or "
        "choose a higher cut"
    )


def check_not_empty(kept: Bitmap, reasons: Sequence[str]) -> None:
    """Check that a set that is to be stored, or trained on, has a sample.

    Parameters
    ----------
    kept
        Shape (n_bytes,), the bitmap of the set.
    reasons
        Reasons of the selection; the last one says why nothing can be kept.

    Raises
    ------
    EmptySetError
        If no sample is kept.
    """
    if not kept.any():
        raise EmptySetError(reasons[-1])


def _build_selection(fit: _JudgedFit, options: SelectionOptions) -> Selection:
    """Choose the cuts, keep the samples that the cuts and the audit keep, and estimate the quality of the set."""
    evidence, mixture = fit.evidence, fit.mixture
    scores, groups, draw = evidence.scores, evidence.groups, evidence.random_audit
    chosen, empty_reasons = _choose_set(evidence, options, fit.trusted_mixture)
    threshold, class_cuts = chosen.threshold, chosen.class_cuts
    n_samples = scores.values.size
    curves = _estimate_curves(fit, threshold)
    posterior = np.full(n_samples, np.nan, dtype=np.float32)
    if mixture is not None:
        posterior[scores.scored] = _compute_posterior(evidence, mixture, class_cuts)
    return Selection(
        options=options,
        n_samples=n_samples,
        bitmap=chosen.bitmap,
        cut_bitmap=chosen.cut_bitmap,
        scores=scores.values.astype(np.float32),
        scored=scores.scored,
        noisy_posterior=posterior,
        threshold=threshold,
        components=() if mixture is None else mixture.components,
        verdict=fit.verdict,
        reasons=(*fit.reasons, *empty_reasons),
        fitted=_estimate_set(curves, threshold, has_classes=groups is not None),
        epochs=scores.n_epochs,
        early=fit.early,
        unobserved=int(scores.unobserved.sum()),
        planted=0 if scores.planted is None else int(scores.planted.sum()),
        histogram=Histogram(scores.origin, scores.width, evidence.counts),
        densities=None if mixture is None else mixture.densities * evidence.counts.sum(),
        curves=curves if groups is None else None,
        classes=()
        if groups is None or class_cuts is None
        else describe_classes(groups, class_cuts, chosen.kept, fit.verdict, has_cut=threshold.cut is not None),
        follows_marks=options.audit == "fit" or (draw is not None and is_cut_by_draw(options)),
    )


def _follow_marks(cut_bitmap: Bitmap, evidence: _Evidence, options: SelectionOptions) -> Bitmap:
    """Keep or drop checked samples by their mark: all of them with ``audit="fit"``, else those that made the cut."""
    audit, draw = evidence.audit, evidence.random_audit
    if audit is not None:
        return (cut_bitmap & ~audit.known) | audit.clean
    if draw is None or not is_cut_by_draw(options):
        return cut_bitmap
    drawn, wrong = (bitmap.pack(_expand_to_samples(mask, evidence.scores.scored)) for mask in (draw.drawn, draw.wrong))
    return (cut_bitmap | drawn) & ~wrong


def _choose_threshold(
    evidence: _Evidence, options: SelectionOptions, mixture: Mixture | None
) -> tuple[Threshold, tuple[str, ...]]:
    """Choose the cut by a random audit, a number in the options or the fit; with none, keep all scored samples.

    A cut keeps the lowest scores at least; the reasons say where the rule alone would keep no sample.
    """
    rule, scores, counts = options.threshold, evidence.scores, evidence.counts
    if evidence.random_audit is not None and is_cut_by_draw(options):
        cut_by_draw = evidence.random_audit.choose_cut(options)
        return Threshold(rule, None if cut_by_draw is None else scores.get_cut_value(cut_by_draw), cut_by_draw), ()
    if rule == "value" and options.value is not None:
        lowest = float(np.min(scores.values[scores.scored], initial=np.inf))
        if not counts.any() or options.value >= lowest:
            return Threshold(rule, options.value, scores.find_cut(options.value)), ()
        reason = f"no score is at most {options.value:g}: the lowest, {lowest:g}, is kept; give a higher value"
        return Threshold(rule, lowest, scores.find_cut(lowest)), (reason,)
    if rule == "fraction" and options.fraction is not None and counts.any():
        rule_cut = find_fraction_cut(counts, options.fraction)
    elif mixture is not None:
        rule_cut = choose_cut(mixture, counts, options)
    else:
        return Threshold(rule, None, None), ()
    cut = apply_min_keep(rule_cut, counts, max(options.min_keep, 1 / max(counts.sum(), 1.0)))
    reason = f"threshold {rule!r} alone keeps no sample: the lowest scores are kept; choose a less strict rule"
    return Threshold(rule, scores.get_cut_value(cut), cut), () if counts[: rule_cut + 1].any() else (reason,)


def _cut_scored_samples(evidence: _Evidence, threshold: Threshold, class_cuts: ClassCuts | None) -> NDArray[np.bool_]:
    """Return whether the cuts keep each scored sample, shape (n_scored,)."""
    scores = evidence.scores
    if evidence.groups is not None and class_cuts is not None and threshold.rule != "value":
        return scores.bins <= class_cuts.cuts[evidence.groups.class_indices]
    if threshold.value is None:
        return np.ones(int(scores.scored.sum()), dtype=np.bool_)
    # The tolerance keeps scores whose sum of fractions was rounded up from the value itself.
    return scores.values[scores.scored] <= threshold.value + scores.width * EPSILON


def _expand_to_samples(mask: NDArray[np.bool_], scored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Expand a mask of the scored samples to all samples, shape (n_samples,), with False for the others."""
    expanded = np.zeros(scored.size, dtype=np.bool_)
    expanded[scored] = mask
    return expanded


def _compute_posterior(evidence: _Evidence, mixture: Mixture, class_cuts: ClassCuts | None) -> Floats:
    """Compute the noisy posterior of every scored sample, by the fit of its class if classes have fits of their own."""
    if evidence.groups is None or class_cuts is None or not class_cuts.fits:
        common: Floats = mixture.compute_noisy_posterior(evidence.cell_likelihood)[evidence.cell_indices]
        return common
    by_class = np.stack([fit.compute_noisy_posterior(evidence.cell_likelihood) for fit in class_cuts.fits])
    posterior: Floats = by_class[evidence.groups.class_indices, evidence.cell_indices]
    return posterior


def _estimate_curves(fit: _JudgedFit, threshold: Threshold) -> Curves | None:
    """Estimate the quality of every cut; None if nothing was cut or the fit is not separable."""
    if fit.mixture is None or threshold.cut is None or fit.verdict != "separable":
        return None
    return estimate_curves(
        fit.mixture, _fit_mixture(fit.evidence, "anchored") if fit.anchored is None else fit.anchored
    )


def _estimate_set(curves: Curves | None, threshold: Threshold, *, has_classes: bool) -> Mapping[str, Estimate | None]:
    """Estimate the quality of the set; with classes only the noise rate, since the curves describe one common cut."""
    if curves is None or threshold.cut is None:
        return NO_ESTIMATES
    estimates = read_estimates(curves, threshold.cut)
    return {**NO_ESTIMATES, "noise_rate": estimates["noise_rate"]} if has_classes else estimates
