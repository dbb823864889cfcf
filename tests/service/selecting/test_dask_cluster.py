"""A Dask cluster computes the same selections, and what is lost or unfit on it is borne or named."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest

from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.errors import ConfigurationError, StoreDamaged, WorkersUnavailable
from mild_service.selecting import dask_cluster
from mild_service.selecting.dask_cluster import call_same_version
from mild_service.selecting.engine import Engine, compute_selection
from mild_service.store import codec, stored_samples
from tests.inprocess import running
from tests.service.recordings import put_epochs, recording
from tests.service.selecting.deadly import FailingSource, record_round

pytestmark = pytest.mark.anyio
OPTIONS = SelectionOptions()


class Scheduler:
    """A scheduler of Dask and its workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack, self.port = folder, ExitStack(), 0

    def start(self) -> "Scheduler":
        """Start the scheduler, again on the same port."""
        self._process = self._run("distributed.cli.dask_scheduler", "--no-dashboard", "--port", str(self.port))
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "Scheduler at:" in line:
                self.port = int(line.rsplit(":", 1)[1])
                return self
        raise AssertionError("the scheduler has not started")

    @property
    def url(self) -> str:
        """What the service is told."""
        return f"dask://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End the scheduler as a power cut would."""
        self._process.kill()
        self._process.wait()

    def add_worker(self) -> None:
        """Start a worker, whose nanny starts it again where it ends."""
        options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(self._folder)]
        process = self._run("distributed.cli.dask_worker", f"tcp://127.0.0.1:{self.port}", *options)
        assert process.stderr is not None
        for line in process.stderr:
            if "Registered to" in line:
                return
        raise AssertionError("the worker has not registered")

    def close(self) -> None:
        """End all processes."""
        self._stack.close()

    def _run(self, module: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", module, "--host", "127.0.0.1", *arguments]
        with (self._folder / "stderr").open("a") as log:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=log, text=True)
        self._stack.enter_context(process)
        self._stack.callback(process.terminate)
        return process


@contextmanager
def engine(url: str) -> Iterator[Engine]:
    """An engine with a cluster."""
    made = Engine(Settings(executor=url, compute_workers=1))
    yield made
    made.disconnect()
    made.close()


@pytest.fixture
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """A scheduler without workers."""
    started = Scheduler(tmp_path_factory.mktemp("dask")).start()
    yield started
    started.close()


@pytest.mark.slow
async def test_a_cluster_gives_what_the_core_gives_and_bears_losses(scheduler: Scheduler, tmp_path: Path) -> None:
    with engine(scheduler.url) as used:
        with pytest.raises(WorkersUnavailable, match=r"has 0 workers.*dask worker tcp://"):
            await used.compute(FailingSource(5, tmp_path), OPTIONS, "d")
        scheduler.add_worker()
        expected = compute_selection(FailingSource(5, tmp_path), OPTIONS, "d")
        np.testing.assert_array_equal(expected.bitmap, select([record_round()]).bitmap)
        lost = await used.compute(FailingSource(5, tmp_path, n_deaths=1), OPTIONS, "d")
        assert len(list(tmp_path.iterdir())) == 1  # noqa: ASYNC240
        np.testing.assert_array_equal(lost.bitmap, expected.bitmap)
        assert (lost.summary, lost.fit) == (expected.summary, expected.fit)
        with pytest.raises(StoreDamaged, match="2 of 3 fields"):
            await used.compute(FailingSource(5, tmp_path, error=StoreDamaged("2 of 3 fields")), OPTIONS, "d")
        scheduler.kill()
        scheduler.start()
        scheduler.add_worker()
        again = await used.compute(FailingSource(5, tmp_path), OPTIONS, "d")
        np.testing.assert_array_equal(again.bitmap, expected.bitmap)


@pytest.mark.slow
def test_workers_read_the_parts_of_a_large_run_from_the_store(
    scheduler: Scheduler, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_samples, "PART_BYTES", 1)
    scheduler.add_worker()
    n_samples = codec.CHUNK_SAMPLES + 999
    bodies = recording(n_samples, 6)
    app = create_app(settings.model_copy(update={"executor": scheduler.url, "compute_workers": 1}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": n_samples}).raise_for_status()
        put_epochs(service, "a", bodies)
        answer = service.get("/selection/a", headers={"Accept": "application/octet-stream"}).raise_for_status()
    bits = np.stack([np.frombuffer(body, dtype=np.uint8) for body in bodies])
    np.testing.assert_array_equal(np.frombuffer(answer.content, np.uint8), select([RoundBits(n_samples, bits)]).bitmap)


async def test_a_scheduler_that_is_not_there_is_named_and_small_runs_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "_CONNECT_SECONDS", 0.1)
    with engine("dask://127.0.0.1:9") as used:
        with pytest.raises(WorkersUnavailable, match=r"tcp://127.0.0.1:9 failed 3 times.*MILD_EXECUTOR=processes"):
            await used.compute(FailingSource(5, tmp_path), OPTIONS, "d")
        assert (await used.compute(FailingSource(1, tmp_path), OPTIONS, "d")).summary["num_selected"] > 0


def test_a_worker_of_another_version_computes_nothing() -> None:
    assert call_same_version(version("mild-selection"), max, 1, 2) == 2
    with pytest.raises(WorkersUnavailable, match=r"has mild-selection \S+, this service 0\.0\.0; install the same"):
        call_same_version("0.0.0", max, 1, 2)


@pytest.mark.parametrize("found", ["0.0.0", PackageNotFoundError()], ids=["other", "none"])
def test_a_cluster_with_another_version_is_refused(found: str | Exception) -> None:
    class Client:
        def run(self, *_: object, **__: object) -> dict[str, str | Exception]:
            return {"tcp://a:1": OSError("gone"), "tcp://b:2": found}

    with pytest.raises(WorkersUnavailable, match=r"has mild-selection (0\.0\.0|none), this service .*install the same"):
        dask_cluster._check_versions(Client())


def test_a_cluster_without_dask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_spec("distributed") is not None
    monkeypatch.setattr(dask_cluster, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mild-selection\[dask\]'"):
        dask_cluster.DaskCluster("dask://scheduler:8786")
