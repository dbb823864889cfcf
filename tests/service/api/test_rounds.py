import base64
import gzip
import hashlib

import httpx
import numpy as np
import pytest
import zstandard

from mild_core import bitmap
from mild_core.types import EpochBits
from tests.service.conftest import Dump
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
BODY = recording(N, 1)[0]
EPOCH = "/runs/a/rounds/0/epochs/0"


def test_an_epoch_is_committed_once(opened: httpx.Client) -> None:
    first = opened.put(EPOCH, content=BODY, headers=OCTETS)
    n_correct = bitmap.popcount(np.frombuffer(BODY, dtype=np.uint8))
    assert first.status_code == 201
    assert first.json() == {
        "run_id": "a",
        "round": 0,
        "epoch": 0,
        "outcome": "committed",
        "attempt": 1,
        "num_correct": n_correct,
        "num_observed": None,
    }
    again = opened.put(EPOCH, content=BODY, headers=OCTETS)
    assert (again.status_code, again.json()["outcome"]) == (200, "same")


def test_two_bitmaps_say_who_was_observed(opened: httpx.Client) -> None:
    observed = bitmap.pack(np.arange(N) < 60)
    body = EpochBits(N, np.frombuffer(BODY, dtype=np.uint8) & observed, observed).to_body()
    assert opened.put(EPOCH, content=body, headers=OCTETS).json()["num_observed"] == 60


def test_an_epoch_can_be_replaced_while_its_round_is_open(recorded: httpx.Client) -> None:
    other = recording(N, 1, seed=3)[0]
    assert recorded.put(EPOCH, content=other, headers=OCTETS).status_code == 409
    replaced = recorded.put(EPOCH, params={"replace": "true"}, content=other, headers=OCTETS)
    assert (replaced.status_code, replaced.json()["outcome"]) == (200, "replaced")
    recorded.post("/runs/a/rounds/0/finish")
    late = recorded.put(EPOCH, params={"replace": "true"}, content=BODY, headers=OCTETS)
    assert (late.status_code, late.json()["type"]) == (409, "/problems/round-finished")


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        ("identity", BODY),
        ("gzip", gzip.compress(BODY)),
        ("zstd", zstandard.compress(BODY)),
        ("zstd", zstandard.compress(BODY[:5]) + zstandard.compress(BODY[5:])),
    ],
    ids=["identity", "gzip", "zstd", "zstd in two frames"],
)
def test_bodies_may_be_compressed_and_digested(opened: httpx.Client, coding: str, sent: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(sent).digest()).decode()
    headers = {**OCTETS, "Content-Encoding": coding, "Content-Digest": f"sha-512=:AAAA:, sha-256=:{digest}:"}
    assert opened.put(EPOCH, content=sent, headers=headers).status_code == 201
    assert opened.put(EPOCH, content=BODY, headers=OCTETS).json()["outcome"] == "same"


def test_a_digest_of_another_kind_is_not_looked_at(opened: httpx.Client) -> None:
    assert opened.put(EPOCH, content=BODY, headers={**OCTETS, "Content-Digest": "md5=:AAAA:"}).status_code == 201


def test_a_content_type_may_be_left_out(opened: httpx.Client) -> None:
    assert opened.put(EPOCH, content=BODY).status_code == 201


@pytest.fixture
def large(service: httpx.Client) -> httpx.Client:
    service.put("/runs/a", json={"num_samples": 3_000_000})
    return service


def test_a_run_of_three_chunks_goes_all_the_way(large: httpx.Client) -> None:
    n_samples = 3_000_000
    bodies = recording(n_samples, 8)
    put_epochs(large, "a", bodies)
    finished = large.post("/runs/a/rounds/0/finish", headers={"Accept": "application/octet-stream"})
    assert len(finished.content) == bitmap.n_bytes(n_samples)
    stateless = large.post(
        "/selection",
        json={"num_samples": n_samples, "correct": [base64.b64encode(body).decode() for body in bodies]},
        headers={"Accept": "application/octet-stream"},
    )
    assert stateless.content == finished.content
    members = large.get("/runs/a").json()["rounds"][1]["num_members"]
    assert members == bitmap.popcount(np.frombuffer(finished.content, dtype=np.uint8))


