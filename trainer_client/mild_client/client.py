"""The HTTP clients of the service, blocking and asynchronous; both run the calls of `api.Calls`."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

import httpx

from mild_client.api import Calls
from mild_client.executors import (
    AsyncCaller,
    AsyncExecutor,
    BlockingCaller,
    Executor,
    OwnHttp,
    make_event_method,
    make_method,
)
from mild_client.run import create_run_calls, make_run_method
from mild_client.transport import Retry, Transport, build_http_options, explain_environment

HttpT = TypeVar("HttpT", httpx.Client, httpx.AsyncClient)


class _Client(Generic[HttpT]):
    """What both clients have in common; the parameters are those of `MildClient`."""

    _http_class: type[HttpT]
    _executor_class: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        url: str,
        http: HttpT | None = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        transport = Transport(url, retry or Retry(), api_key)
        self.url = transport.url
        self._owns_http = http is None
        with explain_environment():
            self._http: OwnHttp[HttpT] = OwnHttp(lambda: http or self._create_http(timeout))
        self._executor = self._executor_class(transport, self._http)
        self._calls = Calls()

    def _create_http(self, timeout: float) -> HttpT:
        return self._http_class(**build_http_options(self.url, timeout))

    run = make_run_method(create_run_calls)
    open_run = make_method(Calls.open_run)
    list_runs = make_method(Calls.list_runs)
    get_run = make_method(Calls.get_run)
    patch_run = make_method(Calls.patch_run)
    delete_run = make_method(Calls.delete_run)
    put_labels = make_method(Calls.put_labels)
    put_sample_ids = make_method(Calls.put_sample_ids)
    sample_ids = make_method(Calls.sample_ids)
    put_audit = make_method(Calls.put_audit)
    audit = make_method(Calls.audit)
    draw_audit = make_method(Calls.draw_audit)
    get_draw = make_method(Calls.get_draw)
    put_planted = make_method(Calls.put_planted)
    planted = make_method(Calls.planted)
    put_members = make_method(Calls.put_members)
    members = make_method(Calls.members)
    put_epoch = make_method(Calls.put_epoch)
    put_shard = make_method(Calls.put_shard)
    get_round = make_method(Calls.get_round)
    get_epoch = make_method(Calls.get_epoch)
    put_metrics = make_method(Calls.put_metrics)
    log_predictions = make_method(Calls.log_predictions)
    post_records = make_method(Calls.post_records)
    push = make_method(Calls.push)
    finish = make_method(Calls.finish)
    selection = make_method(Calls.selection)
    selected = make_method(Calls.selected)
    fit = make_method(Calls.fit)
    sweep = make_method(Calls.sweep)
    evaluation = make_method(Calls.evaluation)
    scores = make_method(Calls.scores)
    sample = make_method(Calls.sample)
    suggestions = make_method(Calls.suggestions)
    select = make_method(Calls.select)
    events = make_event_method(Calls.events)
    ready = make_method(Calls.ready)
    version = make_method(Calls.version)
    limits = make_method(Calls.limits)


class MildClient(_Client[httpx.Client], BlockingCaller[Calls]):
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
    after `Retry.first_deadline`, so that a wrong address fails soon. A forked process may use the client: it opens
    its own connections, unless `http` was passed, of which each process needs its own.
    """

    _http_class = httpx.Client
    _executor_class = Executor

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


class AsyncMildClient(_Client[httpx.AsyncClient], AsyncCaller[Calls]):
    """`MildClient` for asyncio, with the same parameters and methods."""

    _http_class = httpx.AsyncClient
    _executor_class = AsyncExecutor

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
