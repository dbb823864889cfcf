import gzip

import httpx
import pytest
import zstandard

from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.errors import MalformedBody
from mild_service.web import codings
from tests.inprocess import running

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


LINES = [b'{"epoch":0,"sample":%d,"correct":1}\n' % sample for sample in range(100)]
MEMBERS = [gzip.compress(part, mtime=0) for part in (b"", *LINES[:3], b"".join(LINES[3:]), b"")]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("padding", [b"", bytes(3)])
def test_a_gzip_stream_of_several_members_is_read_whole(size: int, padding: bytes) -> None:
    """As ``cat a.gz b.gz`` and bgzip write them, the last one of bgzip without content."""
    body = b"".join(member + padding for member in MEMBERS)
    inflater = codings.make_inflater("gzip")
    assert inflater is not None
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    assert b"".join(part for chunk in chunks for part in inflater.feed(chunk)) == b"".join(LINES)
    inflater.end()


@pytest.mark.parametrize("rest", [b"no gzip", MEMBERS[1][:-1], MEMBERS[1][:1]])
def test_a_member_that_is_damaged_is_refused(rest: bytes) -> None:
    inflater = codings.make_inflater("gzip")
    assert inflater is not None

    def inflate() -> None:
        list(inflater.feed(MEMBERS[1] + rest))
        inflater.end()

    with pytest.raises(MalformedBody, match="compress it again, or send it uncompressed"):
        inflate()


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_a_log_of_several_members_is_stored_whole(opened: httpx.Client, headers: dict[str, str]) -> None:
    answer = opened.post("/runs/a/predictions", content=b"".join(MEMBERS), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["records"] == 100


def test_the_limit_of_a_body_is_that_of_all_its_members(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_log_bytes": 2048}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": 100})
        headers = {"Content-Encoding": "gzip"}
        body = b"".join(MEMBERS)
        refused = service.post("/runs/a/predictions", content=body, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (413, "/problems/body-too-large")
        assert service.post("/runs/a/predictions", content=b"".join(MEMBERS[:4]), headers=headers).status_code == 200
        bits = gzip.compress(bytes(13), mtime=0)
        headers |= {"Content-Type": "application/octet-stream"}
        assert service.put("/runs/a/rounds/0/epochs/1", content=bits * 3, headers=headers).status_code == 422
        assert service.put("/runs/a/rounds/0/epochs/1", content=bits * 2, headers=headers).status_code == 201
