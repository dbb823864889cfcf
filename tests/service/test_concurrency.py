import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge

from mild_service.concurrency import WorkLimiter
from mild_service.errors import Overloaded

pytestmark = pytest.mark.anyio


async def test_so_many_work_so_many_wait_and_the_next_is_refused() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("waiting", "Waiting.", registry=registry)
    slots, go_on, at_work = WorkLimiter(2, 3, "thinking", gauge), asyncio.Event(), 0

    async def work() -> None:
        nonlocal at_work
        async with slots.acquire():
            at_work += 1
            await go_on.wait()
            at_work -= 1

    tasks = [asyncio.create_task(work()) for _ in range(5)]
    await asyncio.sleep(0)
    assert (at_work, registry.get_sample_value("waiting")) == (2, 3)
    with pytest.raises(Overloaded, match="thinking for 2 requests and 3 wait"):
        await work()
    tasks[4].cancel()  # who leaves the queue makes room in it
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(work()))
    await asyncio.sleep(0)
    go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(type(None)) == 5
    assert (at_work, registry.get_sample_value("waiting")) == (0, 0)
    await work()
