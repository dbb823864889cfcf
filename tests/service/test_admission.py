import asyncio
from collections.abc import Awaitable, Sequence

import pytest
from prometheus_client import CollectorRegistry, Gauge

from mild_service.admission import Account, Admission, Pool, SharedWork, current_account, take_memory
from mild_service.concurrency import LruCache
from mild_service.config import Settings
from mild_service.errors import MemoryExceeded, Overloaded, ShuttingDown
from mild_service.observability import Telemetry

pytestmark = pytest.mark.anyio


def make_pool(capacity: int, reserve: int = 0, max_waiting: int = 100) -> Pool:
    return Pool(capacity, "bytes", "MILD_MEMORY", reserve, max_waiting, Gauge("w", "Waiting.", registry=None))


async def start(*takes: Awaitable[None]) -> Sequence[asyncio.Future[None]]:
    """Tasks that have begun to take, in this order."""
    tasks: list[asyncio.Future[None]] = []
    for take in takes:
        tasks.append(asyncio.ensure_future(take))
        await asyncio.sleep(0)
    return tasks


async def done(tasks: Sequence[asyncio.Future[None]]) -> list[bool]:
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_so_many_work_so_many_wait_and_the_next_is_refused() -> None:
    registry = CollectorRegistry()
    pool = Pool(2, "slots", "MILD_LOG_READERS", 0, 3, Gauge("waiting", "Waiting.", registry=registry))
    tasks = await start(*(pool.take("a", 1) for _ in range(5)))
    assert await done(tasks) == [True, True, False, False, False]
    assert registry.get_sample_value("waiting") == 3
    with pytest.raises(Overloaded, match="needs 1 slots, 2 of 2 are taken, and 3 requests wait"):
        await pool.take("a", 1)
    tasks[4].cancel()  # who leaves the queue makes room in it
    await asyncio.sleep(0)
    tasks = [*tasks, *await start(pool.take("a", 1))]
    for _ in range(3):
        pool.give("a", 1)
    assert await done(tasks) == [True] * 6
    assert (registry.get_sample_value("waiting"), pool.used) == (0, 2)


async def test_the_key_that_holds_least_comes_first_and_equal_ones_take_turns() -> None:
    pool = make_pool(2)
    await pool.take("a", 1)
    await pool.take("a", 1)
    names = ["a", "a", "b", "b", "c"]
    tasks = await start(*(pool.take(name, 1) for name in names))
    served: list[int] = []
    for holder in ["a", "a", "b", "c", "a"]:
        pool.give(holder, 1)
        served += [i for i, is_done in enumerate(await done(tasks)) if is_done and i not in served]
    assert [names[i] for i in served] == ["b", "c", "a", "b", "a"]


async def test_one_key_cannot_fill_the_queue() -> None:
    pool = make_pool(1, max_waiting=4)
    await pool.take("greedy", 1)
    greedy = await start(*(pool.take("greedy", 1) for _ in range(4)))
    with pytest.raises(Overloaded):
        await pool.take("greedy", 1)
    others = await start(pool.take("a", 1), pool.take("b", 1))
    assert await done(greedy) == [False, False, True, True]
    with pytest.raises(Overloaded):
        await greedy[3]
    with pytest.raises(Overloaded):
        await greedy[2]
    with pytest.raises(Overloaded):  # all have as many places as they may have
        await pool.take("a", 1)
    pool.give("greedy", 1)
    assert (await done(others)).count(True) >= 1
    for task in (*greedy[:2], *others):
        task.cancel()


async def test_small_requests_have_a_reserve_and_do_not_pass_large_ones_beyond_it() -> None:
    pool = make_pool(100, reserve=20)
    await pool.take("a", 80)
    large = await start(pool.take("b", 40))
    assert await done(large) == [False]
    await pool.take("c", 20, is_small=True)
    small = await start(pool.take("c", 10, is_small=True))
    assert await done(small) == [False]
    pool.give("a", 80)  # 80 are free: the large one is served, and the small one where there is room
    assert await done([*large, *small]) == [True, False] or await done([*large, *small]) == [True, True]
    pool.give("c", 20, is_small=True)
    assert await done(small) == [True]
    with pytest.raises(MemoryExceeded, match="needs 81 bytes, this service grants up to 80"):
        await pool.take("a", 81)


