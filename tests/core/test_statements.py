import copy
from typing import Any, get_args

import numpy as np

from mild_core import guarantee
from mild_core.statements import (
    describe_checking_time,
    describe_draw,
    describe_quality,
    describe_shares,
    describe_truth,
    describe_verdict,
    format_at_least,
    format_at_most,
    plan_draws,
    propose_draw_size,
)
from mild_core.types import Verdict

INTERVAL = {"value": 0.36, "low": 0.34, "high": 0.39}
SELECTION: dict[str, Any] = {
    "num_samples": 1437,
    "num_selected": 918,
    "fitted": {"noise_rate": INTERVAL, "precision": None, "recall": None},
    "guarantee": None,
    "bounds": None,
}
GUARANTEE = {
    "alpha": None,
    "drawn": 100,
    "kept_of_drawn": 63,
    "wrong_of_drawn": 2,
    "upper": 0.07301,
    "holds": False,
    "reason": "threshold 'f1' promises no share of wrong labels; for this set there is `upper`",
}
BOUNDS = {"noise_rate": {"value": 0.08, "low": 0.0519, "high": 0.1201}, "precision": 0.9199, "recall": 0.8}
BASIS = "100 audited samples drawn at random, 40 that somebody chose"
MEASURED = {"known": 140, "precision": 0.95, "recall": 0.8, "f1": 0.87, "auc": 0.9, "basis": BASIS}


def describe(**changes: Any) -> list[tuple[str, str]]:
    statements = describe_quality({**copy.deepcopy(SELECTION), **changes})
    return [(statement.basis, statement.text) for statement in statements]


def test_without_a_checked_label_the_lead_is_what_is_not_known_and_the_fit_comes_last() -> None:
    (lead, last) = describe()
    assert lead == (
        "unknown",
        "How many of the 918 kept labels are wrong is not known: no label was checked.",
    )
    assert last[0] == "fitted"
    assert last[1].startswith("By the fit, 36.0% (34% to 39%) of all labels are wrong: this holds if ")
    assert describe(fitted={}) == [lead]


def test_a_complete_draw_leads_with_the_bound_of_this_set() -> None:
    bases, texts = zip(*describe(guarantee=GUARANTEE, bounds=BOUNDS, measured=MEASURED), strict=True)
    assert bases == (*["bounded"] * 5, "measured", "fitted")
    assert texts[0] == "At most 7.4% of the kept labels are wrong, the drawn ones aside, with 90% confidence."
    assert texts[1].endswith(" drawn at random and checked: the cut keeps 63 of them, 2 of these with a wrong label.")
    assert "At least 91.9% of the kept labels, the drawn ones included, are right, with 95% confidence" in texts[2]
    assert "at least 80.0% of the right labels are kept, with 90% confidence that both hold" in texts[2]
    assert "5.1% to 12.1% are wrong" in texts[3]
    assert texts[4] == (
        "No promise of the rule: threshold 'f1' promises no share of wrong labels; for this set there is the upper "
        "bound."
    )
    assert texts[5] == f"On {BASIS}: 95.0% of the kept labels are right, 80.0% of the right labels are kept."
    kept = describe(guarantee={**GUARANTEE, "holds": True, "reason": "so be it"}, bounds=BOUNDS)
    assert ("bounded", "The rule's promise: so be it.") in kept


def test_a_draw_that_bounds_nothing_of_this_choice_says_why() -> None:
    told = describe(guarantee={**GUARANTEE, "upper": None, "reason": "the round differs"})
    assert [basis for basis, _ in told] == ["unknown", "unknown", "fitted"]
    assert "no bound holds for this choice" in told[0][1]
    assert told[1][1] == "No promise of the rule: the round differs."


def test_measured_figures_without_a_complete_draw_speak_for_their_samples_alone() -> None:
    told = dict(describe(measured=MEASURED))
    assert "unknown" not in told
    assert told["measured"].startswith(f"On {BASIS}: 95.0% of the kept labels are right")
    assert told["measured"].endswith("are kept. These samples speak for themselves alone.")


def test_checked_samples_that_measure_nothing_say_so() -> None:
    nothing = {**MEASURED, "known": 3, "precision": None, "recall": None}
    assert "none of them is both kept and right." in dict(describe(measured=nothing))["measured"]
    assert dict(describe(measured={**nothing, "known": 0})).keys() == {"unknown", "fitted"}
    truth = {**MEASURED, "known": 1437, "basis": "the true labels of all samples"}
    assert dict(describe(measured=truth))["measured"] == (
        "On the true labels of all samples: 95.0% of the kept labels are right, 80.0% of the right labels are kept."
    )
    assert describe_truth(None, None).text.endswith("none of the labels is both kept and right.")
    assert describe_shares(None, 0.5) == "50.0% of the right labels are kept"


def test_a_verdict_is_explained_and_says_whether_samples_are_dropped() -> None:
    counts = {"num_samples": 100, "unobserved": 5, "planted": 2}
    weak = describe_verdict({**counts, "num_selected": 60, "verdict": "weak"})
    assert weak.endswith("The set may be worse than keeping everything: a random audit bounds both.")
    for verdict in get_args(Verdict):
        kept_all = describe_verdict({**counts, "num_selected": 93, "verdict": verdict})
        assert kept_all == describe_verdict({**counts, "num_selected": 92, "verdict": verdict}) + (
            " No samples are dropped."
        )


def test_bounds_are_rounded_to_the_safe_side() -> None:
    assert (format_at_most(0.07001), format_at_most(0.07), format_at_most(1.0)) == ("7.1%", "7.0%", "100.0%")
    assert (format_at_least(0.9199), format_at_least(0.57), format_at_least(0.0)) == ("91.9%", "57.0%", "0.0%")


def test_a_plan_says_what_a_draw_would_bound_by_the_functions_of_the_bound() -> None:
    kept = np.cumsum(np.full(20, 70))
    plans = plan_draws(kept.tolist(), 9)
    assert [plan.n for plan in plans] == [50, 100, 300, 500]
    uppers = [plan.upper for plan in plans]
    assert uppers == sorted(uppers, reverse=True)
    drawn = np.rint(100 * kept / 1400).astype(np.int64)
    limit = guarantee.limit_undrawn_wrong(kept, drawn, np.rint(0.05 * drawn).astype(np.int64))[9]
    assert plans[1].upper == limit / (kept[9] - drawn[9])
    assert [plan.n for plan in plan_draws([10, 120], None)] == [50, 100]
    assert plan_draws([10, 120], -1) == plan_draws([10, 120], None) == plan_draws([10, 120], 1)


def test_no_more_samples_are_proposed_to_draw_than_are_judged() -> None:
    assert [propose_draw_size(n_judged) for n_judged in (0, 10, 100, 101, 50_000)] == [0, 10, 100, 100, 100]
    assert describe_draw(10) == "Draw 10 samples at random and check them: about 1 minute at 5 seconds each"


def test_checking_takes_minutes() -> None:
    assert describe_draw(100) == "Draw 100 samples at random and check them: about 9 minutes at 5 seconds each"
    assert describe_checking_time(10) == "about 1 minute at 5 seconds each"
