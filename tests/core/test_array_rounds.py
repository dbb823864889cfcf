"""`select` on plain arrays, as it is imported from the package."""

from typing import Any

import numpy as np
import pytest

import mild_core
from mild_core import RoundBits, SelectionOptions, pack, select
from mild_core.errors import ParameterError

RNG = np.random.default_rng(0)
LEARNED = np.arange(20)[:, None] >= RNG.poisson(3, 600)
CORRECT = np.where(np.arange(600) < 400, LEARNED, RNG.random((20, 600)) < 0.1)
"""Right labels are learned and wrong ones forgotten again."""


def test_a_boolean_array_is_one_round() -> None:
    selection = select(CORRECT)
    expected = select([RoundBits(600, pack(CORRECT))])
    assert selection.indices.tolist() == expected.indices.tolist()
    assert selection.summary() == expected.summary()
    assert selection.verdict == "separable"


def test_numbers_0_and_1_are_booleans() -> None:
    expected = select(CORRECT).indices.tolist()
    assert select(CORRECT.astype(np.uint8)).indices.tolist() == expected
    assert select(CORRECT.astype(np.int64)).indices.tolist() == expected
    assert select(CORRECT.astype(np.float32)).indices.tolist() == expected


def test_more_epochs_than_samples_give_a_warning() -> None:
    with pytest.warns(UserWarning, match="600 epochs of 20 samples; transpose it"):
        select(CORRECT.T)
    select(RoundBits(20, pack(CORRECT.T)))  # packed bits say how many samples there are


def test_a_round_needs_no_sequence_around_it() -> None:
    assert select(RoundBits(600, pack(CORRECT))).summary() == select(CORRECT).summary()


def test_a_sequence_has_one_array_or_packed_round_per_round() -> None:
    packed = RoundBits(600, pack(CORRECT))
    expected = select([packed, packed]).summary()
    assert select([CORRECT, CORRECT]).summary() == expected
    assert select((packed, CORRECT.tolist())).summary() == expected


def test_an_array_of_no_epochs_has_no_evidence() -> None:
    selection = select(CORRECT[:0], SelectionOptions())
    assert (selection.verdict, selection.n_selected) == ("insufficient", 0)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        (CORRECT[0], r"shape \(600,\), .* stack the epochs of a round with numpy.stack"),
        (list(CORRECT), r"shape \(600,\), .* stack the epochs of a round with numpy.stack"),
        (np.stack([CORRECT, CORRECT]), r"shape \(2, 20, 600\), .* list of arrays, one per round"),
        (np.bool_(True), r"shape \(\), .* with at least one sample"),
        (CORRECT[:, :0], r"shape \(20, 0\), .* with at least one sample"),
        (CORRECT * 0.5, r"values in 0.0..0.5, only 0 and 1 are allowed; compare predictions"),
        (np.where(CORRECT, np.nan, 1), r"values in nan..nan, only 0 and 1 are allowed"),
        (CORRECT.astype(object), "type object, booleans or numbers 0 and 1 are needed; compare predictions"),
        (CORRECT * 7, r"values in 0..7, only 0 and 1 are allowed; compare predictions"),
        (-CORRECT.astype(np.int8), r"values in -1..0, only 0 and 1 are allowed"),
        (pack(CORRECT), "give packed bits as RoundBits"),
        ([CORRECT, [[True, False], [True]]], "epochs of different lengths"),
        ([CORRECT, CORRECT[:, :50]], "rounds have 50 and 600 samples; give rounds of the same samples"),
        ([], "0 rounds to select from"),
        (np.zeros((65536, 2), dtype=bool), "65536 epochs, at most 65535 .* transpose an array"),
    ],
)
def test_other_arrays_are_refused_with_the_likely_cause(rounds: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        select(rounds)


def test_the_public_names_can_be_imported() -> None:
    for name in mild_core.__all__:
        assert getattr(mild_core, name)
    with pytest.raises(AttributeError, match="'mild_core' has no attribute 'missing'"):
        mild_core.missing  # noqa: B018
