"""The two ways to run a flow: with an `httpx.Client`, or awaiting an `httpx.AsyncClient`. Nothing else does I/O."""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import anyio.to_thread
import httpx

from mild_client.errors import ClientError
from mild_client.file_slice import FileSlice
from mild_client.flow import Flow, Request
from mild_client.link import Link

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


class Driver:
    """Runs flows, and waits for their answers."""

    def __init__(self, link: Link, http: httpx.Client) -> None:
        self._link = link
        self._http = http

    def run(self, flow: Flow[T], deadline: float | None = None) -> T:
        """Send what `flow` yields, and return what it returns; `deadline` wins over that of `Retry`."""
        step: Callable[[], Request] = functools.partial(next, flow)
        while True:
            try:
                request = step()
            except StopIteration as end:
                value: T = end.value
                return value
            try:
                step = functools.partial(flow.send, self._send(request, deadline))
            except ClientError as error:
                step = functools.partial(flow.throw, error)

    def _send(self, request: Request, deadline: float | None) -> httpx.Response:
        tries = self._link.tries(request, deadline)
        while True:
            try:
                outcome: httpx.Response | httpx.TransportError = self._http.send(self._built(request))
            except httpx.TransportError as error:
                outcome = error
            verdict = tries.judge(outcome)
            if isinstance(verdict, httpx.Response):
                return verdict
            self._link.retry.sleep(verdict)

    def _built(self, request: Request) -> httpx.Request:
        content = request.content
        if isinstance(content, FileSlice):
            return _built(self._http, self._link, request, content.pieces(), content.headers())
        return _built(self._http, self._link, request, content, {})


class AsyncDriver:
    """Runs flows, and awaits their answers."""

    def __init__(self, link: Link, http: httpx.AsyncClient) -> None:
        self._link = link
        self._http = http

    async def run(self, flow: Flow[T], deadline: float | None = None) -> T:
        """Send what `flow` yields, and return what it returns; `deadline` wins over that of `Retry`."""
        step: Callable[[], Request] = functools.partial(next, flow)
        while True:
            try:
                request = step()
            except StopIteration as end:
                value: T = end.value
                return value
            try:
                step = functools.partial(flow.send, await self._send(request, deadline))
            except ClientError as error:
                step = functools.partial(flow.throw, error)

    async def _send(self, request: Request, deadline: float | None) -> httpx.Response:
        tries = self._link.tries(request, deadline)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.send(await self._built(request))
            except httpx.TransportError as error:
                outcome = error
            verdict = tries.judge(outcome)
            if isinstance(verdict, httpx.Response):
                return verdict
            await self._link.retry.async_sleep(verdict)

    async def _built(self, request: Request) -> httpx.Request:
        content = request.content
        if isinstance(content, FileSlice):
            headers = await anyio.to_thread.run_sync(content.headers)
            return _built(self._http, self._link, request, content.async_pieces(), headers)
        return _built(self._http, self._link, request, content, {})


class Blocking(Generic[C_co]):
    """Base of what has flows (`_calls`) and runs them blocking."""

    _driver: Driver
    _calls: C_co


class Awaiting(Generic[C_co]):
    """Base of what has flows (`_calls`) and runs them awaiting."""

    _driver: AsyncDriver
    _calls: C_co


def blocking(call: Callable[Concatenate[C, P], Flow[T]]) -> Callable[Concatenate[Blocking[C], P], T]:
    """A method that runs `call`, with its parameters, documentation and result."""

    @functools.wraps(call)
    def method(self: Blocking[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._driver.run(call(self._calls, *args, **kwargs))

    return method


def awaiting(
    call: Callable[Concatenate[C, P], Flow[T]],
) -> Callable[Concatenate[Awaiting[C], P], Coroutine[Any, Any, T]]:
    """An asynchronous method that runs `call`, with its parameters, documentation and result."""

    @functools.wraps(call)
    async def method(self: Awaiting[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._driver.run(call(self._calls, *args, **kwargs))

    return method


def _built(
    http: httpx.Client | httpx.AsyncClient,
    link: Link,
    request: Request,
    content: bytes | Iterator[bytes] | AsyncIterator[bytes] | None,
    headers: Mapping[str, str],
) -> httpx.Request:
    timeout = httpx.Timeout(http.timeout)
    if request.patience is not None:
        timeout.read = request.patience
    return http.build_request(
        request.method,
        link.url + request.path,
        params=dict(request.params) or None,
        headers={**link.headers(request), **headers},
        content=content,
        timeout=timeout,
    )
