from collections.abc import AsyncIterator

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.types import EpochBits, RunSpec
from mild_service.config import Settings
from mild_service.models import Epoch, Round, Run
from mild_service.store import PackedEpoch, Store
from mild_service.store.codec import CHUNK_SAMPLES
from mild_service.store.values import write_values
from tests.service.conftest import Clock

N = 100
LARGE = 2 * CHUNK_SAMPLES + 77


@pytest.fixture(scope="session", params=["one server", "cluster"])
def store_url(request: pytest.FixtureRequest, store_url: str) -> str:
    """The store's tests pass on one server and on a cluster alike."""
    return str(request.getfixturevalue("cluster_url")) if request.param == "cluster" else store_url


@pytest.fixture
def settings(settings: Settings, store_url: str) -> Settings:
    """On a cluster, with writes that a replica must have: each master has one."""
    replicated = {"store_replicas": 1, "store_replica_seconds": 30.0, "store_timeout": 60.0}
    return settings.model_copy(update=replicated) if "+cluster" in store_url else settings


@pytest.fixture
async def sharded_store(settings: Settings, clock: Clock) -> AsyncIterator[Store]:
    """A store whose keys may lie on several servers: large bitmaps are written in steps."""
    assert settings.store_url is not None
    sharded = settings.model_copy(update={"store_sharded": True})
    store = Store(sharded, settings.store_url, clock)
    yield store
    await store.aclose()


@pytest.fixture(params=[False, True], ids=["one server", "sharded"])
def either_store(request: pytest.FixtureRequest, store: Store, sharded_store: Store) -> Store:
    return sharded_store if request.param else store


def random_bitmap(n_samples: int, seed: int = 0) -> bitmap.Bitmap:
    """Bits at random, shape (n_bytes,)."""
    return bitmap.pack(np.random.default_rng(seed).random(n_samples) < 0.5)


def epoch_bits(n_samples: int, seed: int = 0, planes: int = 1) -> PackedEpoch:
    """An epoch of random bits."""
    correct, observed = random_bitmap(n_samples, seed), random_bitmap(n_samples, seed + 1000)
    return PackedEpoch.from_bits(
        EpochBits(n_samples, correct & observed, observed) if planes == 2 else EpochBits(n_samples, correct)
    )


async def opened(store: Store, n_samples: int = N, run_id: str = "a") -> Run:
    run, _ = await store.runs.open(RunSpec(run_id, n_samples, ttl_seconds=600))
    return run


async def write_tail(store: Store, run: Run, field: str, packed: PackedEpoch) -> None:
    """Write chunks >= 1 of a field of round 0, which no record names."""
    keys = store._context.keys_of(run).list_chunks(0)
    await write_values(store._context, field, zip(keys[1:], packed.values[1:], strict=True))


async def only_round(store: Store, run: Run, number: int = 0) -> Round:
    (round_,) = await store.rounds.get(run, range(number, number + 1))
    return round_


async def finish(store: Store, run: Run, selected: bitmap.Bitmap, number: int = 0) -> bool:
    round_ = await only_round(store, run, number)
    return await store.rounds.finish(run, round_, selected, {"verdict": "weak"}, {"reasons": []}, None)


async def merge(
    store: Store, run: Run, samples: list[int], partial: bool = True, old: Epoch | None = None, attempt: int = 1
) -> bool:
    """Put a log that calls all its samples correct into epoch 0."""
    bits = bitmap.from_indices(samples, run.spec.num_samples)
    packed = PackedEpoch.from_bits(EpochBits(run.spec.num_samples, bits, bits), "logs")
    epoch = packed.make_record(0, attempt, "logs", partial)
    return await store.epochs.merge(run, 0, epoch, packed.values, old, attempt, None)
