import numpy as np
import pytest

from mild_core import bitmap
from mild_core.forgetting import forgetting_rate
from mild_core.selection import select
from mild_core.types import RoundBits

EVERYONE = bitmap.full(3)


def bits_of(*epochs: str, observed: tuple[str, ...] | None = None, members: str | None = None) -> RoundBits:
    """A round of three samples, an epoch a string."""
    packed, seen = (
        None if rows is None else bitmap.pack([[bit == "1" for bit in row] for row in rows])
        for rows in (epochs, observed)
    )
    assert packed is not None
    trained = None if members is None else bitmap.pack([bit == "1" for bit in members])
    return RoundBits(3, packed, seen, members=trained)


def test_what_was_known_in_the_second_half_and_forgotten_in_the_next_epoch_is_counted() -> None:
    # Of the two that are known in each of the epochs 4, 5 and 6, one is forgotten in the next.
    bits = bits_of("000", "111", "000", "111", "110", "011", "101", "001")
    assert forgetting_rate([bits], EVERYONE) == pytest.approx(3 / 6)
    assert forgetting_rate([bits], bitmap.pack([False, True, False])) == pytest.approx(1 / 2)


def test_rounds_add_up_and_each_tells_of_whom_it_was_trained_on() -> None:
    first, second = bits_of("111", "111", "111", "011"), bits_of("111", "111", "111", "000", members="001")
    assert forgetting_rate([first, second], EVERYONE) == pytest.approx(2 / 4)


def test_only_epochs_in_which_a_sample_was_observed_count() -> None:
    bits = bits_of("111", "111", "111", "001", observed=("111", "111", "111", "011"))
    assert forgetting_rate([bits], EVERYONE) == pytest.approx(1 / 2)


@pytest.mark.parametrize("epochs", [(), ("111",), ("000", "000", "000", "111"), ("111", "111", "000", "111")])
def test_without_anything_that_could_be_forgotten_there_is_no_rate(epochs: tuple[str, ...]) -> None:
    bits = bits_of(*epochs) if epochs else RoundBits(3, np.zeros((0, 1), dtype=np.uint8))
    assert forgetting_rate([bits], EVERYONE) is None


def test_the_same_counts_are_separable_where_they_were_learnt_and_not_where_they_are_forgotten_again() -> None:
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(4000) < 0.35, rng.beta(12, 2, 4000), rng.beta(1, 6, 4000))
    shuffled = rng.random((20, 4000)) >= wrong
    learnt, forgotten = (
        select([RoundBits(4000, bitmap.pack(correct))]) for correct in (np.sort(shuffled, axis=0), shuffled)
    )
    assert np.array_equal(learnt.scores, forgotten.scores)
    assert (learnt.verdict, forgotten.verdict) == ("separable", "weak")
    assert learnt.estimated["noise_rate"] is not None
    assert forgotten.estimated["noise_rate"] is None
    assert "forgotten in the next epoch (separable below 5%)" in forgotten.reasons[3]
    assert np.array_equal(learnt.bitmap, forgotten.bitmap), "a cut that promises much is made all the same"