@pytest.mark.parametrize("as_json", [True, False])
def test_members_are_set_by_bitmap_or_indices(opened: httpx.Client, as_json: bool) -> None:
    path, indices = "/runs/a/rounds/0/members", [3, 5, 99, 3]
    if as_json:
        answer = opened.put(path, json={"indices": indices})
    else:
        answer = opened.put(path, content=bitmap.from_indices(indices, N).tobytes(), headers=OCTETS)
    assert answer.json() == {"run_id": "a", "round": 0, "outcome": "set", "num_members": 3}
    assert opened.put(path, json={"indices": [99, 5, 3]}).json()["outcome"] == "same"
    assert opened.get("/runs/a").json()["rounds"][0]["num_members"] == 3


def test_a_run_that_observes_members_takes_no_bits_of_others(service: httpx.Client, dump: Dump) -> None:
    service.put("/runs/a", json={"num_samples": N, "observe": "members"})
    assert service.put(EPOCH, content=BODY, headers=OCTETS).status_code == 201  # everyone is a member
    service.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 0}})
    service.put("/runs/a/rounds/0/members", json={"indices": list(range(50))})
    before = dump()
    answer = service.put(EPOCH, content=bitmap.full(N).tobytes(), headers=OCTETS)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/correct-not-observed")
    assert "50 samples" in answer.json()["detail"]
    assert dump() == before
    assert service.put(EPOCH, content=bitmap.from_indices(range(50), N).tobytes(), headers=OCTETS).status_code == 201
    late = service.put("/runs/a/rounds/1/epochs/0", content=BODY, headers=OCTETS)
    assert late.json()["type"] == "/problems/round-not-open"


def test_metrics_are_kept_beside_the_epochs(opened: httpx.Client) -> None:
    path = "/runs/a/rounds/0/metrics/3"
    assert opened.put(path, json={"train_loss": 1, "test_accuracy": 0.5}).status_code == 201
    assert opened.put(path, json={"test_accuracy": 0.5, "train_loss": 1}).json()["outcome"] == "same"
    other = opened.put(path, json={"train_loss": 2})
    assert (other.status_code, other.json()["type"]) == (409, "/problems/metrics-conflict")
    assert opened.put(path, params={"replace": "true"}, json={"train_loss": 2}).json()["outcome"] == "replaced"
    assert opened.get("/runs/a").json()["rounds"][0]["metrics"] == {"3": {"train_loss": 2.0}}


def test_finishing_stores_the_set_and_repeats_it(recorded: httpx.Client) -> None:
    first = recorded.post("/runs/a/rounds/0/finish")
    assert first.status_code == 200
    selection = first.json()
    assert (selection["basis"], selection["provisional"], selection["epochs"]) == ("stored", False, 10)
    assert selection["num_selected"] == len(selection["indices"]) > 0
    for again in (
        recorded.post("/runs/a/rounds/0/finish"),
        recorded.post("/runs/a/rounds/0/finish", json={"allow_gaps": True}),
        recorded.get("/selection/a"),
    ):
        assert again.json() == selection


def test_a_gap_can_be_allowed(opened: httpx.Client) -> None:
    for number in (0, 1, 2, 4, 5, 6, 7, 8):
        opened.put(f"/runs/a/rounds/0/epochs/{number}", content=recording(N, 9)[number], headers=OCTETS)
    assert opened.post("/runs/a/rounds/0/finish").json()["type"] == "/problems/epoch-gap"
    assert opened.post("/runs/a/rounds/0/finish", params={"allow_gaps": "true"}).status_code == 200
    opened.put("/runs/b", json={"num_samples": N})
    for number in range(1, 20, 2):
        opened.put(f"/runs/b/rounds/0/epochs/{number}", content=BODY, headers=OCTETS)
    detail = opened.post("/runs/b/rounds/0/finish").json()["detail"]
    assert "10 are missing: 0, 2, 4, 6, 8, 10, 12, 14, 16, 18;" in detail
    assert opened.post("/runs/b/rounds/0/finish", json={"allow_gaps": True}).status_code == 200


