import base64
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

import mild_service
from mild_core import bitmap
from mild_core.types import EpochBits
from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.service.conftest import Dump
from tests.service.recordings import OCTETS, put_epochs, recording
from tests.service.shares import epoch_of, share, shares

N = 100
OF = 4
SERVICE = Path(mild_service.__file__).parents[1]
EPOCH = "/runs/a/rounds/0/epochs/0"
ALL = shares(epoch_of(N), OF)


def put(service: httpx.Client, shard: int, body: bytes, of: int = OF, epoch: int = 0, **query: str) -> httpx.Response:
    path = f"/runs/a/rounds/0/epochs/{epoch}/shards/{shard}"
    return service.put(path, params={"of": of, **query}, content=body, headers=OCTETS)


def test_an_epoch_is_committed_when_all_shards_are_in(opened: httpx.Client) -> None:
    for shard in (3, 0, 2):
        answer = put(opened, shard, ALL[shard])
        assert (answer.status_code, answer.json()["state"]) == (201, "partial")
    assert opened.get("/selection/a").json()["type"] == "/problems/no-epochs"
    last = put(opened, 1, ALL[1])
    assert last.status_code == 201
    assert last.json() == {
        "run_id": "a",
        "round": 0,
        "epoch": 0,
        "shard": 1,
        "outcome": "stored",
        "state": "committed",
        "attempt": 1,
        "num_shards": OF,
        "num_missing_shards": 0,
        "num_correct": bitmap.popcount(share(epoch_of(N), 1, OF).correct),
        "num_observed": 26,
    }
    again = put(opened, 2, ALL[2])
    assert (again.status_code, again.json()["outcome"], again.json()["state"]) == (200, "same", "committed")
    assert opened.get("/runs/a").json()["rounds"][0]["epochs"] == [0]


def test_epochs_in_shards_give_the_set_of_whole_ones(opened: httpx.Client) -> None:
    opened.put("/runs/whole", json={"num_samples": N})
    bodies = recording(N, 10)
    put_epochs(opened, "whole", bodies)
    for epoch, body in enumerate(bodies):
        correct = bitmap.unpack(np.frombuffer(body, dtype=np.uint8), N)
        for shard, part in enumerate(shares(correct, OF)):
            put(opened, shard, part, epoch=epoch)
    sharded, whole = (opened.get(f"/selection/{run}").json() for run in ("a", "whole"))
    assert sharded["indices"] == whole["indices"]
    assert {**sharded, "run_id": None} == {**whole, "run_id": None}


def test_one_shard_is_a_whole_epoch(opened: httpx.Client) -> None:
    assert put(opened, 0, shares(epoch_of(N), 1)[0], of=1).json()["state"] == "committed"


@pytest.mark.parametrize(
    ("body", "query", "status", "code", "detail"),
    [
        (ALL[0][:13], {}, 422, "bitmap-length", "takes 26 bytes .*got 13"),
        (ALL[0][:12], {}, 422, "bitmap-length", "got 12"),
        (ALL[0] * 2, {}, 422, "bitmap-length", "got more than 26"),
        (bytes(13) + b"\x80" + bytes(12), {}, 422, "correct-not-observed", "the first is sample 0"),
        (bytes(12) + b"\x01" + bytes(13), {}, 422, "trailing-bits", "observed bitmap"),
        (ALL[0], {"of": "0"}, 422, "limit-exceeded", "of is 0, this service takes 1..8"),
        (ALL[0], {"of": "9"}, 422, "limit-exceeded", "of is 9, .*MILD_MAX_SHARDS"),
        (ALL[0], {"of": "4", "shard": "4"}, 422, "invalid-request", r"shard is 4, an epoch of 4 shards has 0\.\.3"),
        (ALL[0], {"of": "x"}, 422, "invalid-request", "query.of"),
        (ALL[0], {"of": ""}, 422, "invalid-request", "query.of"),
        (ALL[0], {"epoch": "99999"}, 422, "limit-exceeded", "epoch is 99999"),
        (ALL[0], {"round": "1"}, 409, "round-not-open", "round 0 is open"),
    ],
)
def test_an_impossible_shard_changes_nothing(
    few_shards: httpx.Client, dump: Dump, body: bytes, query: dict[str, str], status: int, code: str, detail: str
) -> None:
    place = {"round": "0", "epoch": "0", "shard": "0", "of": str(OF)} | query
    before = dump()
    path = f"/runs/a/rounds/{place['round']}/epochs/{place['epoch']}/shards/{place['shard']}"
    answer = few_shards.put(path, params={"of": place["of"]}, content=body, headers=OCTETS)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")
    assert re.search(detail, answer.json()["detail"])
    assert dump() == before


