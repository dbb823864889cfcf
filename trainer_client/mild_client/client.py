"""The service's HTTP clients, blocking and asynchronous: the same calls (`calls`), run by two drivers."""

from types import TracebackType
from typing import Self

import httpx

from mild_client.api import Calls
from mild_client.executors import (
    AsyncDriver,
    Awaiting,
    Blocking,
    Driver,
    awaiting,
    awaiting_events,
    blocking,
    blocking_events,
)
from mild_client.run import awaiting_run, blocking_run, plan
from mild_client.transport import Link, Retry


class MildClient(Blocking[Calls]):
    """Speaks to one service. Usable as a context manager.

    Parameters
    ----------
    url
        The service's address, such as ``http://localhost:8000``.
    http
        Client to send through instead of an own one; it stays the caller's to close.
    retry
        When to give up.
    timeout
        Seconds that one answer may take.
    api_key
        Key to send; None takes the one in ``MILD_API_KEY``, if there is one.

    Raises
    ------
    ParameterError
        If `url` is no address of a web server, or the key cannot be sent.

    Notes
    -----
    A first failed try is logged as a warning, which without any logging set up appears on standard error. A wrong
    address is given up on soon (`Retry.first_deadline`): only a service that has answered once is waited for.
    """

    def __init__(
        self,
        url: str,
        http: httpx.Client | None = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        link = Link(url, retry or Retry(), api_key)
        self.url = link.url
        self._owned = http is None
        self._http = http or httpx.Client(timeout=_timeout(timeout))
        self._driver = Driver(link, self._http)
        self._calls = Calls()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless the HTTP client was given."""
        if self._owned:
            self._http.close()

    run = blocking_run(plan)
    open_run = blocking(Calls.open_run)
    list_runs = blocking(Calls.list_runs)
    get_run = blocking(Calls.get_run)
    patch_run = blocking(Calls.patch_run)
    delete_run = blocking(Calls.delete_run)
    put_labels = blocking(Calls.put_labels)
    put_sample_ids = blocking(Calls.put_sample_ids)
    sample_ids = blocking(Calls.sample_ids)
    put_audit = blocking(Calls.put_audit)
    audit = blocking(Calls.audit)
    put_planted = blocking(Calls.put_planted)
    planted = blocking(Calls.planted)
    put_members = blocking(Calls.put_members)
    members = blocking(Calls.members)
    put_epoch = blocking(Calls.put_epoch)
    put_shard = blocking(Calls.put_shard)
    get_round = blocking(Calls.get_round)
    get_epoch = blocking(Calls.get_epoch)
    put_metrics = blocking(Calls.put_metrics)
    log_predictions = blocking(Calls.log_predictions)
    post_records = blocking(Calls.post_records)
    push = blocking(Calls.push)
    finish = blocking(Calls.finish)
    selection = blocking(Calls.selection)
    selected = blocking(Calls.selected)
    fit = blocking(Calls.fit)
    sweep = blocking(Calls.sweep)
    evaluation = blocking(Calls.evaluation)
    scores = blocking(Calls.scores)
    sample = blocking(Calls.sample)
    suggestions = blocking(Calls.suggestions)
    select = blocking(Calls.select)
    events = blocking_events(Calls.events)
    ready = blocking(Calls.ready)
    version = blocking(Calls.version)
    limits = blocking(Calls.limits)


class AsyncMildClient(Awaiting[Calls]):
    """`MildClient` with awaited calls, for asyncio; the parameters and notes are the same."""

    def __init__(
        self,
        url: str,
        http: httpx.AsyncClient | None = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        link = Link(url, retry or Retry(), api_key)
        self.url = link.url
        self._owned = http is None
        self._http = http or httpx.AsyncClient(timeout=_timeout(timeout))
        self._driver = AsyncDriver(link, self._http)
        self._calls = Calls()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless the HTTP client was given."""
        if self._owned:
            await self._http.aclose()

    run = awaiting_run(plan)
    open_run = awaiting(Calls.open_run)
    list_runs = awaiting(Calls.list_runs)
    get_run = awaiting(Calls.get_run)
    patch_run = awaiting(Calls.patch_run)
    delete_run = awaiting(Calls.delete_run)
    put_labels = awaiting(Calls.put_labels)
    put_sample_ids = awaiting(Calls.put_sample_ids)
    sample_ids = awaiting(Calls.sample_ids)
    put_audit = awaiting(Calls.put_audit)
    audit = awaiting(Calls.audit)
    put_planted = awaiting(Calls.put_planted)
    planted = awaiting(Calls.planted)
    put_members = awaiting(Calls.put_members)
    members = awaiting(Calls.members)
    put_epoch = awaiting(Calls.put_epoch)
    put_shard = awaiting(Calls.put_shard)
    get_round = awaiting(Calls.get_round)
    get_epoch = awaiting(Calls.get_epoch)
    put_metrics = awaiting(Calls.put_metrics)
    log_predictions = awaiting(Calls.log_predictions)
    post_records = awaiting(Calls.post_records)
    push = awaiting(Calls.push)
    finish = awaiting(Calls.finish)
    selection = awaiting(Calls.selection)
    selected = awaiting(Calls.selected)
    fit = awaiting(Calls.fit)
    sweep = awaiting(Calls.sweep)
    evaluation = awaiting(Calls.evaluation)
    scores = awaiting(Calls.scores)
    sample = awaiting(Calls.sample)
    suggestions = awaiting(Calls.suggestions)
    select = awaiting(Calls.select)
    events = awaiting_events(Calls.events)
    ready = awaiting(Calls.ready)
    version = awaiting(Calls.version)
    limits = awaiting(Calls.limits)


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=5.0)
