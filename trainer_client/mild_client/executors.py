"""The two ways to run a flow: with an `httpx.Client`, or awaiting an `httpx.AsyncClient`. Nothing else does I/O.

Calls as methods: each with the parameters, documentation and result of its flow, run by the object's driver.
"""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import anyio.to_thread
import httpx

from mild_client.errors import ClientError
from mild_client.events import Event, EventStream
from mild_client.requests import FileSlice, Flow, Request, Steps
from mild_client.transport import Link

T = TypeVar("T")


class Driver:
    """Runs flows, and waits for their answers."""

    def __init__(self, link: Link, http: httpx.Client) -> None:
        self._link = link
        self._http = http

    def run(self, flow: Flow[T], deadline: float | None = None) -> T:
        """Send what `flow` yields, and return what it returns; `deadline` wins over that of `Retry`."""
        steps = Steps(flow)
        while (request := steps.request()) is not None:
            try:
                steps.answered(self._send(request, deadline))
            except ClientError as error:
                steps.failed(error)
        return steps.value

    def follow(self, stream: EventStream) -> Iterator[Event]:
        """Read events as they come, over as many connections as it takes."""
        while not stream.has_ended:
            response = self._send(stream.request(), stream=True)
            with contextlib.closing(response), contextlib.suppress(httpx.TransportError):
                for piece in response.iter_raw():
                    yield from stream.feed(piece)
            if not stream.has_ended:
                self._link.retry.sleep(self._link.away(stream.pause))

    def _send(self, request: Request, deadline: float | None = None, stream: bool = False) -> httpx.Response:
        tries = self._link.tries(request, deadline)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                response = self._http.send(self._built(request), stream=stream)
                if not response.is_success:
                    response.read()  # a stream's problem is no stream
                outcome = response
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
        steps = Steps(flow)
        while (request := steps.request()) is not None:
            try:
                steps.answered(await self._send(request, deadline))
            except ClientError as error:
                steps.failed(error)
        return steps.value

    async def follow(self, stream: EventStream) -> AsyncIterator[Event]:
        """Read events as they come, over as many connections as it takes."""
        while not stream.has_ended:
            response = await self._send(stream.request(), stream=True)
            async with contextlib.aclosing(response):
                with contextlib.suppress(httpx.TransportError):
                    async for piece in response.aiter_raw():
                        for event in stream.feed(piece):
                            yield event
            if not stream.has_ended:
                await self._link.retry.async_sleep(self._link.away(stream.pause))

    async def _send(self, request: Request, deadline: float | None = None, stream: bool = False) -> httpx.Response:
        tries = self._link.tries(request, deadline)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                response = await self._http.send(await self._built(request), stream=stream)
                if not response.is_success:
                    await response.aread()  # what is wrong, of a stream too
                outcome = response
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


P = ParamSpec("P")

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


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


def blocking_events(
    call: Callable[Concatenate[C, P], EventStream],
) -> Callable[Concatenate[Blocking[C], P], Iterator[Event]]:
    """A method that reads the stream of `call`, with its parameters and documentation."""

    @functools.wraps(call)
    def method(self: Blocking[C], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        return self._driver.follow(call(self._calls, *args, **kwargs))

    return method


def awaiting_events(
    call: Callable[Concatenate[C, P], EventStream],
) -> Callable[Concatenate[Awaiting[C], P], AsyncIterator[Event]]:
    """An asynchronous method that reads the stream of `call`, with its parameters and documentation."""

    @functools.wraps(call)
    def method(self: Awaiting[C], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return self._driver.follow(call(self._calls, *args, **kwargs))

    return method
