"""Given labels and audits: what is taken, what is refused, and what belongs to a run."""

import gzip
import io
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from mild_core import bitmap
from mild_core.audit import Audit
from mild_service.config import Settings
from tests.service.api.conftest import N
from tests.service.conftest import Dump
from tests.service.recordings import OCTETS, put_epochs, recording

LABELS = [i % 7 for i in range(N)]
NPY = {"Content-Type": "application/x-npy"}
AUDIT = Audit.from_marks([3, 50, 99], [True, False, True], N)


def npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def put_labels(service: httpx.Client, labels: Any = LABELS) -> httpx.Response:
    return service.put("/runs/a/labels", json={"labels": labels})


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "u1", "<u8", "i2"])
def test_labels_are_the_same_however_they_are_sent(opened: httpx.Client, dtype: str) -> None:
    assert put_labels(opened).json() == {"run_id": "a", "outcome": "set"}
    answer = opened.put("/runs/a/labels", content=npy(np.array(LABELS, dtype=dtype)), headers=NPY)
    assert answer.json()["outcome"] == "same"


def test_labels_can_be_replaced_until_an_epoch_is_in(opened: httpx.Client, dump: Dump) -> None:
    put_labels(opened)
    others = [300_000, *LABELS[1:]]
    assert put_labels(opened, others).json()["outcome"] == "replaced"
    put_epochs(opened, "a", recording(N, 1))
    before = dump()
    assert code(put_labels(opened)) == (409, "labels-frozen")
    assert put_labels(opened, others).json()["outcome"] == "same"
    assert dump() == before


def test_labels_stay_fixed_in_later_rounds(opened: httpx.Client) -> None:
    put_labels(opened)
    put_epochs(opened, "a", recording(N, 10))
    assert opened.post("/runs/a/rounds/0/finish").status_code == 200
    assert code(put_labels(opened, [1] * N)) == (409, "labels-frozen")


def test_labels_that_come_late_are_taken_once(recorded: httpx.Client) -> None:
    assert put_labels(recorded).json()["outcome"] == "set"
    assert code(put_labels(recorded, [1] * N)) == (409, "labels-frozen")


@pytest.mark.parametrize(
    ("body", "headers", "problem", "detail"),
    [
        (b'{"labels": [0, 1]}', None, (422, "invalid-input"), "100 samples, got labels of shape (2,)"),
        (b'{"labels": [-1' + b", 0" * 99 + b"]}", None, (422, "invalid-input"), "such as -1 of sample 0"),
        (b'{"labels": [0.5' + b", 0" * 99 + b"]}", None, (422, "invalid-request"), "labels[0]"),
        (b'{"labels": [9223372036854775808]}', None, (422, "invalid-request"), "labels[0]"),
        (b'{"labels": "many"}', None, (422, "invalid-request"), "labels"),
        (b"{}", None, (422, "invalid-request"), "labels"),
        (b"[", None, (400, "malformed-body"), "JSON"),
        (b"no npy", NPY, (400, "malformed-body"), "numpy.save"),
        (npy(np.zeros(N))[:-8], NPY, (422, "invalid-request"), "float64"),
        (npy(np.zeros(N, int))[:-8], NPY, (400, "malformed-body"), "announces 100 labels of 8 bytes, but 792"),
        (npy(np.zeros((N, 1), int)), NPY, (422, "invalid-request"), "(100, 1)"),
        (npy(np.full(N, 2**63, "u8")), NPY, (422, "invalid-input"), "0..2147483647"),
        (b"", {"Content-Type": "text/csv"}, (415, "unsupported-media-type"), "application/x-npy"),
    ],
)
def test_impossible_labels_are_refused_and_change_nothing(
    opened: httpx.Client, dump: Dump, body: bytes, headers: dict[str, str] | None, problem: tuple[int, str], detail: str
) -> None:
    before = dump()
    answer = opened.put("/runs/a/labels", content=body, headers=headers or {"Content-Type": "application/json"})
    assert code(answer) == problem
    assert detail in answer.json()["detail"]
    assert dump() == before


def test_a_header_that_promises_a_terabyte_allocates_none(opened: httpx.Client) -> None:
    body = npy(np.zeros(100_000, "i8")).replace(b"(100000,), }            ", b"(1000000000000000,), }  ", 1)
    assert b"1000000000000000" in body
    assert code(opened.put("/runs/a/labels", content=body, headers=NPY)) == (400, "malformed-body")


def test_a_body_of_labels_is_bounded(opened: httpx.Client, settings: Settings) -> None:
    bomb = gzip.compress(bytes(settings.max_body_bytes + 1))
    answer = opened.put("/runs/a/labels", content=bomb, headers={**NPY, "Content-Encoding": "gzip"})
    assert code(answer) == (413, "body-too-large")


def test_labels_are_classes_of_the_run(service: httpx.Client) -> None:
    service.put("/runs/b", json={"num_samples": 3, "num_classes": 10})
    assert service.put("/runs/b/labels", json={"labels": [0, 9, 1]}).status_code == 200
    answer = service.put("/runs/b/labels", json={"labels": [0, 10, 11]})
    assert code(answer) == (422, "invalid-input")
    assert "2 of 3 labels are outside 0..9, such as 10 of sample 1" in answer.json()["detail"]


