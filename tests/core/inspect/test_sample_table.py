import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mild_core import bitmap
from mild_core.inspect.explain import explain_sample
from mild_core.inspect.sample_table import (
    SampleTable,
    build_sample_table,
    find_next_positions,
    find_previous_positions,
)
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from tests.core.test_selection import recorded


def rounds_of(*rows: Sequence[str], planted: Sequence[int] = ()) -> list[RoundBits]:
    """Rounds of epochs, a character per sample: 1 memorised, 0 misclassified, . not observed."""
    n_samples = len(rows[0][0])
    rounds = []
    for number, epochs in enumerate(rows):
        correct, seen = (np.array([[c in chars for c in row] for row in epochs]) for chars in ("1", "01"))
        broken = bitmap.from_indices(planted, n_samples) if planted and number == 0 else None
        rounds.append(RoundBits(n_samples, bitmap.pack(correct), bitmap.pack(seen), planted=broken))
    return rounds


def table_of(rounds: Sequence[RoundBits], options: SelectionOptions | None = None) -> SampleTable:
    return build_sample_table(rounds, select(rounds, options))


def test_columns_agree_with_the_explanation_of_each_sample() -> None:
    bits, _ = recorded(seen=0.7)
    selection = select([bits])
    table = build_sample_table([bits], selection)
    for index in range(0, 2000, 97):
        explanation = explain_sample([bits], selection, index)
        seen = explanation.rounds[0].history.replace(".", "")
        changes = sum(a != b for a, b in itertools.pairwise(seen))
        assert (table.observed[index], table.misclassified[index]) == (explanation.observed, explanation.misclassified)
        assert table.transitions[index] == changes
        assert table.is_kept[index] == explanation.kept
    assert table.n_epochs == 30
    assert table.n_bytes == 26 * 2000


def test_transitions_are_not_counted_across_rounds() -> None:
    table = table_of(rounds_of(["01.", "00.", "11."], ["001", "110"]))
    assert table.transitions.tolist() == [2, 3, 1]
    assert table.misclassified.tolist() == [3, 2, 1]
    assert table.observed.tolist() == [5, 5, 2]


def test_only_the_latest_round_counts_where_it_is_the_evidence() -> None:
    table = table_of(rounds_of(["01", "00"], ["11", "01"]), SelectionOptions(evidence="latest"))
    assert table.n_epochs == 2
    assert table.misclassified.tolist() == [1, 0]


def test_a_round_that_broke_a_label_does_not_count_for_its_sample() -> None:
    table = table_of(rounds_of(["00", "01"], ["11", "11"], planted=[0]))
    assert table.observed.tolist() == [2, 4]
    assert table.misclassified.tolist() == [0, 1]


def test_orders_have_samples_without_a_score_last() -> None:
    table = table_of(rounds_of(["01.1", "00.1"]))
    assert table.sort_indices("index").tolist() == [0, 1, 2, 3]
    assert table.sort_indices("score").tolist() == [3, 1, 0, 2]
    assert table.sort_indices("-score").tolist() == [0, 1, 3, 2]
    assert table.sort_indices("score").tolist() == [3, 1, 0, 2]


@given(st.data())
def test_pages_both_ways_hold_everyone_once(data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=1, max_size=40)))
    order = np.array(data.draw(st.permutations(range(mask.size))))
    limit = data.draw(st.integers(1, 7))
    expected = [sample for sample in order.tolist() if mask[sample]]
    start, seen = 0, list[int]()
    while (places := find_next_positions(order, mask, start, limit)).size:
        seen += order[places].tolist()
        start = int(places[-1]) + 1
    assert seen == expected
    stop, back = order.size, list[int]()
    while (places := find_previous_positions(order, mask, stop, limit)).size:
        back = order[places].tolist() + back
        stop = int(places[0])
    assert back == expected


def test_a_page_is_found_after_many_samples_outside_the_filter() -> None:
    mask = np.zeros(200_000, dtype=bool)
    mask[[5, 150_000, 199_999]] = True
    order = np.arange(200_000)
    assert find_next_positions(order, mask, 6, 2).tolist() == [150_000, 199_999]
    assert find_previous_positions(order, mask, 150_000, 2).tolist() == [5]
