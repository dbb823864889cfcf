"""The engine that computes selections: threads, a pool of processes, or a Dask cluster."""

import asyncio
import logging
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_tasks
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

import orjson
from anyio import to_thread

from mild_core.results import Selection, serialize_fit
from mild_core.selection import select_from
from mild_core.sources import SampleSource
from mild_core.types import SelectionOptions
from mild_service.concurrency import BoundedExecutor
from mild_service.config import NICENESS, Settings
from mild_service.errors import WorkersUnavailable
from mild_service.models import ComputedSelection
from mild_service.selecting.dask_cluster import DaskCluster

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 3
"""How often a selection is tried whose process ends, which the system may do where memory is short."""
_START_SECONDS = 60.0
"""Longest time until the processes take tasks; they load their modules within seconds."""


class Engine:
    """Computes selections; how many at a time is for the caller (`admission`).

    A source of one part is one task for one worker of the service. The parts of a larger source that any process can
    read are tasks of their own, of the cluster where there is one, and a thread adds up their results. A few tasks of a
    source are submitted at a time, so that the sources that are read at the same time get the workers in turn.

    Parameters
    ----------
    settings
        The kind of workers, and their number.
    """

    def __init__(self, settings: Settings) -> None:
        self._n_workers = settings.compute_workers
        self._has_processes = settings.executor != "threads"
        self._cluster = DaskCluster(settings.executor) if "://" in settings.executor else None
        self._executor: Executor | None = None
        self._first_tasks: Sequence[Future[int]] = ()

    def start(self) -> None:
        """Start the processes, so that the first selection does not wait until they have loaded their modules."""
        if self._has_processes:
            self._open_executor()

    async def compute(self, source: SampleSource, options: SelectionOptions, digest: str) -> ComputedSelection:
        """Compute a selection in the form that is cached and sent."""
        work = partial(compute_selection, source, options, digest)
        if self._has_processes and len(source.split()) == 1:
            loop = asyncio.get_running_loop()
            return await self._retry(lambda executor: loop.run_in_executor(executor, work))
        return await self._drive(source, work)

    async def inspect(self, source: SampleSource, options: SelectionOptions) -> Selection:
        """Compute a selection with the scores of all samples."""
        return await self._drive(source, partial(_inspect, source, options))

    def disconnect(self) -> None:
        """Leave the cluster, whose work may last for as long as it has no workers."""
        if self._cluster is not None:
            self._cluster.close()

    def close(self) -> None:
        """End the workers once they have done their work."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    async def _drive(self, source: SampleSource, work: Callable[[Executor | None], T]) -> T:
        """Return the result of `work`, which runs in a thread and gets the executor for the parts of the source."""
        if len(source.split()) == 1 or not source.is_shared:
            return await to_thread.run_sync(work, None)
        if self._cluster is not None:
            return await to_thread.run_sync(self._cluster.run, work)
        return await self._retry(lambda executor: to_thread.run_sync(work, BoundedExecutor(executor, self._n_workers)))

    async def _retry(self, start: Callable[[Executor], Awaitable[T]]) -> T:
        """Return the result of work with the executor; repeat it with a new one if its processes ended."""
        for _ in range(_ATTEMPTS):
            executor = self._open_executor()
            await self._wait_for_start(executor)
            try:
                return await start(executor)
            except BrokenExecutor:
                logger.warning("a process that computes selections has ended; they are computed again")
                if self._executor is executor:
                    self._executor = None
                executor.shutdown(wait=False)
        raise WorkersUnavailable(
            f"processes that compute selections have ended {_ATTEMPTS} times in a row, probably for want of memory; "
            "try again in a minute, or have MILD_COMPUTE_WORKERS lowered"
        )

    def _open_executor(self) -> Executor:
        """Return the executor, and start it where it does not run."""
        if self._executor is None:
            if self._has_processes:
                self._executor, self._first_tasks = self._start_processes()
            else:
                self._executor = ThreadPoolExecutor(self._n_workers, "mild-compute")
        return self._executor

    def _start_processes(self) -> tuple[ProcessPoolExecutor, Sequence[Future[int]]]:
        """Start the processes; return their executor, and tasks that end once processes take tasks."""
        context = multiprocessing.get_context("spawn")  # forked processes would share locks and connections
        try:
            executor = ProcessPoolExecutor(self._n_workers, context, _end_with_parent)
            with _block_interrupts():  # a process is started for each task that finds none idle
                return executor, [executor.submit(os.getpid) for _ in range(self._n_workers)]
        except OSError as error:
            raise _make_start_error(f"could not be started: {error}") from error

    async def _wait_for_start(self, executor: Executor) -> None:
        """Wait until the processes of an executor take tasks; a pool whose own thread has failed never says so."""
        if all(task.done() for task in self._first_tasks):
            return
        _, waiting = await to_thread.run_sync(wait_for_tasks, self._first_tasks, _START_SECONDS)
        if not waiting:
            return
        if isinstance(executor, ProcessPoolExecutor) and self._executor is executor:
            self._executor, self._first_tasks = None, ()
            for process in list(executor._processes.values()):  # Python 3.14 has `terminate_workers`
                process.terminate()
            executor.shutdown(wait=False)
        raise _make_start_error(f"have not started within {_START_SECONDS:g} s")


def _make_start_error(reason: str) -> WorkersUnavailable:
    n_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WorkersUnavailable(
        f"the processes that compute selections {reason}; this process may open {n_files} files, have that limit "
        "raised (`ulimit -n 65536` before the service starts), or set MILD_EXECUTOR=threads"
    )


def compute_selection(
    source: SampleSource, options: SelectionOptions, digest: str, executor: Executor | None = None
) -> ComputedSelection:
    """Compute a selection and convert it to the form that is cached and sent."""
    selected = select_from(source, options, executor)
    return ComputedSelection(
        digest, to_json_types(selected.summary()), to_json_types(serialize_fit(selected)), selected.bitmap
    )


def _inspect(source: SampleSource, options: SelectionOptions, executor: Executor | None) -> Selection:
    """Compute a selection with the scores of all samples."""
    selected = select_from(source, options, executor)
    selected.details.compute()
    return selected


def to_json_types(value: dict[str, Any]) -> dict[str, Any]:
    """Convert arrays and numpy numbers to JSON values, so that computed and cached responses have equal bytes."""
    converted: dict[str, Any] = orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
    return converted


@contextmanager
def _block_interrupts() -> Iterator[None]:
    """Let processes that are started in this block inherit that Ctrl-C does not end them: the service gets it too."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_with_parent() -> None:
    """Let a worker process end when the service has gone, and leave the processor to the service meanwhile."""
    with suppress(OSError):  # a filter of system calls may forbid it
        os.nice(NICENESS)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been started by a process"
    sentinel = parent.sentinel

    def end_with_parent() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
