"""Bits flipped, cut and zeroed in values, in the store's files and in archives: no wrong set, every damage reported.

A run of two rounds with labels is in an embedded store. Each damage changes one random thing: a value in the running
store (two fifths: a bit, bytes zeroed or cut out, the value removed, or swapped with another one), a file of the
stopped store (two fifths: a bit, bytes zeroed or cut out, in the append-only file or its base, half of them in text, as
in records), or an archive (one fifth: a bit, bytes zeroed or cut out, or the end cut off). Then the sets of both
rounds, the status of each epoch and the findings of `doctor --bits` are compared with the undamaged run, and all that
can be sent again is.
"""

import json
import logging
import random
import shutil
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import numpy as np
from redis import Redis

from benchmarks.claims import Benchmark, Report, claim_none, format_table
from benchmarks.timing import wait_until
from mild_core import bitmap
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.errors import ArchiveDamaged, ConfigurationError, RunNotFound
from mild_service.ops import archive, doctor
from mild_service.store import Store
from mild_service.store.embedded import EmbeddedServer
from mild_service.store.values import has_checksums

N_SAMPLES = 20_000
N_EPOCHS = (10, 6)
_OCTETS = {"content-type": "application/octet-stream"}
_MAX_DAMAGE = 64
"""Greatest number of bytes that one damage changes."""


