"""Selection of the samples whose labels are likely right, from the bits of one or more rounds.

A selection scores the samples, fits a mixture to the histogram of the scores, judges the fit, chooses a cut, and
estimates the quality of the kept set.
"""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_core.class_cuts import ClassCuts, ClassGroups, cut_classes, describe_classes
from mild_core.dynamics import MAX_EPOCHS
from mild_core.errors import EmptySetError, ParameterError
from mild_core.estimate import NO_ESTIMATES, estimate_curves, read_estimates
from mild_core.judgement import FitData, JudgedFit, judge_samples
from mild_core.mixture.mixture import Mixture
from mild_core.random_audit import RandomAudit, choose_cut_by_draw, is_cut_by_draw, judge_by_draw
from mild_core.results import ClassCut, Curves, Estimate, Histogram, MemberOverlap, Selection, Threshold
from mild_core.sample_scores import PosteriorTable, SampleScores, keep_part
from mild_core.sources import ArraySource, SampleSource
from mild_core.threshold import apply_min_keep, choose_cut, find_fraction_cut
from mild_core.types import RoundBits, SelectionOptions

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
    annotations = (annotations or Annotations()).restrict_to_options(packed_rounds[0].n_samples, options)
    return select_from(ArraySource(packed_rounds, annotations), options)


def select_from(source: SampleSource, options: SelectionOptions, executor: Executor | None = None) -> Selection:
    """Select from a source of samples, as `select`, without holding its bits: of a sample only the bin is kept.

    Parameters
    ----------
    source
        The samples, with the annotations that the options use (`Annotations.restrict_to_options`).
    options
        Validated options.
    executor
        Where the parts of the source are read and counted; None reads one after the other in this thread.
    """
    fit = judge_samples(source, options, executor)
    selection = _build_selection(source, fit, executor)
    annotations = source.annotations
    selection = judge_by_draw(
        selection, RandomAudit.from_selection(annotations.audit, selection), annotations.deviation
    )
    overlap = measure_member_overlap(selection.bitmap, source.members, bitmap.pack(selection.scored))
    return replace(selection, member_overlap=overlap)


