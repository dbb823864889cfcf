import numpy as np

from mild_core import bitmap
from mild_trainer import noise
from mild_trainer.planting import estimate_transitions, plant_labels

GIVEN = np.repeat(np.arange(10), 500)


def test_planted_labels_are_wrong_and_the_others_untouched() -> None:
    planting = plant_labels(GIVEN, 10, 0.02, seed=0)
    chosen = bitmap.unpack(planting.planted, GIVEN.size)
    assert chosen.sum() == 100
    assert (planting.labels[chosen] != GIVEN[chosen]).all()
    assert (planting.labels[~chosen] == GIVEN[~chosen]).all()


def test_uniform_planting_draws_from_all_other_classes() -> None:
    planting = plant_labels(GIVEN, 10, 1.0, seed=0)
    assert (planting.labels != GIVEN).all()
    assert np.bincount((planting.labels - GIVEN) % 10, minlength=10)[1:].min() > 450


def test_planting_along_confusions_draws_what_annotators_draw() -> None:
    flipped, _ = noise.apply_noise("pairflip:0.4", GIVEN, 10, seed=0)
    planting = plant_labels(flipped, 10, 0.1, seed=0, predicted_labels=GIVEN)
    chosen = bitmap.unpack(planting.planted, GIVEN.size)
    assert (flipped[chosen] == GIVEN[chosen]).all(), "whose label is wrong already is spared"
    assert ((planting.labels - flipped)[chosen] % 10 == 1).mean() > 0.97


def test_an_unconfused_class_has_uniform_transitions() -> None:
    rows = estimate_transitions(GIVEN, GIVEN, 10)
    assert np.allclose(rows, (1 - np.eye(10)) / 9)


def test_nothing_can_be_planted_in_one_class() -> None:
    planting = plant_labels(np.zeros(10, dtype=np.int64), 1, 0.5, seed=0)
    assert not planting.planted.any()
    assert not planting.labels.any()


def test_the_same_seed_plants_the_same() -> None:
    first, again, other = (plant_labels(GIVEN, 10, 0.02, seed=seed) for seed in (1, 1, 2))
    assert (first.labels == again.labels).all()
    assert not (first.planted == other.planted).all()


def test_noise_of_the_same_seed_is_planted_in_no_other_share() -> None:
    flipped, wrong = noise.apply_noise("pairflip:0.4", GIVEN, 10, seed=3)
    planting = plant_labels(flipped, 10, 0.2, seed=3)
    assert 0.35 < wrong[bitmap.unpack(planting.planted, GIVEN.size)].mean() < 0.45
