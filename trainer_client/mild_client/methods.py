"""Calls as methods: each with the parameters, documentation and result of its flow, run by the object's driver."""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from mild_client.drivers import AsyncDriver, Driver
from mild_client.events import Event, EventStream
from mild_client.flow import Flow

P = ParamSpec("P")
T = TypeVar("T")
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
