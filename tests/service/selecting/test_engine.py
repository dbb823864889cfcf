"""The engine: what computes selections changes none of them, and the loss of workers is borne or named."""

import asyncio
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from anyio import to_thread
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.errors import MildError
from mild_core.selection import select
from mild_core.sources import SampleBlock
from mild_core.types import EpochBits, RoundBits, RunSpec, SelectionOptions
from mild_service.admission import Admission
from mild_service.config import Settings
from mild_service.errors import RunNotFound, StoreDamaged, StoreUnavailable, WorkersUnavailable
from mild_service.models import ComputedSelection, Run
from mild_service.observability import Telemetry
from mild_service.selecting import engine as engines
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.engine import Engine, compute_selection
from mild_service.selecting.evidence import Evidence
from mild_service.store import PackedEpoch, Store, StoredSamples, codec, stored_samples
from tests.service.recordings import put_epochs, recording
from tests.service.selecting import deadly
from tests.service.selecting.deadly import FailingSource, record_round
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anyio
T = TypeVar("T")
OPTIONS = SelectionOptions()
N = 2 * codec.CHUNK_SAMPLES + 999
"""Samples in three chunks, each of them a part in these tests."""


def make_computer(store: Store, settings: Settings) -> SelectionComputer:
    telemetry = Telemetry()
    return SelectionComputer(store, telemetry, settings, Admission(settings, telemetry))


@pytest.fixture(scope="module")
def processes() -> Iterator[Engine]:
    """An engine of all tests: it takes longer to start than they do."""
    engine = Engine(Settings(executor="processes"))
    yield engine
    engine.close()


@pytest.fixture
def threads() -> Iterator[Engine]:
    engine = Engine(Settings(executor="threads"))
    yield engine
    engine.close()


def check_same(computed: ComputedSelection, expected: ComputedSelection) -> None:
    np.testing.assert_array_equal(computed.bitmap, expected.bitmap)
    assert (computed.summary, computed.fit) == (expected.summary, expected.fit)


@pytest.mark.parametrize("n_parts", [1, 5])
async def test_processes_and_threads_give_what_the_core_gives(
    processes: Engine, threads: Engine, tmp_path: Path, n_parts: int
) -> None:
    source = FailingSource(n_parts, tmp_path)
    by_processes, by_threads = [await engine.compute(source, OPTIONS, "d") for engine in (processes, threads)]
    check_same(by_processes, by_threads)
    np.testing.assert_array_equal(by_processes.bitmap, select([record_round()]).bitmap)
    here, there = [(await engine.inspect(source, OPTIONS)).noisy_posterior for engine in (processes, threads)]
    np.testing.assert_array_equal(here, there)


def count_deaths(folder: Path) -> int:
    return len(list(folder.iterdir()))


@pytest.mark.parametrize("n_parts", [1, 5])
async def test_a_process_that_is_killed_in_the_middle_changes_nothing(
    processes: Engine, tmp_path: Path, n_parts: int
) -> None:
    computed = await processes.compute(FailingSource(n_parts, tmp_path, n_deaths=1), OPTIONS, "d")
    assert count_deaths(tmp_path) == 1
    check_same(computed, compute_selection(FailingSource(n_parts, tmp_path), OPTIONS, "d"))


async def test_processes_that_die_repeatedly_are_named_with_the_remedy(processes: Engine, tmp_path: Path) -> None:
    with pytest.raises(WorkersUnavailable, match=r"have ended 3 times in a row.*MILD_COMPUTE_WORKERS"):
        await processes.compute(FailingSource(5, tmp_path, n_deaths=99), OPTIONS, "d")
    computed = await processes.compute(FailingSource(5, tmp_path), OPTIONS, "d")
    assert computed.summary["num_selected"] > 0


async def test_processes_that_never_start_are_named_with_limit_and_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = Engine(Settings(executor="processes"))
    with monkeypatch.context() as patch:
        patch.setattr(engines, "_end_with_parent", deadly.never_start)
        patch.setattr(engines, "_START_SECONDS", 0.01)
        with pytest.raises(WorkersUnavailable, match=r"not started within 0\.01 s; this process may open \d+ files"):
            await engine.compute(FailingSource(1, tmp_path), OPTIONS, "d")
    computed = await engine.compute(FailingSource(1, tmp_path), OPTIONS, "d")
    assert computed.summary["num_selected"] > 0
    engine.close()