async def test_a_cancelled_wait_gives_back_what_it_was_just_granted() -> None:
    pool = make_pool(10)
    await pool.take("a", 10)
    (task,) = await start(pool.take("b", 10))
    pool.give("a", 10)  # grants it to the waiting task, which has not run yet
    task.cancel()
    await done([task])
    assert (task.cancelled(), pool.used) == (True, 0)


async def test_a_wait_that_was_just_cancelled_is_granted_nothing() -> None:
    pool = make_pool(1)
    await pool.take("a", 1)
    tasks = await start(pool.take("b", 1), pool.take("c", 1))
    tasks[0].cancel()
    pool.give("a", 1)  # before the cancelled task has run
    assert await done(tasks) == [True, True]
    assert tasks[0].cancelled()
    assert pool.used == 1
    pool.give("c", 1)
    assert (pool.used, pool._n_waiting) == (0, 0)


async def test_nothing_waits_for_a_process_that_ends() -> None:
    pool = make_pool(1)
    await pool.take("a", 1)
    tasks = await start(pool.take("a", 1), pool.take("b", 1))
    pool.close()
    for task in tasks:
        with pytest.raises(ShuttingDown):
            await task
    with pytest.raises(ShuttingDown):
        await pool.take("b", 1)


async def test_keys_that_take_nothing_are_not_kept() -> None:
    pool = make_pool(10)
    for i in range(100):
        await pool.take(f"address:{i}", 0, is_small=True)
        pool.take_now(f"address:{i}", 0)
    assert not pool._held
    assert not pool._last_grants


def test_a_share_leaves_as_much_to_others() -> None:
    pool = make_pool(8)
    for _ in range(4):
        pool.take_share("a", 1)
    with pytest.raises(Overloaded):
        pool.take_share("a", 1)
    pool.take_share("b", 1)
    pool.take_share("b", 1)
    with pytest.raises(Overloaded):
        pool.take_share("b", 1)
    pool.take_share("c", 1)


async def test_caches_make_room_for_requests() -> None:
    pool, cache = make_pool(100), LruCache[str](1000)
    pool.add_cache(cache)
    for name in "abc":
        cache.put(name, name, 30)
    await pool.take("k", 40)
    assert (cache.n_bytes, cache.get("a"), cache.get("b") is None) == (60, None, False)
    await pool.take("k", 60)
    assert cache.n_bytes == 0


@pytest.fixture
def admission(monkeypatch: pytest.MonkeyPatch) -> Admission:
    monkeypatch.setattr("mild_service.admission._STEP_SECONDS", 1000.0)  # no turn ends by itself
    monkeypatch.setattr("mild_service.admission._TURN_SECONDS", 1000.0)
    return Admission(Settings(memory=2 * 2**30, executor="threads"), Telemetry())


