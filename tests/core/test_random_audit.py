"""Selections with a random audit: the cut of `threshold=fdr`, guarantees and bounds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.draw import Deviation
from mild_core.errors import InvalidInput, ParameterError
from mild_core.guarantee import limit_undrawn_wrong
from mild_core.random_audit import RandomAudit, judge_by_draw
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from tests.core.draws import count_draw

N_SAMPLES, N_EPOCHS = 3000, 30
Mask = NDArray[np.bool_]


def recorded(noise: float = 0.3, seed: int = 0) -> tuple[RoundBits, Mask]:
    """Bits of samples that are misclassified for as many epochs as their label is hard, and cleanness."""
    rng = np.random.default_rng(seed)
    clean = rng.random(N_SAMPLES) >= noise
    z = np.where(clean, rng.integers(0, 14, N_SAMPLES), rng.integers(9, N_EPOCHS + 1, N_SAMPLES))
    learnt = np.arange(N_EPOCHS)[:, None] >= z
    return RoundBits(N_SAMPLES, bitmap.pack(np.where(clean, learnt, rng.permuted(learnt, axis=0)))), clean


def drawn_audit(clean: Mask, n_drawn: int = 200, seed: int = 0, among: NDArray[np.intp] | None = None) -> Audit:
    among = np.arange(clean.size) if among is None else among
    indices = np.random.default_rng(seed).choice(among, n_drawn, replace=False)
    return Audit.from_marks(indices.tolist(), clean[indices].tolist(), clean.size, random=True)


def select_with(drawn: Audit | None, bits: RoundBits, /, **options: Any) -> Any:
    return select([bits], SelectionOptions(**options), Annotations(audit=drawn))


def test_fdr_cuts_by_the_draw_and_says_what_it_promises() -> None:
    bits, clean = recorded()
    audit = drawn_audit(clean)
    selection = select_with(audit, bits, threshold="fdr", alpha=0.1)
    guarantee = selection.guarantee
    assert (guarantee.alpha, guarantee.drawn, guarantee.holds) == (0.1, 200, True)
    assert "averaged over draws, at most 0.1" in guarantee.reason
    kept, by_cut = bitmap.unpack(selection.bitmap, N_SAMPLES), bitmap.unpack(selection.cut_bitmap, N_SAMPLES)
    drawn = audit.random_mask
    assert 0.5 < by_cut.mean() < 0.95
    assert np.array_equal(kept[drawn], clean[drawn])  # drawn samples follow their mark
    assert np.array_equal(kept[~drawn], by_cut[~drawn])
    assert np.array_equal(selection.audited_bitmap, selection.cut_bitmap)
    assert guarantee.kept_of_drawn == (by_cut & drawn).sum()
    assert guarantee.wrong_of_drawn == (by_cut & drawn & ~clean).sum()
    share = (kept & ~drawn & ~clean).sum() / (kept & ~drawn).sum()
    assert share <= guarantee.upper < 0.25
    summary = selection.summary()
    assert summary["guarantee"]["upper"] == guarantee.upper
    assert summary["threshold"] == {"rule": "fdr", "value": selection.threshold.value, "cut": selection.threshold.cut}


def test_where_no_cut_reaches_alpha_everyone_is_kept_and_nothing_holds() -> None:
    bits, clean = recorded(noise=0.9)
    audit = drawn_audit(clean, 20)
    selection = select_with(audit, bits, threshold="fdr", alpha=0.01)
    assert (selection.threshold.cut, selection.threshold.value) == (None, None)
    assert bitmap.popcount(selection.cut_bitmap) == N_SAMPLES
    assert not selection.guarantee.holds
    assert "no cut reaches a share of 0.01 wrong labels" in selection.guarantee.reason
    assert selection.guarantee.upper > 0.8
    assert selection.bounds.precision < 0.2
    assert selection.bounds.recall == 1.0


def test_no_noise_keeps_everyone() -> None:
    bits, clean = recorded(noise=0.0)
    selection = select_with(drawn_audit(clean), bits, threshold="fdr")
    assert selection.n_selected == N_SAMPLES
    assert selection.guarantee.holds
    assert selection.bounds.noise_rate.low == 0.0


def test_a_share_to_keep_at_least_does_not_raise_the_cut() -> None:
    bits, clean = recorded()
    plain, raised = (
        select_with(drawn_audit(clean), bits, threshold="fdr", min_keep=min_keep) for min_keep in (0.0, 1.0)
    )
    assert np.array_equal(plain.bitmap, raised.bitmap)


def test_fdr_needs_every_answer_of_a_random_draw() -> None:
    bits, clean = recorded()
    chosen = Audit.from_marks([1, 2], [True, False], N_SAMPLES)
    unanswered = replace(drawn_audit(clean), random=bitmap.full(N_SAMPLES))
    for audit, reason in (
        (None, "got 0 checked samples and 0 drawn ones; draw 100 or more"),
        (chosen, "got 2 checked samples and 0 drawn ones"),
        (unanswered, "needs an answer for each of 3000 drawn samples, 2800 have none; check them all"),
    ):
        with pytest.raises(ParameterError, match=reason):
            select_with(audit, bits, threshold="fdr")
    with pytest.raises(ParameterError, match="0 drawn ones; draw all of the judged samples"):
        select(np.ones((9, 10)), SelectionOptions(threshold="fdr"))
    assert select_with(unanswered, bits).guarantee is None
    assert select_with(chosen, bits).bounds is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"per_class": True}, "one cut for all classes, got per_class=True; leave per_class out"),
        ({"min_keep_class": 0.1}, "got min_keep_class=0.1; leave min_keep_class out"),
        ({"audit": "fit"}, "do not depend on the audit, got audit='fit'; leave audit out"),
        ({"alpha": 0.9}, r"alpha is 0.9; give a number in 0.001\.\.0.5"),
    ],
)
def test_options_that_contradict_fdr_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        SelectionOptions(threshold="fdr", **options).validate()


def test_fdr_is_not_the_rule_of_a_run() -> None:
    with pytest.raises(ParameterError, match="cannot be the rule of a run: it needs a random audit"):
        SelectionOptions(threshold="fdr").validate_for_run()
    options = SelectionOptions()
    assert options.validate_for_run() is options


@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": "value", "value": -3.5}, {"threshold": "value", "value": -99.0}, {"per_class": True}],
    ids=["f1", "value", "nothing is kept", "per class"],
)
def test_a_cut_that_the_answers_did_not_choose_has_an_upper_bound_too(options: dict[str, Any]) -> None:
    bits, clean = recorded()
    annotations = Annotations(np.arange(N_SAMPLES) % 2, drawn_audit(clean))
    selection = select([bits], SelectionOptions(**options), annotations)
    plain = select([bits], SelectionOptions(**options), replace(annotations, audit=None))
    assert np.array_equal(selection.bitmap, plain.bitmap)
    assert (plain.guarantee, plain.bounds, plain.bound_curves) == (None, None, None)
    guarantee, bounds = selection.guarantee, selection.bounds
    assert guarantee is not None
    assert bounds is not None
    assert (guarantee.alpha, guarantee.holds) == (None, False)
    assert "promises no share of wrong labels" in guarantee.reason
    kept = bitmap.unpack(selection.bitmap, N_SAMPLES)
    precision = (kept & clean).sum() / max(kept.sum(), 1) if kept.any() else 1.0
    assert guarantee.upper is not None
    assert 1 - precision <= guarantee.upper + 0.01
    assert bounds.precision <= precision
    assert bounds.recall <= (kept & clean).sum() / clean.sum()
    assert bounds.noise_rate.low <= 1 - clean.mean() <= bounds.noise_rate.high
    assert (selection.bound_curves is None) == ("per_class" in options)


def test_a_fixed_cut_has_a_tighter_bound_than_one_that_the_answers_chose() -> None:
    bits, clean = recorded()
    by_draw = select_with(drawn_audit(clean), bits, threshold="fdr")
    fixed = select_with(drawn_audit(clean), bits, threshold="value", value=by_draw.threshold.value)
    assert np.array_equal(fixed.cut_bitmap, by_draw.cut_bitmap)
    assert fixed.guarantee.upper < by_draw.guarantee.upper


def test_precision_takes_the_largest_cut_whose_bound_keeps_the_target() -> None:
    bits, clean = recorded()
    selection = select_with(drawn_audit(clean, 300), bits, threshold="precision", target=0.85)
    assert selection.guarantee.holds
    assert "with 95% confidence, at least 0.85" in selection.guarantee.reason
    assert selection.bounds.precision >= 0.85
    curves, cut = selection.bound_curves, selection.threshold.cut
    assert curves.precision[cut] == selection.bounds.precision
    assert (curves.precision[cut + 1 :] < 0.85).all()
    beyond = select_with(drawn_audit(clean, 300), bits, threshold="precision", target=1.0)
    assert beyond.threshold.cut is None
    assert not beyond.guarantee.holds
    assert "no cut reaches a bound of precision of 1" in beyond.guarantee.reason


def test_answers_that_entered_the_fit_bound_nothing() -> None:
    bits, clean = recorded()
    selection = select_with(drawn_audit(clean), bits, audit="fit", threshold="precision", target=0.9)
    assert (selection.guarantee.upper, selection.guarantee.holds) == (None, False)
    assert "the fit has used the answers" in selection.guarantee.reason
    assert (selection.bounds, selection.bound_curves) == (None, None)


def test_drawn_samples_that_are_not_judged_do_not_count() -> None:
    bits, clean = recorded()
    planted = np.arange(N_SAMPLES) < 1500
    audit = drawn_audit(clean, 400)
    selection = select_with(audit, replace(bits, planted=bitmap.pack(planted)), threshold="fdr")
    assert selection.guarantee.drawn == (audit.random_mask & ~planted).sum()
    assert not (bitmap.unpack(selection.bitmap, N_SAMPLES) & planted).any()
    nobody = drawn_audit(clean, 30, among=np.arange(1500))
    empty = select_with(nobody, replace(bits, planted=bitmap.pack(planted)), threshold="fdr")
    assert (empty.guarantee.drawn, empty.guarantee.upper, empty.guarantee.holds) == (0, 1.0, False)
    assert empty.bounds is None


def test_upper_is_that_of_all_cuts_at_once() -> None:
    bits, clean = recorded()
    selection = select_with(drawn_audit(clean), bits, threshold="fdr")
    kept = bitmap.unpack(selection.cut_bitmap, N_SAMPLES)
    drawn = drawn_audit(clean).random_mask
    bins = np.rint((selection.scores - selection.histogram.origin) / selection.histogram.width).astype(int)
    counts = count_draw(bins, 31, drawn, ~clean)
    limit = limit_undrawn_wrong(counts.sizes, counts.drawn, counts.wrong)[selection.threshold.cut]
    assert selection.guarantee.upper == pytest.approx(limit / (kept & ~drawn).sum())


def test_an_audit_says_which_samples_were_drawn() -> None:
    audit = Audit.from_marks([3, 1, 7], [True, False, True], 10, random=[True, True, False])
    assert audit.random is not None
    assert bitmap.to_indices(audit.random, 10).tolist() == [1, 3]
    assert (audit.n_drawn, audit.n_unanswered, audit.is_complete_draw) == (2, 0, True)
    without = audit.remove(bitmap.from_indices([3], 10))
    assert (without.n_drawn, without.n_unanswered, without.is_complete_draw) == (2, 1, False)
    merged = without.merge(Audit.from_marks([3], [False], 10))
    assert merged.is_complete_draw
    assert Audit.empty(10).merge(audit).n_drawn == 2
    none = Audit.from_marks([3, 1], [True, False], 10, random=[False, False])
    assert (none.random, none.n_drawn, none.n_unanswered) == (None, 0, 0)
    assert not none.random_mask.any()
    assert Audit.from_marks([], [], 10, random=True).random is None
    with pytest.raises(InvalidInput, match="2 indices and 1 entries of `random`; give one for all"):
        Audit.from_marks([3, 1], [True, False], 10, random=[True])


CUT = Deviation("alpha is 0.2, 0.1 was recorded with the draw", reorders=False)
ORDER = Deviation("metric is mild, mild-simple was recorded with the draw", reorders=True)


def judged(deviation: Deviation | None, **options: Any) -> Any:
    bits, clean = recorded()
    annotations = Annotations(np.arange(N_SAMPLES) % 2, drawn_audit(clean), deviation)
    return select([bits], SelectionOptions(**options), annotations)


def test_a_cut_that_was_not_recorded_has_the_bound_of_all_cuts_and_no_promise() -> None:
    recorded_choice = judged(None, threshold="fdr")
    other = judged(CUT, threshold="fdr")
    assert (recorded_choice.guarantee.holds, other.guarantee.holds) == (True, False)
    assert other.guarantee.upper == recorded_choice.guarantee.upper
    assert other.bounds == recorded_choice.bounds
    assert other.guarantee.reason.startswith("alpha is 0.2, 0.1 was recorded with the draw; `upper` and")
    value = recorded_choice.threshold.value
    by_hand, fixed = (judged(deviation, threshold="value", value=value) for deviation in (CUT, None))
    assert by_hand.guarantee.upper == recorded_choice.guarantee.upper > fixed.guarantee.upper
    assert by_hand.bounds == fixed.bounds == recorded_choice.bounds


def test_an_order_that_was_not_recorded_has_no_bounds() -> None:
    other = judged(ORDER, threshold="fdr")
    assert (other.guarantee.holds, other.guarantee.upper, other.bounds, other.bound_curves) == (False, None, None, None)
    assert "the answers may have chosen this order" in other.guarantee.reason


def test_a_set_of_no_single_cut_has_bounds_only_if_the_answers_cannot_have_chosen_it() -> None:
    bits, clean = recorded()
    selection = select([bits])
    odd = replace(selection, bitmap=bitmap.pack(np.arange(N_SAMPLES) % 2 == 0))
    draw = RandomAudit.from_selection(drawn_audit(clean), odd)
    chosen, fixed, vouched = (
        judge_by_draw(odd, draw, deviation, is_fixed=is_fixed)
        for deviation, is_fixed in ((CUT, False), (CUT, True), (None, False))
    )
    assert chosen.guarantee is not None
    assert fixed.guarantee is not None
    assert vouched.guarantee is not None
    assert (chosen.guarantee.upper, chosen.bounds) == (None, None)
    assert "no single cut makes it" in chosen.guarantee.reason
    assert "which was made before the draw" in fixed.guarantee.reason
    assert fixed.bounds == vouched.bounds
    share = (~clean[::2]).mean()
    assert fixed.guarantee.upper is not None
    assert share <= fixed.guarantee.upper < share + 0.15
    assert vouched.guarantee.upper == fixed.guarantee.upper
    assert (fixed.bound_curves is None, judged(CUT, per_class=True).bound_curves is None) == (False, True)


def test_without_a_complete_draw_or_a_histogram_nothing_is_said() -> None:
    bits, clean = recorded()
    selection = select([bits], annotations=Annotations(audit=drawn_audit(clean)))
    silent = judge_by_draw(selection, None)
    assert (silent.guarantee, silent.bounds, silent.bound_curves) == (None, None, None)
    assert RandomAudit.from_selection(drawn_audit(clean), replace(selection, histogram=None)) is None
    assert RandomAudit.from_selection(None, selection) is None
    empty = replace(selection, bitmap=np.zeros_like(selection.bitmap))
    nothing = judge_by_draw(empty, RandomAudit.from_selection(drawn_audit(clean), empty))
    assert nothing.guarantee is not None
    assert nothing.bounds is not None
    assert (nothing.guarantee.upper, nothing.bounds.precision, nothing.bounds.recall) == (0.0, 1.0, 0.0)


def test_marks_that_were_drawn_are_told_from_the_others() -> None:
    audit = Audit.from_marks([3, 1, 7], [True, False, True], 10, random=[True, True, False])
    marked = audit.restrict_to_draw(np.arange(10) < 3)
    assert (bitmap.to_indices(marked.checked, 10).tolist(), marked.n_clean, marked.n_drawn) == ([1], 0, 1)
    chosen = replace(audit, random=None).restrict_to_draw(np.ones(10, dtype=bool))
    assert (chosen.n_checked, chosen.n_drawn) == (0, 0)