def test_processes_for_which_no_file_can_be_opened_are_named_with_limit_and_remedy() -> None:
    engine = Engine(Settings(executor="processes"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(WorkersUnavailable, match=r"not be started: .*may open 3 files, have that limit raised"):
            engine.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    engine.start()
    engine.close()


@dataclass(frozen=True)
class NamedPart:
    """A part that notes when it is read; the first part of the large source waits until it may go on."""

    name: str
    extent: slice
    order: list[str]
    goes_on: threading.Event

    def read(self) -> SampleBlock:
        self.order.append(self.name)
        assert self.goes_on.wait(PATIENCE)
        return SampleBlock([record_round()]).take(self.extent)

    def read_labels(self) -> NDArray[np.integer]:
        raise NotImplementedError


class NamedSource(FailingSource):
    """A source of `NamedPart`s."""

    def __init__(self, name: str, n_parts: int, folder: Path, order: list[str], goes_on: threading.Event) -> None:
        super().__init__(n_parts, folder)
        self._name, self._order, self._goes_on = name, order, goes_on

    def split(self) -> Sequence[NamedPart]:  # type: ignore[override]  # the engine takes any parts
        return [NamedPart(self._name, part.extent, self._order, self._goes_on) for part in super().split()]


async def test_parts_of_a_small_run_do_not_wait_for_all_parts_of_a_large_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_is_waiting, goes_on, order = threading.Event(), threading.Event(), list[str]()

    class NotingExecutor(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
            future = super().submit(fn, *args, **kwargs)
            if args[0].name == "small":
                small_is_waiting.set()
            return future

    monkeypatch.setattr(engines, "ThreadPoolExecutor", NotingExecutor)
    engine = Engine(Settings(executor="threads", compute_workers=1))
    sources = [NamedSource(name, n, tmp_path, order, goes_on) for name, n in (("large", 40), ("small", 2))]
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.compute(sources[0], OPTIONS, "d"))
        await to_thread.run_sync(wait_until, lambda: bool(order))
        group.create_task(engine.compute(sources[1], OPTIONS, "d"))
        assert await to_thread.run_sync(small_is_waiting.wait, PATIENCE)
        goes_on.set()
    engine.close()
    assert order.count("large") >= 40
    assert order.index("small") == 2  # after the part that was being read, and the next one


@pytest.mark.parametrize("n_parts", [1, 5])
@pytest.mark.parametrize(
    "error",
    [StoreDamaged("2 of 3 fields are missing; restore a backup"), StoreUnavailable("it took too long; try again")],
    ids=lambda error: error.code,
)
async def test_errors_come_from_a_process_as_they_were_raised(
    processes: Engine, tmp_path: Path, n_parts: int, error: MildError
) -> None:
    with pytest.raises(type(error)) as raised:
        await processes.compute(FailingSource(n_parts, tmp_path, error=error), OPTIONS, "d")
    assert (str(raised.value), raised.value.code) == (str(error), error.code)


def find_workers(pid: int) -> list[int]:
    """Find the processes that compute for a service."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda ending: ending.name)
def test_processes_end_with_the_service_and_say_nothing(
    store_url: str, settings: Settings, ending: signal.Signals
) -> None:
    variables = {
        "MILD_STORE_URL": store_url,
        "MILD_STORE_NAMESPACE": settings.store_namespace,
        "MILD_EXECUTOR": "processes",
        "MILD_LOG_LEVEL": "warning",
    }
    command = ["env", *(f"{name}={value}" for name, value in variables.items())]
    with ExitStack() as stack:
        service = subprocess.Popen(
            [*command, sys.executable, "-m", "mild_service.cli", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        stack.callback(service.kill)
        assert service.stdout is not None
        url = service.stdout.readline().split()[-1]
        wait_until(lambda: len(find_workers(service.pid)) == 2, "processes that start with the service")
        workers = find_workers(service.pid)
        if ending is signal.SIGTERM:  # the others may end processes that are still loading their modules
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                client.put("/runs/a", json={"num_samples": 500}).raise_for_status()
                put_epochs(client, "a", recording(500, 12))
                client.get("/selection/a").raise_for_status()
        if ending is signal.SIGINT:
            os.killpg(service.pid, ending)  # as a terminal does
        else:
            service.send_signal(ending)
        _, printed = service.communicate(timeout=PATIENCE)
    assert "Traceback" not in printed
    assert ending is signal.SIGKILL or not printed  # the tracker of shared resources says that it frees semaphores
    wait_until(lambda: not any(map(is_running, workers)), "processes that end with the service")


def draw_run() -> tuple[RoundBits, Annotations]:
    """A round of three chunks, observed in part, with labels and an audit."""
    rng = np.random.default_rng(0)
    noisy = rng.random(N) < 0.3
    correct, observed = [], []
    for epoch in range(8):
        correct.append(bitmap.pack(rng.random(N) < np.where(noisy, 0.05, min(0.3 + 0.2 * epoch, 0.98))))
        observed.append(bitmap.pack(rng.random(N) < 0.8))
    bits = RoundBits(N, np.stack(correct) & np.stack(observed), np.stack(observed))
    checked = np.sort(rng.choice(N, 600, replace=False))
    return bits, Annotations(rng.integers(0, 3, N), Audit.from_marks(checked.tolist(), (~noisy[checked]).tolist(), N))


async def store_run(store: Store, bits: RoundBits, annotations: Annotations) -> Run:
    run, _ = await store.runs.open(RunSpec("large", N, num_classes=3, ttl_seconds=600))
    assert annotations.labels is not None
    assert annotations.audit is not None
    assert bits.observed is not None
    await store.annotations.put_labels(run, annotations.labels)
    run = await store.runs.get("large")
    await store.annotations.put_audit(run, annotations.audit)
    for epoch, (correct, observed) in enumerate(zip(bits.correct, bits.observed, strict=True)):
        packed = PackedEpoch.from_bits(EpochBits(N, correct, observed))
        await store.epochs.commit(run, 0, epoch, packed, 1, False)
    return await store.runs.get("large")


ALL_OPTIONS = [SelectionOptions(per_class=True), SelectionOptions(audit="fit"), SelectionOptions(metric="forgetting")]


@pytest.mark.parametrize(("url", "executor"), [("store_url", "processes"), ("cluster_url", "threads")])
async def test_a_large_run_is_read_by_parts(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch, url: str, executor: str
) -> None:
    monkeypatch.setattr(stored_samples, "PART_BYTES", 1)
    bits, annotations = draw_run()
    store = Store(settings, request.getfixturevalue(url))
    computer = make_computer(store, Settings(executor=executor))
    run = await store_run(store, bits, annotations)
    for options in ALL_OPTIONS:
        evidence = await computer.evidence.gather(run, 0, options)
        assert len((await computer.evidence.open_samples(evidence)).split()) == 3
        _, computed = await computer.compute(evidence)
        expected = select([bits], options, annotations)
        np.testing.assert_array_equal(computed.bitmap, expected.bitmap)
        assert 0 < expected.n_selected < N
    await computer.aclose()
    await store.aclose()


async def test_a_part_is_sent_without_what_is_known_of_the_other_samples(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_samples, "PART_BYTES", 1)
    bits, annotations = draw_run()
    run = await store_run(store, bits, annotations)
    computer = make_computer(store, settings)
    samples = await computer.evidence.open_samples(await computer.evidence.gather(run, 0, ALL_OPTIONS[1]))
    assert samples.annotations.audit is not None
    sizes = [len(pickle.dumps(part)) for part in replace(samples, members=bitmap.full(N)).split()]
    assert sum(sizes) < 2 * bitmap.n_bytes(N) + 3 * 4096
    assert sizes[-1] < 4096
    await computer.aclose()


async def test_a_run_that_is_deleted_in_the_middle_is_not_found(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = await store.runs.open(RunSpec("a", 500, ttl_seconds=600))
    for number, body in enumerate(recording(500, 6)):
        await store.epochs.commit(run, 0, number, PackedEpoch.from_bits(EpochBits.from_body(body, 500)), 1, False)
    computer = make_computer(store, settings)
    open_samples = computer.evidence.open_samples

    async def open_and_delete(evidence: Evidence) -> StoredSamples:
        samples = await open_samples(evidence)
        await store.runs.delete("a", run.uid)
        return samples

    monkeypatch.setattr(computer.evidence, "open_samples", open_and_delete)
    with pytest.raises(RunNotFound, match="'a'"):
        await computer.compute(await computer.evidence.gather(run, 0, OPTIONS))
    await computer.aclose()
