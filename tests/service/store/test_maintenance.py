"""Runs in files, and stores of other versions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from xxhash import xxh3_64_hexdigest

from mild_core.audit import Audit
from mild_service.errors import (
    ArchiveDamaged,
    RunChanging,
    RunExists,
    RunNotFound,
    StoreDamaged,
    StoreError,
    StoreNewer,
)
from mild_service.models import Run
from mild_service.ops import archive
from mild_service.store import Store, servers
from mild_service.store.maintenance import RunField
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


@pytest.mark.parametrize("schema", [1, 99])
async def test_a_file_of_another_version_is_refused(store: Store, tmp_path: Path, schema: int) -> None:
    path = tmp_path / "a.mild"
    path.write_bytes(b"mild-run 1\n" + orjson.dumps({"run_id": "a", "schema": schema, "version": "9.0"}) + b"\n")
    with pytest.raises(ArchiveDamaged, match=rf"schema {schema}, written by version 9\.0, this service reads 2 alone"):
        archive.check_archive(path)


async def test_a_part_that_no_run_has_is_refused_and_nothing_is_left(store: Store, dump: Dump) -> None:
    await filled(store)
    parts = [part async for part in store.transfer.export_run("a")]
    before = dump()
    with pytest.raises(StoreDamaged, match="which no run has"):
        await store.transfer.import_run("b", [*parts, RunField("credentials", b"x", b"y")])
    assert dump() == before


async def test_a_store_without_a_version_gets_the_present_one(store: Store, dump: Dump) -> None:
    """A new one, and one to which a command has written before a service did."""
    context = store._context
    for _ in range(2):
        await store.check_schema()
        assert int(await context.redis.get(context.keys.schema) or 0) == servers.SCHEMA_VERSION
        await context.redis.delete(context.keys.schema)
        await opened(store)
    await store.check_schema()
    before = dump()
    await store.check_schema()
    assert dump() == before


async def test_a_store_of_another_version_is_left_alone(store: Store, dump: Dump) -> None:
    context = store._context
    await context.redis.set(context.keys.schema, 99)
    with pytest.raises(StoreNewer, match="schema 99, this service reads 2 alone; upgrade"):
        await store.check_schema()
    await context.redis.set(context.keys.schema, 1)
    before = dump()
    with pytest.raises(StoreError, match="schema 1, written before the first release"):
        await store.check_schema()
    assert dump() == before


async def test_a_run_with_an_option_of_a_later_version_is_refused_and_not_misread(store: Store) -> None:
    await opened(store)
    context = store._context
    values = {"num_samples": N, "selection": {"metric": "mild", "later": True}}
    config = orjson.dumps(values | {"checksum": xxh3_64_hexdigest(orjson.dumps(values))})
    await context.redis.hset(context.keys.run("a"), "config", config)
    with pytest.raises(StoreNewer, match="later version"):
        await store.runs.get("a")
