"""Through a real port: a service in a process of its own, killed and started again between two epochs."""

import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import Start
from tests.service.recordings import put_epochs, recording
from tests.waiting import PATIENCE

N = 1000


def test_a_round_through_a_real_port(start: Start, tmp_path: Path) -> None:
    served = start(tmp_path)
    with httpx.Client(base_url=served.url) as service:
        assert service.get("/ready").json() == {"status": "ready"}
        assert service.put("/runs/a", json={"num_samples": N}).status_code == 201
        put_epochs(service, "a", recording(N, 10))
        finished = service.post("/runs/a/rounds/0/finish").json()
        assert finished["verdict"] in ("separable", "weak")
        assert service.get("/selection/a").json() == finished


def test_a_killed_service_goes_on_where_it_was(start: Start, tmp_path: Path) -> None:
    bodies = recording(N, 10)
    served = start(tmp_path)
    with httpx.Client(base_url=served.url) as service:
        service.put("/runs/a", json={"num_samples": N})
        put_epochs(service, "a", bodies[:5])
    served.process.kill()
    served.process.wait()
    with httpx.Client(base_url=start(tmp_path).url) as service:
        assert service.get("/runs/a").json()["rounds"][0]["epochs"] == list(range(5))
        again = service.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 5}})
        assert again.json()["attempt"] == 2
        for number in range(5, 10):
            path = f"/runs/a/rounds/0/epochs/{number}"
            refused = service.put(path, content=bodies[number], headers={"Mild-Attempt": "1"})
            assert refused.json()["type"] == "/problems/stale-attempt"
            assert service.put(path, content=bodies[number], headers={"Mild-Attempt": "2"}).status_code == 201
        assert service.post("/runs/a/rounds/0/finish").json()["epochs"] == 10


def poll(service: httpx.Client) -> None:
    with suppress(httpx.HTTPError):  # whatever it gets, it must not hold the service up
        service.get("/selection/a", params={"round": 0, "wait": 60})


def test_sigterm_ends_the_service_its_store_and_its_long_polls(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILD_DRAIN_SECONDS", "0.2")
    served = start(tmp_path)
    server_pid = int((tmp_path / "server.lock").read_text())
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as service:
        service.put("/runs/a", json={"num_samples": N})
        put_epochs(service, "a", recording(N, 10))
        polling = threading.Thread(target=poll, args=(service,))
        polling.start()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=PATIENCE) == 0
        polling.join()
    assert not Path(f"/proc/{server_pid}").exists()
