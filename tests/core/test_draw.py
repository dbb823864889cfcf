"""The draw of a random audit, and how a selection differs from the choice that was recorded with it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mild_core.draw import DrawChoice, draw_samples
from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions

RECORDED = DrawChoice(2, SelectionOptions(threshold="fdr"))


def test_every_candidate_is_as_likely_as_any_other() -> None:
    rng = np.random.default_rng(0)
    candidates = np.arange(40) % 4 != 0
    counts = np.zeros(40)
    for _ in range(2000):
        drawn = draw_samples(candidates, 6, rng)
        assert np.array_equal(drawn, np.unique(drawn))
        assert drawn.size == 6
        counts[drawn] += 1
    assert not counts[~candidates].any()
    assert stats.chisquare(counts[candidates]).pvalue > 0.001


def test_draws_with_one_seed_share_their_samples() -> None:
    everybody, odd = np.ones(1000, dtype=bool), np.arange(1000) % 2 == 1

    def draw(candidates: NDArray[np.bool_], n_drawn: int) -> set[int]:
        return set(draw_samples(candidates, n_drawn, np.random.default_rng(3)).tolist())

    assert draw(everybody, 50) < draw(everybody, 200)
    assert {index for index in draw(everybody, 200) if index % 2} <= draw(odd, 200)


def test_without_a_seed_no_two_draws_are_alike() -> None:
    candidates = np.ones(10_000, dtype=bool)
    assert not np.array_equal(draw_samples(candidates, 100), draw_samples(candidates, 100))


@pytest.mark.parametrize(
    ("n_candidates", "n_drawn", "reason"),
    [
        (0, 1, "0 of 9 samples can be drawn, at least 1 is needed"),
        (5, 0, r"n is 0; give a number in 1\.\.5"),
        (5, 6, r"n is 6; give a number in 1\.\.5"),
    ],
)
def test_impossible_numbers_are_refused(n_candidates: int, n_drawn: int, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        draw_samples(np.arange(9) < n_candidates, n_drawn)


def test_the_recorded_choice_does_not_differ_from_itself() -> None:
    assert RECORDED.find_deviation(RECORDED.options, 2) is None


@pytest.mark.parametrize(
    ("changes", "round_", "until_epoch", "difference", "reorders"),
    [
        ({}, 1, None, "round 1 is selected, round 2 was recorded", True),
        ({}, 2, 7, "only the epochs 0..7 count", True),
        ({"alpha": 0.2}, 2, None, "alpha is 0.2, 0.1 was recorded", False),
        ({"min_keep": 0.5}, 2, None, "min_keep is 0.5, 0.01 was recorded", False),
        ({"metric": "mild"}, 2, None, "metric is mild, mild-simple was recorded", True),
        ({"alpha": 0.2, "fit": "grouped"}, 2, None, "fit is grouped, tailed was recorded", True),
        ({"evidence": "latest"}, 2, None, "evidence is latest, pooled was recorded", True),
    ],
)
def test_what_differs_is_named_and_whether_it_can_change_the_order(
    changes: dict[str, Any], round_: int, until_epoch: int | None, difference: str, reorders: bool
) -> None:
    deviation = RECORDED.find_deviation(SelectionOptions(**{"threshold": "fdr", **changes}), round_, until_epoch)
    assert deviation is not None
    assert deviation.difference.startswith(difference)
    assert deviation.reorders == reorders
