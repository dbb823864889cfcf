from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mild_core import bitmap
from mild_core.errors import BitmapLengthError, CorrectNotObservedError, ParameterError, TrailingBitsError
from mild_core.types import (
    EpochBits,
    Observe,
    RoundBits,
    RunSpec,
    SelectionOptions,
    check_class_names,
    take_class_names,
    validate_run_id,
)


@given(hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 100))), st.booleans())
def test_an_epoch_body_survives_the_round_trip(bits: np.ndarray, complete: bool) -> None:
    observed, correct = bits[0], bits[0] & bits[1]
    epoch = EpochBits(observed.size, bitmap.pack(correct), None if complete else bitmap.pack(observed))
    again = EpochBits.from_body(epoch.to_body(), observed.size)
    assert (again.correct == epoch.correct).all()
    assert (again.observed is None) == complete
    assert again.to_body() == epoch.to_body()


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", BitmapLengthError, "takes 2 or 4 bytes .*got 0"),
        (b"\0\0\0", BitmapLengthError, "got 3"),
        (b"\0\x01", TrailingBitsError, "correct bitmap"),
        (b"\0\x01\0\0", TrailingBitsError, "observed bitmap"),
        (b"\x80\0\xc0\0", CorrectNotObservedError, "1 samples .* first is sample 1"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(body: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EpochBits.from_body(body, 11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "loss"}, "metric is 'loss'; choose one of mild-simple, mild"),
        ({"fit": "gauss"}, "fit is 'gauss'"),
        ({"evidence": "all"}, "evidence is 'all'"),
        ({"threshold": "best"}, "threshold is 'best'"),
        ({"p": 1.5}, r"p is 1.5; give a number in 0\.\.1"),
        ({"fraction": -0.1}, "fraction is -0.1"),
        ({"min_keep": float("nan")}, "min_keep is nan"),
        ({"cost_ratio": 0.0}, "cost_ratio is 0.0"),
        ({"threshold": "value"}, "needs `value`"),
        ({"threshold": "precision"}, "needs `target`"),
        ({"threshold": "recall", "target": 1.5}, "target is 1.5"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SelectionOptions(**options).validate()


EVERYONE, MEMBERS, SEEN = (bitmap.pack(bits) for bits in ([1, 1, 1], [1, 0, 1], [0, 0, 1]))


@pytest.mark.parametrize(
    ("observe", "members", "given_rows", "rows"),
    [
        ("all", None, None, None),
        ("mixed", MEMBERS, None, None),
        ("members", None, [None, None], None),
        ("members", MEMBERS, None, [MEMBERS, MEMBERS]),
        ("members", MEMBERS, [SEEN, None], [SEEN, MEMBERS]),
        ("all", MEMBERS, [None, SEEN], [EVERYONE, SEEN]),
        ("members", MEMBERS, np.stack([SEEN, SEEN]), [SEEN, SEEN]),
    ],
)
def test_where_an_epoch_does_not_say_who_was_observed_the_run_does(
    observe: Observe, members: bitmap.Bitmap | None, given_rows: Any, rows: list[bitmap.Bitmap] | None
) -> None:
    bits = RoundBits.from_epochs(3, np.stack([SEEN, SEEN]), given_rows, members, observe)
    assert bits.expects == ("members" if observe == "members" else "all")
    assert bits.members is members
    if rows is None:
        assert bits.observed is None
    else:
        np.testing.assert_array_equal(bits.observed, np.stack(rows))


def test_a_round_without_epochs_has_no_rows() -> None:
    bits = RoundBits.from_epochs(3, np.empty((0, 1), dtype=np.uint8), None, MEMBERS, "members")
    assert (bits.n_epochs, bits.observed is not None and bits.observed.shape) == (0, (0, 1))


def test_a_run_id_has_letters_digits_and_few_marks() -> None:
    assert validate_run_id("a.B_3-x") == "a.B_3-x"
    for run_id in ("", ".a", "a b", "x" * 65, 3):
        with pytest.raises(ParameterError, match=r"^name of the run is .*; give 1 to 64 letters"):
            validate_run_id(run_id, "name of the run")  # type: ignore[arg-type]  # what is tried is of any type


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "class_names has 0 names, 1 to 1000 are taken"),
        (["a"] * 1001, "class_names has 1001 names"),
        (["a", ""], "the name of class 1 has 0 characters, 1 to 100 are taken"),
        (["x" * 101], "the name of class 0 has 101 characters"),
    ],
)
def test_names_that_a_run_cannot_have_are_refused_or_left_out(names: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_class_names(names)
    with pytest.raises(ParameterError, match=message):
        RunSpec("mine", 3, class_names=tuple(names)).check_class_names()
    assert take_class_names(names) is None


def test_a_class_has_its_name_or_its_number() -> None:
    assert take_class_names(None) is None
    assert take_class_names(["cat", "dog"]) == ("cat", "dog")
    named = RunSpec("mine", 3, num_classes=2, class_names=("cat", "dog"))
    named.check_class_names()
    RunSpec("mine", 3).check_class_names()
    assert [named.get_class_name(label) for label in (-1, 0, 1, 2)] == ["-1", "cat", "dog", "2"]
    assert RunSpec("mine", 3).get_class_name(1) == "1"
    with pytest.raises(ParameterError, match="class_names has 2 names, num_classes is 3; name each class"):
        RunSpec("mine", 3, num_classes=3, class_names=("cat", "dog")).check_class_names()
