"""Server-sent events through a real socket: what is told, to whom, and how a stream goes on and ends."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from redis import Redis

from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.store.embedded import EmbeddedServer
from tests.live import serving
from tests.service.recordings import OCTETS, put_epochs, recording
from tests.waiting import PATIENCE, wait_until

N = 100
Told = tuple[str, dict[str, Any], str]


@dataclass
class Stream:
    """The lines of an event stream."""

    lines: Iterator[str]

    def message(self) -> dict[str, str]:
        """The next block, comments under ``comment``; empty at the end."""
        fields: dict[str, str] = {}
        for line in self.lines:
            if not line:
                return fields
            name, _, value = line.partition(": ")
            fields[name or "comment"] = value
        return fields

    def event(self) -> Told:
        """The next event: kind, data, id."""
        while message := self.message():
            if "event" in message:
                return message["event"], json.loads(message["data"]), message.get("id", "")
        raise AssertionError("the stream has ended")

    def events(self, n: int) -> list[Told]:
        return [self.event() for _ in range(n)]

    def rest(self) -> list[dict[str, str]]:
        """All blocks until the end."""
        return list(iter(self.message, {}))


@contextmanager
def stream(url: str, last: str | None = None) -> Iterator[Stream]:
    headers = {} if last is None else {"Last-Event-ID": last}
    with httpx.stream("GET", f"{url}/runs/a/events", headers=headers, timeout=PATIENCE) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response.iter_lines())


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as url:
        httpx.put(f"{url}/runs/a", json={"num_samples": N}, timeout=PATIENCE).raise_for_status()
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        yield client


def put(client: httpx.Client, path: str, **body: Any) -> None:
    client.put(f"/runs/a/{path}", **body).raise_for_status()


def test_everything_that_happens_is_told_once_and_in_order(client: httpx.Client, url: str) -> None:
    bodies = recording(N, 3)
    with stream(url) as watched:
        put(client, "labels", json={"labels": [0] * N})
        put_epochs(client, "a", bodies)
        put_again = client.put("/runs/a/rounds/0/epochs/0", content=bodies[0], headers=OCTETS)
        assert put_again.status_code == 200
        assert client.put("/runs/a/rounds/0/epochs/0", content=bodies[1], headers=OCTETS).status_code == 409
        put(client, "rounds/0/epochs/1?replace=true", content=bodies[0], headers=OCTETS)
        put(client, "rounds/0/metrics/2", json={"train_loss": 0.5})
        put(client, "audit", json={"indices": [3], "clean": [True]})
        client.patch("/runs/a", json={"tags": {"a": "b"}, "ttl_seconds": 600}).raise_for_status()
        client.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 2}}).raise_for_status()
        finished = client.post("/runs/a/rounds/0/finish").json()
        put(client, "rounds/1/members", json={"indices": [1, 2]})
        told = watched.events(12)
    kinds = [kind for kind, _, _ in told]
    assert kinds == [
        "run-opened", "labels-changed", "epoch-committed", "epoch-committed", "epoch-committed", "epoch-committed",
        "metrics-posted", "audit-changed", "run-patched", "run-resumed", "round-finished", "members-set",
    ]  # fmt: skip
    data = [data for _, data, _ in told]
    assert all(each["run_id"] == "a" and abs(each["at"] - time.time()) < PATIENCE for each in data)
    n_correct = bin(int.from_bytes(bodies[0])).count("1")
    assert data[2] == {
        "run_id": "a", "at": data[2]["at"], "round": 0, "epoch": 0, "outcome": "committed", "attempt": 1,
        "num_correct": n_correct, "num_observed": N, "memorised": n_correct / N,
    }  # fmt: skip
    assert (data[5]["epoch"], data[5]["outcome"]) == (1, "replaced")
    assert (data[6]["epoch"], data[6]["metrics"]) == (2, {"train_loss": 0.5})
    assert data[8]["changed"] == ["tags", "ttl_seconds"]
    assert {name: data[9][name] for name in ("round", "epoch", "attempt", "num_dropped")} == {
        "round": 0, "epoch": 2, "attempt": 2, "num_dropped": 1,
    }  # fmt: skip
    for name in ("verdict", "num_selected", "num_samples", "fitted"):
        assert data[10][name] == finished[name]
    assert data[11]["num_members"] == 2
    assert [int(name.partition("-")[2]) for _, _, name in told] == list(range(1, 13))


def test_planting_is_told_of_once(client: httpx.Client, url: str) -> None:
    with stream(url) as watched:
        for indices in ([5, 7], [5, 7], []):
            put(client, "planted", json={"indices": indices})
        told = watched.events(3)
    assert [(kind, data.get("num_planted")) for kind, data, _ in told[1:]] == [("planted-set", 2), ("planted-set", 0)]


def test_logs_tell_what_they_fill_up_and_finish_tells_what_it_commits(client: httpx.Client, url: str) -> None:
    with stream(url) as watched:
        for samples in ([0, 1], [2]):
            log = [{"epoch": 0, "sample": sample, "correct": True} for sample in samples]
            client.post("/runs/a/predictions", json=log).raise_for_status()
        client.post("/runs/a/rounds/0/finish").raise_for_status()
        told = watched.events(5)
    assert [kind for kind, _, _ in told[1:]] == ["epoch-partial", "epoch-partial", "epoch-committed", "round-finished"]
    assert [data["num_observed"] for _, data, _ in told[1:4]] == [2, 3, 3]
    assert told[3][1]["memorised"] == 1.0


def test_a_stream_goes_on_at_another_replica_where_it_was_cut_off(
    client: httpx.Client, url: str, settings: Settings
) -> None:
    bodies = recording(N, 8)
    put_epochs(client, "a", bodies[:3])
    with stream(url) as watched:
        seen = watched.events(3)
    with serving(create_app(settings)) as other, stream(other, last=seen[-1][2]) as watched:
        for number in range(3, 8):
            put(client, f"rounds/0/epochs/{number}", content=bodies[number], headers=OCTETS)
        rest = watched.events(6)
    assert [data["epoch"] for _, data, _ in rest] == list(range(2, 8))


def test_a_stream_ends_with_its_run(client: httpx.Client, url: str) -> None:
    with stream(url) as watched:
        _, _, name = watched.event()
        client.delete("/runs/a").raise_for_status()
        last = watched.rest()
    assert [message["event"] for message in last] == ["run-deleted"]
    assert httpx.get(f"{url}/runs/a/events", timeout=PATIENCE).status_code == 404
    client.put("/runs/a", json={"num_samples": N}).raise_for_status()
    with stream(url, last=name) as watched:  # an id of the run that is gone
        (lost, data, _), (opened, _, _) = watched.events(2)
    assert (lost, data["num_missed"], opened) == ("events-lost", None, "run-opened")


def test_a_client_that_was_away_for_too_long_is_told_so(settings: Settings) -> None:
    with serving(create_app(settings.model_copy(update={"max_events": 3}))) as url:
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            client.put("/runs/a", json={"num_samples": N})
            with stream(url) as watched:
                _, _, first = watched.event()
            put_epochs(client, "a", recording(N, 6))
        with stream(url, last=first) as watched:
            (kind, data, name), *kept = watched.events(4)
    assert (kind, data) == ("events-lost", {"run_id": "a", "num_missed": 3})
    assert [data["epoch"] for _, data, _ in kept] == [3, 4, 5]
    assert name == f"{first[:16]}-4"


def test_an_id_that_is_none_is_refused(client: httpx.Client) -> None:
    answer = client.get("/runs/a/events", headers={"Last-Event-ID": "yesterday"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert client.get("/runs/b/events").status_code == 404


def test_a_quiet_stream_is_kept_alive_and_ends_at_its_age(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"heartbeat_seconds": 0.02, "stream_seconds": 0.5}))
    with serving(app) as url:
        httpx.put(f"{url}/runs/a", json={"num_samples": N}, timeout=PATIENCE)
        with stream(url) as watched:
            messages = watched.rest()
    assert {"comment": "ping"} in messages
    assert messages[-1]["retry"] == "1000"


def test_streams_beyond_the_limit_wait_their_turn(settings: Settings) -> None:
    with serving(create_app(settings.model_copy(update={"max_streams": 1}))) as url:
        httpx.put(f"{url}/runs/a", json={"num_samples": N}, timeout=PATIENCE)
        with stream(url) as watched:
            watched.event()
            refused = httpx.get(f"{url}/runs/a/events", timeout=PATIENCE)
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
            assert refused.headers["retry-after"]
            assert "mild_event_streams 1.0" in httpx.get(f"{url}/metrics", timeout=PATIENCE).text
        wait_until(lambda: "mild_event_streams 0.0" in httpx.get(f"{url}/metrics", timeout=PATIENCE).text)
        with stream(url) as watched:
            assert watched.event()[0] == "run-opened"


def test_many_watchers_and_long_polls_leave_the_store_to_others(settings: Settings, redis: Redis) -> None:
    app = create_app(settings.model_copy(update={"store_connections": 2}))
    with serving(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        client.put("/runs/a", json={"num_samples": N})
        put_epochs(client, "a", recording(N, 3))
        got: list[Any] = []

        def watch() -> None:
            with stream(url) as watched:
                got.append(watched.events(5)[-1])

        def poll() -> None:
            got.append(httpx.get(f"{url}/selection/a?round=0&wait=60", timeout=PATIENCE).json()["provisional"])

        threads = [threading.Thread(target=work) for work in [watch] * 40 + [poll] * 20]
        for thread in threads:
            thread.start()
        wait_until(lambda: "mild_event_streams 40.0" in client.get("/metrics").text)
        client.post("/runs/a/rounds/0/finish").raise_for_status()
        for thread in threads:
            thread.join()
    assert [kind for kind, *_ in (told for told in got if told)] == ["round-finished"] * 40
    assert sum(told is False for told in got) == 20


def test_a_stream_and_a_long_poll_end_when_the_service_does(app: FastAPI) -> None:
    with serving(app) as url:
        httpx.put(f"{url}/runs/a", json={"num_samples": N}, timeout=PATIENCE)
        with stream(url) as watched:
            watched.event()
            app.state.event_feed.close()
            assert watched.rest()[-1]["comment"].startswith("to be continued")


def test_a_stream_goes_on_after_the_store_was_killed(settings: Settings, tmp_path: Path) -> None:
    bodies = recording(N, 2)
    with (
        EmbeddedServer(tmp_path) as server,
        serving(create_app(settings.model_copy(update={"store_url": server.url}))) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        client.put("/runs/a", json={"num_samples": N}).raise_for_status()
        put_epochs(client, "a", bodies[:1])
        with stream(url) as watched:
            watched.events(2)
            os.kill(server.pid, signal.SIGKILL)
            epoch = "/runs/a/rounds/0/epochs/1"
            wait_until(lambda: client.put(epoch, content=bodies[1], headers=OCTETS).is_success)
            assert watched.event()[1]["epoch"] == 1
