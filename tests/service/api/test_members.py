import gzip
import io
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray

from mild_core import bitmap
from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.service.conftest import Dump
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
PATH = "/runs/a/rounds/0/members"
NPY = {"Content-Type": "application/x-npy"}
MEMBERS = np.arange(N) % 3 == 0
INDICES: list[int] = np.flatnonzero(MEMBERS).tolist()


def npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


@pytest.mark.parametrize(
    "request_",
    [
        {"content": bitmap.pack(MEMBERS).tobytes(), "headers": OCTETS},
        {"content": bitmap.pack(MEMBERS).tobytes()},
        {"json": {"indices": [*reversed(INDICES), 0]}},
        {"content": npy(np.array(INDICES, dtype=np.int64)), "headers": NPY},
        {"content": npy(np.array(INDICES, dtype=np.uint8)), "headers": NPY},
        {"content": npy(np.array(INDICES, dtype=">u4")), "headers": NPY},
        {"content": npy(MEMBERS), "headers": NPY},
    ],
    ids=["bitmap", "untyped", "json", "int64", "uint8", "big-endian", "booleans"],
)
def test_members_are_the_same_in_whatever_form_they_come(opened: httpx.Client, request_: dict[str, Any]) -> None:
    first, again = (opened.put(PATH, **request_) for _ in range(2))
    assert first.json() == {"run_id": "a", "round": 0, "outcome": "set", "num_members": 34}
    assert (again.status_code, again.json()["outcome"]) == (200, "same")
    assert opened.get(PATH).json() == {"run_id": "a", "round": 0, "num_members": 34, "indices": INDICES}
    as_bitmap = opened.get(PATH, headers={"Accept": "application/octet-stream"})
    assert as_bitmap.content == bitmap.pack(MEMBERS).tobytes()
    as_npy = opened.get(PATH, headers={"Accept": "application/x-npy"})
    assert np.load(io.BytesIO(as_npy.content)).tolist() == INDICES


@pytest.mark.parametrize(
    ("array", "status", "code", "detail"),
    [
        (np.array([0, 100]), 422, "sample-index", "100 is outside 0..99"),
        (np.array([2**64 - 1], dtype=np.uint64), 422, "sample-index", "outside 0..99"),
        (np.array([-1]), 422, "sample-index", "-1"),
        (np.array([], dtype=np.int64), 422, "invalid-input", "0 of 100"),
        (np.zeros(N, dtype=bool), 422, "invalid-input", "0 of 100"),
        (MEMBERS[:-1], 422, "invalid-request", "99 booleans, the run has 100"),
        (np.array([0.5]), 422, "invalid-request", "float64"),
        (np.array([[0]]), 422, "invalid-request", "(1, 1)"),
    ],
)
def test_impossible_members_change_nothing(
    opened: httpx.Client, dump: Dump, array: NDArray[Any], status: int, code: str, detail: str
) -> None:
    before = dump()
    answer = opened.put(PATH, content=npy(array), headers=NPY)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")
    assert detail in answer.json()["detail"]
    assert dump() == before


def test_what_is_no_npy_file_is_refused(opened: httpx.Client) -> None:
    for body in (b"", b"no npy", npy(np.arange(5))[:-1]):
        assert opened.put(PATH, content=body, headers=NPY).json()["type"] == "/problems/malformed-body"


@pytest.fixture
def small(settings: Settings) -> FastAPI:
    return create_app(settings.model_copy(update={"max_body_bytes": 1024}))


def test_too_long_a_list_is_sent_as_a_bitmap(small: FastAPI) -> None:
    with running(small) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": 4000})
        answer = service.put(
            PATH, content=gzip.compress(npy(np.zeros(400))), headers={**NPY, "Content-Encoding": "gzip"}
        )
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")
        assert "as a bitmap of 500 bytes" in answer.json()["detail"]
        members = bitmap.from_indices(range(400), 4000).tobytes()
        assert service.put(PATH, content=members, headers=OCTETS).json()["num_members"] == 400


def test_members_are_everyone_then_the_rounds_set(recorded: httpx.Client) -> None:
    assert recorded.get(PATH).json()["indices"] == list(range(N))
    selected = recorded.post("/runs/a/rounds/0/finish").json()["indices"]
    assert recorded.get("/runs/a/rounds/1/members").json()["indices"] == selected
    assert recorded.get("/runs/a/rounds/2/members").json()["type"] == "/problems/round-not-open"
    assert recorded.get(PATH, headers={"Accept": "text/html"}).json()["type"] == "/problems/not-acceptable"


def test_members_of_a_large_run_come_back_as_they_were(service: httpx.Client) -> None:
    n_samples = 1_100_000
    service.put("/runs/a", json={"num_samples": n_samples})
    members = recording(n_samples, 1)[0]
    service.put(PATH, content=members, headers=OCTETS)
    put_epochs(service, "a", recording(n_samples, 1))
    assert service.get(PATH, headers={"Accept": "application/octet-stream"}).content == members
