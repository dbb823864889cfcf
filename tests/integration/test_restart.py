"""A real training through a real service, both of them killed in the middle: it ends as if nothing had happened."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Start

TRAINING = ["--dataset", "digits", "--noise", "symmetric:0.4", "--epochs", "8", "--rounds", "2", "--agree", "1"]
DEADLINE = 120.0

Train = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def train() -> Iterator[Train]:
    """Starts ``mild train`` in a process of its own; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def train(out: Path, *arguments: str) -> "subprocess.Popen[bytes]":
        command = "from mild_trainer.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", command, "train", *TRAINING, "--out", str(out), *arguments],
            stdout=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield train
    for process in started:
        process.kill()
        process.wait()


def wait_for(service: httpx.Client, n_epochs: int, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """The run's state once at least `n_epochs` are committed over all rounds."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        assert process.poll() is None, "the training ended before it was to be stopped"
        answer = service.get("/runs/digits")
        if answer.status_code == 200:
            state: dict[str, Any] = answer.json()
            if sum(len(r["epochs"]) for r in state["rounds"]) >= n_epochs:
                return state
        time.sleep(0.02)
    raise AssertionError(f"{n_epochs} epochs were not there within {DEADLINE:g} s")


def test_a_training_survives_the_death_of_the_service_and_of_itself(start: Start, train: Train, tmp_path: Path) -> None:
    served = start(tmp_path / "store")
    port = int(served.url.rpartition(":")[2])
    through = ("--url", served.url, "--run-id", "digits")
    training = train(tmp_path / "out", *through)
    with httpx.Client(base_url=served.url) as service:
        wait_for(service, 3, training)
        served.process.kill()
        served.process.wait()
    with httpx.Client(base_url=start(tmp_path / "store", port).url) as service:
        before = wait_for(service, 10, training)
        assert before["attempt"] == 1
        training.kill()
        training.wait()
        resumed = train(tmp_path / "out", *through, "--resume")
        assert resumed.wait(timeout=DEADLINE) == 0
        after = service.get("/runs/digits").json()
        assert after["attempt"] == 2
        assert [len(r["epochs"]) for r in after["rounds"][:2]] == [8, 8]
        late = service.put("/runs/digits/rounds/2/epochs/0", content=bytes(180), headers={"Mild-Attempt": "1"})
        assert late.json()["type"] == "/problems/stale-attempt"
        selected = service.get("/selection/digits").json()

    undisturbed = train(tmp_path / "undisturbed", "--local")
    assert undisturbed.wait(timeout=DEADLINE) == 0
    disturbed_rounds, rounds = (
        json.loads((tmp_path / name / "summary.json").read_text())["rounds"] for name in ("out", "undisturbed")
    )
    for disturbed, clean in zip(disturbed_rounds, rounds, strict=True):
        for what in ("precision", "recall", "f1", "test_accuracy", "estimated_noise"):
            assert disturbed[what] == clean[what]
    assert selected["num_selected"] == rounds[-1]["selected"]
