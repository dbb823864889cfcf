"""Executors, which run calls and do all I/O of the client, and the methods that both clients make of calls."""

import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

import anyio.to_thread
import httpx

from mild_client.events import Event, EventStream
from mild_client.requests import Call, FileSlice, Request
from mild_client.transport import Outcome, Pause, Steps, Transport

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")
H = TypeVar("H")
R = TypeVar("R")
C_co = TypeVar("C_co", covariant=True)
C_contra = TypeVar("C_contra", contravariant=True)
BlockingT = TypeVar("BlockingT", covariant=True)
AsyncT = TypeVar("AsyncT", covariant=True)


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
        return self._take_steps(self._transport.run_call(call, deadline))

    def iter_events(self, stream: EventStream) -> Iterator[Event]:
        """Iterate over the events of a stream, and reconnect after a lost connection."""
        while not stream.has_ended:
            response = self._take_steps(self._transport.try_request(stream.build_connect_request()), stream=True)
            with contextlib.closing(response), contextlib.suppress(httpx.RequestError):
                for chunk in response.iter_raw():
                    yield from stream.feed(chunk)
            if not stream.has_ended:
                self._transport.retry.sleep(self._transport.draw_reconnect_delay(stream.retry_seconds))

    def _take_steps(self, steps: Steps[T], stream: bool = False) -> T:
        """Send the requests and make the pauses of `steps`, and return their result.

        With `stream`, leave the bodies of successful responses unread.
        """
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                return cast("T", stop.value)
            if isinstance(step, Pause):
                if isinstance(step.outcome, httpx.Response):
                    step.outcome.close()
                self._transport.retry.sleep(step.seconds)
            else:
                outcome = self._send(step, stream)

    def _send(self, request: Request, stream: bool) -> Outcome:
        http, body = self._http.get(), request.content
        try:
            if isinstance(body, FileSlice):
                built = self._transport.build_request(http, request, body.iter_chunks(), body.build_headers())
            else:
                built = self._transport.build_request(http, request, body)
            response = http.send(built, stream=stream)
            if not response.is_success:
                response.read()  # the body of a problem document, of a stream too
        except httpx.RequestError as error:
            return error
        return response


class AsyncExecutor:
    """Runs calls with asynchronous I/O, over an httpx.AsyncClient."""

    def __init__(self, transport: Transport, http: OwnHttp[httpx.AsyncClient]) -> None:
        self._transport = transport
        self._http = http

    async def run(self, call: Call[T], deadline: float | None = None) -> T:
        """Send the requests of `call` and return its result; `deadline` in seconds overrides that of `Retry`."""
        return await self._take_steps(self._transport.run_call(call, deadline))

    async def iter_events(self, stream: EventStream) -> AsyncIterator[Event]:
        """Iterate over the events of a stream, and reconnect after a lost connection."""
        while not stream.has_ended:
            response = await self._take_steps(self._transport.try_request(stream.build_connect_request()), stream=True)
            async with contextlib.aclosing(response):
                with contextlib.suppress(httpx.RequestError):
                    async for chunk in response.aiter_raw():
                        for event in stream.feed(chunk):
                            yield event
            if not stream.has_ended:
                await self._transport.retry.async_sleep(self._transport.draw_reconnect_delay(stream.retry_seconds))

    async def _take_steps(self, steps: Steps[T], stream: bool = False) -> T:
        """Send the requests and make the pauses of `steps`, as `Executor` does."""
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                return cast("T", stop.value)
            if isinstance(step, Pause):
                if isinstance(step.outcome, httpx.Response):
                    await step.outcome.aclose()
                await self._transport.retry.async_sleep(step.seconds)
            else:
                outcome = await self._send(step, stream)

    async def _send(self, request: Request, stream: bool) -> Outcome:
        http, body = self._http.get(), request.content
        try:
            if isinstance(body, FileSlice):
                headers = await anyio.to_thread.run_sync(body.build_headers)
                built = self._transport.build_request(http, request, body.aiter_chunks(), headers)
            else:
                built = self._transport.build_request(http, request, body)
            response = await http.send(built, stream=stream)
            if not response.is_success:
                await response.aread()  # the body of a problem document, of a stream too
        except httpx.RequestError as error:
            return error
        return response


class BlockingCaller(Generic[C_co]):
    """Base of classes whose methods run the calls of `_calls` with blocking I/O."""

    _executor: Executor
    _calls: C_co


class AsyncCaller(Generic[C_co]):
    """Base of classes whose methods run the calls of `_calls` with asynchronous I/O."""

    _executor: AsyncExecutor
    _calls: C_co


class Method(Protocol[C_contra, P, BlockingT, AsyncT]):
    """Type of a method that stands once for both kinds of callers, whose results differ."""

    @overload
    def __get__(self, caller: BlockingCaller[C_contra], owner: object, /) -> Callable[P, BlockingT]: ...
    @overload
    def __get__(self, caller: AsyncCaller[C_contra], owner: object, /) -> Callable[P, AsyncT]: ...
    @overload
    def __get__(self, caller: None, owner: object, /) -> Callable[Concatenate[Any, P], Any]: ...


def make_method(function: Callable[Concatenate[C, P], Call[T]]) -> Method[C, P, T, Coroutine[Any, Any, T]]:
    """Make a method with the parameters and docstring of `function` that runs the call and returns its result."""
    return wrap_calls(function, lambda caller, call: caller._executor.run(call))


def make_event_method(
    function: Callable[Concatenate[C, P], EventStream],
) -> Method[C, P, Iterator[Event], AsyncIterator[Event]]:
    """Make a method with the parameters and docstring of `function` that iterates over its events."""
    return wrap_calls(function, lambda caller, stream: caller._executor.iter_events(stream))


def wrap_calls(function: Callable[Concatenate[C, P], R], act: Callable[[Any, R], Any]) -> Method[C, P, Any, Any]:
    """Make a method with the parameters and docstring of `function`, a method of the caller's `_calls`.

    Parameters
    ----------
    function
        Returns a call, or whatever else `act` takes.
    act
        Takes the caller and the result of `function`, and returns the result of the method.
    """

    @functools.wraps(function)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return act(self, function(self._calls, *args, **kwargs))

    return cast("Method[C, P, Any, Any]", method)
