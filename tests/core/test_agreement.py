from dataclasses import asdict
from itertools import permutations

import numpy as np
import pytest

from mild_core.agreement import HeldOutAgreement, measure_agreement
from mild_core.errors import InvalidInput


def test_chance_and_its_error_are_those_of_shuffled_labels() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 2, 2, 1]), np.array([0, 0, 1, 1, 2, 0, 0])
    agreement = measure_agreement(labels, predicted, 3)
    shuffled = [np.mean(np.array(labels) == predicted) for labels in permutations(labels)]
    assert agreement.agreement == pytest.approx(4 / 7)
    assert agreement.chance == pytest.approx(np.mean(shuffled))
    assert agreement.standard_error == pytest.approx(np.std(shuffled))
    assert agreement.z == pytest.approx((agreement.agreement - agreement.chance) / agreement.standard_error)
    assert (agreement.n_samples, agreement.carries_signal) == (7, False)


def test_each_fold_has_its_own_chance() -> None:
    # Each network knows nothing but a class of its own; together they look as if they knew which fold a sample is in.
    labels, fold = np.repeat([0, 1], 50), np.repeat([0, 1], 50)
    by_fold, pooled = measure_agreement(labels, labels, 2, fold), measure_agreement(labels, labels, 2)
    assert (by_fold.agreement, by_fold.chance, by_fold.z, by_fold.carries_signal) == (1.0, 1.0, 0.0, False)
    assert pooled.carries_signal


def test_random_labels_carry_no_signal_and_a_tenth_of_right_ones_do() -> None:
    rng = np.random.default_rng(0)
    truth, noise = rng.integers(0, 10, 2000), rng.integers(0, 10, 2000)
    fold = np.arange(2000) % 2
    assert abs(measure_agreement(noise, truth, 10, fold).z) < 3
    assert measure_agreement(np.where(rng.random(2000) < 0.1, truth, noise), truth, 10, fold).carries_signal


def test_random_labels_are_distinguished_from_others_as_often_as_three_errors_say() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 400)
    z = [measure_agreement(rng.choice(5, 400, p=(0.6, 0.1, 0.1, 0.1, 0.1)), truth, 5).z for _ in range(2000)]
    assert np.std(z) == pytest.approx(1.0, abs=0.05)
    assert np.mean(np.array(z) > 3) < 0.005


def test_uneven_classes_and_a_network_that_predicts_one_of_them_carry_no_signal() -> None:
    labels = np.repeat([0, 1], [90, 10])
    agreement = measure_agreement(labels, np.zeros(100, dtype=np.int64), 2)
    assert (agreement.agreement, agreement.chance, agreement.standard_error, agreement.z) == (0.9, 0.9, 0.0, 0.0)
    assert not agreement.carries_signal


def test_a_single_sample_carries_no_signal() -> None:
    agreement = measure_agreement(np.array([1]), np.array([1]), 2)
    assert (agreement.agreement, agreement.chance, agreement.z, agreement.carries_signal) == (1.0, 1.0, 0.0, False)


@pytest.mark.parametrize(
    ("labels", "predicted", "fold"), [([], [], None), ([0, 1], [0], None), ([0, 1], [0, 1], [0, 0, 1])]
)
def test_arrays_that_do_not_belong_together_are_refused(
    labels: list[int], predicted: list[int], fold: list[int] | None
) -> None:
    folds = None if fold is None else np.array(fold)
    with pytest.raises(InvalidInput, match="give one of each for at least 1 sample"):
        measure_agreement(np.array(labels, dtype=np.int64), np.array(predicted, dtype=np.int64), 3, folds)


def test_the_summary_says_whether_labels_carry_signal() -> None:
    signal, noise = HeldOutAgreement(9, 0.9, 0.1, 0.1, 8.0, True), HeldOutAgreement(9, 0.1, 0.1, 0.1, 0.0, False)
    assert signal.summary_text.endswith("z = 8.0): the labels carry signal")
    assert noise.summary_text.endswith("z = 0.0): THE LABELS CARRY NO SIGNAL THAT COULD BE FOUND")


def test_an_agreement_comes_back_from_json_with_other_names() -> None:
    agreement = measure_agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2)
    assert HeldOutAgreement.from_json({**asdict(agreement), "later": 1}) == agreement
