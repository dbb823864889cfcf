"""A random audit of the scored samples: the cut that it makes, and what it says of a set."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_core.guarantee import (
    DrawCounts,
    bound_noise_rate_by_draw,
    bound_quality,
    bound_wrong_share,
    conformal_cut,
    limit_undrawn_wrong,
    precision_cut,
)
from mild_core.results import BoundCurves, Bounds, Estimate, Guarantee
from mild_core.scores import Scores
from mild_core.types import SelectionOptions


@dataclass(frozen=True, slots=True, eq=False)
class RandomAudit:
    """The drawn samples among the scored ones.

    Attributes
    ----------
    drawn, wrong
        Shape (n_scored,), samples that were drawn and checked, and those of them found mislabelled.
    counts
        Both by bin of the histogram.
    """

    drawn: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    counts: DrawCounts

    @classmethod
    def from_audit(cls, audit: Audit | None, scores: Scores) -> Self | None:
        """Take the draw from an audit; None without a draw, or where drawn samples are still to be checked.

        The scored samples among the drawn ones are a uniform draw from all scored samples, because which samples are
        scored does not depend on the answers.
        """
        drawn = None if audit is None else audit.random_mask
        if audit is None or drawn is None or not audit.is_complete_draw:
            return None
        drawn = drawn[scores.scored]
        wrong = drawn & ~audit.masks[1][scores.scored]
        return cls(drawn, wrong, DrawCounts.from_bins(scores.bins, scores.n_bins, drawn, wrong))

    def choose_cut(self, options: SelectionOptions) -> int | None:
        """Apply the rule of the options to the answers: bins ``0..cut`` are kept; None where no cut reaches it."""
        counts = self.counts.kept, self.counts.drawn, self.counts.wrong
        if options.threshold == "fdr":
            cut = int(conformal_cut(*counts, options.alpha))
        else:
            cut = int(precision_cut(*counts, 1.0 if options.target is None else options.target))
        return None if cut < 0 else cut

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
            The bounds of every cut and the cut that made the set, None for all bins; `curves` of None means that the
            set was made without looking at the answers, but not by one cut of the histogram.
        """
        n_scored, n_drawn, n_wrong = self.drawn.size, int(self.drawn.sum()), int(self.wrong.sum())
        if not n_drawn:
            return None
        if curves is None:
            two_cuts = DrawCounts.from_bins((~kept).astype(np.int64), 2, self.drawn, self.wrong)
            curves, cut = BoundCurves(*bound_quality(two_cuts.kept, two_cuts.drawn, two_cuts.wrong)), 0
        position = curves.precision.size - 1 if cut is None else cut
        keeps_nothing = position < 0
        return Bounds(
            noise_rate=Estimate(n_wrong / n_drawn, *bound_noise_rate_by_draw(n_scored, n_drawn, n_wrong)),
            precision=1.0 if keeps_nothing else float(curves.precision[position]),
            recall=0.0 if keeps_nothing else float(curves.recall[position]),
        )

    def guarantee_set(self, kept: NDArray[np.bool_], options: SelectionOptions, cut: int | None) -> Guarantee:
        """Say what the audit guarantees of a set.

        Parameters
        ----------
        kept
            Shape (n_scored,).
        options
            The rule, and whether the audit entered the fit.
        cut
            The last bin that is kept; None where everyone is.
        """
        n_kept, n_drawn, n_wrong = (int((kept & mask).sum()) for mask in (kept, self.drawn, self.wrong))
        upper: float | None
        if options.audit == "fit":
            upper = None
        elif is_cut_by_draw(options):
            counts = self.counts
            position = counts.kept.size - 1 if cut is None else cut
            limits = limit_undrawn_wrong(counts.kept, counts.drawn, counts.wrong)
            upper = int(limits[position]) / max(n_kept - n_drawn, 1)
        else:
            upper = bound_wrong_share(n_kept, n_drawn, n_wrong)
        return Guarantee(
            alpha=options.alpha if options.threshold == "fdr" else None,
            drawn=int(self.drawn.sum()),
            kept_of_drawn=n_drawn,
            wrong_of_drawn=n_wrong,
            upper=upper,
            holds=is_cut_by_draw(options) and cut is not None,
            reason=self._explain(options, cut),
        )

    def _explain(self, options: SelectionOptions, cut: int | None) -> str:
        """Return the promise of the rule, or why there is none."""
        if options.audit == "fit":
            return "the fit has used the answers (audit='fit'), so they cannot judge its set"
        if not is_cut_by_draw(options):
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
        if cut is not None:
            return promise
        return (
            f"no cut reaches {goal}: {int(self.wrong.sum())} of {int(self.drawn.sum())} drawn "
            "samples are mislabelled; every judged sample is kept"
        )


def is_cut_by_draw(options: SelectionOptions) -> bool:
    """Whether a random audit makes the cut, where there is one."""
    if options.threshold == "fdr":
        return True
    return options.threshold == "precision" and not options.needs_labels and options.audit != "fit"
