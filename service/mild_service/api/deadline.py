"""How long the service may work on a request before it gives up."""

import asyncio

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


def _end_if_expired(deadline: asyncio.Timeout) -> None:
    """End work that has outlived its cancellation: before Python 3.12 a task that is just sending may swallow it."""
    if deadline.expired():
        raise asyncio.CancelledError
