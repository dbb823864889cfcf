from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from mild_service.cli import cli
from mild_service.config import Settings
from tests.service.recordings import put_epochs, recording


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("MILD_STORE_URL", str(settings.store_url))
    monkeypatch.setenv("MILD_STORE_NAMESPACE", settings.store_namespace)
    return CliRunner()


def test_a_run_moves_through_a_file_and_answers_as_before(
    service: httpx.Client, run: CliRunner, tmp_path: Path
) -> None:
    service.put("/runs/a", json={"num_samples": 100}).raise_for_status()
    put_epochs(service, "a", recording(100, 12))
    before = service.post("/runs/a/rounds/0/finish").json()
    path = tmp_path / "a.mild"
    written = run.invoke(cli, ["export", "a", str(path)])
    assert (written.exit_code, written.stdout) == (0, f"{path}: run a, {path.stat().st_size} bytes\n")
    taken = run.invoke(cli, ["import", str(path)])
    assert taken.exit_code == 2
    assert "there is a run 'a'; give another name" in taken.stderr
    service.delete("/runs/a").raise_for_status()
    put_back = run.invoke(cli, ["import", str(path)])
    assert (put_back.exit_code, put_back.stdout) == (0, "run a: 100 samples, round 1 is open\n")
    assert service.get("/selection/a").json() == before
    assert run.invoke(cli, ["import", str(path), "--as", "no/name"]).exit_code == 2


def test_a_draw_moves_with_its_run(service: httpx.Client, run: CliRunner, tmp_path: Path) -> None:
    service.put("/runs/a", json={"num_samples": 100}).raise_for_status()
    put_epochs(service, "a", recording(100, 12))
    service.post("/runs/a/rounds/0/finish").raise_for_status()
    drawn = service.post("/runs/a/audit/draw", json={"n": 40}).json()["draw"]["indices"]
    service.put("/runs/a/audit", json={"indices": drawn, "clean": [True] * 40}).raise_for_status()
    audit, selection = service.get("/runs/a/audit").json(), service.get("/selection/a?threshold=fdr").json()
    assert (audit["draw"]["num_answered"], selection["guarantee"]["drawn"]) == (40, 40)
    assert run.invoke(cli, ["export", "a", str(tmp_path / "a.mild")]).exit_code == 0
    assert run.invoke(cli, ["import", str(tmp_path / "a.mild"), "--as", "b"]).exit_code == 0
    assert service.get("/runs/b/audit").json() == {**audit, "run_id": "b"}
    assert service.get("/selection/b?threshold=fdr").json() == {**selection, "run_id": "b"}
