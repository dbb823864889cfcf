from dataclasses import replace

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.audit import Annotations, Audit, evaluate_selection
from mild_core.inspect.sweep import Cut, CutEstimates, evaluate_cuts, sweep_cuts
from mild_core.results import CutMeasured, Selection, serialize_fit
from mild_core.selection import select
from mild_core.types import Metric, RoundBits, SelectionOptions
from tests.core.test_selection import recorded


def swept(selection: Selection, audit: Audit | None = None) -> list[Cut]:
    measured = None if audit is None else evaluate_cuts(selection, audit)
    return sweep_cuts(serialize_fit(selection), measured)


def estimates(selection: Selection) -> CutEstimates:
    """What the fit says of the set."""
    precision, recall = (selection.fitted[name] for name in ("precision", "recall"))
    if precision is None or recall is None:
        return CutEstimates()
    return CutEstimates(precision.value, precision.low, precision.high, recall.value, recall.low, recall.high)


@pytest.mark.parametrize("metric", ["mild-simple", "mild", "forgetting", "first-learned"])
@pytest.mark.parametrize("seen", [1.0, 0.7])
def test_at_its_own_cut_a_selection_is_itself(metric: Metric, seen: float) -> None:
    bits, clean = recorded(seen=seen)
    selection = select([bits], SelectionOptions(metric=metric))
    audit = Audit.from_marks(range(0, 2000, 3), clean[::3].tolist(), 2000)
    cuts = swept(selection, audit)
    cut = len(cuts) - 1 if selection.threshold.cut is None else selection.threshold.cut
    own = cuts[cut]
    assert own.cut == cut
    assert own.num_kept == selection.n_selected
    if selection.threshold.value is not None:
        assert own.value == selection.threshold.value
    assert own.fitted == estimates(selection)
    judged = evaluate_selection(selection.bitmap, selection.scores, audit)
    assert own.measured == CutMeasured(judged.precision, judged.recall, judged.f1)


def test_a_higher_cut_keeps_more_and_loses_fewer() -> None:
    bits, _ = recorded()
    cuts = swept(select([bits]))
    assert [cut.cut for cut in cuts] == list(range(31))
    assert [cut.value for cut in cuts] == [2.0 * z - 30 for z in range(31)]
    kept = [cut.num_kept for cut in cuts]
    assert kept == sorted(kept)
    assert kept[-1] == 2000
    recall = [cut.fitted.recall or 0.0 for cut in cuts]
    assert recall == sorted(recall)
    assert recall[-1] == pytest.approx(1.0)
    assert all(cut.measured is None for cut in cuts)


def test_without_a_fit_to_believe_nothing_is_estimated() -> None:
    few, _ = recorded(n_epochs=3)
    rng = np.random.default_rng(0)
    one_population = RoundBits(3000, bitmap.pack(rng.random((40, 3000)) < 0.3))
    for bits in (few, one_population):
        assert all(cut.fitted == CutEstimates() for cut in swept(select([bits])))


def test_an_estimate_is_the_one_that_a_selection_with_that_cut_has() -> None:
    bits, _ = recorded()
    for cut in swept(select([bits]))[::5]:
        selection = select([bits], SelectionOptions(threshold="value", value=cut.value))
        assert (selection.n_selected, estimates(selection)) == (cut.num_kept, cut.fitted)


def test_without_a_histogram_or_a_mark_there_is_nothing_to_say() -> None:
    bits, _ = recorded()
    selection = select([bits])
    without = replace(selection, histogram=None)
    assert swept(without) == []
    assert evaluate_cuts(without, Audit.from_marks([0], [True], 2000)) is None
    assert evaluate_cuts(selection, Audit.from_marks([], [], 2000)) is None


def test_whoever_was_checked_is_kept_by_their_mark_where_the_audit_is_fitted() -> None:
    bits, clean = recorded()
    audit = Audit.from_marks(range(0, 2000, 3), clean[::3].tolist(), 2000)
    selection = select([bits], SelectionOptions(audit="fit"), Annotations(audit=audit))
    measured = evaluate_cuts(selection, audit)
    cuts = sweep_cuts(serialize_fit(selection), measured, by_mark=measured)
    assert selection.threshold.cut is not None
    assert cuts[selection.threshold.cut].num_kept == selection.n_selected
