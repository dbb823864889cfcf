import asyncio
import tempfile
from pathlib import Path

import pytest
import uvloop
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from benchmarks.links import Link
from mild_core.types import RunSpec
from mild_service.config import Settings
from mild_service.errors import ConfigurationError, StoreFull, StoreUnavailable
from mild_service.store import Store
from mild_service.store.context import translate_errors
from mild_service.store.embedded import EmbeddedServer
from tests.service.store.conftest import epoch_bits

pytestmark = pytest.mark.anyio


async def test_a_store_that_is_not_there_is_unavailable(settings: Settings) -> None:
    store = Store(settings, f"unix://{tempfile.gettempdir()}/nobody-listens-here.sock")
    with pytest.raises(StoreUnavailable, match="try again"):
        await store.ping()
    await store.aclose()


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://localhost:port"])
def test_an_address_that_is_none_is_a_configuration_error(settings: Settings, url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://localhost:6379/0"):
        Store(settings, url)


async def test_more_callers_than_connections_wait_their_turn(settings: Settings) -> None:
    assert settings.store_url is not None
    store = Store(settings.model_copy(update={"store_connections": 2}), settings.store_url)
    await asyncio.gather(*(store.ping() for _ in range(200)))
    await store.aclose()


async def test_a_full_store_refuses_writes_but_still_lets_runs_be_deleted(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        store = Store(Settings(), server.url)
        run, _ = await store.runs.open(RunSpec("a", 100, ttl_seconds=600))
        await store.epochs.commit(run, 0, 0, epoch_bits(100), 1, False)
        redis.config_set("maxmemory", "1")
        with pytest.raises(StoreFull, match="maxmemory"):
            await store.epochs.commit(run, 0, 1, epoch_bits(100), 1, False)
        assert await store.rounds.resume(run, 0, 0) == 2
        assert await store.runs.delete("a", run.uid)
        await store.aclose()


def test_a_connection_that_was_cut_is_made_anew_under_the_loop_that_serves(tmp_path: Path) -> None:
    """uvloop's transports raise another error than asyncio's own."""

    async def written_through(link: Link) -> int:
        store = Store(Settings(), f"redis://127.0.0.1:{link.port}/0")
        run, _ = await store.runs.open(RunSpec("a", 100, ttl_seconds=600))
        for number in range(20):
            n_cuts = link.n_cuts
            link.cut_after(1 + 37 * number)  # before a command, and in the middle of one
            _, (outcome, _) = await asyncio.gather(
                store.ping(), store.epochs.commit(run, 0, number, epoch_bits(100), 1, False)
            )
            assert outcome in ("committed", "same")
            if number == 0:
                assert link.n_cuts > n_cuts
        (round_,) = await store.rounds.get(run, range(1))
        await store.aclose()
        return len(round_.epochs)

    with EmbeddedServer(tmp_path) as server, Link() as link:
        link.lead_to(Path(server.url.removeprefix("unix://")))
        assert uvloop.run(written_through(link)) == 20


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (OutOfMemoryError("x"), StoreFull),
        (ResponseError("MISCONF x"), StoreUnavailable),
        (RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"), StoreUnavailable),
        (RuntimeError("a mistake"), RuntimeError),
    ],
)
def test_errors_of_the_client_become_the_services(fault: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected), translate_errors():
        raise fault


async def test_a_lock_is_not_needed_to_compute(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        store: Store = Store(Settings(), server.url)
        run, _ = await store.runs.open(RunSpec("a", 100, ttl_seconds=600))
        redis.config_set("maxmemory", "1")
        async with store.selection_cache.lock(run, "d") as mine:
            assert mine
        await store.aclose()


@pytest.mark.parametrize("spread", [False, True])
async def test_memory_is_told_of_where_a_run_lies(store: Store, spread: bool) -> None:
    memory = await store.servers.read_memory("a", spread)
    assert memory is not None
    assert memory.used > 0
