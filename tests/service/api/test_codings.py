import gzip

import pytest
import zstandard

from mild_service.web import codings

MIB = 2**20


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_body_that_inflates_to_far_more_comes_in_parts_of_bounded_size(coding: str) -> None:
    plain = bytes(48 * MIB)
    coded = gzip.compress(plain) if coding == "gzip" else zstandard.ZstdCompressor().compress(plain)
    inflater = codings.make_inflater(coding)
    assert inflater is not None
    parts = [len(part) for part in inflater.feed(coded)]
    inflater.end()
    assert sum(parts) == len(plain)
    assert max(parts) <= 9 * MIB