def test_an_audit_comes_back_as_it_was_put(opened: httpx.Client) -> None:
    empty = opened.get("/runs/a/audit").json()
    assert empty == {"run_id": "a", "num_known": 0, "num_clean": 0, "indices": [], "clean": [], "draw": None}
    put = opened.put("/runs/a/audit", json={"indices": [99, 3, 50], "clean": [True, True, False]})
    assert put.json() == {
        "run_id": "a",
        "num_known": 3,
        "num_clean": 2,
        "num_added": 3,
        "num_replaced": 0,
        "num_removed": 0,
    }
    assert opened.get("/runs/a/audit").json()["indices"] == [3, 50, 99]
    assert opened.get("/runs/a/audit").json()["clean"] == [True, False, True]
    packed = opened.get("/runs/a/audit", headers={"Accept": "application/octet-stream"})
    assert packed.content == AUDIT.to_body()
    assert opened.get("/runs/a/audit", headers={"Accept": "text/csv"}).status_code == 406


def test_audits_add_up_and_the_newer_mark_is_right(opened: httpx.Client, dump: Dump) -> None:
    assert opened.put("/runs/a/audit", content=AUDIT.to_body(), headers=OCTETS).json()["num_added"] == 3
    second = opened.put("/runs/a/audit", json={"indices": [50, 3, 7], "clean": [True, True, False]}).json()
    assert (second["num_known"], second["num_clean"]) == (4, 3)
    assert (second["num_added"], second["num_replaced"]) == (1, 1)
    before = dump()
    again = opened.put("/runs/a/audit", json={"indices": [7], "clean": [False]}).json()
    assert (again["num_added"], again["num_replaced"]) == (0, 0)
    assert dump() == before


@pytest.mark.parametrize(
    ("body", "headers", "problem", "detail"),
    [
        (b'{"indices": [100], "clean": [true]}', None, (422, "sample-index"), "100 is outside 0..99"),
        (b'{"indices": [1], "clean": []}', None, (422, "invalid-input"), "1 indices and 0 marks"),
        (b'{"indices": [], "clean": []}', None, (422, "invalid-input"), "0 marks"),
        (b'{"indices": [1], "clean": [1]}', None, (422, "invalid-request"), "clean[0]"),
        (b'{"indices": [1]}', None, (422, "invalid-request"), "clean"),
        (bytes(13), OCTETS, (422, "bitmap-length"), "26 bytes"),
        (bytes(26), OCTETS, (422, "invalid-input"), "0 marks"),
        (bytes(27), OCTETS, (422, "bitmap-length"), "more than 26"),
        (bytes(12) + b"\x01" + bytes(13), OCTETS, (422, "trailing-bits"), "0x01"),
        (b"", {"Content-Type": "text/csv"}, (415, "unsupported-media-type"), "text/csv"),
    ],
)
def test_impossible_audits_are_refused_and_change_nothing(
    opened: httpx.Client, dump: Dump, body: bytes, headers: dict[str, str] | None, problem: tuple[int, str], detail: str
) -> None:
    before = dump()
    answer = opened.put("/runs/a/audit", content=body, headers=headers or {"Content-Type": "application/json"})
    assert code(answer) == problem
    assert detail in answer.json()["detail"]
    assert dump() == before


@pytest.mark.parametrize("n_samples", [100, 1_100_000])
def test_labels_and_audit_go_with_their_run(
    service: httpx.Client, dump: Dump, redis: Redis, settings: Settings, n_samples: int
) -> None:
    service.put("/runs/b", json={"num_samples": n_samples})
    for labels in (np.zeros(n_samples, "u1"), np.arange(n_samples) % 300):
        assert service.put("/runs/b/labels", content=npy(labels), headers=NPY).status_code == 200
    for index in (0, n_samples - 1):
        assert service.put("/runs/b/audit", json={"indices": [index], "clean": [True]}).status_code == 200
    assert service.get("/runs/b/audit").json()["indices"] == [0, n_samples - 1]
    hashes = list(redis.scan_iter(f"{settings.store_namespace}:*:truth:*"))
    assert len(hashes) == bitmap.n_bytes(n_samples) // (128 * 1024) + 1
    assert all(redis.hlen(key) == 2 for key in hashes), "what is replaced is deleted"
    assert service.delete("/runs/b").status_code == 204
    assert dump() == {}


def test_a_run_that_is_not_there_has_neither(service: httpx.Client) -> None:
    assert code(service.put("/runs/b/labels", json={"labels": [0]})) == (404, "run-not-found")
    assert code(service.put("/runs/b/audit", json={"indices": [0], "clean": [True]})) == (404, "run-not-found")
    assert code(service.get("/runs/b/audit")) == (404, "run-not-found")


def test_a_mark_is_taken_back(opened: httpx.Client) -> None:
    opened.put("/runs/a/audit", json={"indices": [3, 50], "clean": [True, False]})
    told = opened.put("/runs/a/audit", json={"indices": [3, 50, 7], "clean": [None, None, None]}).json()
    assert (told["num_known"], told["num_removed"]) == (0, 2)
    assert opened.get("/runs/a/audit").json()["indices"] == []
    opened.put("/runs/a/rounds/0/epochs/0", content=bitmap.full(N).tobytes(), headers=OCTETS)
    answer = opened.get("/runs/a/rounds/0/evaluation")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/no-audit")
