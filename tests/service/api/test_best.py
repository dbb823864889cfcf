"""The best of a run's finished rounds: by the audit, else by validation accuracy, else by nothing."""

import base64
from collections.abc import Iterator, Mapping, Sequence

import httpx
import pytest

from mild_core import bitmap
from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.service.recordings import put_epochs, recording

N = 100
SETS = (range(60), range(40), range(20, 90))
"""What the three rounds are finished with, by a client of its own."""
BEST = {"round": "best"}
OCTETS = {"Accept": "application/octet-stream"}


def finish_with(service: httpx.Client, number: int, indices: Sequence[int], metrics: Mapping[int, float]) -> None:
    """Record and finish a round with a set of the caller's, and a `validation_accuracy` for some epochs."""
    put_epochs(service, "a", recording(N, 10, seed=number), number)
    for epoch, accuracy in metrics.items():
        path = f"/runs/a/rounds/{number}/metrics/{epoch}"
        service.put(path, json={"validation_accuracy": accuracy, "train_loss": 1}).raise_for_status()
    selected = base64.b64encode(bitmap.from_indices(indices, N).tobytes()).decode()
    service.post(f"/runs/a/rounds/{number}/finish", json={"selected": selected}).raise_for_status()


def audit(service: httpx.Client, marks: Mapping[int, bool | None]) -> None:
    body = {"indices": list(marks), "clean": list(marks.values())}
    service.put("/runs/a/audit", json=body).raise_for_status()


def best(service: httpx.Client) -> int:
    return int(service.get("/selection/a", params=BEST).raise_for_status().json()["round"])


def refusal(service: httpx.Client, path: str = "/selection/a") -> str:
    answer = service.get(path, params=BEST)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/rounds-not-comparable")
    return str(answer.json()["detail"])


@pytest.fixture
def finished(opened: httpx.Client) -> httpx.Client:
    """Run `a` with three finished rounds that nobody can compare."""
    for number, indices in enumerate(SETS):
        finish_with(opened, number, indices, {})
    return opened


@pytest.fixture
def validated(opened: httpx.Client) -> httpx.Client:
    """Run `a` with three finished rounds, the last but one of which has the best network in the end."""
    for number, metrics in enumerate(({3: 0.9, 9: 0.5}, {8: 0.7}, {0: 0.99, 9: 0.6})):
        finish_with(opened, number, SETS[number], metrics)
    return opened


def test_the_audit_decides_and_another_one_decides_anew(validated: httpx.Client) -> None:
    assert best(validated) == 1
    audit(validated, dict.fromkeys(range(85, 90), True))
    by_audit = validated.get("/selection/a", params=BEST)
    assert by_audit.json()["round"] == 2
    assert by_audit.json()["indices"] == list(SETS[2])
    assert by_audit.json()["measured"]["f1"] == 1.0
    audit(validated, {**dict.fromkeys(range(70, 85), False), **dict.fromkeys(range(10), True)})
    f1 = [validated.get(f"/runs/a/rounds/{k}/evaluation").json()["f1"] for k in range(3)]
    assert best(validated) == f1.index(max(f1)) == 0


def test_an_audit_without_a_clean_sample_compares_nothing(validated: httpx.Client) -> None:
    audit(validated, dict.fromkeys(range(40, 60), False))
    assert best(validated) == 1  # by validation: every set's F1 is 0
    audit(validated, dict.fromkeys(range(85, 90), True))
    assert best(validated) == 2
    audit(validated, dict.fromkeys(range(85, 90)))
    assert best(validated) == 1


def test_of_equals_it_is_the_first(opened: httpx.Client) -> None:
    for number, indices in enumerate(SETS):
        finish_with(opened, number, indices, {9: (0.4, 0.6, 0.6)[number]})
    assert best(opened) == 1
    audit(opened, {25: True})  # in all three sets
    assert best(opened) == 0


def test_what_nothing_compares_is_refused_with_what_would(finished: httpx.Client) -> None:
    detail = refusal(finished)
    assert "0 of its 3 finished rounds have a validation_accuracy" in detail
    assert "PUT /runs/a/audit" in detail
    audit(finished, {5: True})
    assert best(finished) == 0


