import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mild_core.sample_ids import IdIndex, find_id_error, hash_ids, is_number


@given(st.lists(st.text(), unique=True, max_size=50), st.lists(st.text(), max_size=50))
def test_an_id_is_found_at_its_sample_only(ids: list[str], others: list[str]) -> None:
    index = IdIndex(hash_ids(ids))
    queries = [*ids, *others]
    assert index.find_indices(queries).tolist() == [ids.index(name) if name in ids else -1 for name in queries]
    assert index.n_samples == len(ids)
    assert index.n_bytes == 20 * len(ids)
    assert index.find_duplicate() is None


def test_ids_that_share_half_of_their_digest_are_distinguished() -> None:
    digests = hash_ids(["a", "b", "c", "d"])
    digests = np.array([[7, low] for low in digests[:, 1]], dtype=np.uint64)
    index = IdIndex(digests)
    assert index.find_duplicate() is None
    assert IdIndex(np.concatenate((digests, digests[2:3]))).find_duplicate() == (2, 4)
    same_high = hash_ids(["a"])[:, 0]
    index = IdIndex(np.array([[same_high[0], 1], *hash_ids(["a"]).tolist(), [same_high[0], 2]], dtype=np.uint64))
    assert index.find_indices(["a", "b"]).tolist() == [1, -1]


def test_the_first_pair_is_named() -> None:
    assert IdIndex(hash_ids(["a", "b", "c", "b", "c", "a"])).find_duplicate() == (1, 3)


@pytest.mark.parametrize("name", ["a", "train/ä b.png", "0", "x" * 512, "ä" * 256, "{}"])
def test_what_an_id_may_be(name: str) -> None:
    assert find_id_error(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        ("x" * 513, "513 bytes"),
        ("ä" * 257, "514 bytes"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        (" a", "blanks"),
        ("a\u00a0", "blanks"),
        ("\ud800", "Unicode"),
        ("\ufeffa", "byte order mark"),
    ],
)
def test_what_an_id_may_not_be(name: str, says: str) -> None:
    assert says in (find_id_error(name) or "")


@pytest.mark.parametrize(("name", "expected"), [("17", True), ("007", True), ("-1.0", True), ("17a", False)])
def test_an_id_of_digits_may_be_taken_for_a_number(name: str, expected: bool) -> None:
    assert is_number(name) is expected
