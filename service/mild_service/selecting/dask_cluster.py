"""A Dask cluster whose workers read and count the parts of large runs.

Only tasks and results pass through Dask; the workers read the bits from the store themselves.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, TypeVar

from mild_service.concurrency import BoundedExecutor
from mild_service.errors import ConfigurationError, WorkersUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PACKAGE = "mild-selection"
_ATTEMPTS = 3
_CONNECT_SECONDS = 10.0
_SCHEMES = {"dask": "tcp", "dask+tls": "tls"}


class DaskCluster:
    """Runs work with the workers of a Dask cluster. Nothing is sent before the first work.

    Parameters
    ----------
    url
        Address of the scheduler, ``dask://host:port``, or ``dask+tls://host:port`` with the certificates of Dask's own
        configuration.
    """

    def __init__(self, url: str) -> None:
        if find_spec("distributed") is None:
            raise ConfigurationError(
                f"MILD_EXECUTOR is {url} and Dask is not installed; pip install 'mild-selection[dask]', or set "
                "MILD_EXECUTOR=processes"
            )
        scheme, _, host = url.partition("://")
        self._address = f"{_SCHEMES[scheme]}://{host}"
        self._lock = threading.Lock()
        self._client: Any = None
        self._is_closed = False

    def run(self, work: Callable[[Executor], T]) -> T:
        """Return the result of `work`, which gets an executor; repeat it where the cluster was lost on the way.

        A task whose worker is lost is repeated by Dask on another one.
        """
        from distributed.comm.core import CommClosedError  # loaded where it is used: an extra, of 60 MB
        from distributed.scheduler import KilledWorker, NoValidWorkerError

        reason = ""
        for _ in range(_ATTEMPTS):
            client = None
            try:
                client = self._connect()
                _check_versions(client)
                executor = _ClusterExecutor(client)
                try:
                    return work(BoundedExecutor(executor, max(1, sum(client.nthreads().values()))))
                finally:
                    executor.shutdown(wait=False)
            except (OSError, CancelledError, CommClosedError) as error:
                reason = f"the scheduler does not answer ({type(error).__name__})"
            except KilledWorker:
                reason = "the workers end, probably for want of memory"
            except NoValidWorkerError:
                reason = "the workers are gone"
            except RuntimeError as error:  # a client that was closed, by another selection or at the end
                if client is not None and client.status == "running":
                    raise
                reason = str(error)
            logger.warning("the Dask cluster at %s was lost: %s", self._address, reason)
            self._drop(client)
        raise WorkersUnavailable(
            f"the Dask cluster at {self._address} failed {_ATTEMPTS} times in a row, {reason}; start it again, or set "
            "MILD_EXECUTOR=processes"
        )

    def close(self) -> None:
        """Disconnect; work that is going on ends with `WorkersUnavailable`."""
        with self._lock:
            client, self._client, self._is_closed = self._client, None, True
        if client is not None:
            client.close()

    def _connect(self) -> Any:
        """Return the client, and connect where there is none."""
        from distributed import Client

        with self._lock:
            if self._is_closed:
                raise WorkersUnavailable("this service is shutting down; try again in a second")
            if self._client is None:
                self._client = Client(  # type: ignore[no-untyped-call]  # distributed's
                    self._address,
                    timeout=_CONNECT_SECONDS,
                    set_as_default=False,
                    direct_to_workers=True,  # results would pass through the scheduler otherwise
                    name="mild-service",
                )
            return self._client

    def _drop(self, client: Any) -> None:
        """Close a client that has lost its cluster, unless it was replaced."""
        with self._lock:
            if client is None or self._client is not client:
                return
            self._client = None
        client.close()


class _ClusterExecutor(Executor):
    """An executor of a client, whose tasks are refused by workers of another version: they may come at any time."""

    def __init__(self, client: Any) -> None:
        self._executor = client.get_executor(pure=False)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start one call."""
        future: Future[T] = self._executor.submit(partial(call_same_version, version(_PACKAGE), fn), *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what has not ended, unless it is waited for."""
        self._executor.shutdown(wait=wait and not cancel_futures)


def call_same_version(expected: str, fn: Callable[..., T], *args: Any) -> T:
    """Call a function on a worker, unless the worker has another version of the project."""
    if (worker_version := version(_PACKAGE)) != expected:
        raise _make_version_error(worker_version, expected)
    return fn(*args)


def _check_versions(client: Any) -> None:
    """Check that there are workers, and that they have the project in the version of this service."""
    versions: Mapping[str, str | Exception] = client.run(version, _PACKAGE, on_error="return")
    expected = version(_PACKAGE)
    if not versions:
        address = client.scheduler.address
        raise WorkersUnavailable(
            f"the Dask scheduler at {address} has 0 workers, at least 1 is needed; start one with `dask worker "
            f"{address} --nthreads 1`, or set MILD_EXECUTOR=processes"
        )
    for each in versions.values():
        if isinstance(each, PackageNotFoundError):
            raise _make_version_error("none", expected)
        if isinstance(each, str) and each != expected:
            raise _make_version_error(each, expected)


def _make_version_error(worker_version: str, expected: str) -> WorkersUnavailable:
    return WorkersUnavailable(
        f"a Dask worker has {_PACKAGE} {worker_version}, this service {expected}; install the same version on all "
        "workers (the service's image has both) and start them again, or set MILD_EXECUTOR=processes"
    )
