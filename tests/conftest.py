"""A real Valkey on a private socket for the whole session; every test keeps its keys under a name of its own."""

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.store.embedded import EmbeddedServer
from tests.cluster import local_cluster
from tests.inprocess import running

# The same examples every time, so that a change is judged by what it changes; `--hypothesis-profile=search` looks for
# new ones. How long one takes says more about what else the machine does than about it.
_UNTIMED = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.register_profile("same", _UNTIMED, derandomize=True)
hypothesis_settings.register_profile("search", _UNTIMED, max_examples=5_000)
hypothesis_settings.load_profile("same")

# As many workers as cores run the tests: a second thread of one of them, or of a process that it starts, would only
# take another's core. The workers are started after this is read.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # noqa: TID251 (the environment of others, no setting of ours)

# Processes of each service that a test starts would take longer to start than most tests; those of the engine ask for
# them.
os.environ.setdefault("MILD_EXECUTOR", "threads")  # noqa: TID251 (what a user sets)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--effort", type=int, default=1, help="times as many random examples, where there are any")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """How many times as many random examples a test of them tries as in a usual run."""
    return int(request.config.getoption("--effort"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """A service that is started in the test's process writes all logs to where stderr was then."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the session's Valkey. Nothing in it is ever flushed."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """Address of the session's cluster of six nodes, which nobody may harm."""
    with local_cluster() as cluster:
        yield cluster.url


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    """Settings of a service with a key space of its own."""
    return Settings(
        store_url=store_url, store_namespace=f"test-{secrets.token_hex(8)}", sweep_seconds=0, data_dir=tmp_path / "data"
    )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The application, not started."""
    return create_app(settings)


@pytest.fixture
def service(app: FastAPI) -> Iterator[httpx.Client]:
    """A synchronous client of the running application, in the process."""
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        yield client
