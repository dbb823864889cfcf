import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mild_core import bitmap
from mild_core.inspect.sample_table import build_sample_table
from mild_core.inspect.suspicion import TieBreaks, compare_rounds, measure_tie_breaks, rank_by_suspicion
from mild_core.selection import select
from mild_core.types import RoundBits
from tests.core.inspect.test_sample_table import rounds_of

NAN = float("nan")


def ties(posterior: list[float], learned: list[float], disagreement: list[float]) -> TieBreaks:
    return TieBreaks(np.array(posterior), np.array(learned), np.array(disagreement))


def test_each_tie_is_broken_by_the_next_of_the_keys() -> None:
    scores = np.array([1, 2, 2, 2, 2, 2, 2, NAN, NAN])
    breaks = ties(
        [1.0, 0.5, 0.6, 0.5, 0.5, 0.5, NAN, 0.1, NAN],
        [9.0, 3.0, 3.0, 4.0, 3.0, 3.0, 9.0, 9.0, NAN],
        [0.0, 0.2, 0.9, 0.9, 0.1, 0.2, 0.0, 0.0, 0.0],
    )
    # 2: the posterior; 3: learnt last; 4: rounds agree; 1 and 5: the index; 6: no posterior; then 0 by its score.
    assert rank_by_suspicion(scores, breaks).tolist() == [2, 3, 4, 1, 5, 6, 0, 7, 8]


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, NAN])] * 3, st.sampled_from([0.0, 0.5])), min_size=1))
def test_the_order_holds_each_sample_once_and_falls(values: list[tuple[float, float, float, float]]) -> None:
    scores, posterior, learned, disagreement = map(np.array, zip(*values, strict=True))
    order = rank_by_suspicion(scores, TieBreaks(posterior, learned, disagreement))
    assert sorted(order.tolist()) == list(range(scores.size))
    keys = [(*np.nan_to_num(-np.array(values[i][:3]), nan=9.0).tolist(), values[i][3], i) for i in order.tolist()]
    assert keys == sorted(keys)


def test_rounds_that_differ_are_apart() -> None:
    first, second = np.array([1.0, -1.0, NAN, NAN]), np.array([1.0, 0.5, 0.5, NAN])
    assert compare_rounds([first, second], 4).tolist() == [0.0, 1.5, 0.0, 0.0]
    assert compare_rounds([first], 4).tolist() == compare_rounds([], 4).tolist() == [0.0] * 4


def test_a_round_with_a_broken_label_does_not_count() -> None:
    rounds = rounds_of(["000", "000"], ["110", "110"], planted=[0])
    breaks = measure_tie_breaks(rounds, select(rounds))
    assert breaks.disagreement.tolist() == [0.0, 2.0, 0.0]
    assert breaks.first_learned.tolist() == [0.0, 2.0, 4.0]


def test_the_class_breaks_ties_where_labels_are_known() -> None:
    """Class 1 is half mislabelled, class 0 hardly: at equal scores, its samples are the more suspicious."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    wrong = rng.random(4000) < np.where(labels == 1, 0.5, 0.02)
    learnt = np.arange(20)[:, None] >= rng.poisson(4, 4000)
    bits = RoundBits(4000, bitmap.pack(np.where(wrong, rng.random((20, 4000)) < 0.2, learnt)))
    selection = select([bits])
    assert selection.verdict == "separable"
    table = build_sample_table([bits], selection, labels)
    plain = build_sample_table([bits], selection)
    assert (np.diff(table.scores[table.order]) <= 0).all()
    assert (table.scores[table.order] == plain.scores[plain.order]).all()
    near_cut = table.scores[table.order] == 0
    assert np.diff(labels[table.order[near_cut]]).max() == 0
    assert set(labels[table.order[near_cut]].tolist()) == {0, 1}
    assert np.diff(labels[plain.order[near_cut]]).max() == 1
