"""`mild-service doctor` on a real store that has everything wrong with it, and on one that is well."""

import json
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from mild_service import cli
from mild_service.config import Settings
from mild_service.ops import doctor
from mild_service.store import Store
from mild_service.store.embedded import EmbeddedServer
from tests.service.store.conftest import LARGE, epoch_bits, opened

pytestmark = pytest.mark.anyio


async def told(store: Store, settings: Settings, repair: bool = False) -> dict[str, str]:
    """What needs a hand, and what to do."""
    report = await doctor.examine(store, settings, repair)
    return {finding.what: finding.remedy for finding in report.findings if finding.level != "ok"}


async def test_what_is_well_is_said_and_nothing_is_changed(settings: Settings, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "own") as server:
        limited = settings.model_copy(update={"store_memory": 2**30, "sweep_seconds": 60})
        store = Store(limited, server.url)
        run = await opened(store, LARGE)
        await store.epochs.commit(run, 0, 0, epoch_bits(LARGE), 1, False)
        assert await told(store, limited) == {}
        assert await told(store, limited, repair=True) == {}
        await store.bitmaps.read_epochs(run, 0, list((await store.rounds.get(run, range(1)))[0].epochs.values()))
        await store.aclose()


async def test_every_mistake_in_the_setting_up_is_named_with_its_remedy(settings: Settings, tmp_path: Path) -> None:
    bad = settings.model_copy(update={"host": "0.0.0.0", "drain_seconds": 40.0})
    with EmbeddedServer(tmp_path / "own") as server, Redis.from_url(server.url) as redis:
        store = Store(bad, server.url)
        redis.config_set("appendfsync", "everysec")
        redis.config_set("maxmemory-policy", "allkeys-lru")
        found = await told(store, bad)
        for what, remedy in (
            ("synced everysec", "appendfsync always"),
            ("evicts keys (allkeys-lru)", "noeviction"),
            ("without a limit", "maxmemory"),
            ("0.0.0.0 without a login", "keys create"),
            ("up to 50 s to stop", "terminationGracePeriodSeconds"),
            ("never swept", "MILD_SWEEP_SECONDS"),
        ):
            assert any(what in shown and remedy in hint for shown, hint in found.items()), what
        redis.config_set("maxmemory", str(redis.info("memory")["used_memory"] + 1000))
        redis.config_set("appendonly", "no")
        found = await told(store, bad)
        assert any("no append-only file" in shown for shown in found)
        assert any("new runs are refused" in hint for hint in found.values())
        await store.aclose()


async def test_a_clock_that_is_off_is_named(settings: Settings, store: Store) -> None:
    """The fixture's clock stands in 2023."""
    assert any("synchronise the clocks" in remedy for remedy in (await told(store, settings)).values())


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["doctor", *arguments])


def test_the_command_prints_a_table_or_json_and_its_code_says_whether_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MILD_STORE_URL", raising=False)
    where = ("--data-dir", str(tmp_path / "data"))
    shown = asked(*where)
    assert shown.exit_code == 1
    assert "MILD_STORE_MEMORY" in shown.output
    monkeypatch.setenv("MILD_STORE_MEMORY", str(2**30))
    told = asked(*where, "--json", "--repair")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert (document["well"], document["repaired"]) == (True, True)
    assert {"level", "where", "what", "remedy"} == set(document["findings"][0])
    assert asked().exit_code == 2
