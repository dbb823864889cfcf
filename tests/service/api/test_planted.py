"""Samples that were mislabelled on purpose in round 0: put once, part of what a selection is made from."""

import io
from typing import Any

import httpx
import numpy as np
import pytest

from mild_core import bitmap
from mild_service.web.media_types import NPY
from tests.service.conftest import Dump
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
PATH = "/runs/a/planted"
INDICES = list(range(0, N, 10))
PLANTED = bitmap.from_indices(INDICES, N)
AS_NPY = io.BytesIO()
np.save(AS_NPY, np.array(INDICES))


@pytest.mark.parametrize(
    "request_",
    [
        {"content": PLANTED.tobytes(), "headers": OCTETS},
        {"json": {"indices": [*reversed(INDICES), 0]}},
        {"content": AS_NPY.getvalue(), "headers": {"Content-Type": NPY}},
    ],
    ids=["bitmap", "json", "npy"],
)
def test_planted_samples_are_the_same_in_whatever_form_they_come(
    opened: httpx.Client, request_: dict[str, Any]
) -> None:
    assert opened.get(PATH).json() == {"run_id": "a", "num_planted": 0, "indices": []}
    first, again = (opened.put(PATH, **request_) for _ in range(2))
    assert (first.status_code, first.json()) == (200, {"run_id": "a", "outcome": "set", "num_planted": 10})
    assert (again.status_code, again.json()["outcome"]) == (200, "same")
    assert opened.get(PATH).json() == {"run_id": "a", "num_planted": 10, "indices": INDICES}
    assert opened.get(PATH, headers={"Accept": "application/octet-stream"}).content == PLANTED.tobytes()
    as_npy = opened.get(PATH, headers={"Accept": NPY})
    assert np.load(io.BytesIO(as_npy.content)).tolist() == INDICES


def test_they_can_be_replaced_until_the_first_epoch_and_repeated_for_ever(opened: httpx.Client, dump: Dump) -> None:
    for indices in ([1], [], INDICES):
        assert opened.put(PATH, json={"indices": indices}).json()["outcome"] == "set"
    assert [each["num_planted"] for each in opened.get("/runs/a").json()["rounds"]] == [10]
    assert opened.get("/runs/a/rounds/0").json()["num_planted"] == 10
    put_epochs(opened, "a", recording(N, 10))
    before = dump()
    for indices in ([1], []):
        refused = opened.put(PATH, json={"indices": indices})
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/planted-frozen")
        assert "10 epochs already" in refused.json()["detail"]
    assert opened.put(PATH, json={"indices": INDICES}).json()["outcome"] == "same"
    assert dump() == before
    assert opened.post("/runs/a/rounds/0/finish").status_code == 200
    before = dump()
    assert opened.put(PATH, json={"indices": [1]}).json()["type"] == "/problems/round-finished"
    assert opened.put(PATH, json={"indices": INDICES}).json()["outcome"] == "same"
    assert dump() == before
    assert [each["num_planted"] for each in opened.get("/runs/a").json()["rounds"]] == [10, 0]


def test_a_new_attempt_that_drops_all_epochs_may_plant_anew(recorded: httpx.Client) -> None:
    assert recorded.put(PATH, json={"indices": [1]}).json()["type"] == "/problems/planted-frozen"
    recorded.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 0}})
    stale = recorded.put(PATH, json={"indices": [1]}, headers={"Mild-Attempt": "1"})
    assert stale.json()["type"] == "/problems/stale-attempt"
    assert recorded.put(PATH, json={"indices": [1]}, headers={"Mild-Attempt": "2"}).json()["outcome"] == "set"


def test_a_round_does_not_judge_whom_it_has_mislabelled_and_the_next_one_does(service: httpx.Client) -> None:
    bodies = recording(400, 20)
    service.put("/runs/a", json={"num_samples": 400, "selection": {"threshold": "fraction", "fraction": 0.6}})
    put_epochs(service, "a", bodies)
    without = service.get("/selection/a?round=0")
    broken = without.json()["indices"][:20]
    service.put("/runs/a", json={"num_samples": 400, "resume_from": {"round": 0, "epoch": 0}})
    service.put(PATH, json={"indices": broken}).raise_for_status()
    put_epochs(service, "a", bodies)
    planted = service.get("/selection/a?round=0")
    assert not set(broken) & set(planted.json()["indices"])
    assert without.headers["etag"] != planted.headers["etag"]
    correct = [np.unpackbits(np.frombuffer(body, dtype=np.uint8)).tolist() for body in bodies]
    mask = [int(index in broken) for index in range(400)]
    options = {"threshold": "fraction", "fraction": 0.6}
    alone = service.post("/selection", json={"rounds": [{"correct": correct, "planted": mask}], "options": options})
    assert alone.json()["indices"] == planted.json()["indices"]
    assert service.post("/runs/a/rounds/0/finish").json()["indices"] == planted.json()["indices"]
    put_epochs(service, "a", bodies, round_=1)
    assert set(broken) <= set(service.post("/runs/a/rounds/1/finish").json()["indices"])


def test_what_was_planted_decides_which_cached_answer_fits(recorded: httpx.Client) -> None:
    bodies = recording(N, 10)
    seen = set()
    for indices in ([0], [1]):
        recorded.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 0}})
        recorded.put(PATH, json={"indices": indices}).raise_for_status()
        put_epochs(recorded, "a", bodies)
        answer = recorded.get("/selection/a?round=0")
        assert indices[0] not in answer.json()["indices"]
        seen.add(answer.headers["etag"])
    assert len(seen) == 2


def test_planted_samples_of_a_large_run_outlive_the_end_of_their_round(service: httpx.Client, dump: Dump) -> None:
    n_samples = 1_100_000
    service.put("/runs/a", json={"num_samples": n_samples})
    planted = recording(n_samples, 1)[0]
    service.put(PATH, content=planted, headers=OCTETS).raise_for_status()
    put_epochs(service, "a", recording(n_samples, 1, seed=1))
    service.post("/runs/a/rounds/0/finish").raise_for_status()
    assert service.get(PATH, headers={"Accept": "application/octet-stream"}).content == planted
    assert service.delete("/runs/a").status_code == 204
    assert not [key for key in dump() if b"{a" in key and b":cache:" not in key]
