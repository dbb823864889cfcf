from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import httpx
import pytest

from mild_core.types import SelectionOptions
from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100


def test_a_run_is_opened_with_every_default_shown(service: httpx.Client) -> None:
    answer = service.put("/runs/a", json={"num_samples": N})
    assert answer.status_code == 201
    shown = answer.json()
    assert shown["selection"] == asdict(SelectionOptions())
    assert {name: shown[name] for name in ("run_id", "num_samples", "num_classes", "observe", "pass", "status")} == {
        "run_id": "a",
        "num_samples": N,
        "num_classes": None,
        "observe": "all",
        "pass": "eval",
        "status": "running",
    }
    assert (shown["attempt"], shown["round"], shown["ttl_seconds"]) == (1, 0, 30 * 24 * 3600)


def test_opening_again_is_a_no_op_and_takes_what_is_left_out_from_the_run(service: httpx.Client) -> None:
    full = {
        "num_samples": N,
        "num_classes": 10,
        "observe": "mixed",
        "pass": "train",
        "selection": {"threshold": "fraction", "fraction": 0.5},
        "expected_epochs": 5,
        "expected_rounds": 2,
        "tags": {"who": "me"},
        "ttl_seconds": 3600,
    }
    opened = service.put("/runs/a", json=full).json()
    for body in (full, {"num_samples": N}, {**full, "num_classes": None, "expected_epochs": None}):
        again = service.put("/runs/a", json=body)
        assert again.status_code == 200
        moving = ("updated_at", "expires_at")
        assert {k: v for k, v in again.json().items() if k not in moving} == {
            k: v for k, v in opened.items() if k not in moving
        }


def test_classes_have_names(service: httpx.Client) -> None:
    body = {"num_samples": N, "num_classes": 2, "class_names": ["cat", "dog"]}
    assert service.put("/runs/a", json=body).json()["class_names"] == ["cat", "dog"]
    assert service.put("/runs/a", json=body).status_code == 200
    assert service.get("/runs/a").json()["class_names"] == ["cat", "dog"]
    other = service.put("/runs/a", json={**body, "class_names": ["dog", "cat"]})
    assert (other.status_code, "was opened with class_names" in other.text) == (409, True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog", "owl"], "class_names has 3 names, num_classes is 2; name each class"),
        (["cat", ""], "class_names"),
        (["cat", "d" * 101], "class_names"),
        ([], "class_names"),
        (["x"] * 1001, "class_names"),
        ("cat", "class_names"),
    ],
)
def test_names_that_do_not_fit_the_classes_are_refused(names: object, message: str, service: httpx.Client) -> None:
    answer = service.put("/runs/a", json={"num_samples": N, "num_classes": 2, "class_names": names})
    assert answer.status_code in (400, 422)
    assert message in answer.text


def test_opening_again_may_change_the_plan_and_the_tags(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N, "tags": {"a": "1"}})
    again = service.put("/runs/a", json={"num_samples": N, "tags": {"b": "2"}, "expected_epochs": 9}).json()
    assert (again["tags"], again["expected_epochs"]) == ({"b": "2"}, 9)


def test_a_restarted_trainer_resumes_and_its_twin_is_shut_out(recorded: httpx.Client) -> None:
    recorded.put("/runs/a/rounds/0/metrics/9", json={"train_loss": 0.5})
    again = recorded.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 7}})
    assert (again.status_code, again.json()["attempt"]) == (200, 2)
    (round_,) = recorded.get("/runs/a").json()["rounds"]
    assert (round_["epochs"], round_["metrics"]) == (list(range(7)), {})
    body = recording(N, 1, seed=5)[0]
    path = "/runs/a/rounds/0/epochs/7"
    assert recorded.put(path, content=body, headers={**OCTETS, "Mild-Attempt": "1"}).status_code == 409
    assert recorded.put(path, content=body, headers={**OCTETS, "Mild-Attempt": "2"}).status_code == 201
    assert recorded.put(path, content=body, headers=OCTETS).json()["outcome"] == "same"


