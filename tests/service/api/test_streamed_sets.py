"""Large sets are sent while they are made, piece by piece, with the bytes that they would have as a whole."""

import csv
import gzip
import io
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import numpy as np
import orjson
import pytest
import zstandard
from starlette.requests import ClientDisconnect

from mild_core import bitmap
from mild_service.web import media_types, responses
from mild_service.web.codings import Coding
from mild_service.web.responses import Representation
from tests.service.recordings import put_epochs, recording

N = 300_001
MEMBERS = np.sort(np.random.default_rng(7).choice(N, 200_000, replace=False))


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every body that is made in pieces is streamed."""
    monkeypatch.setattr(responses, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(responses, "_PART_BYTES", 64)
    monkeypatch.setattr(responses, "_PART_IDS", 7)


@pytest.fixture
def client(service: httpx.Client) -> httpx.Client:
    """The service with a run of whose samples a part are members."""
    service.put("/runs/a", json={"num_samples": N})
    members = bitmap.from_indices(MEMBERS, N).tobytes()
    headers = {"Content-Type": "application/octet-stream"}
    assert service.put("/runs/a/rounds/0/members", content=members, headers=headers).status_code == 200
    return service


def decode(body: bytes, coding: str | None) -> bytes:
    """Return a body as it was before it was compressed."""
    if coding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return gzip.decompress(body) if coding == "gzip" else body


def fetch(client: httpx.Client, path: str, accept: str, coding: str = "identity") -> tuple[httpx.Headers, bytes]:
    """Return the headers and the decoded body of a response."""
    with client.stream("GET", path, headers={"Accept": accept, "Accept-Encoding": coding}) as answer:
        assert answer.status_code == 200
        return answer.headers, decode(b"".join(answer.iter_raw()), answer.headers.get("Content-Encoding"))


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@pytest.mark.usefixtures("streamed")
def test_a_streamed_set_has_the_bytes_of_a_whole_one(client: httpx.Client, coding: str) -> None:
    path = "/runs/a/rounds/0/members"
    headers, body = fetch(client, path, media_types.JSON, coding)
    expected = {"run_id": "a", "round": 0, "num_members": MEMBERS.size, "indices": MEMBERS}
    assert body == orjson.dumps(expected, option=orjson.OPT_SERIALIZE_NUMPY)
    assert "Content-Length" not in headers
    assert "Content-Digest" not in headers
    npy = io.BytesIO()
    np.save(npy, MEMBERS)
    assert fetch(client, path, media_types.NPY, coding)[1] == npy.getvalue()


@pytest.mark.usefixtures("streamed")
def test_headers_of_a_streamed_set_are_sent_without_making_it(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, accept = "/runs/a/rounds/0/members", {"Accept": media_types.JSON, "Accept-Encoding": "identity"}
    n_parts, iterate = 0, responses.iterate_indices

    def count_parts(*arguments: Any) -> Iterator[Any]:
        nonlocal n_parts
        for part in iterate(*arguments):
            n_parts += 1
            yield part

    monkeypatch.setattr(responses, "iterate_indices", count_parts)
    head = client.head(path, headers=accept)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == media_types.JSON
    assert n_parts < 10
    client.get(path, headers=accept)
    assert n_parts > 500


def test_a_set_that_fits_is_sent_as_a_whole(client: httpx.Client) -> None:
    headers, body = fetch(client, "/runs/a/rounds/0/members", media_types.JSON)
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Content-Digest"].startswith("sha-256=:")


def test_a_streamed_selection_is_the_whole_one(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    n_samples = 3000
    service.put("/runs/b", json={"num_samples": n_samples})
    ids = [f'sample "{index}", \u00e4' for index in range(n_samples)]
    assert service.put("/runs/b/sample-ids", json=ids).status_code == 200
    put_epochs(service, "b", recording(n_samples, 10))
    asked = [("/selection/b", media_types.JSON), ("/selection/b?ids=true", media_types.JSON)]
    asked += [("/selection/b", media_types.CSV), ("/selection/b?ids=true", media_types.CSV)]
    asked += [("/selection/b", media_types.NPY)]
    whole = [fetch(service, *each) for each in asked]
    monkeypatch.setattr(responses, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(responses, "_PART_BYTES", 16)
    monkeypatch.setattr(responses, "_PART_IDS", 7)
    streamed = [fetch(service, *each) for each in asked]
    assert [body for _, body in streamed] == [body for _, body in whole]
    assert [headers["ETag"] for headers, _ in streamed] == [headers["ETag"] for headers, _ in whole]
    rows = list(csv.DictReader(io.StringIO(streamed[3][1].decode())))
    assert [row["id"] for row in rows] == [ids[int(row["index"])] for row in rows]
    tag = {"If-None-Match": streamed[0][0]["ETag"], "Accept": media_types.JSON, "Accept-Encoding": "identity"}
    assert service.get("/selection/b", headers=tag).status_code == 304
    assert service.post("/runs/b/rounds/0/finish").json()["indices"] == orjson.loads(whole[0][1])["indices"]


@pytest.mark.parametrize("n_samples", [1, 8, 1000, 2**17 + 1, 2**18])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_pieces_are_the_json_of_all_indices(n_samples: int, share: float) -> None:
    samples = bitmap.pack(np.random.default_rng(1).random(n_samples) < share)
    document = {"text": '"indices":[]', "indices": bitmap.to_indices(samples, n_samples)}
    pieces = responses.encode_indices({"text": document["text"]}, samples, n_samples)
    assert b"".join(pieces) == orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("fields", [{}, {"a": 1}])
def test_lists_in_parts_are_the_json_of_whole_ones(fields: dict[str, int]) -> None:
    pieces = responses.encode_lists(fields, {"x": [[1, 2], [3]], "y": [], "z": [[None, "]"]]})
    assert orjson.loads(b"".join(pieces)) == {**fields, "x": [1, 2, 3], "y": [], "z": [None, "]"]}


@pytest.mark.anyio
@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_no_more_pieces_are_made_for_a_reader_that_has_gone(
    monkeypatch: pytest.MonkeyPatch, coding: Coding
) -> None:
    monkeypatch.setattr(responses, "_WHOLE_BYTES", 2**16)
    n_made = 0

    def make_pieces() -> Iterator[bytes]:
        nonlocal n_made
        for _ in range(10_000):
            n_made += 1
            yield np.random.default_rng(n_made).bytes(2**15)

    response = await responses.make_response(Representation(media_types.JSON, coding), make_pieces)
    n_sent = 0

    async def send(message: Any) -> None:
        nonlocal n_sent
        n_sent += bool(message.get("body"))
        if n_sent > 5:
            raise OSError("the connection is closed")

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        return {}

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "GET", "headers": []}
    with pytest.raises(ClientDisconnect):
        await response(scope, receive, send)
    assert n_made < 20
