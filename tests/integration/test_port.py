"""Through a real port: a service in a process of its own, from its start to its end."""

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


def poll(service: httpx.Client) -> None:
    with suppress(httpx.HTTPError):  # whatever it gets, it must not hold the service up
        service.get("/selection/a", params={"round": 1, "wait": 60})


def test_a_round_through_a_real_port_and_an_end_that_takes_all_along(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILD_DRAIN_SECONDS", "0.2")
    served = start(tmp_path)
    server_pid = int((tmp_path / "server.lock").read_text())
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as service:
        assert service.get("/ready").json() == {"status": "ready"}
        assert service.put("/runs/a", json={"num_samples": N}).status_code == 201
        put_epochs(service, "a", recording(N, 10))
        finished = service.post("/runs/a/rounds/0/finish").json()
        assert finished["verdict"] in ("separable", "weak")
        assert service.get("/selection/a").json() == finished
        polling = threading.Thread(target=poll, args=(service,))
        polling.start()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=PATIENCE) == 0
        polling.join()
    assert not Path(f"/proc/{server_pid}").exists()
