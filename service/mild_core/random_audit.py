"""A random audit of the scored samples: the cut that it makes, and what it says of a set."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Audit
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
from mild_core.scores import assign_bins
from mild_core.types import SelectionOptions


@dataclass(frozen=True, slots=True, eq=False)
class RandomAudit:
    """The drawn samples among the scored ones.

    Attributes
    ----------
    bins
        Shape (n_scored,), bin of every scored sample.
    drawn, wrong
        Shape (n_scored,), samples that were drawn and checked, and those of them found mislabelled.
    counts
        Both by bin of the histogram.
    """

    bins: NDArray[np.int64]
    drawn: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    counts: DrawCounts

    @classmethod
    def from_audit(
        cls, audit: Audit | None, scored: NDArray[np.bool_], bins: NDArray[np.int64], n_bins: int
    ) -> Self | None:
        """Take the draw from an audit; None without a draw, or where drawn samples are still to be checked.

        The scored samples among the drawn ones are a uniform draw from all scored samples, because which samples are
        scored does not depend on the answers.

        Parameters
        ----------
        audit
            The audit.
        scored
            Shape (n_samples,), samples that are scored.
        bins, n_bins
            Shape (n_scored,), their bins, and the number of bins.
        """
        random = None if audit is None else audit.random_mask
        if audit is None or random is None or not audit.is_complete_draw:
            return None
        drawn = random[scored]
        wrong = drawn & ~audit.masks[1][scored]
        return cls(bins, drawn, wrong, DrawCounts.from_bins(bins, n_bins, drawn, wrong))

    @classmethod
    def from_selection(cls, audit: Audit | None, selection: Selection) -> Self | None:
        """Take the draw from an audit, with the bins of a selection; None as in `from_audit`."""
        histogram, scored = selection.histogram, selection.scored
        if histogram is None:
            return None
        n_bins = histogram.counts.size
        bins = assign_bins(selection.scores[scored], histogram.origin, histogram.width, n_bins)
        return cls.from_audit(audit, scored, bins, n_bins)

    def choose_cut(self, options: SelectionOptions) -> int | None:
        """Apply the rule of the options to the answers: bins ``0..cut`` are kept; None where no cut reaches it."""
        counts = self.counts.kept, self.counts.drawn, self.counts.wrong
        if options.threshold == "fdr":
            cut = int(conformal_cut(*counts, options.alpha))
        else:
            cut = int(precision_cut(*counts, 1.0 if options.target is None else options.target))
        return None if cut < 0 else cut

    def find_cut(self, kept: NDArray[np.bool_]) -> int | None:
        """Return the cut that keeps exactly the samples `kept`, shape (n_scored,); None if no cut does.

        It is the smallest such cut, and -1 if nothing is kept.
        """
        n_kept = int(kept.sum())
        cut = int(np.searchsorted(self.counts.kept, n_kept)) if n_kept else -1
        return cut if np.array_equal(self.bins <= cut, kept) else None

    def compute_bound_curves(self) -> BoundCurves:
        """Bound precision and recall of every cut."""
        return BoundCurves(*bound_quality(self.counts.kept, self.counts.drawn, self.counts.wrong))

    def bound_set(self, kept: NDArray[np.bool_], curves: BoundCurves | None, cut: int | None) -> Bounds | None:
        """Bound the quality of a set; None without drawn samples.

        Parameters
        ----------
        kept
            Shape (n_scored,).
        curves, cut
            The bounds of every cut, and the cut that keeps the set; None if no cut does, which needs a set that was
            made without looking at the answers.
        """
        n_scored, n_drawn, n_wrong = self.drawn.size, int(self.drawn.sum()), int(self.wrong.sum())
        if not n_drawn:
            return None
        if curves is None or cut is None:
            two_cuts = DrawCounts.from_bins((~kept).astype(np.int64), 2, self.drawn, self.wrong)
            curves, cut = BoundCurves(*bound_quality(two_cuts.kept, two_cuts.drawn, two_cuts.wrong)), 0
        return Bounds(
            noise_rate=Estimate(n_wrong / n_drawn, *bound_noise_rate_by_draw(n_scored, n_drawn, n_wrong)),
            precision=1.0 if cut < 0 else float(curves.precision[cut]),
            recall=0.0 if cut < 0 else float(curves.recall[cut]),
            basis=f"{n_drawn} of {n_scored} judged samples, drawn at random and checked: {n_wrong} are mislabelled",
        )

    def bound_undrawn_wrong_share(self, kept: NDArray[np.bool_], cut: int | None) -> float:
        """Bound the share of wrong labels among the kept samples that were not drawn, at 90%.

        Parameters
        ----------
        kept
            Shape (n_scored,).
        cut
            The cut that keeps them if the answers may have chosen it: the bound then holds for every cut at once. None
            if they have not.
        """
        n_kept, n_drawn = int(kept.sum()), int((kept & self.drawn).sum())
        if cut is None:
            return bound_wrong_share(n_kept, n_drawn, int((kept & self.wrong).sum()))
        limits = limit_undrawn_wrong(self.counts.kept, self.counts.drawn, self.counts.wrong)
        return 0.0 if cut < 0 else int(limits[cut]) / max(n_kept - n_drawn, 1)


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
    options = selection.options
    kept_samples = bitmap.unpack(selection.audited_bitmap, selection.n_samples)
    kept, n_unjudged = kept_samples[selection.scored], int((kept_samples & ~selection.scored).sum())
    cut = draw.find_cut(kept)
    by_draw = selection.follows_marks and options.audit != "fit"
    is_chosen = by_draw or (deviation is not None and not is_fixed)  # the answers may have chosen this set
    can_bound = options.audit != "fit" and not (deviation is not None and deviation.reorders)
    can_bound_set = can_bound and not n_unjudged and (cut is not None or not is_chosen)
    curves = draw.compute_bound_curves() if can_bound and draw.drawn.any() else None
    return replace(
        selection,
        guarantee=Guarantee(
            alpha=options.alpha if options.threshold == "fdr" else None,
            drawn=int(draw.drawn.sum()),
            kept_of_drawn=int((kept & draw.drawn).sum()),
            wrong_of_drawn=int((kept & draw.wrong).sum()),
            upper=draw.bound_undrawn_wrong_share(kept, cut if by_draw or deviation else None)
            if can_bound_set
            else None,
            holds=by_draw and deviation is None and selection.threshold.cut is not None,
            reason=f"{n_unjudged} kept samples are not judged, so none of them could be drawn"
            if n_unjudged and can_bound
            else _explain(selection, draw, deviation, by_draw=by_draw, is_one_cut=cut is not None, is_fixed=is_fixed),
        ),
        bounds=draw.bound_set(kept, curves, cut) if can_bound_set else None,
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
        f"no cut reaches {goal}: {int(draw.wrong.sum())} of {int(draw.drawn.sum())} drawn "
        "samples are mislabelled; every judged sample is kept"
    )


def is_cut_by_draw(options: SelectionOptions) -> bool:
    """Whether a random audit makes the cut, where there is one."""
    if options.threshold == "fdr":
        return True
    return options.threshold == "precision" and not options.needs_labels and options.audit != "fit"
