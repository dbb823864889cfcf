"""A random audit of the scored samples: the cut that it makes, and what it says of a set."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.draw import Deviation
from mild_core.guarantee import (
    DrawCounts,
    bound_noise_rate_by_draw,
    bound_quality,
    bound_wrong_share,
    conformal_cut,
    limit_undrawn_wrong,
    precision_cut,
)
from mild_core.results import BoundCurves, Bounds, Estimate, Guarantee, Selection
from mild_core.statistics import count_bins
from mild_core.types import SelectionOptions


@dataclass(frozen=True, slots=True, eq=False)
class RandomAudit:
    """The drawn samples among the scored ones.

    Attributes
    ----------
    drawn, wrong
        Shape (n_bytes,), the samples that were drawn and checked, and those of them found mislabelled.
    bins
        `Selection.bins`.
    counts
        The scored samples, the drawn ones and those of them found mislabelled, up to each cut.
    """

    drawn: Bitmap
    wrong: Bitmap
    bins: NDArray[np.unsignedinteger]
    counts: DrawCounts

    @classmethod
    def from_selection(cls, audit: Audit | None, selection: Selection) -> Self | None:
        """Take the draw from an audit, with the bins of a selection.

        The scored samples among the drawn ones are a uniform draw from all scored samples, because which samples are
        scored does not depend on the answers.

        Returns
        -------
        RandomAudit | None
            None without a draw or a histogram, or where drawn samples are still to be checked.
        """
        if audit is None or not audit.is_complete_draw or selection.histogram is None:
            return None
        n_bins = selection.histogram.counts.size
        drawn, wrong = (count_bins(selection.bins, n_bins, mask) for mask in (audit.drawn, audit.drawn_wrong))
        counts = (np.cumsum(numbers).astype(np.int64) for numbers in (selection.histogram.counts, drawn, wrong))
        return cls(audit.drawn, audit.drawn_wrong, selection.bins, DrawCounts(*counts))

    def count_set(self, bits: Bitmap) -> "SetCounts":
        """Count the samples of a set, shape (n_bytes,)."""
        n_bins = self.counts.sizes.size
        by_bin, drawn, wrong = (count_bins(self.bins, n_bins, bits & mask) for mask in (bits, self.drawn, self.wrong))
        n_scored = np.diff(self.counts.sizes, prepend=0)
        size = int(by_bin.sum())
        # The smallest cut that keeps as many samples as the set: whether it keeps the same ones, the bins tell.
        cut = int(np.searchsorted(self.counts.sizes, size)) if size else -1
        is_one_cut = np.array_equal(by_bin, np.where(np.arange(n_bins) <= cut, n_scored, 0))
        return SetCounts(
            size, int(drawn.sum()), int(wrong.sum()), bitmap.popcount(bits) - size, cut if is_one_cut else None
        )

    def compute_bound_curves(self) -> BoundCurves:
        """Bound precision and recall of every cut."""
        return BoundCurves(*bound_quality(*self.counts))

    def bound_set(self, set_counts: "SetCounts", curves: BoundCurves | None) -> Bounds | None:
        """Bound the quality of a set; None without drawn samples.

        Parameters
        ----------
        set_counts
            The set. One that no single cut makes must have been made without looking at the answers.
        curves
            The bounds of every cut; None if they cannot be used.
        """
        sizes, drawn, wrong = self.counts
        n_scored, n_drawn, n_wrong = (int(counts[-1]) for counts in self.counts)
        if not n_drawn:
            return None
        cut = set_counts.cut
        if curves is None or cut is None:
            numbers = ((set_counts.size, n_scored), (set_counts.n_drawn, n_drawn), (set_counts.n_wrong, n_wrong))
            sizes, drawn, wrong = (np.array(pair) for pair in numbers)  # two cuts: this set, and everything
            curves, cut = BoundCurves(*bound_quality(sizes, drawn, wrong)), 0
        return Bounds(
            noise_rate=Estimate(n_wrong / n_drawn, *bound_noise_rate_by_draw(n_scored, n_drawn, n_wrong)),
            precision=1.0 if cut < 0 else float(curves.precision[cut]),
            recall=0.0 if cut < 0 else float(curves.recall[cut]),
            basis=f"{n_drawn} of {n_scored} judged samples, drawn at random and checked: {n_wrong} are mislabelled",
        )

    def bound_undrawn_wrong_share(self, set_counts: "SetCounts", cut: int | None) -> float:
        """Bound the share of wrong labels among the kept samples that were not drawn, at 90%.

        Parameters
        ----------
        set_counts
            The set.
        cut
            The cut that makes it if the answers may have chosen it: the bound then holds for every cut at once. None
            if they have not.
        """
        if cut is None:
            return bound_wrong_share(set_counts.size, set_counts.n_drawn, set_counts.n_wrong)
        limits = limit_undrawn_wrong(*self.counts)
        return 0.0 if cut < 0 else int(limits[cut]) / max(set_counts.size - set_counts.n_drawn, 1)


@dataclass(frozen=True, slots=True)
class SetCounts:
    """Numbers of the samples of a set.

    Attributes
    ----------
    size, n_drawn, n_wrong
        Its scored samples, the drawn ones among them, and those of them found mislabelled.
    n_unjudged
        Its samples that are not scored.
    cut
        The cut that keeps exactly its scored samples, -1 if there are none; None if no cut does.
    """

    size: int
    n_drawn: int
    n_wrong: int
    n_unjudged: int
    cut: int | None


def choose_cut_by_draw(counts: DrawCounts, options: SelectionOptions) -> int | None:
    """Apply the rule of the options to the answers: bins ``0..cut`` are kept; None where no cut reaches it."""
    if options.threshold == "fdr":
        cut = int(conformal_cut(*counts, options.alpha))
    else:
        cut = int(precision_cut(*counts, 1.0 if options.target is None else options.target))
    return None if cut < 0 else cut


def judge_by_draw(
    selection: Selection, draw: RandomAudit | None, deviation: Deviation | None = None, *, is_fixed: bool = False
) -> Selection:
    """Return the selection with what a complete random audit says of its set.

    Parameters
    ----------
    selection
        The selection.
    draw
        The drawn and checked samples; None without a complete draw, and nothing is said.
    deviation
        How the selection differs from the choice that was recorded with the draw; None if it does not, or if the caller
        vouches that the answers have not chosen it.
    is_fixed
        Whether the set was made before the draw, so that the answers have not chosen it, whatever the deviation.
    """
    if draw is None:
        return replace(selection, guarantee=None, bounds=None, bound_curves=None)
    options, set_counts = selection.options, draw.count_set(selection.audited_bitmap)
    by_draw = selection.follows_marks and options.audit != "fit"
    is_chosen = by_draw or (deviation is not None and not is_fixed)  # the answers may have chosen this set
    can_bound = options.audit != "fit" and not (deviation is not None and deviation.reorders)
    can_bound_set = can_bound and not set_counts.n_unjudged and (set_counts.cut is not None or not is_chosen)
    curves = draw.compute_bound_curves() if can_bound and draw.counts.drawn[-1] else None
    return replace(
        selection,
        guarantee=Guarantee(
            alpha=options.alpha if options.threshold == "fdr" else None,
            drawn=int(draw.counts.drawn[-1]),
            kept_of_drawn=set_counts.n_drawn,
            wrong_of_drawn=set_counts.n_wrong,
            upper=draw.bound_undrawn_wrong_share(set_counts, set_counts.cut if by_draw or deviation else None)
            if can_bound_set
            else None,
            holds=by_draw and deviation is None and selection.threshold.cut is not None,
            reason=f"{set_counts.n_unjudged} kept samples are not judged, so none of them could be drawn"
            if set_counts.n_unjudged and can_bound
            else _explain(
                selection, draw, deviation, by_draw=by_draw, is_one_cut=set_counts.cut is not None, is_fixed=is_fixed
            ),
        ),
        bounds=draw.bound_set(set_counts, curves) if can_bound_set else None,
        bound_curves=None if options.needs_labels else curves,
    )


def _explain(
    selection: Selection,
    draw: RandomAudit,
    deviation: Deviation | None,
    *,
    by_draw: bool,
    is_one_cut: bool,
    is_fixed: bool,
) -> str:
    """Return the promise of the rule, or why there is none."""
    options = selection.options
    if options.audit == "fit":
        return "the fit has used the answers (audit='fit'), so they cannot judge its set"
    if deviation is not None:
        if deviation.reorders:
            return f"{deviation.difference}: the answers may have chosen this order, so they cannot judge its sets"
        if is_one_cut:
            return f"{deviation.difference}; `upper` and the bounds hold for every cut at once"
        if is_fixed:
            return f"{deviation.difference}; for this set, which was made before the draw, there is `upper`"
        return f"{deviation.difference}: the answers may have chosen this set, and no single cut makes it"
    if not by_draw:
        return f"threshold {options.threshold!r} promises no share of wrong labels; for this set there is `upper`"
    if options.threshold == "fdr":
        goal = f"a share of {options.alpha:g} wrong labels"
        promise = (
            f"averaged over draws, at most {options.alpha:g} of the kept samples that were not drawn are "
            "mislabelled; for this one set there is `upper`"
        )
    else:
        goal = f"a bound of precision of {options.target:g}"
        promise = f"with 95% confidence, at least {options.target:g} of the samples up to this cut are clean"
    if selection.threshold.cut is not None:
        return promise
    return (
        f"no cut reaches {goal}: {draw.counts.wrong[-1]} of {draw.counts.drawn[-1]} drawn "
        "samples are mislabelled; every judged sample is kept"
    )


def is_cut_by_draw(options: SelectionOptions) -> bool:
    """Whether a random audit makes the cut, where there is one."""
    if options.threshold == "fdr":
        return True
    return options.threshold == "precision" and not options.needs_labels and options.audit != "fit"
