"""How a body is received: no more of it than the limit, and no slower than a working sender would send it.

How long the service may work on a request before it gives up.

How fast one key may ask: a bucket of tokens each, in this process.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service.config import Settings
from mild_service.errors import DeadlineExceeded
from mild_service.web import problems

_LONG = re.compile(r"^POST .*/(predictions|selection)$|^PUT .*/sample-ids$")
"""Routes that read a body piece by piece, and so may be sent long ones."""
_BITS = re.compile(r"/(epochs/[^/]+|shards/[^/]+|members|labels|audit|planted|finish)$")
"""Routes whose body grows with the run. All others take documents."""


class Reception:
    """Stops receiving a body at the limit, or when it trickles."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, setting = _limit(scope["method"], scope["path"], self._settings)
        length = Headers(scope=scope).get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        n_read, waited, complete = 0, 0.0, False

        async def bounded() -> Message:
            nonlocal n_read, waited, complete
            if complete:
                return await receive()  # for the end of the connection, which nobody hurries
            _check(max(announced, n_read), limit, setting)
            started = time.monotonic()
            message = await self._patiently(receive, n_read, waited)
            waited += time.monotonic() - started
            n_read += len(message.get("body", b""))
            _check(n_read, limit, setting)
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, bounded, send)

    async def _patiently(self, receive: Receive, n_read: int, waited: float) -> Message:
        """The next piece. A sender may pause, but on the whole it has to send at the least rate."""
        pause, rate = self._settings.body_pause_seconds, self._settings.min_body_rate
        try:
            async with asyncio.timeout(min(pause, pause + n_read / rate - waited)):
                return await receive()
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body stopped or trickled after {n_read} bytes; send it without pauses of more than {pause:g} s "
                f"(MILD_BODY_PAUSE_SECONDS), and at {rate} bytes a second or more (MILD_MIN_BODY_RATE)",
                {"Connection": "close"},
            ) from None


def _limit(method: str, path: str, settings: Settings) -> tuple[int, str]:
    """The most bytes that a route takes, and the setting that says so."""
    if _LONG.search(f"{method} {path}"):
        return settings.max_log_bytes, "MILD_MAX_LOG_BYTES"
    if _BITS.search(path) or settings.max_body_bytes <= settings.max_document_bytes:
        return settings.max_body_bytes, "MILD_MAX_BODY_BYTES"
    return settings.max_document_bytes, "MILD_MAX_DOCUMENT_BYTES"


def _check(n_bytes: int, limit: int, setting: str) -> None:
    if n_bytes > limit:
        raise HTTPException(
            413,
            f"the body has {n_bytes} bytes or more, at most {limit} are read; send less at once, "
            f"or have {setting} raised",
        )


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


_SWEEP = 10_000
"""From so many buckets on, full ones are thrown away: they are as good as new ones."""


class Buckets:
    """Token buckets by key.

    Parameters
    ----------
    rate
        Tokens per second that flow into a bucket; 0: nothing is counted.
    burst
        Tokens that a bucket holds.
    ticks
        A time that only goes forward, in seconds.
    """

    def __init__(self, rate: float, burst: int, ticks: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._burst = burst
        self._ticks = ticks
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Take a token; return 0, or, where there is none, the seconds until there is one."""
        if not self.rate:
            return 0.0
        now = self._ticks()
        level = self._level(name, now)
        if level < 1:
            return (1 - level) / self.rate
        if len(self._levels) >= _SWEEP:
            self._levels = {n: held for n, held in self._levels.items() if self._level(n, now) < self._burst}
        self._levels[name] = (level - 1, now)
        return 0.0

    def _level(self, name: str, now: float) -> float:
        level, then = self._levels.get(name, (float(self._burst), now))
        return min(self._burst, level + (now - then) * self.rate)