async def test_who_holds_memory_does_not_wait_for_more(admission: Admission) -> None:
    first, second = Account(admission, "a"), Account(admission, "b")
    limit = admission.memory.limit
    await first.take_memory(limit // 2)
    await second.take_memory(limit // 2)
    with pytest.raises(Overloaded):
        await first.take_memory(limit // 2)
    with pytest.raises(MemoryExceeded):
        await first.take_memory(limit // 2 + 2)
    second.close()
    await first.take_memory(limit // 2)
    first.keep_memory(1000)
    assert admission.memory.used == 1000
    first.close()
    assert admission.memory.used == 0


async def test_shared_work_is_done_once_and_accounted_until_the_last_has_ended(admission: Admission) -> None:
    shared, n_runs, go_on = SharedWork(admission), 0, asyncio.Event()

    async def work() -> int:
        nonlocal n_runs
        n_runs += 1
        await take_memory(10**6)
        await go_on.wait()
        return n_runs

    async def ask(account: Account) -> int:
        current_account.set(account)
        return await shared.run("name", work)

    accounts = [Account(admission, key) for key in "abc"]
    tasks = [asyncio.create_task(ask(account)) for account in accounts]
    await done([])
    tasks[0].cancel()
    accounts[0].close()
    go_on.set()
    assert await asyncio.gather(*tasks[1:]) == [1, 1]
    accounts[1].close()
    assert admission.memory.used == 10**6
    accounts[2].close()
    assert admission.memory.used == 0


async def test_shared_work_that_fails_holds_nothing(admission: Admission) -> None:
    async def work() -> None:
        await take_memory(10**6)
        raise ValueError("failed")

    account = Account(admission, "a")
    current_account.set(account)
    with pytest.raises(ValueError, match="failed"):
        await SharedWork(admission).run("name", work)
    assert admission.memory.used == 0


async def test_a_key_with_many_requests_leaves_the_next_turn_to_another_key(admission: Admission) -> None:
    busy = [Account(admission, "busy") for _ in range(100)]
    begun = await start(*(account.begin_turn() for account in busy))
    n_turns = (await done(begun)).count(True)
    assert 0 < n_turns < 100
    other = Account(admission, "other")
    (begun_by_other,) = await start(other.begin_turn())
    assert await done([begun_by_other]) == [False]
    busy[0].end_turn()
    assert await done([begun_by_other, *begun]) == [True] * (n_turns + 1) + [False] * (100 - n_turns)


async def test_a_request_that_goes_on_does_not_wait_for_new_ones_of_its_key(admission: Admission) -> None:
    accounts = [Account(admission, "busy") for _ in range(admission.turns.capacity + 2)]
    begun = await start(*(account.begin_turn() for account in accounts))

    async def wait_for_nothing() -> None:
        async with accounts[0].pause_turn():
            pass

    (going_on,) = await start(wait_for_nothing())
    assert await done([*begun[-2:], going_on]) == [True, False, False]
    accounts[1].end_turn()
    assert await done([*begun[-2:], going_on]) == [True, False, True]


async def test_requests_that_go_on_do_so_in_the_order_in_which_they_paused(admission: Admission) -> None:
    holders = [Account(admission, "busy") for _ in range(admission.turns.capacity)]
    await asyncio.gather(*(account.begin_turn() for account in holders))
    new, *going_on = [Account(admission, "busy") for _ in range(4)]
    tasks = await start(new.begin_turn(), *(account.begin_turn(is_new=False) for account in going_on))
    order: list[int] = []
    for holder in [*holders, *going_on][: len(tasks)]:
        holder.end_turn()
        order += [i for i, is_done in enumerate(await done(tasks)) if is_done and i not in order]
    assert order == [1, 2, 3, 0]


async def test_a_large_answer_that_is_given_up_before_its_turn_keeps_no_slot(admission: Admission) -> None:
    accounts = [Account(admission, "busy") for _ in range(admission.turns.capacity)]
    await asyncio.gather(*(account.begin_turn() for account in accounts))

    async def answer() -> None:
        current_account.set(accounts[0])
        async with admission.encode(admission.memory.capacity // 4):
            pytest.fail("there is no turn")

    tasks = await start(Account(admission, "other").begin_turn(), answer())
    assert await done(tasks) == [True, False]
    assert admission.answers.used == 1
    tasks[1].cancel()
    assert await done(tasks) == [True, True]
    assert admission.answers.used == 0


async def test_a_turn_ends_by_itself(admission: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mild_service.admission._STEP_SECONDS", 0.0)
    monkeypatch.setattr("mild_service.admission._TURN_SECONDS", 0.0)
    accounts = [Account(admission, "slow") for _ in range(3 * admission.turns.capacity)]
    tasks = await start(*(account.begin_turn() for account in accounts))
    assert all(await done(tasks))
    await done([])
    assert admission.turns.used == 0


async def test_a_turn_ends_early_where_the_event_loop_is_on_time(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mild_service.admission._STEP_SECONDS", 0.0)  # the loop is never so fast, as if it were busy
    accounts = [Account(admission, "slow") for _ in range(3 * admission.turns.capacity)]
    begun = await start(*(account.begin_turn() for account in accounts))
    assert (await done(begun)).count(True) == admission.turns.capacity
    monkeypatch.setattr("mild_service.admission._STEP_SECONDS", 0.01)
    await asyncio.gather(*begun)
    assert len(accounts) > admission.turns.capacity


async def test_little_memory_is_granted_beside_large_requests_that_wait_to_a_key_that_has_none() -> None:
    pool = make_pool(6400, reserve=800)
    for _ in range(40):
        await pool.take("busy", 50, is_small=True)
    (large,) = await start(pool.take("large", 5000))
    more, other = await start(pool.take("busy", 50, is_small=True), pool.take("other", 50, is_small=True))
    assert await done([large, more, other]) == [False, False, True]
