import numpy as np
import pytest

from mild_core.inspect.histograms import Axis
from mild_service.dashboard import charts
from mild_service.dashboard.charts import make_history_segments


def test_cells_fill_the_drawing_and_the_fullest_is_strongest() -> None:
    kept, dropped = np.array([[0, 9], [1, 0]]), np.array([[0, 3], [0, 0]])
    low, high = charts.make_cells(kept, dropped)
    assert (low.x, low.y, low.width, low.height) == (50, 50, 50, 50)
    assert (low.n, low.dropped_height, low.strength) == (12, 12.5, 1.0)
    assert (high.x, high.y) == (0, 0)
    assert high.strength < low.strength
    assert charts.make_cells(np.zeros((2, 2), dtype=int), np.zeros((2, 2), dtype=int)) == []


def test_ticks_stand_at_their_values() -> None:
    assert [tick.text for tick in charts.make_count_ticks(Axis.for_counts(40, 41), 5)] == ["0", "10", "20", "30", "40"]
    assert charts.make_count_ticks(Axis.for_counts(9, 10), 5)[1].at == pytest.approx(25)
    assert [(tick.at, tick.text) for tick in charts.make_value_ticks(-10, 10, 4)] == [
        (0, "-10"),
        (25, "-5"),
        (50, "0"),
        (75, "5"),
        (100, "10"),
    ]
    assert [tick.text for tick in charts.make_value_ticks(3, 3, 4)] == ["3"]


def test_a_histogram_is_cut_behind_its_last_kept_bin() -> None:
    histogram = {"origin": -2.0, "width": 2.0, "counts": [4.0, 0.0, 1.0]}
    drawn = charts.make_distribution({"histogram": histogram, "threshold": {"cut": 1}}, 2.0)
    assert drawn is not None
    assert [(bar.height, bar.is_kept) for bar in drawn.bars] == [(100, True), (50, False)]
    assert drawn.cut == pytest.approx(200 / 3)
    assert drawn.sample == pytest.approx(250 / 3)
    uncut = charts.make_distribution({"histogram": histogram, "threshold": {"cut": None}}, None)
    assert uncut is not None
    assert uncut.cut is uncut.sample is None
    assert all(bar.is_kept for bar in uncut.bars)


def test_a_strip_has_every_epoch_or_puts_equal_ones_together() -> None:
    assert [part.kind for part in make_history_segments("0110.")] == ["0", "1", "1", "0", "."]
    together = make_history_segments("0110.", max_single=4)
    assert [(part.kind, part.width) for part in together] == [("0", 20), ("1", 40), ("0", 20), (".", 20)]
    assert together[-1].x == pytest.approx(80)
