from itertools import pairwise

import numpy as np
import pytest

from mild_core import bitmap
from mild_service.store import codec


@pytest.mark.parametrize(
    ("n_samples", "expected"),
    [(1, 1), (codec.CHUNK_SAMPLES, 1), (codec.CHUNK_SAMPLES + 1, 2), (3 * codec.CHUNK_SAMPLES, 3)],
)
def test_a_chunk_holds_a_million_samples(n_samples: int, expected: int) -> None:
    assert codec.count_chunks(n_samples) == expected
    assert len(codec.split_chunks([bitmap.full(n_samples)])) == expected


def test_pieces_put_together_are_the_bitmaps() -> None:
    n_samples = 2 * codec.CHUNK_SAMPLES + 77
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, 256, bitmap.n_bytes(n_samples), dtype=np.uint8) for _ in range(2)]
    values = codec.split_chunks(planes)
    assert [len(value) for value in values] == [2 * codec.CHUNK_BYTES, 2 * codec.CHUNK_BYTES, 2 * 10]
    together = np.concatenate(
        [codec.decode_planes(value, 2, chunk, n_samples) for chunk, value in enumerate(values)], axis=1
    )
    np.testing.assert_array_equal(together, planes)
    extents = [codec.chunk_slice(chunk, n_samples) for chunk in range(3)]
    assert extents[0].start == 0
    assert extents[-1].stop == bitmap.n_bytes(n_samples)
    assert all(a.stop == b.start for a, b in pairwise(extents))


def test_groups_keep_replies_under_the_bound() -> None:
    sizes = [codec.CHUNK_BYTES * 2] * 100 + [codec.REPLY_BYTES * 2] + [1] * 10
    found = list(codec.group_by_size(sizes))
    assert [position for group in found for position in group] == list(range(len(sizes)))
    assert all(sum(sizes[p] for p in group) <= codec.REPLY_BYTES or len(group) == 1 for group in found)
    assert len(found) == 6
    assert list(codec.group_by_size([])) == []