def test_a_failed_run_that_is_resumed_is_running(recorded: httpx.Client) -> None:
    recorded.patch("/runs/a", json={"status": "failed"})
    recorded.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 7}})
    assert recorded.get("/runs/a").json()["status"] == "running"


def test_a_new_run_may_name_the_place_it_resumes_from(service: httpx.Client) -> None:
    body = {"num_samples": N, "resume_from": {"round": 0, "epoch": 5}}
    answer = service.put("/runs/a", json=body)
    assert (answer.status_code, answer.json()["attempt"]) == (201, 1)


def test_a_finished_round_cannot_be_resumed(recorded: httpx.Client) -> None:
    recorded.post("/runs/a/rounds/0/finish")
    answer = recorded.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 0}})
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/round-finished")
    assert recorded.get("/runs/a").json()["rounds"][0]["num_epochs"] == 10


def test_a_runs_state_shows_its_rounds(recorded: httpx.Client) -> None:
    recorded.put("/runs/a/rounds/0/metrics/0", json={"train_loss": 2.5, "test_accuracy": 0.25})
    selection = recorded.post("/runs/a/rounds/0/finish").json()
    state = recorded.get("/runs/a").json()
    assert state["round"] == 1
    first, second = state["rounds"]
    assert (first["state"], first["epochs"], first["num_members"]) == ("finished", list(range(10)), N)
    assert first["metrics"] == {"0": {"train_loss": 2.5, "test_accuracy": 0.25}}
    assert (first["num_selected"], first["verdict"]) == (selection["num_selected"], selection["verdict"])
    assert (second["state"], second["num_members"], second["num_selected"]) == ("open", selection["num_selected"], None)


def test_runs_are_listed_newest_first_page_by_page(service: httpx.Client) -> None:
    for number in range(5):
        service.put(f"/runs/run-{number}", json={"num_samples": N})
    query: dict[str, Any] = {"limit": 2}
    seen: list[str] = []
    while query.get("cursor", "first"):
        page = service.get("/runs", params=query).json()
        seen += [run["run_id"] for run in page["runs"]]
        query["cursor"] = page["next_cursor"]
    assert sorted(seen) == [f"run-{number}" for number in range(5)]


def test_tags_status_and_life_can_be_changed(opened: httpx.Client) -> None:
    changed = opened.patch("/runs/a", json={"tags": {"k": "v"}, "status": "failed", "ttl_seconds": 60}).json()
    assert (changed["tags"], changed["status"], changed["ttl_seconds"]) == ({"k": "v"}, "failed", 60)
    assert changed["expires_at"] - changed["updated_at"] == pytest.approx(60)
    assert opened.patch("/runs/a", json={}).json()["tags"] == {"k": "v"}


def test_a_deleted_run_is_gone_and_its_name_is_free(recorded: httpx.Client) -> None:
    assert recorded.delete("/runs/a").status_code == 204
    assert recorded.get("/runs/a").status_code == 404
    assert recorded.put("/runs/a", json={"num_samples": 7}).status_code == 201
    assert recorded.get("/runs/a").json()["rounds"][0]["epochs"] == []


@pytest.fixture
def sweeping(settings: Settings) -> Iterator[httpx.Client]:
    app = create_app(settings.model_copy(update={"sweep_seconds": 0.05}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        yield client


def test_the_service_keeps_sweeping(sweeping: httpx.Client) -> None:
    put = sweeping.put("/runs/a", json={"num_samples": N})
    assert put.status_code == 201
    put_epochs(sweeping, "a", recording(N, 2))
    assert sweeping.get("/runs/a").status_code == 200
    assert "mild_runs_swept_total 0.0" in sweeping.get("/metrics").text


def test_a_whole_number_is_one_however_it_is_written(service: httpx.Client) -> None:
    body = b'{"num_samples": 100.0, "num_classes": 1e1, "ttl_seconds": 3600.0}'
    shown = service.put("/runs/a", content=body, headers={"Content-Type": "application/json"}).json()
    assert (shown["num_samples"], shown["num_classes"], shown["ttl_seconds"]) == (100, 10, 3600)
    patched = service.patch("/runs/a", content=b'{"ttl_seconds": 60.5}', headers={"Content-Type": "application/json"})
    assert patched.status_code == 422
