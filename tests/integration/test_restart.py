"""A real training through a real service, both of them killed in the middle: it ends as if nothing had happened."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks import killing
from mild_trainer import cli
from tests.integration.conftest import Start
from tests.waiting import PATIENCE, wait_until

TRAINING = ["--limit", "1000", "--noise", "symmetric:0.4", "--epochs", "6", "--rounds", "2", "--agree", "1"]

Train = Callable[..., BaseProcess]


@pytest.fixture
def train() -> Iterator[Train]:
    """Starts ``mild train`` in a process of its own; whatever still runs at the end is killed."""
    started: list[BaseProcess] = []

    def train(out: Path, *arguments: str, resume: bool = False) -> BaseProcess:
        words = [*TRAINING, "--out", str(out), *arguments]
        process = killing.FORKS.Process(target=killing.run_trainer, args=(words, resume))
        process.start()
        started.append(process)
        return process

    yield train
    for process in started:
        process.kill()
        process.join()


def wait_for(service: httpx.Client, n_epochs: int, process: BaseProcess) -> dict[str, Any]:
    """The run's state once at least `n_epochs` are committed over all rounds."""
    state: dict[str, Any] = {}

    def are_there() -> bool:
        nonlocal state
        assert process.exitcode is None, "the training ended before it was to be stopped"
        state = service.get("/runs/digits").json()
        return sum(len(r["epochs"]) for r in state.get("rounds", ())) >= n_epochs

    wait_until(are_there, f"{n_epochs} epochs")
    return state


def test_a_training_survives_the_death_of_the_service_and_of_itself(start: Start, train: Train, tmp_path: Path) -> None:
    served = start(tmp_path / "store")
    port = int(served.url.rpartition(":")[2])
    through = ("--url", served.url, "--run-id", "digits")
    training = train(tmp_path / "out", *through)
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as service:
        wait_for(service, 3, training)
        served.process.kill()
        served.process.wait()
    with httpx.Client(base_url=start(tmp_path / "store", port).url, timeout=PATIENCE) as service:
        before = wait_for(service, 8, training)
        assert before["attempt"] == 1
        training.kill()
        training.join()
        resumed = train(tmp_path / "out", *through, resume=True)
        resumed.join(PATIENCE)
        assert resumed.exitcode == 0
        after = service.get("/runs/digits").json()
        assert after["attempt"] == 2
        assert [len(r["epochs"]) for r in after["rounds"][:2]] == [6, 6]
        late = service.put("/runs/digits/rounds/2/epochs/0", content=bytes(125), headers={"Mild-Attempt": "1"})
        assert late.json()["type"] == "/problems/stale-attempt"
        selected = service.get("/selection/digits").json()

    undisturbed = ["train", *TRAINING, "--local", "--out", str(tmp_path / "undisturbed")]
    assert CliRunner().invoke(cli.app, undisturbed).exit_code == 0
    disturbed_rounds, rounds = (
        json.loads((tmp_path / name / "summary.json").read_text())["rounds"] for name in ("out", "undisturbed")
    )
    for disturbed, clean in zip(disturbed_rounds, rounds, strict=True):
        for what in ("precision", "recall", "f1", "test_accuracy", "fitted_noise"):
            assert disturbed[what] == clean[what]
    assert selected["num_selected"] == rounds[-1]["selected"]


def test_a_service_whose_store_is_damaged_ends_with_a_message(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    served = start(tmp_path)
    httpx.put(f"{served.url}/runs/a", json={"num_samples": 100}).raise_for_status()
    (manifest,) = (tmp_path / "appendonlydir").glob("*.manifest")
    manifest.unlink()
    os.kill(int((tmp_path / "server.lock").read_text()), signal.SIGKILL)
    assert served.process.wait(PATIENCE) == 2
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {manifest} was removed while the store ran; restore {tmp_path} from a backup")