@dataclass
class Outcome:
    """Results by kind of damage, and a line for each error."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def count(self, kind: str, *results: str) -> None:
        """Count the results of one damage."""
        self.counts.update((kind, result) for result in ("damages", *results))


@dataclass(frozen=True)
class Service:
    """A running service and its store."""

    http: httpx.AsyncClient
    store: Store
    settings: Settings


@asynccontextmanager
async def serve(url: str) -> AsyncIterator[Service]:
    """Context manager that serves the store at `url` in this process."""
    settings = Settings(store_url=url, executor="threads", sweep_seconds=0, rate_per_key=0, store_memory=2**30)
    app, store = create_app(settings), Store(settings, url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://rot") as http:
        yield Service(http, store, settings)
    await store.aclose()


def make_bodies(seed: int) -> list[list[bytes]]:
    """Return the bodies of the epochs of each round: samples that are learnt early or late, and some never."""
    rng = np.random.default_rng(seed)
    hardness = np.where(rng.random(N_SAMPLES) < 0.2, 0.9, 0.3 * rng.random(N_SAMPLES))
    return [
        [bitmap.pack(rng.random(N_SAMPLES) > hardness * (1 - epoch / 40)).tobytes() for epoch in range(n)]
        for n in N_EPOCHS
    ]


async def send_run(http: httpx.AsyncClient, bodies: Sequence[Sequence[bytes]], finish: bool) -> None:
    """Send the whole run, for the first time or again."""
    if finish:
        (await http.put("/runs/a", json={"num_samples": N_SAMPLES})).raise_for_status()
    await http.put("/runs/a/labels", json={"labels": (np.arange(N_SAMPLES) % 10).tolist()})
    for round_, epochs in enumerate(bodies):
        for epoch, body in enumerate(epochs):
            await http.put(f"/runs/a/rounds/{round_}/epochs/{epoch}", content=body, headers=_OCTETS)
        if finish and round_ == 0:
            (await http.post("/runs/a/rounds/0/finish")).raise_for_status()


async def read_served(http: httpx.AsyncClient) -> dict[str, Any]:
    """Read what is served of the run: a value for each path, or the code of the problem."""
    paths = ["/selection/a", "/selection/a?round=0", "/runs/a/rounds/1/members", "/runs/a/rounds/0", "/runs/a/rounds/1"]
    paths += [f"/runs/a/rounds/{round_}/epochs/{epoch}" for round_, n in enumerate(N_EPOCHS) for epoch in range(n)]
    served: dict[str, Any] = {}
    for path in paths:
        answer = await http.get(path)
        served[path] = answer.json() if answer.is_success else answer.json()["type"]
        if answer.is_success and path.startswith("/selection"):
            served[path] = (served[path]["indices"], served[path]["round"])
    return served


async def judge(kind: str, what: str, service: Service, before: dict[str, Any], outcome: Outcome) -> bool:
    """Compare what is served with the undamaged run; return whether all is the same and the doctor finds no damage."""
    served = await read_served(service.http)
    changed_paths = [path for path, value in served.items() if value != before[path]]
    refused_paths = [path for path in changed_paths if isinstance(served[path], str)]
    findings = (await doctor.examine(service.store, service.settings, bits=True)).findings
    damages = [each for each in findings if each.level == "error" or (each.where == "keys" and each.level != "ok")]
    reports = [f"{damage.where}: {damage.what}" for damage in damages]
    where = f"{kind}, {what}"
    for path in changed_paths:
        if path not in refused_paths and path.startswith(("/selection", "/runs/a/rounds/1/members")):
            outcome.wrong.append(f"{where}: another set at {path}; the doctor: {reports}")
        elif served[path] == "/problems/internal":
            outcome.wrong.append(f"{where}: an unexpected error at {path}")
        elif path in refused_paths and "/epochs/" in path and served[path] == "/problems/store-damaged":
            _, round_, _, epoch = path.rsplit("/", 3)
            if not any(f"epoch {epoch} of round {round_} " in name or "record" in name for name in reports):
                outcome.wrong.append(f"{where}: {path} is refused, and not named: {reports}")
    if changed_paths and not reports:
        outcome.wrong.append(f"{where}: not named by the doctor: {changed_paths[:5]}")
    outcome.count(kind, "named" if reports else "without effect", *(["sets refused"] if refused_paths else []))
    return not changed_paths and not reports


def change_bytes(content: bytes, rng: random.Random, kinds: Sequence[str], in_text: bool = False) -> tuple[bytes, str]:
    """Damage a content; return it with a description. With `in_text`, the damage begins within text, as in a record."""
    damaged = bytearray(content)
    start, n = rng.randrange(len(content)), rng.randrange(1, _MAX_DAMAGE)
    while in_text and not content[start : start + 8].isascii():
        start = rng.randrange(len(content))
    how = rng.choice(kinds)
    if how == "bit":
        damaged[start] ^= 1 << rng.randrange(8)
    elif how == "zeroed":
        damaged[start : start + n] = bytes(len(damaged[start : start + n]))
    elif how == "cut out":
        del damaged[start : start + n]
    else:
        del damaged[start:]
    return bytes(damaged), f"{how} at {start} of {len(content)}"


async def damage_values(
    n: int, folder: Path, bodies: list[list[bytes]], before: dict[str, Any], rng: random.Random, outcome: Outcome
) -> None:
    """Change values in the running store, and restore them by sending all again."""
    with EmbeddedServer(folder) as server, Redis.from_url(server.url) as redis:
        async with serve(server.url) as service:
            for _ in range(n):
                for key in redis.scan_iter("*:cache:*"):
                    redis.delete(key)
                keys = sorted(key for key in redis.scan_iter("mild:*") if has_checksums(key.decode()))
                fields = [(key, name) for key in keys for name in sorted(redis.hkeys(key))]
                key, name = rng.choice(fields)
                value = redis.hget(key, name) or b""
                how = rng.choice(("changed", "changed", "changed", "swapped", "removed"))
                if how == "swapped":
                    other_key, other_name = rng.choice([each for each in fields if each != (key, name)])
                    redis.hset(key, name, redis.hget(other_key, other_name) or b"")
                    redis.hset(other_key, other_name, value)
                elif how == "removed":
                    redis.hdel(key, name)
                else:
                    damaged, how = change_bytes(value, rng, ("bit", "zeroed", "cut out", "end cut off"))
                    redis.hset(key, name, damaged)
                kind = "values in the running store"
                await judge(kind, f"{how}, {name.decode()}", service, before, outcome)
                await send_run(service.http, bodies, finish=False)
                members = before["/runs/a/rounds/1/members"]
                await service.http.put("/runs/a/rounds/1/members", json={"indices": members["indices"]})
                served = await read_served(service.http)
                findings = [damage async for damage in service.store.verifier.verify()]
                if served != before or findings:
                    outcome.wrong.append(f"{how}, {name.decode()}: not restored: {findings}")
                outcome.counts[kind, "restored by PUT"] += 1


async def damage_files(
    n: int, folder: Path, bodies: list[list[bytes]], before: dict[str, Any], rng: random.Random, outcome: Outcome
) -> None:
    """Change a file of the stopped store, and start it again."""
    for i in range(n):
        copy = folder.with_name(f"files-{i}")
        shutil.copytree(folder, copy)
        path = rng.choice([p for p in sorted((copy / "appendonlydir").iterdir()) if p.stat().st_size > 2000])
        damaged, how = change_bytes(path.read_bytes(), rng, ("bit", "bit", "zeroed", "cut out"), in_text=i % 2 == 0)
        path.write_bytes(damaged)
        kind = "base (RDB) of the stopped store" if path.suffix == ".rdb" else "append-only file of the stopped store"
        try:
            with EmbeddedServer(copy) as server:
                async with serve(server.url) as service:
                    if not await judge(kind, how, service, before, outcome):
                        await send_run(service.http, bodies, finish=False)
                        members = before["/runs/a/rounds/1/members"]
                        await service.http.put("/runs/a/rounds/1/members", json={"indices": members["indices"]})
                        if await read_served(service.http) == before:
                            outcome.counts[kind, "restored by PUT"] += 1
        except ConfigurationError:
            outcome.count(kind, "named", "refused at the start")
        shutil.rmtree(copy)


async def damage_archives(n: int, folder: Path, rng: random.Random, outcome: Outcome) -> None:
    """Change an archive, and import it."""
    with EmbeddedServer(folder) as server:
        settings = Settings(store_url=server.url)
        store = Store(settings, server.url)
        path = folder.with_name("a.mild")
        await archive.export_run(store, "a", path)
        content = path.read_bytes()
        for _ in range(n):
            damaged, how = change_bytes(content, rng, ("bit", "zeroed", "cut out", "end cut off"))
            path.write_bytes(damaged)
            kind = "archives"
            if damaged == content:
                outcome.count(kind, "without effect")
                continue
            try:
                await archive.import_run(store, path, "b")
            except ArchiveDamaged:
                outcome.count(kind, "named", "refused at the import")
            else:
                outcome.wrong.append(f"archive, {how}: it was imported")
            with suppress(RunNotFound):
                await store.runs.get("b")
                outcome.wrong.append(f"archive, {how}: a run is there")
        await store.aclose()


async def record_run(folder: Path, bodies: list[list[bytes]]) -> dict[str, Any]:
    """Record the run in a store, half of it in the base of its append-only file; return what is served of it."""
    with EmbeddedServer(folder) as server, Redis.from_url(server.url) as redis:
        async with serve(server.url) as service:
            await send_run(service.http, bodies[:1], finish=True)
            redis.bgrewriteaof()
            wait_until(lambda: not redis.info("persistence")["aof_rewrite_in_progress"], "the end of the rewrite")
            await send_run(service.http, bodies, finish=False)
            served = await read_served(service.http)
            for key in redis.scan_iter("*:cache*"):
                redis.delete(key)
    return served


async def damage_run(n_damages: int, seed: int) -> Outcome:
    """Damage the run in all ways."""
    outcome, rng, bodies = Outcome(), random.Random(seed), make_bodies(seed)
    with TemporaryDirectory(prefix="mild-rot-") as name:
        folder = Path(name) / "data"
        before = await record_run(folder, bodies)
        assert not any(isinstance(value, str) for value in before.values()), json.dumps(before)[:500]
        ways: list[tuple[int, Callable[..., Any]]] = [(2 * n_damages // 5, damage_files)]
        ways.append((2 * n_damages // 5, damage_values))
        for n, damage in ways:
            await damage(n, folder, bodies, before, rng, outcome)
        await damage_archives(n_damages // 5, folder, rng, outcome)
    return outcome


def measure(options: Namespace) -> Report:
    logging.getLogger("mild_service").setLevel(logging.CRITICAL)  # each damage is an error in its log
    outcome = anyio.run(partial(damage_run, options.damages, options.seed))
    columns = ["damages", "named", "without effect", "sets refused", "refused at the start", "refused at the import"]
    columns.append("restored by PUT")
    kinds = sorted({kind for kind, _ in outcome.counts})
    about = (
        f"A run of {N_SAMPLES} samples with labels, {N_EPOCHS[0]} epochs in a finished round, {N_EPOCHS[1]} in an "
        "open one. Without effect: the damage hit what nothing is computed from (times, events, tags), or bytes that "
        "were zero; both sets, all epochs and the members are as before."
    )
    rows = [(kind, *(outcome.counts[kind, column] for column in columns)) for kind in kinds]
    text = format_table(("what was damaged", *columns), rows)
    claims = [claim_none("wrong sets, unexpected errors, refusals not named, values not restored", outcome.wrong)]
    return Report("Damaged values, files and archives", claims, about, text, outcome.wrong)


BENCHMARK = Benchmark(
    "rot",
    "docs/operations.md#damaged-bits",
    measure,
    options={"damages": 200, "seed": 0},
    short={"damages": 50},
    packages=("redis", "xxhash"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