@pytest.fixture
def few_shards(settings: Settings) -> Iterator[httpx.Client]:
    """A service that takes up to 8 shards, with run `a`."""
    app = create_app(settings.model_copy(update={"max_shards": 8}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        client.put("/runs/a", json={"num_samples": N})
        yield client


def test_without_a_number_of_shards_nothing_is_taken(opened: httpx.Client) -> None:
    answer = opened.put(f"{EPOCH}/shards/0", content=ALL[0], headers=OCTETS)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert "query.of" in answer.json()["detail"]


def test_how_an_epoch_is_written_is_fixed_by_its_first_writer(opened: httpx.Client, dump: Dump) -> None:
    put(opened, 0, ALL[0])
    before = dump()
    record = b'{"epoch": 0, "sample": 3, "correct": true}'
    log = opened.post("/runs/a/predictions", content=record, headers={"Content-Type": "application/x-ndjson"})
    whole = opened.put(EPOCH, content=bytes(13), headers=OCTETS)
    others = put(opened, 1, shares(epoch_of(N), 5)[1], of=5)
    for answer in (log, whole, others):
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/epoch-kind")
        assert "in shards" in answer.json()["detail"] or "in 4 shards" in answer.json()["detail"]
    assert put(opened, 0, ALL[1]).json()["type"] == "/problems/epoch-conflict"
    assert dump() == before


def test_members_are_fixed_by_the_first_shard(opened: httpx.Client) -> None:
    put(opened, 0, ALL[0])
    answer = opened.put("/runs/a/rounds/0/members", json={"indices": [1]})
    assert answer.json()["type"] == "/problems/members-frozen"


def test_a_restarted_rank_may_send_its_share_again(opened: httpx.Client) -> None:
    put(opened, 0, ALL[0])
    opened.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 0}})
    assert opened.get(EPOCH).json()["state"] == "absent"
    late = opened.put(f"{EPOCH}/shards/1?of=4", content=ALL[1], headers={**OCTETS, "Mild-Attempt": "1"})
    assert late.json()["type"] == "/problems/stale-attempt"
    for shard, body in enumerate(ALL):
        answer = put(opened, shard, body)
    assert (answer.json()["state"], answer.json()["attempt"]) == ("committed", 2)


def test_a_round_with_a_partial_epoch_is_finished_only_when_gaps_are_allowed(opened: httpx.Client) -> None:
    put_epochs(opened, "a", recording(N, 8))
    put(opened, 0, ALL[0], epoch=8)
    put(opened, 2, ALL[2], epoch=8)
    refused = opened.post("/runs/a/rounds/0/finish")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/epoch-gap")
    assert "epoch 8 of round 0 has 2 of 4 shards" in refused.json()["detail"]
    assert opened.get("/runs/a/rounds/0/epochs/8").json()["state"] == "partial"
    finished = opened.post("/runs/a/rounds/0/finish", params={"allow_gaps": "true"})
    assert finished.json()["epochs"] == 9
    held = opened.get("/runs/a/rounds/0/epochs/8").json()
    assert (held["state"], held["num_observed"], held["missing_shards"]) == ("committed", 50, [1, 3])


def test_a_partial_epoch_can_be_all_that_a_round_has(opened: httpx.Client) -> None:
    put(opened, 0, ALL[0])
    assert opened.post("/runs/a/rounds/0/finish").json()["type"] == "/problems/epoch-gap"
    assert opened.post("/runs/a/rounds/0/finish", params={"allow_gaps": "true"}).json()["epochs"] == 1


def test_an_epoch_says_who_is_missing(opened: httpx.Client) -> None:
    absent = opened.get(EPOCH).json()
    assert (absent["state"], absent["kind"], absent["num_missing"]) == ("absent", None, N)
    assert (absent["missing_ranges"], absent["num_shards"]) == ([[0, 99]], None)
    put(opened, 0, ALL[0])
    put(opened, 3, ALL[3])
    correct = epoch_of(N)
    missing = [i for i in range(N) if i % OF in (1, 2)]
    assert opened.get(EPOCH).json() == {
        "run_id": "a",
        "round": 0,
        "epoch": 0,
        "state": "partial",
        "kind": "shards",
        "attempt": 1,
        "num_correct": int(np.count_nonzero(correct[0::4])) + int(np.count_nonzero(correct[3::4])),
        "num_observed": 50,
        "num_expected": N,
        "num_missing": 50,
        "missing": missing,
        "num_missing_ranges": 25,
        "missing_ranges": [[i, i + 1] for i in missing[::2]],
        "num_shards": OF,
        "missing_shards": [1, 2],
    }
    put(opened, 1, ALL[1])
    put(opened, 2, ALL[2])
    full = opened.get(EPOCH).json()
    assert (full["state"], full["num_missing"], full["missing"], full["missing_shards"]) == ("committed", 0, [], [])
    assert full["num_correct"] == np.count_nonzero(correct)


