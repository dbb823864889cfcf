from itertools import permutations

import numpy as np
import pytest

from mild_core.agreement import measure_agreement
from mild_core.errors import InvalidInput


def test_chance_and_its_error_are_those_of_shuffled_labels() -> None:
    given, predicted = np.array([0, 0, 0, 1, 2, 2, 1]), np.array([0, 0, 1, 1, 2, 0, 0])
    found = measure_agreement(given, predicted, 3)
    shuffled = [np.mean(np.array(labels) == predicted) for labels in permutations(given)]
    assert found.agreement == pytest.approx(4 / 7)
    assert found.chance == pytest.approx(np.mean(shuffled))
    assert found.standard_error == pytest.approx(np.std(shuffled))
    assert found.z == pytest.approx((found.agreement - found.chance) / found.standard_error)
    assert (found.n_samples, found.carries_signal) == (7, False)


def test_each_fold_has_its_own_chance() -> None:
    # Each network knows nothing but a class of its own; together they look as if they knew which fold a sample is in.
    given, fold = np.repeat([0, 1], 50), np.repeat([0, 1], 50)
    apart, together = measure_agreement(given, given, 2, fold), measure_agreement(given, given, 2)
    assert (apart.agreement, apart.chance, apart.z, apart.carries_signal) == (1.0, 1.0, 0.0, False)
    assert together.carries_signal


def test_random_labels_carry_no_signal_and_a_tenth_of_right_ones_do() -> None:
    rng = np.random.default_rng(0)
    truth, noise = rng.integers(0, 10, 2000), rng.integers(0, 10, 2000)
    fold = np.arange(2000) % 2
    assert abs(measure_agreement(noise, truth, 10, fold).z) < 3
    assert measure_agreement(np.where(rng.random(2000) < 0.1, truth, noise), truth, 10, fold).carries_signal


def test_random_labels_are_told_from_others_as_often_as_three_errors_say() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 400)
    z = [measure_agreement(rng.choice(5, 400, p=(0.6, 0.1, 0.1, 0.1, 0.1)), truth, 5).z for _ in range(2000)]
    assert np.std(z) == pytest.approx(1.0, abs=0.05)
    assert np.mean(np.array(z) > 3) < 0.005


def test_uneven_classes_and_a_network_that_says_the_commonest_feign_nothing() -> None:
    given = np.repeat([0, 1], [90, 10])
    found = measure_agreement(given, np.zeros(100, dtype=np.int64), 2)
    assert (found.agreement, found.chance, found.standard_error, found.z) == (0.9, 0.9, 0.0, 0.0)
    assert not found.carries_signal


def test_a_single_sample_says_nothing() -> None:
    found = measure_agreement(np.array([1]), np.array([1]), 2)
    assert (found.agreement, found.chance, found.z, found.carries_signal) == (1.0, 1.0, 0.0, False)


@pytest.mark.parametrize(
    ("given", "predicted", "fold"), [([], [], None), ([0, 1], [0], None), ([0, 1], [0, 1], [0, 0, 1])]
)
def test_arrays_that_do_not_belong_together_are_refused(
    given: list[int], predicted: list[int], fold: list[int] | None
) -> None:
    folds = None if fold is None else np.array(fold)
    with pytest.raises(InvalidInput, match="give one of each for at least 1 sample"):
        measure_agreement(np.array(given, dtype=np.int64), np.array(predicted, dtype=np.int64), 3, folds)
