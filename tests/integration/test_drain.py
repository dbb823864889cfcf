"""SIGTERM on a real process: balancers are told first, who waits is answered, who writes may end."""

import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import Start
from tests.live import connect, status
from tests.service.recordings import recording
from tests.waiting import PATIENCE

N = 1000


def test_a_service_that_is_to_end_drains(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILD_DRAIN_SECONDS", "300")
    served = start(tmp_path)
    body = recording(N, 1)[0]
    polled: list[httpx.Response] = []
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as service, connect(served.url) as writing:
        service.put("/runs/a", json={"num_samples": N}).raise_for_status()
        service.put("/runs/a/rounds/0/epochs/0", content=body).raise_for_status()
        head = f"PUT /runs/a/rounds/0/epochs/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writing.sendall(head.encode() + body[:50])
        wait = f"{served.url}/selection/a?round=0&wait=60"
        polling = threading.Thread(target=lambda: polled.append(httpx.get(wait, timeout=PATIENCE)))
        polling.start()
        with service.stream("GET", "/runs/a/events") as events:
            lines = events.iter_lines()
            assert any(line.startswith("event: epoch-committed") for line in lines)
            served.process.send_signal(signal.SIGTERM)
            rest = list(lines)  # which ends: otherwise this test would not
        assert [line for line in rest if line.startswith(("event", "retry"))] == ["retry: 1000"]
        polling.join()
        assert (polled[0].status_code, polled[0].json()["provisional"]) == (200, True)
        ready = httpx.get(f"{served.url}/ready", timeout=PATIENCE)  # over a new connection, as a balancer would ask
        assert (ready.status_code, ready.json()["type"]) == (503, "/problems/shutting-down")
        assert service.get("/health").status_code == 200
        writing.sendall(body[50:])
        assert status(writing) == 201
        served.process.kill()  # it would stay for the rest of the five minutes


def test_the_port_closes_at_once_where_no_balancer_has_to_notice(start: Start, tmp_path: Path) -> None:
    served = start(tmp_path)
    body = recording(N, 1)[0]
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as service, connect(served.url) as writing:
        service.put("/runs/a", json={"num_samples": N}).raise_for_status()
        head = f"PUT /runs/a/rounds/0/epochs/0 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writing.sendall(head.encode() + body[:50])
        with service.stream("GET", "/runs/a/events") as events:
            lines = events.iter_lines()
            assert any(line.startswith("event: run-opened") for line in lines)
            served.process.send_signal(signal.SIGTERM)
            list(lines)
        writing.sendall(body[50:])
        assert status(writing) == 201  # which was under way
        assert served.process.wait(timeout=PATIENCE) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/health", timeout=PATIENCE)
