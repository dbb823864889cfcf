import numpy as np
import pytest

from mild_core import bitmap
from mild_core.learning import count_learning, find_unfinished_training
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions

N_SAMPLES = 1000


def bits_of(agreement: np.ndarray, planted: np.ndarray | None = None, observed: np.ndarray | None = None) -> RoundBits:
    """A round in which the first samples are memorised, as many as the agreement of every epoch says."""
    correct = np.arange(N_SAMPLES) < np.round(np.asarray(agreement)[:, None] * N_SAMPLES)
    seen, marked = (None if mask is None else bitmap.pack(mask) for mask in (observed, planted))
    return RoundBits(N_SAMPLES, bitmap.pack(correct), seen, planted=marked)


def forgetful(bits: RoundBits, share: float) -> RoundBits:
    """The same, but samples that are learnt in the second half of the epochs are forgotten in this share of them."""
    correct = bitmap.unpack(bits.correct, N_SAMPLES)
    hard = 2 * correct.sum(axis=0) < bits.n_epochs
    forgotten = hard & (np.random.default_rng(0).random(correct.shape) < share)
    return RoundBits(N_SAMPLES, bitmap.pack(correct & ~forgotten))


def test_agreement_that_still_rises_is_unfinished_and_a_plateau_is_not() -> None:
    rising = find_unfinished_training(count_learning(bits_of(np.linspace(0.2, 0.8, 20))))
    assert rising is not None
    assert "agreement with the labels rose by 0.126 to 0.800 over the last 5 epochs (finished within 4 stan" in rising
    assert "times that a sample that is hard to learn was known, it was forgotten in the next epoch" in rising
    assert rising.endswith("the network is still learning; train longer")
    assert find_unfinished_training(count_learning(bits_of(np.minimum(np.linspace(0.2, 2, 20), 0.8)))) is None


def test_a_rise_of_samples_that_are_forgotten_again_is_memorisation_and_not_learning() -> None:
    rising = bits_of(np.linspace(0.2, 0.8, 20))
    assert find_unfinished_training(count_learning(forgetful(rising, 0.02))) is not None
    assert find_unfinished_training(count_learning(forgetful(rising, 0.1))) is None


def test_a_rise_within_its_noise_is_finished() -> None:
    noisy = np.full(20, 0.7)
    noisy[-5:] += [0.0, -0.05, 0.06, -0.05, 0.08]
    assert find_unfinished_training(count_learning(bits_of(noisy))) is None


@pytest.mark.parametrize(("end", "is_unfinished"), [(0.96, True), (0.961, False), (1.0, False)])
def test_a_rise_that_leaves_too_few_to_be_a_population_is_finished(end: float, is_unfinished: bool) -> None:
    reason = find_unfinished_training(count_learning(bits_of(np.linspace(0.2, end, 20))))
    assert (reason is not None) == is_unfinished


@pytest.mark.parametrize(("level", "is_unfinished"), [(0.3, True), (0.9, False)])
def test_samples_of_which_most_were_never_known_have_still_to_be_learnt(level: float, is_unfinished: bool) -> None:
    reason = find_unfinished_training(count_learning(bits_of(np.full(20, level))))
    assert (reason is not None) == is_unfinished
    assert reason is None or reason.startswith(
        "70% of the samples were never known (learnt up to 50%), and no sample that is hard to learn was ever known"
    )


def test_a_short_round_shows_no_rise() -> None:
    assert find_unfinished_training(count_learning(bits_of(np.linspace(0.5, 0.9, 6)))) is not None
    assert find_unfinished_training(count_learning(bits_of(np.linspace(0.5, 0.9, 5)))) is None


def test_only_observed_members_that_are_not_planted_count() -> None:
    rising = np.linspace(0.5, 0.9, 20)
    late = np.arange(N_SAMPLES) >= 500
    assert find_unfinished_training(count_learning(bits_of(rising, planted=late))) is None
    members = RoundBits(N_SAMPLES, bits_of(rising).correct, members=bitmap.pack(~late))
    assert find_unfinished_training(count_learning(members)) is None
    nothing_seen = np.zeros((20, N_SAMPLES), dtype=bool)
    assert find_unfinished_training(count_learning(bits_of(np.zeros(20), observed=nothing_seen))) is None


def still_learning() -> np.ndarray:
    """A third is known early; the others are learnt at a steady pace that leaves half of them unknown at the end."""
    rng = np.random.default_rng(0)
    learnt = np.where(rng.random(4000) < 0.35, rng.integers(0, 4, 4000), rng.integers(10, 34, 4000))
    return np.asarray(np.arange(20)[:, None] >= learnt)


def test_a_fit_of_a_network_that_still_learns_is_learning_and_keeps_everyone() -> None:
    selection = select(still_learning())
    assert selection.verdict == "learning"
    assert "train longer" in selection.reasons[0]
    assert selection.n_selected == 4000
    assert selection.fitted["noise_rate"] is None


def test_a_given_number_is_obeyed_all_the_same() -> None:
    by_value = select(still_learning(), SelectionOptions(threshold="value", value=-10))
    by_fraction = select(still_learning(), SelectionOptions(threshold="fraction", fraction=0.3))
    assert by_value.verdict == by_fraction.verdict == "learning"
    assert 0 < by_value.n_selected < 4000
    assert 0 < by_fraction.n_selected <= 0.3 * 4000


def test_the_last_of_several_rounds_decides() -> None:
    rng = np.random.default_rng(1)
    mislabelled = rng.random(4000) < 0.35
    finished = np.where(mislabelled, rng.random((20, 4000)) < 0.1, np.arange(20)[:, None] >= rng.integers(0, 4, 4000))
    assert select([still_learning(), finished]).verdict != "learning"
    assert select([finished, still_learning()]).verdict == "learning"


def test_rounds_too_short_to_show_whether_a_network_still_learns_are_not_separable() -> None:
    rng = np.random.default_rng(1)
    mislabelled = rng.random(4000) < 0.35
    rounds = [
        np.where(mislabelled, rng.random((5, 4000)) < 0.1, np.arange(5)[:, None] >= rng.integers(0, 2, 4000))
        for _ in range(4)
    ]
    selection = select(rounds)
    assert selection.verdict == "weak"
    assert selection.reasons[0].startswith("a round of 5 epochs does not show whether the network was still learning")
    longer = [np.concatenate((bits, bits[-1:])) for bits in rounds]
    assert select(longer).verdict == "separable"


def test_rounds_of_one_epoch_show_no_forgetting_and_are_not_separable() -> None:
    rng = np.random.default_rng(1)
    mislabelled = rng.random(4000) < 0.35
    rounds = [np.where(mislabelled, rng.random((1, 4000)) < 0.1, rng.random((1, 4000)) < 0.97) for _ in range(12)]
    selection = select(rounds)
    assert selection.verdict == "weak"
    assert any("so forgetting is unknown" in reason for reason in selection.reasons)
