import numpy as np
import pytest

from mild_core import bitmap, forgetting
from mild_core.dynamics import count_late_dynamics
from mild_core.forgetting import Forgetting
from mild_core.inspect.explain import explain_sample
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions

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


def forgetting_of(rounds: list[RoundBits], samples: bitmap.Bitmap) -> Forgetting:
    """What is counted of some samples."""
    chosen = bitmap.unpack(samples, 3)
    sums = forgetting.sum_forgetting(rounds, [count_late_dynamics(bits) for bits in rounds])
    return Forgetting(*(int(counts[chosen].sum()) for counts in sums))


def test_what_was_known_in_the_second_half_and_forgotten_in_the_next_epoch_is_counted() -> None:
    # Of the two that are known in each of the epochs 4, 5 and 6, one is forgotten in the next.
    bits = bits_of("000", "111", "000", "111", "110", "011", "101", "001")
    assert forgetting_of([bits], EVERYONE) == Forgetting(6, 3)
    assert forgetting_of([bits], bitmap.pack([False, True, False])) == Forgetting(2, 1)


def test_rounds_add_up_and_each_tells_of_whom_it_was_trained_on() -> None:
    first, second = bits_of("111", "111", "111", "011"), bits_of("111", "111", "111", "000", members="001")
    assert forgetting_of([first, second], EVERYONE) == Forgetting(4, 2)


def test_only_epochs_in_which_a_sample_was_observed_count() -> None:
    bits = bits_of("111", "111", "111", "001", observed=("111", "111", "111", "011"))
    assert forgetting_of([bits], EVERYONE) == Forgetting(2, 1)


@pytest.mark.parametrize("epochs", [(), ("111",), ("000", "000", "000", "111"), ("111", "111", "000", "111")])
def test_without_anything_that_could_be_forgotten_there_is_no_rate(epochs: tuple[str, ...]) -> None:
    bits = bits_of(*epochs) if epochs else RoundBits(3, np.zeros((0, 1), dtype=np.uint8))
    assert forgetting_of([bits], EVERYONE).share is None


def test_few_observations_show_neither_little_forgetting_nor_much() -> None:
    assert not Forgetting(50, 0).is_below(0.05)
    assert Forgetting(100, 4).is_below(0.05)
    assert not Forgetting(100, 5).is_below(0.05)
    assert not Forgetting(0, 0).is_below(0.05)
    assert Forgetting(100, 15).is_shown_above(0.05)
    assert not Forgetting(10, 1).is_shown_above(0.05)
    assert not Forgetting(0, 0).is_shown_above(0.05)


def test_the_same_counts_are_separable_where_they_were_learnt_and_not_where_they_are_forgotten_again() -> None:
    rng = np.random.default_rng(0)
    mislabelled = rng.random(4000) < 0.35
    wrong = np.where(mislabelled, rng.beta(12, 2, 4000), rng.beta(1, 6, 4000))
    shuffled = rng.random((20, 4000)) >= wrong
    learnt, forgotten = (
        select([RoundBits(4000, bitmap.pack(correct))])
        for correct in (np.where(mislabelled, shuffled, np.sort(shuffled, axis=0)), shuffled)
    )
    assert np.array_equal(learnt.scores, forgotten.scores)
    assert (learnt.verdict, forgotten.verdict) == ("separable", "weak")
    assert learnt.fitted["noise_rate"] is not None
    assert forgotten.fitted["noise_rate"] is None
    assert "forgotten in the next epoch (separable below 5%)" in forgotten.reasons[1]
    assert learnt.n_selected < 4000
    assert forgotten.n_selected < 4000, "a cut that promises much is made all the same"


def test_what_is_known_in_the_last_quarter_is_counted_over_the_epochs_in_which_it_was_observed() -> None:
    bits = bits_of("111", "111", "000", "000", "000", "000", "100", "110")
    assert forgetting.count_late_memorisation([bits], EVERYONE) == (3, 6)
    assert forgetting.count_late_memorisation([bits], bitmap.pack([False, False, True])) == (0, 2)
    seen = bits_of("111", "111", "111", "001", observed=("111", "111", "111", "011"), members="110")
    assert forgetting.count_late_memorisation([seen], EVERYONE) == (0, 1)
    assert forgetting.count_late_memorisation([bits], bitmap.pack([False] * 3)) == (0, 0)


def learnt_by_heart(n_epochs: int = 80) -> tuple[RoundBits, np.ndarray]:
    """Clean samples are learnt in the first epochs, mislabelled ones from the 40th on."""
    rng = np.random.default_rng(1)
    clean = rng.random(3000) < 0.6
    learnt = np.where(clean, rng.gamma(2, 2, 3000), rng.normal(42, 4, 3000))
    return RoundBits(3000, bitmap.pack(np.arange(n_epochs)[:, None] >= learnt)), clean


def test_where_wrong_labels_are_learnt_by_heart_the_early_epochs_judge() -> None:
    bits, clean = learnt_by_heart()
    selection = select([bits])
    assert selection.early
    assert selection.epochs == 20
    assert selection.reasons[0].startswith("100% of the samples that were misclassified in most epochs are known")
    assert (bitmap.unpack(selection.bitmap, 3000) == clean).mean() > 0.99
    assert np.array_equal(selection.scores, select(forgetting.take_first_quarter([bits])).scores)
    mislabelled = int(np.flatnonzero(~clean)[0])
    assert "misclassified in 20 of 20 epochs" in explain_sample([bits], selection, mislabelled).why


def test_a_given_value_is_one_of_the_same_scores() -> None:
    bits, _ = learnt_by_heart()
    by_rule = select([bits])
    by_value = select([bits], SelectionOptions(threshold="value", value=by_rule.threshold.value))
    assert np.array_equal(by_value.scores, by_rule.scores)
    assert np.array_equal(by_value.bitmap, by_rule.bitmap)


def test_a_quarter_of_few_epochs_is_not_asked() -> None:
    bits, _ = learnt_by_heart(24)
    assert not select([bits]).early


@pytest.mark.parametrize(("n_epochs", "learnt_in"), [(100, 25.0), (40, 6.0)])
def test_early_epochs_that_tell_less_are_not_asked(n_epochs: int, learnt_in: float) -> None:
    rng = np.random.default_rng(2)
    clean = rng.random(3000) < 0.6
    learnt = np.where(clean, rng.gamma(2, learnt_in / 2, 3000), rng.normal(0.7 * n_epochs, 2, 3000))
    correct = np.arange(n_epochs)[:, None] >= learnt
    correct &= clean | (rng.random(correct.shape) < 0.8)  # wrong labels are forgotten again
    bits = RoundBits(3000, bitmap.pack(correct))
    selection, early = select([bits]), select(forgetting.take_first_quarter([bits]))
    assert not selection.early
    assert selection.verdict == "weak"
    assert any("known in the last quarter (separable up to 36%)" in reason for reason in selection.reasons)
    assert early.verdict != "separable"
