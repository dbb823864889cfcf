from dataclasses import replace

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.evaluation import evaluate
from mild_core.selection import select
from mild_core.sweep import sweep
from mild_core.types import Metric, RoundBits, SelectionOptions
from tests.core.test_selection import recorded


@pytest.mark.parametrize("metric", ["mild-simple", "mild", "forgetting", "first-learned"])
@pytest.mark.parametrize("seen", [1.0, 0.7])
def test_at_its_own_cut_a_selection_is_itself(metric: Metric, seen: float) -> None:
    bits, clean = recorded(seen=seen)
    selection = select([bits], SelectionOptions(metric=metric))
    audit = Audit.from_marks(range(0, 2000, 3), clean[::3].tolist(), 2000)
    cuts = sweep(selection, audit)
    cut = len(cuts) - 1 if selection.threshold.cut is None else selection.threshold.cut
    own = cuts[cut]
    assert own.cut == cut
    assert own.kept == selection.n_selected
    if selection.threshold.value is not None:
        assert own.value == selection.threshold.value
    for name, implied in (("precision", own.precision), ("recall", own.recall)):
        estimate = selection.estimated[name]
        assert implied == (None if estimate is None else pytest.approx(estimate.value))
    judged = evaluate(selection.bitmap, selection.scores, audit)
    assert own.measured is not None
    assert replace(own.measured, auc=judged.auc) == judged


def test_a_higher_cut_keeps_more_and_loses_fewer() -> None:
    bits, _ = recorded()
    cuts = sweep(select([bits]))
    assert [cut.cut for cut in cuts] == list(range(31))
    assert [cut.value for cut in cuts] == [2.0 * z - 30 for z in range(31)]
    kept = [cut.kept for cut in cuts]
    assert kept == sorted(kept)
    assert kept[-1] == 2000
    recall = [cut.recall for cut in cuts if cut.recall is not None]
    assert recall == sorted(recall)
    assert recall[-1] == pytest.approx(1.0)
    assert all(cut.measured is None for cut in cuts)


def test_without_a_fit_to_believe_nothing_is_estimated() -> None:
    few, _ = recorded(n_epochs=3)
    rng = np.random.default_rng(0)
    one_population = RoundBits(3000, bitmap.pack(rng.random((40, 3000)) < 0.3))
    for bits in (few, one_population):
        assert all(cut.precision is None and cut.recall is None for cut in sweep(select([bits])))


def test_without_a_histogram_there_is_no_cut() -> None:
    bits, _ = recorded()
    assert sweep(replace(select([bits]), histogram=None)) == ()