def measure_member_overlap(clean_set: Bitmap, members: Bitmap | None, scored: Bitmap) -> MemberOverlap | None:
    """Measure, among the scored samples, how much the kept set overlaps with the members of its round.

    A network has learnt its members and not the other samples, so a selection tends to keep the members, right label or
    not. The agreement of the two sets is compared with that of two unrelated sets of the same sizes. The result is only
    reported and changes no selection: a correct set also converges, and then has the same agreement (docs/method.md).

    Parameters
    ----------
    clean_set
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
    member_share, kept_share = n_members / n_scored, bitmap.popcount(clean_set & scored) / n_scored
    return MemberOverlap(
        agreement=1 - bitmap.popcount((clean_set ^ members) & scored) / n_scored,
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
    for unpacked, bits in zip(sequence, packed_rounds, strict=True):
        if bits.n_epochs > bits.n_samples and not isinstance(unpacked, RoundBits):
            warnings.warn(
                f"a round has {bits.n_epochs} epochs of {bits.n_samples} samples; transpose it if its rows are samples",
                stacklevel=3,
            )
    return packed_rounds


def _pack_round(bits: RoundLike) -> RoundBits:
    """Convert one round to packed bits, and check its shape, type and values."""
    if isinstance(bits, RoundBits):
        return bits
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
class _KeptSet:
    """The samples that cuts keep.

    Attributes
    ----------
    threshold, class_cuts
        The common cut, and the cuts of the classes; None unless the options ask for classes.
    n_kept
        Shape (n_classes,), number of samples of every class that the cuts keep; None without classes.
    cut_bitmap, bitmap
        Shape (n_bytes,) each, whether the cuts keep each sample, and the same with checked samples by their mark.
    """

    threshold: Threshold
    class_cuts: ClassCuts | None
    n_kept: NDArray[np.integer] | None
    cut_bitmap: Bitmap
    bitmap: Bitmap


class _SetBuilder:
    """Chooses the cuts, and keeps the samples that the cuts and the audit keep."""

    def __init__(self, source: SampleSource, data: FitData, executor: Executor | None) -> None:
        self._source, self._data, self._executor = source, data, executor
        self._options = data.query.options
        audit = source.annotations.audit
        self._audit = audit if self._options.audit == "fit" else None
        self._draw = audit if audit is not None and audit.is_complete_draw and is_cut_by_draw(self._options) else None

    @property
    def follows_marks(self) -> bool:
        """Whether checked samples are kept or dropped by their mark."""
        return self._options.audit == "fit" or self._draw is not None

    def choose(self, mixture: Mixture | None) -> tuple[_KeptSet, tuple[str, ...]]:
        """Cut by the options, with the reasons for keeping others; where marks drop all that is kept, keep all others.

        The cut is made by `mixture`, which is None if the verdict allows no cut by a fit.
        """
        threshold, reasons = self._choose_threshold(mixture)
        kept_set = self._cut_set(threshold, mixture, self._options)
        if kept_set.bitmap.any():
            return kept_set, reasons
        no_cut = Threshold(self._options.threshold, None, None)
        everyone = self._cut_set(no_cut, None, replace(self._options, per_class=False))
        return everyone, (self._explain_empty_set(everyone),)

    def _choose_threshold(self, mixture: Mixture | None) -> tuple[Threshold, tuple[str, ...]]:
        """Choose the cut by a random audit, a number in the options or the fit; with none, keep all scored samples.

        A cut keeps the lowest scores at least; the reasons say where the rule alone would keep no sample.
        """
        options, grid, counts = self._options, self._data.grid, self._data.counts
        rule = options.threshold
        if self._draw is not None:
            cut_by_draw = choose_cut_by_draw(self._data.draw_counts, options)
            return Threshold(rule, None if cut_by_draw is None else grid.get_cut_value(cut_by_draw), cut_by_draw), ()
        if rule == "value" and options.value is not None:
            lowest = self._data.statistics.lowest
            if not counts.any() or lowest <= grid.get_limit(options.value):
                return Threshold(rule, options.value, grid.find_cut(options.value)), ()
            reason = f"no score is at most {options.value:g}: the lowest, {lowest:g}, is kept; give a higher value"
            return Threshold(rule, lowest, grid.find_cut(lowest)), (reason,)
        if rule == "fraction" and options.fraction is not None and counts.any():
            rule_cut = find_fraction_cut(counts, options.fraction)
        elif mixture is not None:
            rule_cut = choose_cut(mixture, counts, options)
        else:
            return Threshold(rule, None, None), ()
        cut = apply_min_keep(rule_cut, counts, max(options.min_keep, 1 / max(counts.sum(), 1.0)))
        reason = f"threshold {rule!r} alone keeps no sample: the lowest scores are kept; choose a less strict rule"
        return Threshold(rule, grid.get_cut_value(cut), cut), () if counts[: rule_cut + 1].any() else (reason,)

    def _cut_set(self, threshold: Threshold, mixture: Mixture | None, options: SelectionOptions) -> _KeptSet:
        """Keep the samples that the cuts and the audit keep."""
        data = self._data
        class_cuts, n_kept = None, None
        if threshold.rule == "value" and threshold.value is not None:
            cut_bitmap = self._keep_up_to_value(threshold.value)
        else:
            cut = data.grid.n_bins - 1 if threshold.cut is None else threshold.cut
            cut_bitmap = bitmap.pack(data.bins <= cut) if cut >= 0 else np.zeros_like(bitmap.pack(data.bins))
        if data.groups is not None:
            class_cuts = cut_classes(data.groups, options, threshold, mixture, data.cell_likelihood)
            own_cuts = None if threshold.rule == "value" else class_cuts.cuts
            cut_bitmap, n_kept = self._keep_by_class(data.groups, own_cuts, cut_bitmap)
        return _KeptSet(threshold, class_cuts, n_kept, cut_bitmap, self._follow_marks(cut_bitmap))

    def _keep_up_to_value(self, value: float) -> Bitmap:
        """Keep the scored samples whose score is at most `value`, shape (n_bytes,): a bin may be kept in part."""
        keep = partial(keep_part, self._data.query, self._data.grid.get_limit(value))
        map_parts = map if self._executor is None else self._executor.map
        return np.concatenate(list(map_parts(keep, self._source.split())))

    def _keep_by_class(
        self, groups: ClassGroups, cuts: NDArray[np.int64] | None, cut_bitmap: Bitmap
    ) -> tuple[Bitmap, NDArray[np.int64]]:
        """Keep samples by the cuts of their classes, or those of a bitmap; return the bitmap, and the number by class.

        Parameters
        ----------
        groups
            The scored samples by given label.
        cuts
            Shape (n_classes,), last bin that is kept of every class; None to keep the samples of the bitmap.
        cut_bitmap
            Shape (n_bytes,), the bitmap.
        """
        bins, kept_parts = self._data.bins, []
        n_kept = np.zeros(groups.labels.size, dtype=np.int64)
        for part in self._source.split():
            positions = groups.find_positions(part.read_labels())
            mask = bitmap.unpack(cut_bitmap[part.extent], positions.size)
            if cuts is not None:
                mask = bins[part.extent.start * 8 : part.extent.stop * 8].astype(np.int64) <= cuts[positions]
            n_kept += np.bincount(positions[mask], minlength=groups.labels.size)
            kept_parts.append(bitmap.pack(mask))
        return np.concatenate(kept_parts), n_kept

    def _follow_marks(self, cut_bitmap: Bitmap) -> Bitmap:
        """Keep or drop checked samples by their mark: all with ``audit="fit"``, else those that made the cut."""
        if self._audit is not None:
            return (cut_bitmap & ~self._audit.checked) | self._audit.clean
        if self._draw is None:
            return cut_bitmap
        scored = bitmap.pack(self._data.bins < np.iinfo(self._data.bins.dtype).max)
        followed: Bitmap = (cut_bitmap | (self._draw.drawn & scored)) & ~(self._draw.drawn_wrong & scored)
        return followed

    def _explain_empty_set(self, everyone: _KeptSet) -> str:
        """Say why the set of a cut is empty, what was done instead, and what to change."""
        n_scored, n_kept = self._data.n_scored, bitmap.popcount(everyone.bitmap)
        if not n_scored:
            return (
                f"no sample can be kept: 0 of {self._source.n_samples} samples are scored "
                f"({self._data.statistics.n_unobserved} were observed in less than half of the epochs); record "
                "more epochs, in which samples have their own label"
            )
        if not n_kept:
            return f"no sample can be kept: all {n_scored} scored samples are marked as mislabelled; check the marks"
        return (
            f"every sample up to the cut is marked as mislabelled, so the {n_kept} others are kept; check the marks, "
            "or choose a higher cut"
        )


def check_not_empty(clean_set: Bitmap, reasons: Sequence[str]) -> None:
    """Check that a set that is to be stored, or trained on, has a sample.

    Parameters
    ----------
    clean_set
        Shape (n_bytes,), the bitmap of the set.
    reasons
        Reasons of the selection; the last one says why nothing can be kept.
    """
    if not clean_set.any():
        raise EmptySetError(reasons[-1])


def _build_selection(source: SampleSource, fit: JudgedFit, executor: Executor | None) -> Selection:
    """Choose the cuts, keep the samples that the cuts and the audit keep, and estimate the quality of the set."""
    data, mixture, groups = fit.data, fit.mixture, fit.data.groups
    builder = _SetBuilder(source, data, executor)
    kept_set, empty_reasons = builder.choose(fit.trusted_mixture)
    threshold, class_cuts = kept_set.threshold, kept_set.class_cuts
    curves = _estimate_curves(fit, threshold)
    table = None if mixture is None else _tabulate_posterior(data, mixture, class_cuts)
    classes: tuple[ClassCut, ...] = ()
    if groups is not None and class_cuts is not None and kept_set.n_kept is not None:
        classes = describe_classes(groups, class_cuts, kept_set.n_kept, fit.verdict, has_cut=threshold.cut is not None)
    return Selection(
        options=data.query.options,
        n_samples=source.n_samples,
        bitmap=kept_set.bitmap,
        cut_bitmap=kept_set.cut_bitmap,
        bins=data.bins,
        details=SampleScores(source, data.query, table, executor),
        threshold=threshold,
        components=() if mixture is None else mixture.components,
        verdict=fit.verdict,
        reasons=(*fit.reasons, *empty_reasons),
        fitted=_estimate_set(curves, threshold, has_classes=groups is not None),
        epochs=data.n_epochs,
        early=data.query.early,
        unobserved=data.statistics.n_unobserved,
        planted=data.statistics.n_planted,
        histogram=Histogram(data.grid.origin, data.grid.width, data.counts),
        densities=None if mixture is None else mixture.densities * data.counts.sum(),
        curves=curves if groups is None else None,
        classes=classes,
        follows_marks=builder.follows_marks,
    )


def _tabulate_posterior(data: FitData, mixture: Mixture, class_cuts: ClassCuts | None) -> PosteriorTable:
    """Tabulate the noisy posterior of every cell, by class if classes have fits of their own."""
    likelihood, groups = data.cell_likelihood, data.groups
    if groups is None or class_cuts is None or not class_cuts.fits:
        return PosteriorTable(mixture.compute_noisy_posterior(likelihood), data.observation)
    by_class = np.stack([fit.compute_noisy_posterior(likelihood) for fit in class_cuts.fits])
    return PosteriorTable(by_class, data.observation, groups.labels)


def _estimate_curves(fit: JudgedFit, threshold: Threshold) -> Curves | None:
    """Estimate the quality of every cut; None if nothing was cut or the fit is not separable."""
    if fit.mixture is None or threshold.cut is None or fit.verdict != "separable":
        return None
    return estimate_curves(fit.mixture, fit.data.fit("anchored") if fit.anchored is None else fit.anchored)


def _estimate_set(curves: Curves | None, threshold: Threshold, *, has_classes: bool) -> Mapping[str, Estimate | None]:
    """Estimate the quality of the set; with classes only the noise rate, since the curves describe one common cut."""
    if curves is None or threshold.cut is None:
        return NO_ESTIMATES
    estimates = read_estimates(curves, threshold.cut)
    return {**NO_ESTIMATES, "noise_rate": estimates["noise_rate"]} if has_classes else estimates