def test_missing_epochs_are_left_out_of_the_set(opened: httpx.Client) -> None:
    opened.put("/runs/b", json={"num_samples": N})
    for number, body in enumerate(recording(N, 10)):
        opened.put(f"/runs/a/rounds/0/epochs/{100 + 5 * number}", content=body, headers=OCTETS)
        opened.put(f"/runs/b/rounds/0/epochs/{number}", content=body, headers=OCTETS)
    sparse = opened.post("/runs/a/rounds/0/finish", params={"allow_gaps": "true"}).json()
    dense = opened.post("/runs/b/rounds/0/finish").json()
    assert sparse["indices"] == dense["indices"] != []
    assert (sparse["epochs"], sparse["unobserved"], sparse["verdict"]) == (10, 0, dense["verdict"])


def test_many_missing_epochs_are_not_all_listed(opened: httpx.Client) -> None:
    opened.put("/runs/a/rounds/0/epochs/4000", content=BODY, headers=OCTETS)
    assert (
        "4000 are missing: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …;" in opened.post("/runs/a/rounds/0/finish").json()["detail"]
    )


def test_a_client_may_bring_the_set_that_it_has_used(recorded: httpx.Client) -> None:
    own = recorded.get("/selection/a", headers={"Accept": "application/octet-stream"}).content
    used = bitmap.unpack(np.frombuffer(own, dtype=np.uint8), N).copy()
    used[:3] ^= True
    brought = base64.b64encode(bitmap.pack(used).tobytes()).decode()
    selection = recorded.post(
        "/runs/a/rounds/0/finish", json={"selected": brought, "core_version": "0.0.9"}, headers={"Mild-Attempt": "1"}
    ).json()
    assert (selection["basis"], selection["differs"], selection["client_core_version"]) == ("client", 3, "0.0.9")
    assert selection["indices"] == np.flatnonzero(used).tolist()
    assert selection["num_selected"] == int(used.sum())
    assert recorded.get("/runs/a").json()["rounds"][1]["num_members"] == int(used.sum())


def test_rounds_follow_each_other(recorded: httpx.Client) -> None:
    first = recorded.post("/runs/a/rounds/0/finish").json()
    put_epochs(recorded, "a", recording(N, 10, seed=1), round_=1)
    second = recorded.post("/runs/a/rounds/1/finish").json()
    assert (first["round"], second["round"], second["evidence"]) == (0, 1, "pooled")
    latest = recorded.get("/selection/a", params={"evidence": "latest"}).json()
    assert (latest["round"], latest["basis"], latest["evidence"]) == (1, "computed", "latest")
    assert first["member_overlap"] is None
    members = bitmap.from_indices(np.array(first["indices"]), N)
    kept = bitmap.from_indices(np.array(second["indices"]), N)
    assert recorded.get("/selection/a", params={"round": 0}).json() == first
    assert second["member_overlap"]["agreement"] == pytest.approx(1 - bitmap.popcount(members ^ kept) / N)


def test_another_set_than_the_services_own_has_no_member_overlap(recorded: httpx.Client) -> None:
    recorded.post("/runs/a/rounds/0/finish")
    put_epochs(recorded, "a", recording(N, 10, seed=1), round_=1)
    used = base64.b64encode(bitmap.pack(np.arange(N) < 7).tobytes()).decode()
    told = recorded.post("/runs/a/rounds/1/finish", json={"selected": used, "core_version": "0.0.9"}).json()
    assert told["differs"] > 0
    assert told["member_overlap"] is None


def test_the_fit_shows_what_the_set_was_read_off(recorded: httpx.Client) -> None:
    open_ = recorded.get("/runs/a/rounds/0/fit").json()
    assert open_["provisional"] is True
    recorded.post("/runs/a/rounds/0/finish")
    stored = recorded.get("/runs/a/rounds/0/fit").json()
    assert {**stored, "provisional": True} == open_
    assert sum(stored["histogram"]["counts"]) == N
    assert len(stored["components"]) == len(stored["densities"]) == 2
    other = recorded.get("/runs/a/rounds/0/fit", params={"threshold": "value", "value": -2}).json()
    assert (other["threshold"]["rule"], other["threshold"]["value"]) == ("value", -2.0)
    assert other["provisional"] is False
