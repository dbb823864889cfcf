"""Runs in files, and stores of other versions."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from redis import Redis
from xxhash import xxh3_64_hexdigest

from mild_core.audit import Audit
from mild_service.config import Settings
from mild_service.errors import ArchiveDamaged, RunChanging, RunExists, RunNotFound, StoreDamaged, StoreNewer
from mild_service.models import Run
from mild_service.ops import archive
from mild_service.store import Store, codec, maintenance, servers
from mild_service.store.maintenance import RunField
from mild_service.store.values import has_checksums
from tests.service.conftest import Clock, Dump
from tests.service.store.conftest import LARGE, N, epoch_bits, opened, random_bitmap

pytestmark = pytest.mark.anyio


async def filled(store: Store, n_samples: int = N, run_id: str = "a") -> Run:
    """A run with some of everything."""
    run = await opened(store, n_samples, run_id)
    await store.annotations.put_labels(run, np.arange(n_samples) % 7)
    run = await store.runs.get(run_id)
    await store.annotations.put_audit(run, Audit(n_samples, random_bitmap(n_samples), random_bitmap(n_samples)))
    for epoch in range(3):
        await store.epochs.commit(run, 0, epoch, epoch_bits(n_samples, epoch, planes=2), 1, False)
    return await store.runs.get(run_id)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def content(store: Store, run_id: str) -> list[RunField]:
    """All of a run but its uid and its times."""
    moved = (b"uid", b"expires")
    return [part async for part in store.transfer.export_run(run_id) if part.key != "run" or part.field not in moved]


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_a_run_comes_back_from_its_file_whole(store: Store, clock: Clock, tmp_path: Path, n_samples: int) -> None:
    run = await filled(store, n_samples)
    size = await archive.export_run(store, "a", tmp_path / "a.mild")
    assert size == len((tmp_path / "a.mild").read_bytes())
    assert names(tmp_path) == ["a.mild"]
    clock.now += 100_000
    copy = await archive.import_run(store, tmp_path / "a.mild", "b")
    assert (copy.spec, copy.uid == run.uid) == (replace(run.spec, run_id="b"), False)
    assert copy.expires_at == clock.now + run.ttl_seconds
    (round_,) = await store.rounds.get(copy, range(1))
    correct, observed = await store.bitmaps.read_epochs(copy, 0, list(round_.epochs.values()))
    clock.now -= 100_000
    assert [epoch_bits(n_samples, e, planes=2).digest for e in range(3)] == [e.digest for e in round_.epochs.values()]
    assert not (correct & ~observed).any()
    assert await content(store, "a") == await content(store, "b")
    assert [found.run_id for found in (await store.runs.list_page(9, None)).runs] == ["b", "a"]


async def test_a_name_that_is_taken_is_refused_and_nothing_is_left(store: Store, dump: Dump, tmp_path: Path) -> None:
    await filled(store)
    await archive.export_run(store, "a", tmp_path / "a.mild")
    before = dump()
    with pytest.raises(RunExists, match="give another name"):
        await archive.import_run(store, tmp_path / "a.mild")
    assert dump() == before
    with pytest.raises(ArchiveDamaged, match="exists"):
        await archive.export_run(store, "a", tmp_path / "a.mild")
    with pytest.raises(RunNotFound):
        await archive.export_run(store, "none", tmp_path / "none.mild")
    assert names(tmp_path) == ["a.mild"]


async def test_a_run_that_is_written_to_meanwhile_is_refused(store: Store) -> None:
    run = await filled(store)
    parts = store.transfer.export_run("a")
    await anext(parts)
    await store.epochs.commit(run, 0, 3, epoch_bits(N, 3), 1, False)
    with pytest.raises(RunChanging, match="written to while"):
        async for _ in parts:
            pass


@pytest.mark.parametrize("where", [0, 12, 200, -33])
async def test_a_file_with_another_byte_is_refused(store: Store, dump: Dump, tmp_path: Path, where: int) -> None:
    await filled(store)
    path = tmp_path / "a.mild"
    await archive.export_run(store, "a", path)
    body, before = bytearray(path.read_bytes()), dump()
    body[where] ^= 0x10
    path.write_bytes(body)
    with pytest.raises(ArchiveDamaged, match=r"damaged|is not a run"):
        await archive.import_run(store, path, "b")
    assert dump() == before


@pytest.mark.parametrize("n_bytes", [5, 500, -1])
async def test_a_file_that_is_cut_off_is_refused(store: Store, tmp_path: Path, n_bytes: int) -> None:
    await filled(store)
    path = tmp_path / "a.mild"
    await archive.export_run(store, "a", path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ArchiveDamaged):
        archive.check_archive(path)


async def test_a_file_of_a_later_version_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.mild"
    path.write_bytes(b"mild-run 1\n" + orjson.dumps({"run_id": "a", "schema": 99, "version": "9.0"}) + b"\n")
    with pytest.raises(ArchiveDamaged, match=r"version 9\.0; this service knows those up to 2: upgrade it"):
        archive.check_archive(path)


async def test_a_part_that_no_run_has_is_refused_and_nothing_is_left(store: Store, dump: Dump) -> None:
    await filled(store)
    parts = [part async for part in store.transfer.export_run("a")]
    record = {part.field: part.value for part in parts if part.key == "run"}
    before = dump()

    async def others() -> object:
        for part in parts:
            if part.key != "run":
                yield part
        yield RunField("credentials", b"x", b"y")

    with pytest.raises(StoreDamaged, match="which no run has"):
        await store.transfer.import_run("b", record, others())  # type: ignore[arg-type]  # a generator is an iterator
    assert dump() == before


async def test_a_store_without_a_version_is_brought_forward_and_its_runs_keep_their_options(
    store: Store, dump: Dump
) -> None:
    """A record as the first service wrote it, before options had `target`, `per_class` and others."""
    run = await opened(store)
    context = store._context
    options = {"metric": "mild", "fit": "grouped", "evidence": "latest", "threshold": "posterior", "p": 0.25}
    old = orjson.dumps({"num_samples": N, "num_classes": None, "observe": "all", "selection": options})
    await context.redis.hset(context.keys.run("a"), "config", old)
    assert await servers.migrate(context) == 0
    held = orjson.loads(await context.redis.hget(context.keys.run("a"), "config") or b"")
    assert held["selection"].items() >= options.items()
    assert {"target", "fraction", "cost_ratio", "min_keep"} <= held["selection"].keys()
    assert not {"per_class", "audit"} & held["selection"].keys(), "the version before could not read it"
    found = await store.runs.get("a")
    assert (found.spec.selection.fit, found.spec.selection.p, found.uid) == ("grouped", 0.25, run.uid)
    before = dump()
    assert await servers.migrate(context) == servers.SCHEMA_VERSION
    assert dump() == before


def strip_checksums(redis: Redis, namespace: str) -> None:
    """Bring the values and the records of a store to schema 1."""
    for key in redis.scan_iter(f"{namespace}:*"):
        for field, value in redis.hgetall(key).items() if redis.type(key) == b"hash" else ():
            if has_checksums(key.decode()):
                redis.hset(key, field, value[:-8])
            elif field == b"config":
                config = orjson.loads(value)
                del config["checksum"]
                redis.hset(key, field, orjson.dumps(config))
    redis.set(f"{namespace}:schema", 1)


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_a_store_of_schema_1_gets_checksums_once(
    store: Store, redis: Redis, dump: Dump, settings: Settings, n_samples: int
) -> None:
    run = await filled(store, n_samples)
    before = dump()
    strip_checksums(redis, settings.store_namespace)
    with pytest.raises(StoreDamaged, match="its config"):
        await store.runs.get("a")
    assert await servers.migrate(store._context) == 1
    assert dump() == before
    assert (await store.runs.get("a")).spec == run.spec
    assert await servers.migrate(store._context) == servers.SCHEMA_VERSION


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_a_file_of_schema_1_gets_its_checksums_when_it_is_read(
    store: Store, redis: Redis, dump: Dump, settings: Settings, monkeypatch: pytest.MonkeyPatch, n_samples: int
) -> None:
    await filled(store, n_samples)
    expected = await content(store, "a")
    strip_checksums(redis, settings.store_namespace)
    monkeypatch.setattr(codec, "decode_spec", codec.decode_old_spec)
    monkeypatch.setattr(maintenance, "has_checksums", lambda key: False)
    parts = [part async for part in store.transfer.export_run("a")]
    monkeypatch.undo()

    async def others() -> AsyncIterator[RunField]:
        for part in parts:
            if part.key != "run":
                yield part

    await store.transfer.import_run("b", {part.field: part.value for part in parts if part.key == "run"}, others())
    assert await content(store, "b") == expected


async def test_an_empty_store_gets_the_present_schema_without_a_word(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    context = store._context
    with caplog.at_level("INFO"):
        await store.migrate()
        assert int(await context.redis.get(context.keys.schema) or 0) == servers.SCHEMA_VERSION
        assert not caplog.messages
        await context.redis.delete(context.keys.schema)
        await opened(store)
        await store.migrate()
    assert caplog.messages == ["the store was brought from schema 0 to 2"]


async def test_a_store_of_a_later_version_is_left_alone(store: Store) -> None:
    context = store._context
    await context.redis.set(context.keys.schema, 99)
    with pytest.raises(StoreNewer, match="schema 99, this service knows those up to 2"):
        await store.migrate()


async def test_a_run_with_an_option_of_a_later_version_is_refused_and_not_misread(store: Store) -> None:
    await opened(store)
    context = store._context
    values = {"num_samples": N, "selection": {"metric": "mild", "later": True}}
    config = orjson.dumps(values | {"checksum": xxh3_64_hexdigest(orjson.dumps(values))})
    await context.redis.hset(context.keys.run("a"), "config", config)
    with pytest.raises(StoreNewer, match="later version"):
        await store.runs.get("a")
