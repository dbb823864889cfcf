"""Admission: what requests take of the process (turns, memory, slots, event streams, disk), accounted by key.

Everything scarce is a `Pool`. Requests that wait are served in turn, the key that holds least first. What a request
takes is noted in its `Account`, and given back when the response has been sent, or before.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import Gauge

from mild_service.concurrency import LruCache
from mild_service.config import Settings
from mild_service.errors import MemoryExceeded, Overloaded, ShuttingDown
from mild_service.observability import Telemetry

T = TypeVar("T")

_SMALL = 64
"""Up to this fraction (1/64) of the memory, a request is small."""
_RESERVE = 8
"""Fraction (1/8) of the memory that only small requests get."""
_TURNS, _TURN_SECONDS = 4, 0.1
"""Number of requests on which the event loop works at the same time, and the longest time that each does."""
_STEP_SECONDS = 0.002
"""Seconds after which a turn ends where the event loop has been on time: its request waits, for the store at most."""
_BASE_BYTES = 192 * 1024 * 1024
"""Memory of the process before any request: modules, connections and the slack of the allocator."""
_WORKER_BYTES = 128 * 1024 * 1024
"""Memory of a worker process before any selection."""
_CONTAINER_SHARE, _MACHINE_SHARE = 3 / 4, 1 / 2
"""Shares of a container's memory, and of the machine's, that the service takes unless it is told otherwise."""
_CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the limit of this process's container, of cgroup v2 and v1."""


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request that waits for its turn; `granted` is set once it has the amount, `first` as for `Pool.take`."""

    key: str
    amount: int
    first: bool
    granted: asyncio.Future[None]


class Pool:
    """An amount of one resource, granted to keys in turn.

    Small requests have a queue of their own and a reserve, so that they do not wait for large ones.

    Parameters
    ----------
    capacity
        Whole amount.
    unit, setting
        Unit of the amount for error messages, and the setting that raises the capacity.
    reserve
        Part of the capacity that only small requests get.
    max_waiting
        Maximum number of requests that wait.
    gauge
        Gauge of the number of requests that wait.
    """

    def __init__(
        self,
        capacity: int,
        unit: str,
        setting: str,
        reserve: int = 0,
        max_waiting: int = 0,
        gauge: Gauge | None = None,
    ) -> None:
        self.capacity = capacity
        self.limit = capacity - reserve
        self.used = 0
        self._reserve, self._max_waiting, self._gauge = reserve, max_waiting, gauge
        self._unit, self._setting = unit, setting
        self._small_used, self._n_waiting = 0, 0
        self._held: Counter[str] = Counter()
        self._last_grants: Counter[str] = Counter()
        self._grant_numbers = count(1)
        self._is_closed = False
        self._queues: dict[bool, dict[str, deque[_Waiter]]] = {True: {}, False: {}}
        self._caches: list[LruCache[Any]] = []

    def add_cache(self, cache: LruCache[Any]) -> None:
        """Count the values of a cache as used, and evict them where a request needs the amount."""
        self._caches.append(cache)

    def close(self) -> None:
        """Refuse all that wait, and all that would have to wait: the process is shutting down."""
        self._is_closed = True
        for is_small, queue in self._queues.items():
            for waiter in [waiter for waiters in queue.values() for waiter in waiters]:
                self._remove(waiter, is_small)
                if not waiter.granted.done():
                    waiter.granted.set_exception(make_shutdown_error())

    async def take(self, key: str, amount: int, is_small: bool = False, first: bool = False) -> None:
        """Take an amount for a key; wait for it in turn, with `first` before those that wait for this key without."""
        self.check_possible(amount)
        is_small = is_small and self._reserve > 0
        if not self._queues[is_small] and self._has_free(key, amount, is_small):
            self._grant(key, amount, is_small)
            return
        self._make_place(key, amount)
        waiter = _Waiter(key, amount, first, asyncio.get_running_loop().create_future())
        waiters = self._queues[is_small].setdefault(key, deque())
        n_before = sum(1 for _ in takewhile(lambda other: other.first, waiters)) if first else len(waiters)
        waiters.insert(n_before, waiter)
        self._count_waiting(1)
        self._serve()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                if waiter.granted.exception() is None:
                    self.give(key, amount, is_small)
            else:
                if waiter in self._queues[is_small].get(key, ()):
                    self._remove(waiter, is_small)
                self._serve()
            raise

    def take_now(self, key: str, amount: int, is_small: bool = False) -> None:
        """Take an amount for a key without waiting, before all that wait. Raises `Overloaded` if it is not free."""
        is_small = is_small and self._reserve > 0
        if not self._has_free(key, amount, is_small, first=True):
            raise self._make_error(amount)
        self._grant(key, amount, is_small)

    def take_share(self, key: str, amount: int) -> None:
        """Take an amount for a key without waiting; a key gets as much in all as then remains for the others."""
        if exceeds_share(self.capacity, self.used, self._held[key], amount):
            raise self._make_error(amount)
        self._grant(key, amount, is_small=False)

    def give(self, key: str, amount: int, is_small: bool = False) -> None:
        """Give back an amount, and serve those who wait for it."""
        self.used -= amount
        self._small_used -= amount if is_small and self._reserve > 0 else 0
        self._held[key] -= amount
        if not self._held[key]:
            del self._held[key]
        self._serve()

    def check_possible(self, amount: int) -> None:
        """Raise `MemoryExceeded` if a request will never get as much at once."""
        if amount > self.limit:
            raise MemoryExceeded(
                f"the request needs {amount} {self._unit}, this service grants up to {self.limit}; ask for less at "
                f"once (a bitmap in place of a list, one page, fewer epochs), or have {self._setting} raised"
            )

    def _grant(self, key: str, amount: int, is_small: bool) -> None:
        if not amount:  # `give` forgets a key once it gives its amount back
            return
        self.used += amount
        self._small_used += amount if is_small else 0
        self._held[key] += amount
        self._last_grants[key] = next(self._grant_numbers)

    def _has_free(self, key: str, amount: int, is_small: bool, first: bool = False) -> bool:
        """Return whether an amount is free, after evicting what caches hold.

        Small requests leave room for large ones that wait, unless their key holds little in all, or `first` says that
        the request goes before those that wait.
        """
        if is_small and self._queues[False] and not first:
            is_little = self._held[key] + amount <= self.capacity // _SMALL
            if not is_little and self._small_used + amount > self._reserve:
                return False
        missing = self.used + amount - (self.capacity if is_small else self.limit)
        if missing > 0:
            return False
        for cache in self._caches:
            missing += cache.n_bytes
        for cache in self._caches:
            if missing > 0:
                missing -= cache.evict(missing)
        return True

    def _serve(self) -> None:
        """Grant what is free to those who wait: small ones first, and of each the key that holds least."""
        for is_small, queue in sorted(self._queues.items(), reverse=True):
            while queue:
                key = min(queue, key=lambda key: (self._held[key], self._last_grants[key]))
                waiter = queue[key][0]
                if waiter.granted.done():  # cancelled, and its task has not run since
                    self._remove(waiter, is_small)
                    continue
                if not self._has_free(key, waiter.amount, is_small):
                    break
                self._remove(waiter, is_small)
                self._grant(key, waiter.amount, is_small)
                waiter.granted.set_result(None)
        if not self._n_waiting:
            self._last_grants.clear()

    def _make_place(self, key: str, amount: int) -> None:
        """Make one of the waiting places free for a key, at the expense of the key that has most of them."""
        if self._is_closed:
            raise make_shutdown_error()
        if self._n_waiting < self._max_waiting:
            return
        n_places: Counter[str] = Counter()
        for queue in self._queues.values():
            n_places.update({name: len(waiters) for name, waiters in queue.items()})
        heaviest, n_most = max(n_places.items(), key=lambda item: item[1], default=(key, 0))
        if n_places[key] + 1 >= n_most:
            raise self._make_error(amount)
        is_small = heaviest in self._queues[True]
        waiter = self._queues[is_small][heaviest][-1]
        self._remove(waiter, is_small)
        if not waiter.granted.done():
            waiter.granted.set_exception(self._make_error(waiter.amount))

    def _remove(self, waiter: _Waiter, is_small: bool) -> None:
        """Remove a request from its queue."""
        queue = self._queues[is_small]
        queue[waiter.key].remove(waiter)
        if not queue[waiter.key]:
            del queue[waiter.key]
        self._count_waiting(-1)

    def _count_waiting(self, change: int) -> None:
        self._n_waiting += change
        if self._gauge is not None:
            self._gauge.inc(change)

    def _make_error(self, amount: int) -> Overloaded:
        waiting = "" if self._gauge is None else f", and {self._n_waiting} requests wait (MILD_MAX_WAITING)"
        return Overloaded(
            f"the request needs {amount} {self._unit}, {self.used} of {self.capacity} are taken{waiting}; try again in "
            f"a second, or have {self._setting} raised"
        )


def make_shutdown_error() -> ShuttingDown:
    """Build the error for work that this process does not do any more."""
    return ShuttingDown("this service is shutting down; try again in a second")


def exceeds_share(capacity: int, used: int, held: int, amount: int) -> bool:
    """Return whether there is less than `amount`, or a key that holds `held` would have more than then remains."""
    return used + amount > capacity or held + amount > max(1, capacity - used)


class Account:
    """What one request, or one piece of work for several requests, has taken.

    Parameters
    ----------
    admission
        The pools.
    key
        The id of an API key, or an address, to which it is accounted.
    """

    def __init__(self, admission: "Admission", key: str) -> None:
        self.key = key
        self.admission = admission
        self._turn: asyncio.TimerHandle | None = None
        self._memory = 0
        self._small_memory = 0
        self._n_holders = 1
        self._shared: list[Account] = []

    @property
    def n_bytes(self) -> int:
        """Memory that this request has taken, without that of work that it shares."""
        return self._memory + self._small_memory

    @property
    def holds_memory(self) -> bool:
        """Whether this request, or work that it shares, has taken memory."""
        return self.n_bytes > 0 or any(account.holds_memory for account in self._shared)

    async def begin_turn(self, is_new: bool = True) -> None:
        """Wait for a turn; work that goes on, and so is not new, gets one before the other requests of its key.

        The turn ends by itself once the event loop has nothing to do, so that no request waits for a slow store; on a
        busy loop it ends after a while.
        """
        await self.admission.turns.take(self.key, 1, first=not is_new)
        self._watch_turn(time.monotonic() + _TURN_SECONDS)

    def _watch_turn(self, deadline: float) -> None:
        """End the turn after a step if the event loop is on time then, else look again until the deadline."""
        started = time.monotonic()

        def end_or_watch() -> None:
            now = time.monotonic()
            if now >= deadline or now - started < 2 * _STEP_SECONDS:
                self.end_turn()
            else:
                self._watch_turn(deadline)

        self._turn = asyncio.get_running_loop().call_later(_STEP_SECONDS, end_or_watch)

    def end_turn(self) -> bool:
        """Give the turn to others; return whether this request had one."""
        if self._turn is None:
            return False
        self._turn.cancel()
        self._turn = None
        self.admission.turns.give(self.key, 1)
        return True

    @asynccontextmanager
    async def pause_turn(self) -> AsyncIterator[None]:
        """Context manager that gives the turn to others while the block waits for something else."""
        had_turn = self.end_turn()
        yield
        if had_turn:
            await self.begin_turn(is_new=False)

    async def take_memory(self, n_bytes: int) -> None:
        """Take memory. A request that holds some does not wait for more, so that requests never wait for each other."""
        if self.holds_memory:
            self.take_memory_now(n_bytes)
            return
        pool, is_small = self.admission.memory, self.admission.is_small(n_bytes)
        async with self.pause_turn():
            await pool.take(self.key, n_bytes, is_small)
            self._note(n_bytes, is_small)

    def take_memory_now(self, n_bytes: int) -> None:
        """Take memory without waiting."""
        pool = self.admission.memory
        total = self.n_bytes + n_bytes
        pool.check_possible(total)
        is_small = self.admission.is_small(total)
        pool.take_now(self.key, n_bytes, is_small)
        self._note(n_bytes, is_small)

    def keep_memory(self, n_bytes: int) -> None:
        """Give back all memory but `n_bytes`."""
        excess = self.n_bytes - n_bytes
        for is_small, n_taken in ((False, self._memory), (True, self._small_memory)):
            if (returned := min(n_taken, max(excess, 0))) > 0:
                excess -= returned
                self._note(-returned, is_small)
                self.admission.memory.give(self.key, returned, is_small)

    def keep_only(self, n_bytes: int) -> None:
        """Give back all memory but `n_bytes`, also of work that this request shares."""
        shared, self._shared = self._shared, []
        for account in shared:
            account.close()
        self.keep_memory(n_bytes)

    def share(self, account: "Account") -> None:
        """Keep what `account` has taken until this one is closed too."""
        account._n_holders += 1
        self._shared.append(account)

    def close(self) -> None:
        """Give everything back, unless others share it."""
        self._n_holders -= 1
        if not self._n_holders:
            self.end_turn()
            self.keep_only(0)

    def _note(self, n_bytes: int, is_small: bool) -> None:
        if is_small:
            self._small_memory += n_bytes
        else:
            self._memory += n_bytes


current_account: ContextVar[Account | None] = ContextVar("account", default=None)
"""Account of the request that is served; None in background work, which is not accounted."""


def get_current_key() -> str:
    """Return the key to which the current request is accounted; empty in background work."""
    account = current_account.get()
    return "" if account is None else account.key


def pause_turn() -> AbstractAsyncContextManager[None]:
    """Context manager that gives the turn of the current request to others while the block waits for something."""
    account = current_account.get()
    return nullcontext() if account is None else account.pause_turn()


async def take_memory(n_bytes: int) -> None:
    """Take memory for the current request, as `Account.take_memory`; it is given back after the response."""
    if (account := current_account.get()) is not None:
        await account.take_memory(n_bytes)


def take_memory_now(n_bytes: int) -> None:
    """Take memory for the current request without waiting, as `Account.take_memory_now`."""
    if (account := current_account.get()) is not None:
        account.take_memory_now(n_bytes)


def keep_memory(n_bytes: int) -> None:
    """Give back what the current request has taken, but `n_bytes`."""
    if (account := current_account.get()) is not None:
        account.keep_memory(n_bytes)


@asynccontextmanager
async def hold_memory(n_bytes: int) -> AsyncIterator[None]:
    """Context manager that takes memory for the current request during the block."""
    account = current_account.get()
    if account is None:
        yield
        return
    await account.take_memory(n_bytes)
    try:
        yield
    finally:
        account.keep_memory(account.n_bytes - n_bytes)


class Admission:
    """The pools of a process."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        def make_slots(kind: str, n_slots: int, unit: str, setting: str) -> Pool:
            """Make a pool of slots; large requests leave one of several to small ones."""
            reserve, gauge = 1 if n_slots > 1 else 0, telemetry.waiting.labels(kind)
            return Pool(n_slots, unit, setting, reserve, settings.max_waiting, gauge)

        total = settings.memory or find_available_memory()
        n_processes = settings.compute_workers if settings.executor != "threads" else 0
        capacity = max(total // 2, total - _BASE_BYTES - n_processes * _WORKER_BYTES)
        self.memory = Pool(
            capacity,
            "bytes of memory",
            "MILD_MEMORY",
            capacity // _RESERVE,
            settings.max_waiting,
            telemetry.waiting.labels("memory"),
        )
        # No limit of those who wait: each of them has a connection, and these are limited.
        self.turns = Pool(_TURNS, "turns", "", max_waiting=sys.maxsize, gauge=telemetry.waiting.labels("turns"))
        self.compute = make_slots("compute", settings.compute_workers, "slots for selections", "MILD_COMPUTE_WORKERS")
        self.logs = make_slots("logs", settings.log_readers, "slots for logs", "MILD_LOG_READERS")
        self.answers = make_slots(
            "answers", settings.compute_workers, "slots for large answers", "MILD_COMPUTE_WORKERS"
        )
        self.streams = Pool(settings.max_streams, "event streams", "MILD_MAX_STREAMS")
        spool = settings.log_spool_bytes or shutil.disk_usage(tempfile.gettempdir()).free // 2
        self.spool = Pool(spool, "bytes of disk", "MILD_LOG_SPOOL_BYTES")

    def close(self) -> None:
        """Refuse all that waits; what works goes on."""
        for pool in (self.memory, self.compute, self.logs, self.answers):
            pool.close()

    def is_small(self, n_bytes: int) -> bool:
        """Return whether a request of so much memory is small."""
        return n_bytes <= self.memory.capacity // _SMALL

    @asynccontextmanager
    async def work(self, slots: Pool, n_bytes: int, is_small: bool) -> AsyncIterator[None]:
        """Context manager that takes a slot for the block, and memory for the current request, in turn.

        The turn of the request ends: from here on the slots bound what is done at the same time.

        Small requests take the memory first, large ones the slot: a large request that waits for its slot holds no
        memory that others need, and one that holds memory already does not wait for the slot.
        """
        self.memory.check_possible(n_bytes)
        account = current_account.get() or Account(self, "")
        account.end_turn()
        if is_small:
            await account.take_memory(n_bytes)
        if account.holds_memory and not is_small:
            slots.take_now(account.key, 1)
        else:
            await slots.take(account.key, 1, is_small)
        try:
            if not is_small:
                await account.take_memory(n_bytes)
            yield
        finally:
            slots.give(account.key, 1, is_small)
            if current_account.get() is None:
                account.close()

    @asynccontextmanager
    async def encode(self, n_bytes: int) -> AsyncIterator[None]:
        """Context manager that takes memory for a large answer, and a slot in turn for the block.

        The memory is taken first and without waiting: requests that wait for a slot need nothing more.
        """
        take_memory_now(n_bytes)
        if self.is_small(n_bytes):
            yield
            return
        account = current_account.get()
        key, had_turn = get_current_key(), account is not None and account.end_turn()
        await self.answers.take(key, 1)
        try:
            if account is not None and had_turn:
                await account.begin_turn(is_new=False)
            yield
        finally:
            self.answers.give(key, 1)

    @contextmanager
    def hold_share(self, pool: Pool, key: str, amount: int) -> Iterator[None]:
        """Context manager that takes a fair share during the block; raises as `Pool.take_share`."""
        pool.take_share(key, amount)
        try:
            yield
        finally:
            pool.give(key, amount)


class SharedWork:
    """Work that is done once for all requests that want the same at the same time.

    What it takes is accounted to the key of the first of them, until the last of them has ended.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._running: dict[Hashable, tuple[asyncio.Task[Any], Account]] = {}

    async def run(self, name: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of `work`, which is started unless work of this name is running."""
        caller = current_account.get()
        if name not in self._running:
            account = Account(self._admission, "" if caller is None else caller.key)
            new_task = asyncio.create_task(self._run(account, work))
            self._running[name] = (new_task, account)
            new_task.add_done_callback(lambda _: self._running.pop(name, None))
        task, account = self._running[name]
        if caller is not None:
            caller.share(account)
        async with pause_turn():
            result: T = await asyncio.shield(task)  # a cancelled caller does not cancel the work of the others
        return result

    async def aclose(self) -> None:
        """Wait until all work has ended."""
        await asyncio.gather(*(task for task, _ in self._running.values()), return_exceptions=True)

    async def _run(self, account: Account, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        current_account.set(account)
        try:
            await account.begin_turn(is_new=False)
            return await work()
        except BaseException:
            account.keep_memory(0)
            raise
        finally:
            account.end_turn()
            account.close()


def find_available_memory() -> int:
    """Return the bytes of memory that the service takes by default: of its container, else of the machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in _CGROUP_FILES:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < machine:
            return int(int(text) * _CONTAINER_SHARE)
    return int(machine * _MACHINE_SHARE)
