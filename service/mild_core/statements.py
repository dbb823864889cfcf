"""What is known of a clean set, in sentences that name their basis.

From the strongest basis to the weakest: *bounded* by a random audit, whatever the noise, the network and the scores;
*measured* on checked samples; *fitted*, which holds only as far as the assumption of the fit does. An experiment whose
true labels are known measures on all samples (*true*). Where no label was checked, the first sentence says that the
share of wrong labels is not known. Bounds are rounded to the safe side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mild_core.draw import DRAW_SIZE
from mild_core.guarantee import BOUND_ERROR, UPPER_ERROR, Counts, limit_undrawn_wrong
from mild_core.types import Verdict

_SECONDS_PER_CHECK = 5
_DRAW_SIZES = (50, 100, 300, 500)
_ASSUMED_WRONG_SHARE = 0.05
_ROUNDING = 1e-9

Basis = Literal["bounded", "true", "measured", "unknown", "fitted"]


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence about a clean set, and what it rests on."""

    basis: Basis
    text: str


def describe_quality(selection: Mapping[str, Any]) -> list[Statement]:
    """Describe what is known of a clean set; the strongest statement comes first, those of the fit last.

    Parameters
    ----------
    selection
        The selection as JSON values, as in the HTTP API. Without `measured`, `guarantee` or `bounds`, nothing is said
        of them.
    """
    bounded = _describe_bounds(selection)
    measured, fitted = _describe_measured(selection), _describe_fitted(selection.get("fitted") or {})
    promise = _describe_promise(selection.get("guarantee"))
    statements = [Statement("bounded", text) for text in (*bounded, *promise) if bounded]
    if measured:
        statements.append(Statement("measured", measured))
    if not statements:
        reason = "no label was checked" if not promise else "no bound holds for this choice"
        unknown = f"How many of the {selection['num_selected']:,} kept labels are wrong is not known: {reason}."
        statements += [Statement("unknown", text) for text in (unknown, *promise)]
    if fitted:
        statements.append(Statement("fitted", fitted))
    return statements


def describe_selection(selection: Mapping[str, Any]) -> list[str]:
    """Describe a selection in sentences: what is known of its set, the verdict, and last the fit's own figures."""
    statements = describe_quality(selection)
    texts, fitted_texts = (
        [each.text for each in statements if (each.basis == "fitted") == is_fitted] for is_fitted in (False, True)
    )
    return [*texts, f"Verdict: {selection['verdict']}. {describe_verdict(selection)}", *fitted_texts]


def _describe_bounds(selection: Mapping[str, Any]) -> list[str]:
    """Describe what a complete random audit bounds; empty without one."""
    guarantee, bounds = selection.get("guarantee"), selection.get("bounds")
    texts = []
    if guarantee and guarantee["upper"] is not None:
        texts += [
            f"At most {format_at_most(guarantee['upper'])} of the kept labels are wrong, the drawn ones aside, with "
            f"{1 - UPPER_ERROR:.0%} confidence.",
            f"{guarantee['drawn']:,} samples were drawn at random and checked: the cut keeps "
            f"{guarantee['kept_of_drawn']:,} of them, {guarantee['wrong_of_drawn']:,} of these with a wrong label.",
        ]
    if bounds:
        rate = bounds["noise_rate"]
        texts += [
            f"At least {format_at_least(bounds['precision'])} of the kept labels, the drawn ones included, are right, "
            f"with {1 - BOUND_ERROR:.0%} confidence, and at least {format_at_least(bounds['recall'])} of the right "
            f"labels are kept, with {1 - 2 * BOUND_ERROR:.0%} confidence that both hold.",
            f"Of all judged labels, {format_at_least(rate['low'])} to {format_at_most(rate['high'])} are wrong, with "
            f"{1 - 2 * BOUND_ERROR:.0%} confidence.",
        ]
    return texts


def _describe_promise(guarantee: Mapping[str, Any] | None) -> list[str]:
    """Describe the promise of the rule, or why there is none; empty without a complete random audit."""
    if not guarantee:
        return []
    reason = guarantee["reason"].replace("`upper`", "the upper bound")
    return [f"The rule's promise: {reason}." if guarantee["holds"] else f"No promise of the rule: {reason}."]


def _describe_measured(selection: Mapping[str, Any]) -> str | None:
    """Describe the quality on the checked samples; None without any."""
    measured, guarantee = selection.get("measured"), selection.get("guarantee")
    if not measured or not measured["known"]:
        return None
    n_checked = measured["known"]
    shares = describe_shares(measured["precision"], measured["recall"]) or "none of them is both kept and right"
    is_representative = guarantee or n_checked == selection["num_samples"]
    scope = "" if is_representative else " These samples speak for themselves alone."
    return f"On {measured['basis']}: {shares}.{scope}"


def describe_verdict(selection: Mapping[str, Any]) -> str:
    """Describe in sentences what the verdict of a selection means, and whether samples are dropped."""
    text = _VERDICT_TEXTS[selection["verdict"]]
    return text if selection["num_selected"] < count_judged(selection) else f"{text} No samples are dropped."