def test_rounds_are_compared_only_if_all_can_be(validated: httpx.Client) -> None:
    finish_with(validated, 3, range(10), {})
    assert "3 of its 4 finished rounds" in refusal(validated)


def test_without_a_finished_round_there_is_no_best_one(recorded: httpx.Client) -> None:
    audit(recorded, {5: True})
    assert "has 0 finished rounds, the best one is chosen among at least 1" in refusal(recorded)


@pytest.mark.parametrize("path", ["/runs/a/scores", "/runs/a/samples/7", "/runs/a/suggestions"])
def test_every_route_that_takes_a_round_takes_the_best(validated: httpx.Client, path: str) -> None:
    assert validated.get(path, params=BEST).json() == validated.get(path, params={"round": 1}).json()
    finish_with(validated, 3, range(10), {})
    refusal(validated, path)


def test_the_best_round_may_be_looked_at_otherwise(validated: httpx.Client) -> None:
    choice: dict[str, str | float] = {"threshold": "fraction", "fraction": 0.25}
    other = validated.get("/selection/a", params={**BEST, **choice}).json()
    assert (other["round"], other["basis"]) == (1, "computed")
    assert other == validated.get("/selection/a", params={"round": 1, **choice}).json()


def test_an_etag_holds_until_another_round_is_best(validated: httpx.Client) -> None:
    first = validated.get("/selection/a", params=BEST, headers=OCTETS)
    assert first.content == bitmap.from_indices(SETS[1], N).tobytes()
    named = validated.get("/selection/a", params={"round": 1}, headers=OCTETS)
    assert named.headers["etag"] == first.headers["etag"]
    known = {**OCTETS, "If-None-Match": first.headers["etag"]}
    assert validated.get("/selection/a", params=BEST, headers=known).status_code == 304
    finish_with(validated, 3, range(10), {9: 0.8})
    moved = validated.get("/selection/a", params=BEST, headers=known)
    assert (moved.status_code, moved.content) == (200, bitmap.from_indices(range(10), N).tobytes())
    audit(validated, {85: True})
    audited = validated.get("/selection/a", params=BEST, headers={**OCTETS, "If-None-Match": moved.headers["etag"]})
    assert (audited.status_code, audited.content) == (200, bitmap.from_indices(SETS[2], N).tobytes())
    known = {**OCTETS, "If-None-Match": audited.headers["etag"]}
    assert validated.get("/selection/a", params=BEST, headers=known).status_code == 304
    audit(validated, {5: True, 85: None})
    again = validated.get("/selection/a", params=BEST, headers=known)
    assert (again.status_code, again.content) == (200, bitmap.from_indices(SETS[0], N).tobytes())


def test_another_replica_says_the_same(validated: httpx.Client, settings: Settings) -> None:
    audit(validated, {85: True})
    for other in _other(settings):
        mine = validated.get("/selection/a", params=BEST)
        theirs = other.get("/selection/a", params=BEST)
        assert (theirs.json(), theirs.headers["etag"]) == (mine.json(), mine.headers["etag"])


def _other(settings: Settings) -> Iterator[httpx.Client]:
    with running(create_app(settings)) as transport, httpx.Client(transport=transport, base_url="http://b") as client:
        yield client


def test_where_marks_are_followed_the_cut_is_measured_without_them(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N, "selection": {"audit": "fit"}}).raise_for_status()
    put_epochs(service, "a", recording(N, 10))
    plain = service.post("/runs/a/rounds/0/finish").json()["indices"]
    marks = {index: index in plain for index in range(0, N, 5)}
    wrong = dict.fromkeys([index for index in range(1, N, 5) if index in plain], False)
    audit(service, {**marks, **wrong})
    put_epochs(service, "a", recording(N, 10, seed=4), 1)
    service.post("/runs/a/rounds/1/finish").raise_for_status()
    f1 = [service.get(f"/runs/a/rounds/{k}/evaluation").json()["f1"] for k in range(2)]
    assert f1[0] != f1[1]
    assert best(service) == f1.index(max(f1))


def test_nobody_waits_for_the_best(validated: httpx.Client) -> None:
    refused = validated.get("/selection/a", params={**BEST, "wait": 1})
    assert refused.json()["type"] == "/problems/invalid-request"
    assert "got round=best" in refused.json()["detail"]
