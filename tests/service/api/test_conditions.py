"""Conditional writes: If-None-Match: * creates and never overwrites, If-Match overwrites only what it names."""

import threading
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI

from tests.inprocess import running
from tests.service.conftest import Dump
from tests.service.recordings import OCTETS, recording

N = 100
FIRST, SECOND, THIRD = (recording(N, 1, seed=seed)[0] for seed in range(3))
EPOCH = "/runs/a/rounds/0/epochs/0"
IDS = [f"s{number}" for number in range(N)]

Write = Callable[..., httpx.Response]


def epoch(service: httpx.Client, which: int, **headers: str) -> httpx.Response:
    content = (FIRST, SECOND, THIRD)[which]
    return service.put(EPOCH, content=content, params={"replace": "true"}, headers={**OCTETS, **headers})


def labels(service: httpx.Client, which: int, **headers: str) -> httpx.Response:
    return service.put("/runs/a/labels", json={"labels": [which] * N}, headers=headers)


def ids(service: httpx.Client, which: int, **headers: str) -> httpx.Response:
    return service.put("/runs/a/sample-ids", json=IDS[which:] + IDS[:which], headers=headers)


WRITES = [epoch, labels, ids]


def refused(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["type"]) == (412, "/problems/precondition-failed")


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_wants_nothing_there_never_overwrites(opened: httpx.Client, dump: Dump, write: Write) -> None:
    first = write(opened, 0, **{"If-None-Match": "*"})
    assert first.is_success
    before = dump()
    for which in (0, 1):
        again = write(opened, which, **{"If-None-Match": "*"})
        assert refused(again)
        assert first.headers["etag"] in again.json()["detail"]
    assert dump() == before


@pytest.mark.parametrize("write", WRITES)
def test_a_write_overwrites_only_what_it_names(opened: httpx.Client, dump: Dump, write: Write) -> None:
    before = dump()
    assert refused(write(opened, 0, **{"If-Match": "*"}))
    assert refused(write(opened, 0, **{"If-Match": '"abc"'}))
    assert dump() == before
    tag = write(opened, 0).headers["etag"]
    second = write(opened, 1, **{"If-Match": f'"abc", {tag}'})
    assert second.json()["outcome"] == "replaced"
    before = dump()
    for named in (tag, f"W/{second.headers['etag']}", '"!"', '"*"', "nonsense"):
        assert refused(write(opened, 2, **{"If-Match": named})), named
    assert dump() == before
    assert write(opened, 1, **{"If-Match": "*"}).json()["outcome"] == "same"
    assert write(opened, 2, **{"If-Match": "*"}).json()["outcome"] == "replaced"


@pytest.mark.parametrize(
    "headers", [{"If-None-Match": '"abc"'}, {"If-None-Match": "*", "If-Match": "*"}, {"If-None-Match": ""}]
)
@pytest.mark.parametrize("write", WRITES)
def test_a_condition_that_cannot_be_met_is_explained(
    opened: httpx.Client, write: Write, headers: dict[str, str]
) -> None:
    answer = write(opened, 0, **headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")


def test_a_run_is_created_once(service: httpx.Client, dump: Dump) -> None:
    body = {"num_samples": N}
    first = service.put("/runs/a", json=body, headers={"If-None-Match": "*"})
    assert first.status_code == 201
    before = dump()
    assert refused(service.put("/runs/a", json={**body, "tags": {"x": "y"}}, headers={"If-None-Match": "*"}))
    assert refused(service.put("/runs/b", json=body, headers={"If-Match": first.headers["etag"]}))
    assert dump() == before
    same = service.put("/runs/a", json=body, headers={"If-Match": first.headers["etag"]})
    assert (same.status_code, same.headers["etag"]) == (200, first.headers["etag"])
    service.delete("/runs/a")
    service.put("/runs/a", json=body)
    assert refused(service.put("/runs/a", json=body, headers={"If-Match": first.headers["etag"]}))


def test_an_epoch_tells_its_etag(opened: httpx.Client) -> None:
    assert "etag" not in opened.get(EPOCH).headers
    tag = epoch(opened, 0).headers["etag"]
    assert opened.get(EPOCH).headers["etag"] == tag
    assert epoch(opened, 0).headers["etag"] == tag


def test_of_writers_that_come_together_one_creates(app: FastAPI) -> None:
    answers: list[int] = []
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": N})

        def write(which: int) -> None:
            answers.append(epoch(service, which % 3, **{"If-None-Match": "*"}).status_code)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    assert sorted(answers) == [201, 412, 412, 412, 412, 412]
