"""Processes that are forked from a training, such as workers of a data loader, in a process without other threads."""

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
import json, os, signal, sys
import numpy as np
from mild_client import BackgroundBackend, MildClient, RunSpec, SpoolInUse
from mild_client.backends.spool import Spool
from mild_client.errors import LocalStateError
from mild_core import bitmap
from mild_core.types import EpochBits

url, folder, end = sys.argv[1:]
rng = np.random.default_rng(0)
epochs = [EpochBits(600, bitmap.pack(rng.random(600) < np.where(np.arange(600) < 400, 0.9, 0.05))) for _ in range(12)]
client = MildClient(url)
backend = BackgroundBackend(url, folder, drain=60)
backend.open(RunSpec("a-run", 600))
client.get_run("a-run")  # so that a connection is open
for number in range(4):
    backend.put_epoch(0, number, epochs[number])
said, says = os.pipe()
waits, goes_on = os.pipe()
with backend._spool.changed:  # as another thread may, at the worst moment
    child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    os.close(goes_on)
    found = {"unsent": backend.n_unsent >= 0, "writes": 0, "flushed": backend.flush(0.1) in (True, False)}
    for write in (
        lambda: backend.put_epoch(0, 4, epochs[4]),
        lambda: backend.put_metrics(0, 4, {"train_loss": 1.0}),
        lambda: backend.put_labels(np.zeros(600, dtype=int)),
        lambda: backend.put_planted([1]),
        lambda: backend.put_members(0, [1]),
        lambda: backend.set_status("finished"),
        lambda: backend.finish(0),
    ):
        try:
            write()
        except LocalStateError as error:
            assert "forked from" in str(error), error
            found["writes"] += 1
    found["run"] = [client.get_run("a-run")["run_id"] for _ in range(3)][-1]
    os.write(says, json.dumps(found).encode())
    os.close(says)
    os.read(waits, 1)  # until the parent has ended its training
    if end == "close":
        backend.close()
        client.close()
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(0)  # which runs what is registered for the end of the process
os.close(says)
os.close(waits)
found = json.loads(os.read(said, 65536) or b"{}")
assert client.get_run("a-run")["attempt"] == 1  # on the connection from before
for number in range(4, 12):
    backend.put_epoch(0, number, epochs[number])
found["basis"] = backend.finish(0).summary.get("basis")
backend.set_status("finished")
backend.close()
Spool(backend._folder / "a-run").close()  # the child does not hold it
os.close(goes_on)
_, found["status"] = os.waitpid(child, 0)
print(json.dumps(found))
"""


@pytest.mark.parametrize("end", ["exit", "close", "kill"])
def test_a_forked_process_leaves_the_run_to_its_parent(
    app: FastAPI, tmp_path: Path, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(app) as url, caplog.at_level("INFO", "mild_service.web.middleware"):
        command = [sys.executable, "-c", TRAINING, url, str(tmp_path), end]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found.pop("status") == (9 if end == "kill" else 0), done.stderr
        assert found == {"unsent": True, "flushed": True, "writes": 7, "run": "a-run", "basis": "stored"}
        (left,) = sync_spools(tmp_path, url)
        assert (left.n_sent, left.n_refused, left.n_unsent) == (0, 0, 0)
        with MildClient(url) as client:
            assert client.get_run("a-run")["rounds"][0]["num_epochs"] == 12
            assert client.get_run("a-run")["status"] == "finished"
    writes = [r.getMessage().partition(":")[0] for r in caplog.records if "/epochs/" in r.getMessage()]
    assert writes == [f"PUT '/runs/a-run/rounds/0/epochs/{number}'" for number in range(12)]
