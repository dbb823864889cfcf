"""Executors, which run calls and do all I/O of the client, blocking or asynchronous."""

import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import anyio.to_thread
import httpx

from mild_client.errors import ClientError
from mild_client.events import Event, EventStream
from mild_client.requests import Call, CallSteps, FileSlice, Request
from mild_client.transport import Transport

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")
H = TypeVar("H")
C_co = TypeVar("C_co", covariant=True)


class OwnHttp(Generic[H]):
    """The HTTP client of one process; a process that was forked gets its own, as two cannot share connections.

    Parameters
    ----------
    create
        Function that creates the HTTP client; one that returns a client of the caller leaves forks to the caller.
    """

    def __init__(self, create: Callable[[], H]) -> None:
        self._create = create
        self._http, self._pid = create(), os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether the HTTP client was created by the parent of this process."""
        return self._pid != os.getpid()

    def get(self) -> H:
        """Return the HTTP client of this process; the inherited one is neither used nor closed."""
        if self.is_inherited:
            self._http, self._pid = self._create(), os.getpid()
        return self._http


class Executor:
    """Runs calls with blocking I/O, over an httpx.Client."""

    def __init__(self, transport: Transport, http: OwnHttp[httpx.Client]) -> None:
        self._transport = transport
        self._http = http

    def run(self, call: Call[T], deadline: float | None = None) -> T:
        """Send the requests of `call` and return its result; `deadline` in seconds overrides that of `Retry`."""
        steps = CallSteps(call)
        while (request := steps.next_request()) is not None:
            try:
                steps.set_response(self._send(request, deadline))
            except ClientError as error:
                steps.set_error(error)
        return steps.result

    def iter_events(self, stream: EventStream) -> Iterator[Event]:
        """Iterate over the events of a stream, and reconnect after a lost connection."""
        while not stream.has_ended:
            response = self._send(stream.build_connect_request(), stream=True)
            with contextlib.closing(response), contextlib.suppress(httpx.RequestError):
                for chunk in response.iter_raw():
                    yield from stream.feed(chunk)
            if not stream.has_ended:
                self._transport.retry.sleep(self._transport.draw_reconnect_delay(stream.retry_seconds))

    def _send(self, request: Request, deadline: float | None = None, stream: bool = False) -> httpx.Response:
        """Send a request until it succeeds or must not be repeated; with `stream`, leave the response body unread."""
        retry_state = self._transport.create_retry_state(request, deadline)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = self._http.get().send(self._build_request(request), stream=stream)
                if not outcome.is_success:
                    outcome.read()  # the body of a problem document, of a stream too
            except httpx.RequestError as error:
                outcome = error
            delay = retry_state.next_delay(outcome)
            if delay is None:
                assert isinstance(outcome, httpx.Response)
                return outcome
            if isinstance(outcome, httpx.Response):
                outcome.close()
            self._transport.retry.sleep(delay)

    def _build_request(self, request: Request) -> httpx.Request:
        content = request.content
        if isinstance(content, FileSlice):
            return _build_request(
                self._http.get(), self._transport, request, content.iter_chunks(), content.build_headers()
            )
        return _build_request(self._http.get(), self._transport, request, content, {})


class AsyncExecutor:
    """Runs calls with asynchronous I/O, over an httpx.AsyncClient."""

    def __init__(self, transport: Transport, http: OwnHttp[httpx.AsyncClient]) -> None:
        self._transport = transport
        self._http = http

    async def run(self, call: Call[T], deadline: float | None = None) -> T:
        """Send the requests of `call` and return its result; `deadline` in seconds overrides that of `Retry`."""
        steps = CallSteps(call)
        while (request := steps.next_request()) is not None:
            try:
                steps.set_response(await self._send(request, deadline))
            except ClientError as error:
                steps.set_error(error)
        return steps.result

    async def iter_events(self, stream: EventStream) -> AsyncIterator[Event]:
        """Iterate over the events of a stream, and reconnect after a lost connection."""
        while not stream.has_ended:
            response = await self._send(stream.build_connect_request(), stream=True)
            async with contextlib.aclosing(response):
                with contextlib.suppress(httpx.RequestError):
                    async for chunk in response.aiter_raw():
                        for event in stream.feed(chunk):
                            yield event
            if not stream.has_ended:
                await self._transport.retry.async_sleep(self._transport.draw_reconnect_delay(stream.retry_seconds))

    async def _send(self, request: Request, deadline: float | None = None, stream: bool = False) -> httpx.Response:
        """Send a request until it succeeds or must not be repeated; with `stream`, leave the response body unread."""
        retry_state = self._transport.create_retry_state(request, deadline)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = await self._http.get().send(await self._build_request(request), stream=stream)
                if not outcome.is_success:
                    await outcome.aread()  # the body of a problem document, of a stream too
            except httpx.RequestError as error:
                outcome = error
            delay = retry_state.next_delay(outcome)
            if delay is None:
                assert isinstance(outcome, httpx.Response)
                return outcome
            if isinstance(outcome, httpx.Response):
                await outcome.aclose()
            await self._transport.retry.async_sleep(delay)

    async def _build_request(self, request: Request) -> httpx.Request:
        content = request.content
        if isinstance(content, FileSlice):
            headers = await anyio.to_thread.run_sync(content.build_headers)
            return _build_request(self._http.get(), self._transport, request, content.aiter_chunks(), headers)
        return _build_request(self._http.get(), self._transport, request, content, {})


def _build_request(
    http: httpx.Client | httpx.AsyncClient,
    transport: Transport,
    request: Request,
    content: bytes | Iterator[bytes] | AsyncIterator[bytes] | None,
    headers: Mapping[str, str],
) -> httpx.Request:
    timeout = httpx.Timeout(http.timeout)
    if request.read_timeout is not None:
        timeout.read = request.read_timeout
    return http.build_request(
        request.method,
        transport.url + request.path,
        params=dict(request.params) or None,
        headers={**transport.build_headers(request), **headers},
        content=content,
        timeout=timeout,
    )


class BlockingCaller(Generic[C_co]):
    """Base of classes whose methods run the calls of `_calls` with blocking I/O."""

    _executor: Executor
    _calls: C_co


class AsyncCaller(Generic[C_co]):
    """Base of classes whose methods run the calls of `_calls` with asynchronous I/O."""

    _executor: AsyncExecutor
    _calls: C_co


def make_blocking_method(
    function: Callable[Concatenate[C, P], Call[T]],
) -> Callable[Concatenate[BlockingCaller[C], P], T]:
    """Make a method with the parameters and docstring of `function` that runs the call and returns its result."""

    @functools.wraps(function)
    def method(self: BlockingCaller[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._executor.run(function(self._calls, *args, **kwargs))

    return method


def make_async_method(
    function: Callable[Concatenate[C, P], Call[T]],
) -> Callable[Concatenate[AsyncCaller[C], P], Coroutine[Any, Any, T]]:
    """Make a coroutine method with the parameters and docstring of `function` that runs the call."""

    @functools.wraps(function)
    async def method(self: AsyncCaller[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._executor.run(function(self._calls, *args, **kwargs))

    return method


def make_blocking_event_method(
    function: Callable[Concatenate[C, P], EventStream],
) -> Callable[Concatenate[BlockingCaller[C], P], Iterator[Event]]:
    """Make a method with the parameters and docstring of `function` that iterates over its events."""

    @functools.wraps(function)
    def method(self: BlockingCaller[C], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        return self._executor.iter_events(function(self._calls, *args, **kwargs))

    return method


def make_async_event_method(
    function: Callable[Concatenate[C, P], EventStream],
) -> Callable[Concatenate[AsyncCaller[C], P], AsyncIterator[Event]]:
    """Make a method with the parameters and docstring of `function` that iterates asynchronously over its events."""

    @functools.wraps(function)
    def method(self: AsyncCaller[C], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return self._executor.iter_events(function(self._calls, *args, **kwargs))

    return method