def count_judged(selection: Mapping[str, Any]) -> int:
    """Return the number of samples that a selection judges, all that can be drawn."""
    n_judged: int = selection["num_samples"] - selection["unobserved"] - selection["planted"]
    return n_judged


_VERDICT_TEXTS: Mapping[Verdict, str] = {
    "separable": "The fit tells two groups of samples apart, and the set is the group that was learnt early. Whether "
    "its labels are right, a fit cannot show.",
    "weak": "The fit finds two groups of samples, but not all signs that one of them has the wrong labels. The set may "
    "be worse than keeping everything: a random audit bounds both.",
    "unimodal": "No second group of samples was found that is worth a cut.",
    "learning": "The network was still learning when training ended: train longer.",
    "insufficient": "Too little was recorded to tell right labels from wrong ones.",
}


def describe_truth(precision: float | None, recall: float | None) -> Statement:
    """Describe the quality that is measured against the true labels of all samples."""
    shares = describe_shares(precision, recall) or "none of the labels is both kept and right"
    return Statement("true", f"Against the true labels, which only an experiment knows: {shares}.")


def describe_shares(precision: float | None, recall: float | None) -> str | None:
    """Describe precision and recall in words, without a full stop; None where both are undefined."""
    parts = []
    if precision is not None:
        parts.append(f"{precision:.1%} of the kept labels are right")
    if recall is not None:
        parts.append(f"{recall:.1%} of the right labels are kept")
    return ", ".join(parts) or None


def _describe_fitted(fitted: Mapping[str, Mapping[str, float] | None]) -> str | None:
    """Describe what follows from the fit, and the assumption; None where it identifies nothing."""
    texts = {
        "noise_rate": "of all labels are wrong",
        "precision": "of the kept are right",
        "recall": "of the right are kept",
    }
    parts = [
        f"{estimate['value']:.1%} ({estimate['low']:.0%} to {estimate['high']:.0%}) {texts[name]}"
        for name, estimate in fitted.items()
        if estimate is not None
    ]
    if not parts:
        return None
    return f"By the fit, {', '.join(parts)}: {FIT_ASSUMPTION}."


FIT_ASSUMPTION = "this holds if wrong labels are learnt as the fit supposes, which the predictions cannot show"
"""The assumption of all fitted numbers."""


def propose_draw_size(n_judged: int) -> int:
    """Return how many samples to propose to draw: `DRAW_SIZE`, or all that are judged where they are fewer."""
    return min(DRAW_SIZE, n_judged)


def describe_draw(n: int) -> str:
    """Describe the step that bounds the quality of a set, a draw of `n` samples, without a full stop."""
    return f"Draw {n} samples at random and check them: {describe_checking_time(n)}"


def describe_checking_time(n: int) -> str:
    """Describe how long it takes a person to check `n` labels."""
    minutes = math.ceil(n * _SECONDS_PER_CHECK / 60)
    return f"about {minutes:,} minute{'' if minutes == 1 else 's'} at {_SECONDS_PER_CHECK} seconds each"


@dataclass(frozen=True, slots=True)
class DrawPlan:
    """What a draw of a size would bound.

    Attributes
    ----------
    n
        Samples to draw and check.
    checking_time
        How long that takes, in words.
    upper
        90% upper bound of the share of wrong labels in the set, the drawn samples aside, if 5% of its checked samples
        turn out to be wrong.
    """

    n: int
    checking_time: str
    upper: float


def plan_draws(sizes: Sequence[int], cut: int | None) -> list[DrawPlan]:
    """Compute what draws of 50, 100, 300 and 500 samples would bound; only of those that are fewer than all samples.

    Parameters
    ----------
    sizes
        Shape (n_cuts,), samples up to each cut; the last one is all that can be drawn.
    cut
        The cut of the set; None, or -1, if it has all samples.
    """
    counts: Counts = np.asarray(sizes, dtype=np.int64)
    position = counts.size - 1 if cut is None or cut < 0 else cut
    plans = []
    for n in filter(lambda n: n < counts[-1], _DRAW_SIZES):
        drawn = np.rint(n * counts / counts[-1]).astype(np.int64)
        wrong = np.rint(_ASSUMED_WRONG_SHARE * drawn).astype(np.int64)
        limit = int(limit_undrawn_wrong(counts, drawn, wrong)[position])
        n_undrawn = max(int(counts[position] - drawn[position]), 1)
        plans.append(DrawPlan(n, describe_checking_time(n), limit / n_undrawn))
    return plans


def format_at_most(share: float) -> str:
    """Format an upper bound of a share as a percentage, rounded up."""
    return f"{math.ceil(1000 * share - _ROUNDING) / 10:.1f}%"


def format_at_least(share: float) -> str:
    """Format a lower bound of a share as a percentage, rounded down."""
    return f"{math.floor(1000 * share + _ROUNDING) / 10:.1f}%"
