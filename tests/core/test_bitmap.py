import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mild_core import bitmap
from mild_core.errors import BitmapLengthError, SampleIndexError, TrailingBitsError

bits_of_any_length = hnp.arrays(bool, st.integers(1, 200))


def test_sample_i_is_bit_7_minus_i_mod_8_of_byte_i_div_8() -> None:
    assert bitmap.from_indices([0, 9], 11).tobytes() == bytes([0b1000_0000, 0b0100_0000])


@given(bits_of_any_length)
def test_pack_and_unpack_are_inverse(bits: np.ndarray) -> None:
    packed = bitmap.pack(bits)
    assert packed.size == bitmap.n_bytes(bits.size)
    assert (bitmap.unpack(packed, bits.size) == bits).all()


@given(bits_of_any_length)
def test_indices_and_popcount_describe_the_same_bits(bits: np.ndarray) -> None:
    packed = bitmap.pack(bits)
    indices = bitmap.to_indices(packed, bits.size)
    assert indices.size == bitmap.popcount(packed) == bits.sum()
    assert (bitmap.from_indices(indices, bits.size) == packed).all()


@pytest.mark.parametrize(("n_rows", "n_samples"), [(0, 9), (5, 3), (5, 64), (5, 131), (40, 65_000)])
def test_rows_are_counted_like_single_bitmaps(n_rows: int, n_samples: int) -> None:
    bits = np.random.default_rng(0).random((n_rows + 1, n_samples)) < 0.5
    rows, mask = bitmap.pack(bits[:-1]), bitmap.pack(bits[-1])
    assert bitmap.popcount_rows(rows, mask).tolist() == [bitmap.popcount(row & mask) for row in rows]


@pytest.mark.parametrize("n_samples", [1, 7, 8, 9, 64])
def test_full_sets_every_sample_and_passes_its_own_check(n_samples: int) -> None:
    full = bitmap.full(n_samples)
    assert bitmap.popcount(full) == n_samples
    assert bitmap.validate(full.tobytes(), n_samples) is not None


def test_check_names_limit_value_and_remedy_for_a_wrong_length() -> None:
    with pytest.raises(BitmapLengthError, match=r"11 samples takes 2 bytes.*got 3.*pack one bit"):
        bitmap.validate(b"\0\0\0", 11)


def test_check_refuses_trailing_bits() -> None:
    with pytest.raises(TrailingBitsError, match=r"0x1f.*low 5 bits.*zero the padding"):
        bitmap.validate(b"\xff\x1f", 11)


@pytest.mark.parametrize("index", [-1, 11, 2**70])
def test_from_indices_names_the_index_that_is_outside(index: int) -> None:
    with pytest.raises(SampleIndexError, match=rf"index {index} is outside 0\.\.10"):
        bitmap.from_indices([3, index], 11)


@given(bits_of_any_length, st.integers(1, 20))
def test_the_first_bits_are_those_of_the_indices(bits: np.ndarray, limit: int) -> None:
    np.testing.assert_array_equal(bitmap.first_indices(bitmap.pack(bits), limit), np.flatnonzero(bits)[:limit])


@given(bits_of_any_length, st.integers(1, 20))
def test_ranges_are_the_stretches_of_neighbouring_bits(bits: np.ndarray, limit: int) -> None:
    count, ends = bitmap.find_ranges(bitmap.pack(bits), limit)
    stretches = np.split(np.flatnonzero(bits), np.flatnonzero(np.diff(np.flatnonzero(bits)) > 1) + 1)
    expected = [[stretch[0], stretch[-1]] for stretch in stretches if stretch.size]
    assert (count, ends.tolist()) == (len(expected), expected[:limit])


def test_one_samples_bits_are_those_of_its_column() -> None:
    bits = np.random.default_rng(7).random((5, 19)) < 0.5
    packed = bitmap.pack(bits)
    for index in range(19):
        assert (bitmap.get_sample_bits(packed, index) == bits[:, index]).all()
        assert bool(bitmap.get_sample_bits(packed[0], index)) == bits[0, index]


def test_jaccard_is_what_two_sets_share_of_either() -> None:
    first, second = bitmap.from_indices([0, 1, 2], 9), bitmap.from_indices([2, 8], 9)
    assert bitmap.compute_jaccard(first, second) == 0.25
    assert bitmap.compute_jaccard(bitmap.from_indices([], 9), bitmap.from_indices([], 9)) == 1.0
