"""How long the service may work on a request before it gives up."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service.api import problems
from mild_service.errors import DeadlineExceeded


class Deadline:
    """Ends the work on a request that takes too long.

    The time that the sender takes for its body does not count, every piece of it starts the clock anew; and what has
    begun to be answered may go on for as long as it likes.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = False

        async def unhurried() -> Message:
            if answering:
                return await receive()
            _end_if_expired(deadline)
            deadline.reschedule(None)
            message = await receive()
            deadline.reschedule(asyncio.get_running_loop().time() + self._seconds)
            return message

        async def sending(message: Message) -> None:
            nonlocal answering
            if not answering:
                _end_if_expired(deadline)
                deadline.reschedule(None)
                answering = True
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as deadline:
                with _insisting(deadline, self._seconds):
                    await self._app(scope, unhurried, sending)
        except TimeoutError:
            if not deadline.expired():
                raise
            response = problems.answer(
                Request(scope),
                DeadlineExceeded,
                f"the service worked on this request for {self._seconds:g} s, which is the limit, and gave up; "
                "what it has written already stays, so send the same again, or have MILD_REQUEST_SECONDS raised",
            )
            await response(scope, receive, send)


@contextmanager
def _insisting(deadline: asyncio.Timeout, seconds: float) -> Iterator[None]:
    """Cancel the work every so many seconds once its deadline has passed, as long as it goes on.

    Before Python 3.12 a task that is just sending may swallow its cancellation, and would go on without any limit.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "a request is handled by a task"
    n_more = 0
    looking: asyncio.TimerHandle

    def look() -> None:
        nonlocal n_more, looking
        if deadline.expired():
            task.cancel()
            n_more += 1
        looking = loop.call_later(seconds, look)

    looking = loop.call_later(2 * seconds, look)
    try:
        yield
    finally:
        looking.cancel()
        for _ in range(n_more):
            task.uncancel()  # the deadline takes back its own one


def _end_if_expired(deadline: asyncio.Timeout) -> None:
    """End work that has outlived its cancellation as soon as it wants to go on."""
    if deadline.expired():
        raise asyncio.CancelledError
