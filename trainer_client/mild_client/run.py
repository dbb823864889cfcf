"""The handles of one run, blocking and asynchronous: the same calls (`run_calls`), run by two drivers."""

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, Self

import anyio

from mild_client.calls import Calls
from mild_client.drivers import AsyncDriver, Driver
from mild_client.methods import Awaiting, Blocking, awaiting, blocking
from mild_client.run_calls import RunCalls

P = ParamSpec("P")

_CLOSING_SECONDS = 5.0
"""How long the end of a ``with`` block tries to say how it ended."""


class _Place:
    """Where a run stands."""

    _calls: RunCalls

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self._calls.spec.run_id

    @property
    def round(self) -> int:
        """The open round."""
        return self._calls.round

    @property
    def epoch(self) -> int:
        """The next epoch's number."""
        return self._calls.epoch

    @property
    def attempt(self) -> int | None:
        """What this writer's requests are sent as; None before the run is open."""
        return self._calls.attempt


class Run(_Place, Blocking[RunCalls]):
    """One run, open within a ``with`` block; made by `MildClient.run`."""

    def __init__(self, driver: Driver, calls: RunCalls) -> None:
        self._driver = driver
        self._calls = calls

    def __enter__(self) -> Self:
        self._driver.run(self._calls.open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._driver.run(self._calls.close(error), _CLOSING_SECONDS)

    put_epoch = blocking(RunCalls.put_epoch)
    log_predictions = blocking(RunCalls.log_predictions)
    put_metrics = blocking(RunCalls.put_metrics)
    put_planted = blocking(RunCalls.put_planted)
    put_members = blocking(RunCalls.put_members)
    finish = blocking(RunCalls.finish)
    selection = blocking(RunCalls.selection)
    selected = blocking(RunCalls.selected)


class AsyncRun(_Place, Awaiting[RunCalls]):
    """One run, open within an ``async with`` block; made by `AsyncMildClient.run`."""

    def __init__(self, driver: AsyncDriver, calls: RunCalls) -> None:
        self._driver = driver
        self._calls = calls

    async def __aenter__(self) -> Self:
        await self._driver.run(self._calls.open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(2 * _CLOSING_SECONDS, shield=True):  # a task that is cancelled says so, too
            await self._driver.run(self._calls.close(error), _CLOSING_SECONDS)

    put_epoch = awaiting(RunCalls.put_epoch)
    log_predictions = awaiting(RunCalls.log_predictions)
    put_metrics = awaiting(RunCalls.put_metrics)
    put_planted = awaiting(RunCalls.put_planted)
    put_members = awaiting(RunCalls.put_members)
    finish = awaiting(RunCalls.finish)
    selection = awaiting(RunCalls.selection)
    selected = awaiting(RunCalls.selected)


def blocking_run(plan: Callable[Concatenate[Calls, P], RunCalls]) -> Callable[Concatenate[Blocking[Calls], P], Run]:
    """A method that makes a `Run` of what `plan` makes, with its parameters and documentation."""

    @functools.wraps(plan)
    def method(self: Blocking[Calls], /, *args: P.args, **kwargs: P.kwargs) -> Run:
        return Run(self._driver, plan(self._calls, *args, **kwargs))

    return method


def awaiting_run(
    plan: Callable[Concatenate[Calls, P], RunCalls],
) -> Callable[Concatenate[Awaiting[Calls], P], AsyncRun]:
    """A method that makes an `AsyncRun` of what `plan` makes, with its parameters and documentation."""

    @functools.wraps(plan)
    def method(self: Awaiting[Calls], /, *args: P.args, **kwargs: P.kwargs) -> AsyncRun:
        return AsyncRun(self._driver, plan(self._calls, *args, **kwargs))

    return method
