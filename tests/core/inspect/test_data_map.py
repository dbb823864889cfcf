import numpy as np
import pytest

from mild_core.errors import InvalidInput
from mild_core.inspect.histograms import Axis, build_data_map, compare_selections
from mild_core.inspect.sample_table import build_sample_table
from mild_core.selection import select
from mild_core.types import SelectionOptions
from tests.core.inspect.test_sample_table import rounds_of, table_of
from tests.core.test_selection import recorded


def test_a_cell_holds_those_whom_its_ranges_list() -> None:
    bits, _ = recorded()
    table = build_sample_table([bits], select([bits]))
    data_map = build_data_map(table, max_x=10, max_y=7)
    assert data_map.n_kept.sum() + data_map.n_dropped.sum() == 2000
    assert data_map.x.n_bins <= 10
    assert data_map.y.n_bins <= 7
    for y, x in ((0, 0), (2, 3), (data_map.y.n_bins - 1, data_map.x.n_bins - 1)):
        ranges = [
            (int(axis.get_edge(number)), int(axis.get_edge(number + 1)) - 1)
            for axis, number in ((data_map.x, x), (data_map.y, y))
        ]
        for kept, counts in ((True, data_map.n_kept), (False, data_map.n_dropped)):
            in_cell = table.is_kept == kept
            for column, (first, last) in zip((table.misclassified, table.transitions), ranges, strict=True):
                in_cell &= (column >= first) & (column <= last)
            assert counts[y, x] == in_cell.sum()


def test_who_was_never_seen_is_on_no_map() -> None:
    data_map = build_data_map(table_of(rounds_of([".", "."])))
    assert data_map.n_kept.tolist() == data_map.n_dropped.tolist() == [[0]]


@pytest.mark.parametrize(("most", "width", "n_bins"), [(0, 1, 1), (9, 1, 10), (10, 2, 6), (400, 41, 10)])
def test_counts_share_bins_where_there_are_many(most: int, width: int, n_bins: int) -> None:
    axis = Axis.for_counts(most, 10)
    assert (axis.width, axis.n_bins) == (width, n_bins)
    assert axis.assign_bins(np.array([0, most])).tolist() == [0, n_bins - 1]


@pytest.mark.parametrize("values", [[], [2.0, 2.0]])
def test_values_that_do_not_differ_have_one_bin(values: list[float]) -> None:
    axis = Axis.for_values(np.array(values), 5)
    assert axis.n_bins == 1
    assert axis.assign_bins(np.array(values)).tolist() == [0] * len(values)


def test_a_selection_compared_with_itself() -> None:
    bits, _ = recorded()
    table = build_sample_table([bits], select([bits]))
    comparison = compare_selections(table, table)
    assert comparison.n_first == comparison.n_second == comparison.n_both
    assert comparison.jaccard == 1.0
    assert comparison.moved_in.size == comparison.moved_out.size == 0
    assert np.flatnonzero(comparison.scores.sum(axis=0) - np.diag(comparison.scores)).size == 0


def test_who_moved_comes_with_the_clearest_first() -> None:
    bits, _ = recorded()
    strict, lax = (
        build_sample_table([bits], select([bits], SelectionOptions(threshold="fraction", fraction=share)))
        for share in (0.2, 0.6)
    )
    wider = compare_selections(strict, lax)
    assert wider.n_both == wider.n_first < wider.n_second
    assert wider.jaccard == pytest.approx(wider.n_first / wider.n_second)
    assert wider.moved_out.size == 0
    assert wider.moved_in.size == wider.n_second - wider.n_first
    assert np.all(np.diff(lax.scores[wider.moved_in]) >= 0)
    narrower = compare_selections(lax, strict)
    assert set(narrower.moved_out) == set(wider.moved_in)
    assert np.all(np.diff(strict.scores[narrower.moved_out]) <= 0)


def test_two_empty_sets_agree() -> None:
    table = table_of(rounds_of([".", "."]))
    comparison = compare_selections(table, table)
    assert (comparison.n_first, comparison.jaccard, comparison.scores.sum()) == (0, 1.0, 0)


def test_different_data_sets_are_not_compared() -> None:
    with pytest.raises(InvalidInput, match="of 1 and of 2 samples"):
        compare_selections(table_of(rounds_of(["1"])), table_of(rounds_of(["11"])))
