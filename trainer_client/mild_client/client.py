"""The HTTP clients of the service, blocking and asynchronous; both make the calls of `api.Calls`."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, ClassVar, Generic, Self

import httpx

from mild_client.api import Calls
from mild_client.blocking import convert_method, iterate_blocking, make_blocking, run_blocking
from mild_client.events import Event
from mild_client.run import Run, create_run
from mild_client.transport import AsyncConnections, BlockingConnections, H, Retry, Transport, normalise_url


class _Client(Generic[H]):
    """What both clients have in common; the parameters are those of `MildClient`."""

    _connections_class: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        url: str,
        http: H | None = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        self.url = normalise_url(url)
        self._connections = self._connections_class(self.url, http, timeout)
        self._transport = Transport(self.url, self._connections, retry or Retry(), api_key)


class MildClient(_Client[httpx.Client]):
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

    _connections_class = BlockingConnections

    @cached_property
    def _calls(self) -> Calls:
        return Calls(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless `http` was passed to the constructor."""
        run_blocking(self._connections.close())

    run = convert_method(create_run, Run, Run)
    open_run = make_blocking(Calls.open_run)
    list_runs = make_blocking(Calls.list_runs)
    get_run = make_blocking(Calls.get_run)
    patch_run = make_blocking(Calls.patch_run)
    delete_run = make_blocking(Calls.delete_run)
    put_labels = make_blocking(Calls.put_labels)
    put_sample_ids = make_blocking(Calls.put_sample_ids)
    sample_ids = make_blocking(Calls.sample_ids)
    put_audit = make_blocking(Calls.put_audit)
    audit = make_blocking(Calls.audit)
    draw_audit = make_blocking(Calls.draw_audit)
    get_draw = make_blocking(Calls.get_draw)
    put_planted = make_blocking(Calls.put_planted)
    planted = make_blocking(Calls.planted)
    put_members = make_blocking(Calls.put_members)
    members = make_blocking(Calls.members)
    put_epoch = make_blocking(Calls.put_epoch)
    put_shard = make_blocking(Calls.put_shard)
    get_round = make_blocking(Calls.get_round)
    get_epoch = make_blocking(Calls.get_epoch)
    put_metrics = make_blocking(Calls.put_metrics)
    log_predictions = make_blocking(Calls.log_predictions)
    post_records = make_blocking(Calls.post_records)
    push = make_blocking(Calls.push)
    finish = make_blocking(Calls.finish)
    selection = make_blocking(Calls.selection)
    selected = make_blocking(Calls.selected)
    fit = make_blocking(Calls.fit)
    sweep = make_blocking(Calls.sweep)
    evaluation = make_blocking(Calls.evaluation)
    scores = make_blocking(Calls.scores)
    sample = make_blocking(Calls.sample)
    suggestions = make_blocking(Calls.suggestions)
    select = make_blocking(Calls.select)
    events = convert_method(Calls.events, iterate_blocking, Iterator[Event])
    ready = make_blocking(Calls.ready)
    version = make_blocking(Calls.version)
    limits = make_blocking(Calls.limits)


class AsyncMildClient(_Client[httpx.AsyncClient], Calls):
    """`MildClient` for asyncio, with the same parameters and methods."""

    _connections_class = AsyncConnections
    run = create_run

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless `http` was passed to the constructor."""
        await self._connections.close()
