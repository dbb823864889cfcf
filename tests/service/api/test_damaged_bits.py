"""An epoch whose bits have changed in the store: no set is made of them, all else is served, its PUT restores it."""

from pathlib import Path

import httpx
import pytest
from redis import Redis
from typer.testing import CliRunner

from mild_service import cli
from mild_service.config import Settings
from mild_service.store.context import to_texts
from mild_service.store.keys import Keys
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
EPOCH = "/runs/a/rounds/0/epochs/3"


@pytest.fixture
def damaged(recorded: httpx.Client, redis: Redis, settings: Settings) -> httpx.Client:
    """The service with run `a` of 10 epochs, of which epoch 3 has a bit that has changed in the store."""
    key = next(redis.scan_iter(f"{Keys(settings.store_namespace).run('a')[:-4]}:*:chunk:0:0"))
    (field,) = (field for field in to_texts(redis.hkeys(key)) if field.startswith("3:"))
    value = redis.hget(key, field)
    assert isinstance(value, bytes)
    redis.hset(key, field, bytes([value[0] ^ 4]) + value[1:])
    return recorded


@pytest.mark.parametrize("path", ["/selection/a", "/runs/a/rounds/0/fit", "/runs/a/scores", "/runs/a/samples/7", EPOCH])
def test_what_needs_a_damaged_epoch_is_refused_with_its_name(damaged: httpx.Client, path: str) -> None:
    answer = damaged.get(path)
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/store-damaged")
    assert "chunk 0 of epoch 3 of round 0 of run 'a' is damaged" in answer.json()["detail"]
    assert "PUT the same epoch again" in answer.json()["detail"]


def test_a_round_with_a_damaged_epoch_is_not_finished(damaged: httpx.Client) -> None:
    assert damaged.post("/runs/a/rounds/0/finish").json()["type"] == "/problems/store-damaged"
    assert damaged.get("/runs/a").json()["round"] == 0


def test_whole_epochs_status_and_other_runs_are_served(damaged: httpx.Client) -> None:
    for path in ("/runs", "/runs/a", "/runs/a/rounds/0", "/ready"):
        assert damaged.get(path).status_code == 200
    for epoch in range(10):
        assert damaged.get(f"/runs/a/rounds/0/epochs/{epoch}").is_success == (epoch != 3)
    assert damaged.get("/selection/a", params={"until_epoch": 2}).status_code == 200
    damaged.put("/runs/b", json={"num_samples": N})
    put_epochs(damaged, "b", recording(N, 10))
    assert damaged.get("/selection/b").status_code == 200


def test_the_same_put_restores_the_epoch_and_the_set(damaged: httpx.Client) -> None:
    bodies = recording(N, 10)
    damaged.put("/runs/b", json={"num_samples": N})
    put_epochs(damaged, "b", bodies)
    restored = damaged.put(EPOCH, content=bodies[3], headers=OCTETS)
    assert (restored.status_code, restored.json()["outcome"]) == (200, "same")
    assert damaged.get("/selection/a").json()["indices"] == damaged.get("/selection/b").json()["indices"]


def test_the_doctor_and_the_export_name_it(
    damaged: httpx.Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILD_STORE_URL", settings.store_url or "")
    monkeypatch.setenv("MILD_STORE_NAMESPACE", settings.store_namespace)
    expected = "chunk 0 of epoch 3 of round 0 of run 'a' is damaged"
    assert expected not in CliRunner().invoke(cli.cli, ["doctor", "--json"]).output
    looked = CliRunner().invoke(cli.cli, ["doctor", "--bits", "--json"])
    assert looked.exit_code == 1
    assert expected in looked.output
    exported = CliRunner().invoke(cli.cli, ["export", "a", str(tmp_path / "a.mild")])
    assert exported.exit_code == 2
    assert expected in exported.output
    assert list(tmp_path.glob("*.mild*")) == []
