import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from mild_client.errors import BadRequest, NotFound, ServiceUnreachable
from mild_trainer import cli
from mild_trainer.errors import DataError
from mild_trainer.push import push
from tests.inprocess import InProcess, running

URL = "http://service"


@pytest.fixture
def transport(app: FastAPI) -> Iterator[InProcess]:
    with running(app) as transport:
        with httpx.Client(transport=transport, base_url=URL) as service:
            service.put("/runs/a", json={"num_samples": 4})
        yield transport


def test_a_log_is_sent_by_its_extension(transport: InProcess, tmp_path: Path) -> None:
    table, lines, dynamics = tmp_path / "log.CSV", tmp_path / "log.jsonl", tmp_path / "dynamics.jsonl"
    table.write_text("epoch,sample,correct\n0,1,true\n0,2,false\n")
    lines.write_text('{"epoch": 0, "sample": 3, "correct": 1}\n')
    dynamics.write_text('{"guid": 0, "gold": 1, "logits_epoch_1": [0.5, 2]}\n')
    assert push(table, URL, "a", transport=transport)["records"] == 2
    assert push(lines, URL, "a", complete=True, transport=transport)["epochs"][0]["state"] == "committed"
    assert push(dynamics, URL, "a", cartography=True, transport=transport)["epochs"][0]["num_correct"] == 1


def test_what_the_service_refuses_is_told(transport: InProcess, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("epoch,sample,correct\n0,1,true\n0,7,true\n")
    with pytest.raises(BadRequest, match="line 3, column sample"):
        push(log, URL, "a", transport=transport)
    with pytest.raises(NotFound):
        push(log, URL, "none", transport=transport)
    with pytest.raises(DataError, match="parquet"):
        push(tmp_path / "log.txt", URL, "a", transport=transport)
    with pytest.raises(ServiceUnreachable, match="push it again"):
        push(log, "http://127.0.0.1:1", "a")


def test_the_command_prints_what_became_of_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"})
    answer = {"run_id": "a", "records": 0, "epochs": []}
    monkeypatch.setattr("mild_trainer.push.push", lambda *arguments, **named: answer)
    result = runner.invoke(cli.app, ["push", str(tmp_path / "log.csv"), "--url", URL, "--run-id", "a"])
    assert (result.exit_code, json.loads(result.output)) == (0, answer)
