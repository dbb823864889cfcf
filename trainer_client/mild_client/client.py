"""The HTTP clients of the service, blocking and asynchronous; both run the calls of `api.Calls`."""

from types import TracebackType
from typing import Self

import httpx

from mild_client.api import Calls
from mild_client.executors import (
    AsyncCaller,
    AsyncExecutor,
    BlockingCaller,
    Executor,
    async_event_method,
    async_method,
    blocking_event_method,
    blocking_method,
)
from mild_client.run import async_run_method, blocking_run_method, plan_run
from mild_client.transport import Retry, Transport


class MildClient(BlockingCaller[Calls]):
    """Client of one service, and a context manager that closes its connections.

    Parameters
    ----------
    url
        The service's address, such as ``http://localhost:8000``.
    http
        HTTP client to use; it is not closed. None: create one.
    retry
        When to repeat a request, and when to give up.
    timeout
        Seconds that one response may take.
    api_key
        Key to send; None takes the one in ``MILD_API_KEY``, if it is set.

    Raises
    ------
    ParameterError
        If `url` is not an HTTP address, or the key cannot be sent.

    Notes
    -----
    The first failed attempt of a request is logged as a warning. A service that has never answered is waited for only
    until `Retry.first_deadline`, so that a wrong address fails soon.
    """

    def __init__(
        self,
        url: str,
        http: httpx.Client | None = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        transport = Transport(url, retry or Retry(), api_key)
        self.url = transport.url
        self._owns_http = http is None
        self._http = http or httpx.Client(timeout=_make_timeout(timeout))
        self._executor = Executor(transport, self._http)
        self._calls = Calls()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless `http` was passed."""
        if self._owns_http:
            self._http.close()

    run = blocking_run_method(plan_run)
    open_run = blocking_method(Calls.open_run)
    list_runs = blocking_method(Calls.list_runs)
    get_run = blocking_method(Calls.get_run)
    patch_run = blocking_method(Calls.patch_run)
    delete_run = blocking_method(Calls.delete_run)
    put_labels = blocking_method(Calls.put_labels)
    put_sample_ids = blocking_method(Calls.put_sample_ids)
    sample_ids = blocking_method(Calls.sample_ids)
    put_audit = blocking_method(Calls.put_audit)
    audit = blocking_method(Calls.audit)
    put_planted = blocking_method(Calls.put_planted)
    planted = blocking_method(Calls.planted)
    put_members = blocking_method(Calls.put_members)
    members = blocking_method(Calls.members)
    put_epoch = blocking_method(Calls.put_epoch)
    put_shard = blocking_method(Calls.put_shard)
    get_round = blocking_method(Calls.get_round)
    get_epoch = blocking_method(Calls.get_epoch)
    put_metrics = blocking_method(Calls.put_metrics)
    log_predictions = blocking_method(Calls.log_predictions)
    post_records = blocking_method(Calls.post_records)
    push = blocking_method(Calls.push)
    finish = blocking_method(Calls.finish)
    selection = blocking_method(Calls.selection)
    selected = blocking_method(Calls.selected)
    fit = blocking_method(Calls.fit)
    sweep = blocking_method(Calls.sweep)
    evaluation = blocking_method(Calls.evaluation)
    scores = blocking_method(Calls.scores)
    sample = blocking_method(Calls.sample)
    suggestions = blocking_method(Calls.suggestions)
    select = blocking_method(Calls.select)
    events = blocking_event_method(Calls.events)
    ready = blocking_method(Calls.ready)
    version = blocking_method(Calls.version)
    limits = blocking_method(Calls.limits)


class AsyncMildClient(AsyncCaller[Calls]):
    """`MildClient` for asyncio, with the same parameters and methods."""

    def __init__(
        self,
        url: str,
        http: httpx.AsyncClient | None = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        transport = Transport(url, retry or Retry(), api_key)
        self.url = transport.url
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(timeout=_make_timeout(timeout))
        self._executor = AsyncExecutor(transport, self._http)
        self._calls = Calls()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless `http` was passed."""
        if self._owns_http:
            await self._http.aclose()

    run = async_run_method(plan_run)
    open_run = async_method(Calls.open_run)
    list_runs = async_method(Calls.list_runs)
    get_run = async_method(Calls.get_run)
    patch_run = async_method(Calls.patch_run)
    delete_run = async_method(Calls.delete_run)
    put_labels = async_method(Calls.put_labels)
    put_sample_ids = async_method(Calls.put_sample_ids)
    sample_ids = async_method(Calls.sample_ids)
    put_audit = async_method(Calls.put_audit)
    audit = async_method(Calls.audit)
    put_planted = async_method(Calls.put_planted)
    planted = async_method(Calls.planted)
    put_members = async_method(Calls.put_members)
    members = async_method(Calls.members)
    put_epoch = async_method(Calls.put_epoch)
    put_shard = async_method(Calls.put_shard)
    get_round = async_method(Calls.get_round)
    get_epoch = async_method(Calls.get_epoch)
    put_metrics = async_method(Calls.put_metrics)
    log_predictions = async_method(Calls.log_predictions)
    post_records = async_method(Calls.post_records)
    push = async_method(Calls.push)
    finish = async_method(Calls.finish)
    selection = async_method(Calls.selection)
    selected = async_method(Calls.selected)
    fit = async_method(Calls.fit)
    sweep = async_method(Calls.sweep)
    evaluation = async_method(Calls.evaluation)
    scores = async_method(Calls.scores)
    sample = async_method(Calls.sample)
    suggestions = async_method(Calls.suggestions)
    select = async_method(Calls.select)
    events = async_event_method(Calls.events)
    ready = async_method(Calls.ready)
    version = async_method(Calls.version)
    limits = async_method(Calls.limits)


def _make_timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=5.0)
