import json
import re
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from mild_client import BackgroundBackend, MildClient, Retry, RunSpec
from mild_client.backends import sync as syncing
from mild_client.backends.record_log import Record
from mild_client.backends.spool import Spool
from mild_core import bitmap
from mild_core.types import EpochBits
from mild_trainer import cli
from tests.live import serving
from tests.waiting import PATIENCE

QUICK = [
    "--limit",
    "150",
    "--epochs",
    "2",
    "--rounds",
    "2",
    "--agree",
    "1",
    "--noise",
    "symmetric:0.4",
    "--run-id",
    "r",
]
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(env={"COLUMNS": "160", "TERM": "dumb"})


def sets(out: Path) -> list[tuple[int, float]]:
    rounds = json.loads((out / "summary.json").read_text())["rounds"]
    return [(each["selection"]["num_selected"], each["f1"]) for each in rounds]


def numbers(synced: Result, run_id: str = "r") -> list[int]:
    """What the table says of a run: sent, refused, left, bytes left."""
    row = next(line for line in synced.output.splitlines() if re.search(rf" {run_id} +│", line))
    return [int(cell) for cell in re.findall(r" (\d+) +│", row)]


@pytest.mark.parametrize("away", [["--url", NOBODY], ["--mode", "offline"]])
def test_a_training_without_its_service_ends_well_and_is_synced(
    away: list[str], run: CliRunner, tmp_path: Path, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    trained = run.invoke(cli.app, ["train", *QUICK, *away, "--out", str(tmp_path / "away")])
    assert trained.exit_code == 0, trained.output
    assert f"mild sync {tmp_path / 'away' / 'spool' / 'r'}" in caplog.text
    assert run.invoke(cli.app, ["train", *QUICK, "--local", "--out", str(tmp_path / "local")]).exit_code == 0
    assert sets(tmp_path / "away") == sets(tmp_path / "local")

    spools = str(tmp_path / "away")
    looked = run.invoke(cli.app, ["sync", spools, "--dry-run"])
    assert (looked.exit_code, numbers(looked)[:3]) == (0, [0, 0, 15])
    with serving(app) as url:
        synced = run.invoke(cli.app, ["sync", spools, "--url", url])
        assert (synced.exit_code, numbers(synced)) == (0, [15, 0, 0, 0])
        assert httpx.get(f"{url}/selection/r", timeout=PATIENCE).json()["num_selected"] == sets(tmp_path / "away")[1][0]
        assert httpx.get(f"{url}/runs/r", timeout=PATIENCE).json()["status"] == "finished"
        assert run.invoke(cli.app, ["sync", spools, "--url", url]).exit_code == 0


def test_the_service_takes_part_where_it_is_there(run: CliRunner, tmp_path: Path, app: FastAPI) -> None:
    with serving(app) as url:
        trained = run.invoke(cli.app, ["train", *QUICK, "--url", url, "--out", str(tmp_path)])
        assert trained.exit_code == 0, trained.output
        selection = httpx.get(f"{url}/selection/r").json()
        assert np.load(tmp_path / "clean.npy").tolist() == selection["indices"]
        resumed = run.invoke(cli.app, ["train", *QUICK, "--url", url, "--out", str(tmp_path), "--resume"])
        assert resumed.exit_code == 0, resumed.output
        state = httpx.get(f"{url}/runs/r", timeout=PATIENCE).json()
        again = run.invoke(cli.app, ["train", *QUICK, "--url", url, "--out", str(tmp_path)])
    assert state["status"] == "finished"
    assert [each["num_epochs"] for each in state["rounds"]] == [2, 2, 0]
    assert "holds a finished training; give another folder for a new training, or --resume" in again.stderr


def test_disabled_is_local(run: CliRunner, tmp_path: Path) -> None:
    arguments = ["train", *QUICK, "--mode", "disabled", "--url", NOBODY, "--out", str(tmp_path)]
    assert run.invoke(cli.app, arguments).exit_code == 0
    assert not (tmp_path / "spool").exists()
    assert (tmp_path / "bits" / "records.log").exists()


def spooled(folder: Path, run_id: str) -> BackgroundBackend:
    backend = BackgroundBackend(None, folder, "offline")
    backend.open(RunSpec(run_id, 8))
    backend.put_epoch(0, 0, EpochBits(8, bitmap.pack(np.arange(8) < 4)))
    return backend


def test_what_cannot_be_sent_is_told_and_exits_with_1(
    run: CliRunner, tmp_path: Path, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled(tmp_path, "one").close()
    held = spooled(tmp_path, "held")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spool.json").write_text("{")
    with serving(app) as url:
        httpx.put(f"{url}/runs/one", json={"num_samples": 9}, timeout=PATIENCE).raise_for_status()
        result = run.invoke(cli.app, ["sync", str(tmp_path), "--url", url])
    held.close()
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    assert "is in use by another process" in result.stderr
    assert f"{tmp_path / 'one'} has what was refused" in result.stderr
    listed = run.invoke(cli.app, ["sync", str(tmp_path / "one"), "--refused"])
    assert "num_samples 9, got 8" in listed.output.splitlines()[0]

    monkeypatch.setattr(syncing, "MildClient", partial(MildClient, retry=Retry(first_deadline=0)))
    away = run.invoke(cli.app, ["sync", str(tmp_path / "held"), "--url", NOBODY])
    assert away.exit_code == 1
    assert "got no answer" in away.stderr


def test_a_folder_without_spools_is_nothing_to_send(run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(cli.app, ["sync", str(tmp_path)])
    assert (result.exit_code, "no spool is in it" in result.output) == (0, True)
    absent = run.invoke(cli.app, ["sync", str(tmp_path / "absent")])
    assert (absent.exit_code, "is no folder" in absent.stderr) == (2, True)


def test_what_was_refused_is_listed_sent_again_and_dropped(run: CliRunner, tmp_path: Path, app: FastAPI) -> None:
    spooled(tmp_path, "one").close()
    spool = str(tmp_path / "one")
    with serving(app) as url:
        other = {"json": {"num_samples": 9}, "timeout": PATIENCE}
        httpx.put(f"{url}/runs/one", **other).raise_for_status()  # type: ignore[arg-type]
        synced = run.invoke(cli.app, ["sync", spool, "--url", url])
        assert f"sync {spool} --refused" in synced.stderr
        n_refused = numbers(synced, "one")[1]

        listed = run.invoke(cli.app, ["sync", spool, "--refused"])
        assert (listed.exit_code, len(listed.output.splitlines())) == (1, n_refused)
        assert "num_samples 9, got 8" in listed.output.splitlines()[0]
        again = run.invoke(cli.app, ["sync", spool, "--refused", "--again", "--url", url])
        assert (again.exit_code, again.output.count("one: refused ")) == (1, n_refused)
        away = run.invoke(cli.app, ["sync", spool, "--refused", "--again", "--url", url, "--api-key", "mild_wrong"])
        assert away.exit_code == 1

        httpx.delete(f"{url}/runs/one", timeout=PATIENCE).raise_for_status()
        sent = run.invoke(cli.app, ["sync", spool, "--refused", "--again", "--url", url])
        assert (sent.exit_code, sent.output.count("one: sent ")) == (0, n_refused), sent.output
        state = httpx.get(f"{url}/runs/one", timeout=PATIENCE).json()
        assert (state["num_samples"], state["rounds"][0]["num_epochs"]) == (8, 1)
        assert "nothing that was refused" in run.invoke(cli.app, ["sync", spool, "--refused"]).output


def test_refused_records_that_would_undo_others_or_are_damaged_are_dropped_on_demand(
    run: CliRunner, tmp_path: Path, app: FastAPI
) -> None:
    spooled(tmp_path, "one").close()
    meta = {"spec": RunSpec("one", 8).as_json(), "resume_from": {"round": 0, "epoch": 0}}
    with serving(app) as url:
        assert run.invoke(cli.app, ["sync", str(tmp_path), "--url", url]).exit_code == 0
        with Spool(tmp_path / "one") as spool:
            spool.state.refused = {spool.size: "why"}
            spool.append(Record("open", meta))
            spool.mark_sent()
            spool.path.write_bytes(spool.path.read_bytes() + b"nothing")
        assert run.invoke(cli.app, ["sync", str(tmp_path), "--url", url]).exit_code == 1
        again = run.invoke(cli.app, ["sync", str(tmp_path), "--refused", "--again", "--url", url])
        assert again.exit_code == 1
        assert "the run was opened since, and would lose its epochs; drop it (why)" in again.output
        assert "its bytes are damaged; drop it (7 bytes are damaged" in again.output
        assert httpx.get(f"{url}/runs/one", timeout=PATIENCE).json()["rounds"][0]["num_epochs"] == 1
    dropped = run.invoke(cli.app, ["sync", str(tmp_path), "--refused", "--drop"])
    assert (dropped.exit_code, dropped.output.count("one: dropped ")) == (0, 2)
    assert run.invoke(cli.app, ["sync", str(tmp_path), "--dry-run"]).exit_code == 0
    assert "nothing that was refused" in run.invoke(cli.app, ["sync", str(tmp_path), "--refused"]).output


@pytest.mark.parametrize(
    "options", [["--again"], ["--drop"], ["--refused", "--again", "--drop"], ["--refused", "--dry-run"]]
)
def test_options_for_what_was_refused_go_together(run: CliRunner, tmp_path: Path, options: list[str]) -> None:
    assert run.invoke(cli.app, ["sync", str(tmp_path), *options]).exit_code == 2
