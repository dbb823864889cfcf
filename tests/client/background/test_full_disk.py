"""Trainings on a disk that is full from some step on: they go on, and say what is missing.

A limit on the size of files stands for the disk. It holds for a whole process, so each training is one of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI

from mild_client import MildClient
from mild_client.backends.sync import sync_spools
from tests.live import serving

TRAINING = """
import json, logging, resource, sys
from pathlib import Path
import numpy as np
from mild_client import BackgroundBackend, LocalSelector, RunSpec
from mild_core import bitmap
from mild_core.types import EpochBits

url, folder, kind, limit = sys.argv[1:]
logging.basicConfig(format="%(levelname)s %(message)s")
rng = np.random.default_rng(0)
epochs = [EpochBits(600, bitmap.pack(rng.random(600) < np.where(np.arange(600) < 400, 0.9, 0.05))) for _ in range(12)]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

def train(full_from):
    name, backend = f"run-{full_from}", LocalSelector(Path(folder) / f"run-{full_from}")
    if kind != "local":
        backend = BackgroundBackend(url, folder, kind, drain=60)
    steps = [
        lambda: backend.open(RunSpec(name, 600, num_classes=10)),
        lambda: backend.put_labels(np.arange(600) % 10),
        lambda: backend.put_sample_ids([f"id-{i}" for i in range(600)]),
        lambda: backend.put_planted([1, 2]),
        *(lambda number=number: backend.put_epoch(0, number, epochs[number]) for number in range(12)),
        lambda: backend.put_metrics(0, 11, {"train_loss": 1.0}),
        lambda: backend.finish(0),
        lambda: backend.put_epoch(1, 0, epochs[0]),
        lambda: backend.finish(1),
        lambda: backend.set_status("finished"),
        lambda: backend.close() if kind != "local" else None,
    ]
    results = []
    for number, step in enumerate(steps):
        if number == full_from:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
        results.append(step())
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    sets = [bitmap.popcount(result.selected) for result in results if hasattr(result, "selected")]
    dropped = backend.n_unwritten
    return {"sets": sets, "dropped": dropped, "n_steps": len(steps)}

first = train(10_000)
print(json.dumps([first, *(train(step) for step in range(int(kind != "local"), first["n_steps"]))]))
"""


def trained(url: str, folder: Path, kind: str, limit: int) -> tuple[list[dict[str, object]], str]:
    command = [sys.executable, "-c", TRAINING, url, str(folder), kind, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("limit", [0, 50])
@pytest.mark.parametrize("kind", ["local", "offline", "online"])
def test_a_training_goes_on_from_whatever_step_on_the_disk_is_full(
    app: FastAPI, tmp_path: Path, kind: str, limit: int
) -> None:
    with serving(app) as url:
        (whole, *others), said = trained(url, tmp_path, kind, limit)
        assert whole["dropped"] == 0
        assert {str(other["sets"]) for other in others} == {str(whole["sets"])}
        for step in range(1, 16):
            lines = [line for line in said.splitlines() if f"run run-{step}:" in line]
            assert sum("cannot be written" in line and "bits in memory" in line for line in lines) == 1, step
            assert others[step - (kind != "local")]["dropped"] == 21 - step
            assert sum(f"{21 - step} records were not kept" in line for line in lines) == 1, step
        for left in sync_spools(tmp_path, url):
            assert (left.n_refused, left.n_unsent) == (0, 0), left
        with MildClient(url) as client:
            assert kind == "local" or client.get_run("run-10000")["round"] == 2


REFUSED = """
import resource, sys
import numpy as np
from mild_client import BackgroundBackend, MildClient, Position, RunSpec
from mild_client.errors import StaleAttempt
from mild_core.types import EpochBits
url, folder = sys.argv[1:]
bits = EpochBits(600, np.full(75, 255, dtype=np.uint8))
backend = BackgroundBackend(url, folder, drain=60)
backend.open(RunSpec("a-run", 600))
backend.put_epoch(0, 0, bits)
assert backend.flush(60)
with MildClient(url) as other:
    other.open_run(RunSpec("a-run", 600), Position(0, 0))
spool, save_state = backend._spool, backend._spool.save_state
def save_on_full_disk():
    if spool.state.refused:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    save_state()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.save_state = save_on_full_disk
backend.put_epoch(0, 1, bits)
backend.flush(60)
try:
    backend.put_epoch(0, 2, bits)
except StaleAttempt:
    print("stale", backend.n_unsent)
backend.close()
"""


def test_what_is_refused_and_cannot_be_noted_is_sent_again_and_still_stops_a_training_that_was_replaced(
    app: FastAPI, tmp_path: Path
) -> None:
    with serving(app) as url:
        command = [sys.executable, "-c", REFUSED, url, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "stale 0\n"), done.stderr
        assert "the next process sends again what this one has sent" in done.stderr
        (left,) = sync_spools(tmp_path, url)
        assert (left.n_refused, left.n_unsent) == (1, 0)