def test_at_most_a_hundred_missing_samples_and_ranges_are_named(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": 3_000_001})
    seen = np.arange(3_000_001) % 2 == 0
    body = EpochBits(seen.size, bitmap.pack(seen), bitmap.pack(seen)).to_body()
    service.put(EPOCH, content=body, headers=OCTETS)
    held = service.get(EPOCH).json()
    assert (held["num_missing"], held["num_missing_ranges"]) == (1_500_000, 1_500_000)
    assert held["missing"] == list(range(1, 200, 2))
    assert held["missing_ranges"] == [[i, i] for i in range(1, 200, 2)]


def test_in_a_run_that_observes_members_nobody_else_is_missing(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N, "observe": "members"})
    members = np.arange(N) < 40
    service.put("/runs/a/rounds/0/members", content=bitmap.pack(members).tobytes(), headers=OCTETS)
    service.put("/runs/a/rounds/0/epochs/1", content=bitmap.pack(members & epoch_of(N)).tobytes(), headers=OCTETS)
    for shard, body in enumerate(shares(epoch_of(N), OF)[:3]):
        put(service, shard, body)
    partial, whole = (service.get(f"/runs/a/rounds/0/epochs/{epoch}").json() for epoch in (0, 1))
    assert (partial["num_expected"], partial["missing"]) == (40, list(range(3, 40, 4)))
    assert (whole["num_observed"], whole["num_missing"]) == (40, 0)
    assert service.get("/runs/a/rounds/0").json()["num_expected"] == 40


def test_a_round_says_how_far_its_epochs_are(opened: httpx.Client) -> None:
    put_epochs(opened, "a", recording(N, 1))
    put(opened, 1, ALL[1], epoch=2)
    state = opened.get("/runs/a/rounds/0").json()
    assert {name: state[name] for name in ("run_id", "round", "state", "num_expected", "missing_epochs")} == {
        "run_id": "a",
        "round": 0,
        "state": "open",
        "num_expected": N,
        "missing_epochs": [1],
    }
    whole, sharded = state["epochs"]
    assert (whole["epoch"], whole["state"], whole["kind"], whole["num_observed"]) == (0, "committed", "whole", N)
    assert (sharded["epoch"], sharded["state"], sharded["kind"], sharded["num_observed"]) == (
        2,
        "partial",
        "shards",
        26,
    )
    assert (sharded["num_shards"], sharded["num_missing_shards"], whole["num_shards"]) == (4, 3, None)
    assert opened.get("/runs/a").json()["rounds"][0]["partial"] == {"2": 26}


@pytest.mark.parametrize("path", ["/runs/a/rounds/1", "/runs/a/rounds/1/epochs/0"])
def test_a_round_that_has_not_begun_has_no_coverage(opened: httpx.Client, path: str) -> None:
    assert opened.get(path).json()["type"] == "/problems/round-not-open"


@pytest.mark.parametrize("path", ["/runs/a/rounds/9999", "/runs/a/rounds/0/epochs/9999"])
def test_places_past_the_limits_have_no_coverage(opened: httpx.Client, path: str) -> None:
    assert opened.get(path).json()["type"] == "/problems/limit-exceeded"


def test_a_round_in_which_no_sample_can_be_kept_is_not_finished(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": 16})
    service.put("/runs/a/rounds/0/epochs/0", content=bytes(4), headers=OCTETS)  # observed nobody
    answer = service.post("/runs/a/rounds/0/finish")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/empty-set")
    assert "0 of 16 samples are scored" in answer.json()["detail"]
    nobody = base64.b64encode(bytes(2)).decode()
    service.put("/runs/a/rounds/0/epochs/1", content=b"\xff\xff", headers=OCTETS)
    assert service.post("/runs/a/rounds/0/finish", json={"selected": nobody}).status_code == 409
    assert service.post("/runs/a/rounds/0/finish").json()["num_selected"] == 16


def test_an_epoch_passes_twelve_files_from_the_route_on(app: FastAPI) -> None:
    files: dict[str, None] = {}

    def trace(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SERVICE):
            files[path.relative_to(SERVICE).as_posix()] = None

    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": N})
        put_epochs(service, "a", recording(N, 2))
        transport.portal.call(sys.setprofile, trace)
        service.put("/runs/a/rounds/0/epochs/2", content=recording(N, 1)[0], headers=OCTETS)
        transport.portal.call(sys.setprofile, None)
    passed = list(files)
    assert len(passed[passed.index("mild_service/routes/epochs.py") :]) <= 12, passed
