from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from mild_service.config import Settings
from mild_service.errors import StoreUnreplicated
from mild_service.store import Store
from mild_service.store.keys import Keys
from tests.cluster import LocalCluster, local_cluster
from tests.service.store.conftest import epoch_bits, opened
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalCluster]:
    """A master and its replica, which has an hour to answer."""
    with local_cluster(n_masters=1, timeout_ms=3_600_000) as pair:
        yield pair


@pytest.mark.anyio
async def test_what_a_replica_does_not_have_is_not_acknowledged_however_often_it_is_sent(pair: LocalCluster) -> None:
    patient, hasty = (
        Store(Settings(store_replicas=1, store_replica_seconds=seconds, store_timeout=60), pair.url)
        for seconds in (30, 0.1)
    )
    try:
        run = await opened(patient)
        assert (await patient.epochs.commit(run, 0, 0, epoch_bits(100), 1, False))[0] == "committed"
        await hasty.ping()  # it knows the nodes before one of them hangs: asking that one takes the store's timeout
        _, replica = pair.nodes
        replica.pause()
        try:
            for _ in range(2):  # the second time the master has it, and nothing is written
                with pytest.raises(StoreUnreplicated, match="0 replicas of the store have this write, 1 are needed"):
                    await hasty.epochs.commit(run, 0, 1, epoch_bits(100), 1, False)
        finally:
            replica.go_on()
        wait_until(pair.whole, "a replica that answers again")
        assert (await patient.epochs.commit(run, 0, 1, epoch_bits(100), 1, False))[0] == "same"
    finally:
        await patient.aclose()
        await hasty.aclose()


@pytest.mark.anyio
async def test_a_master_that_takes_no_writes_without_replicas_is_not_at_fault_for_good(pair: LocalCluster) -> None:
    store = Store(Settings(store_namespace="other"), pair.url)
    try:
        pair.nodes[0].configure("min-replicas-to-write", 2)
        with pytest.raises(StoreUnreplicated, match="min-replicas-to-write"):
            await opened(store)
        pair.nodes[0].configure("min-replicas-to-write", 0)
        await opened(store)
    finally:
        await store.aclose()


KEYS = Keys()


@pytest.mark.parametrize(
    "key",
    [
        KEYS.runs,
        KEYS.credentials,
        KEYS.run("a.b-c"),
        KEYS.of_run("a", "0f").chunk(2, 0),
        KEYS.of_run("a", "0f").chunk(2, 7),
    ],
)
def test_the_write_that_waits_for_replicas_is_in_the_slot_of_the_key(key: str) -> None:
    assert key_slot(KEYS.same_slot(key).encode()) == key_slot(key.encode())
