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
    OwnHttp,
    make_async_event_method,
    make_async_method,
    make_blocking_event_method,
    make_blocking_method,
)
from mild_client.run import create_run_calls, make_async_run_method, make_blocking_run_method
from mild_client.transport import Retry, Transport, build_http_options, explain_environment


class MildClient(BlockingCaller[Calls]):
    """Client of one service, and a context manager that closes its connections.

    Parameters
    ----------
    url
        The service's address, such as ``http://localhost:8000``.
    http
        HTTP client to use, which `close` leaves open. None creates one.
    retry
        When to repeat a request, and when to give up.
    timeout
        Seconds that one response may take.
    api_key
        API key to send. None takes the key in ``MILD_API_KEY``, if that is set.

    Raises
    ------
    ParameterError
        If `url` is not an HTTP address, the key has a character that a header cannot carry, or the environment names
        certificates or a proxy that cannot be used.

    Notes
    -----
    The first failed attempt of a request is logged as a warning. Until the service has answered once, requests give up
    after `Retry.first_deadline`, so that a wrong address fails soon. A forked process may use the client: it connects
    anew, unless `http` was passed, of which each process needs its own.
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
        with explain_environment():
            self._http = OwnHttp(lambda: http or httpx.Client(**build_http_options(transport.url, timeout)))
        self._executor = Executor(transport, self._http)
        self._calls = Calls()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless `http` was passed to the constructor."""
        if self._owns_http and not self._http.is_inherited:
            self._http.get().close()

    run = make_blocking_run_method(create_run_calls)
    open_run = make_blocking_method(Calls.open_run)
    list_runs = make_blocking_method(Calls.list_runs)
    get_run = make_blocking_method(Calls.get_run)
    patch_run = make_blocking_method(Calls.patch_run)
    delete_run = make_blocking_method(Calls.delete_run)
    put_labels = make_blocking_method(Calls.put_labels)
    put_sample_ids = make_blocking_method(Calls.put_sample_ids)
    sample_ids = make_blocking_method(Calls.sample_ids)
    put_audit = make_blocking_method(Calls.put_audit)
    audit = make_blocking_method(Calls.audit)
    draw_audit = make_blocking_method(Calls.draw_audit)
    get_draw = make_blocking_method(Calls.get_draw)
    put_planted = make_blocking_method(Calls.put_planted)
    planted = make_blocking_method(Calls.planted)
    put_members = make_blocking_method(Calls.put_members)
    members = make_blocking_method(Calls.members)
    put_epoch = make_blocking_method(Calls.put_epoch)
    put_shard = make_blocking_method(Calls.put_shard)
    get_round = make_blocking_method(Calls.get_round)
    get_epoch = make_blocking_method(Calls.get_epoch)
    put_metrics = make_blocking_method(Calls.put_metrics)
    log_predictions = make_blocking_method(Calls.log_predictions)
    post_records = make_blocking_method(Calls.post_records)
    push = make_blocking_method(Calls.push)
    finish = make_blocking_method(Calls.finish)
    selection = make_blocking_method(Calls.selection)
    selected = make_blocking_method(Calls.selected)
    fit = make_blocking_method(Calls.fit)
    sweep = make_blocking_method(Calls.sweep)
    evaluation = make_blocking_method(Calls.evaluation)
    scores = make_blocking_method(Calls.scores)
    sample = make_blocking_method(Calls.sample)
    suggestions = make_blocking_method(Calls.suggestions)
    select = make_blocking_method(Calls.select)
    events = make_blocking_event_method(Calls.events)
    ready = make_blocking_method(Calls.ready)
    version = make_blocking_method(Calls.version)
    limits = make_blocking_method(Calls.limits)


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
        with explain_environment():
            self._http = OwnHttp(lambda: http or httpx.AsyncClient(**build_http_options(transport.url, timeout)))
        self._executor = AsyncExecutor(transport, self._http)
        self._calls = Calls()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless `http` was passed to the constructor."""
        if self._owns_http and not self._http.is_inherited:
            await self._http.get().aclose()

    run = make_async_run_method(create_run_calls)
    open_run = make_async_method(Calls.open_run)
    list_runs = make_async_method(Calls.list_runs)
    get_run = make_async_method(Calls.get_run)
    patch_run = make_async_method(Calls.patch_run)
    delete_run = make_async_method(Calls.delete_run)
    put_labels = make_async_method(Calls.put_labels)
    put_sample_ids = make_async_method(Calls.put_sample_ids)
    sample_ids = make_async_method(Calls.sample_ids)
    put_audit = make_async_method(Calls.put_audit)
    audit = make_async_method(Calls.audit)
    draw_audit = make_async_method(Calls.draw_audit)
    get_draw = make_async_method(Calls.get_draw)
    put_planted = make_async_method(Calls.put_planted)
    planted = make_async_method(Calls.planted)
    put_members = make_async_method(Calls.put_members)
    members = make_async_method(Calls.members)
    put_epoch = make_async_method(Calls.put_epoch)
    put_shard = make_async_method(Calls.put_shard)
    get_round = make_async_method(Calls.get_round)
    get_epoch = make_async_method(Calls.get_epoch)
    put_metrics = make_async_method(Calls.put_metrics)
    log_predictions = make_async_method(Calls.log_predictions)
    post_records = make_async_method(Calls.post_records)
    push = make_async_method(Calls.push)
    finish = make_async_method(Calls.finish)
    selection = make_async_method(Calls.selection)
    selected = make_async_method(Calls.selected)
    fit = make_async_method(Calls.fit)
    sweep = make_async_method(Calls.sweep)
    evaluation = make_async_method(Calls.evaluation)
    scores = make_async_method(Calls.scores)
    sample = make_async_method(Calls.sample)
    suggestions = make_async_method(Calls.suggestions)
    select = make_async_method(Calls.select)
    events = make_async_event_method(Calls.events)
    ready = make_async_method(Calls.ready)
    version = make_async_method(Calls.version)
    limits = make_async_method(Calls.limits)
