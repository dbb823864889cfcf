"""Limits of a request: the size and speed of its body, the time until its response, and requests per key."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service.admission import Account, Admission, current_account, take_memory_now
from mild_service.api_keys import ANONYMOUS
from mild_service.config import Settings
from mild_service.errors import DeadlineExceeded
from mild_service.web import problems

UNACCOUNTED_BYTES = 64 * 1024
"""Bytes of a body that every request may have."""
PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Routes that are requested every few seconds: they are logged at the level DEBUG only, and answered without a turn."""
_LOG_ROUTES = re.compile(r"^POST .*/(predictions|selection)$|^PUT .*/sample-ids$")
"""Routes that process their body as a stream, so that it may be long."""
_BITMAP_ROUTES = re.compile(r"/(epochs/[^/]+|shards/[^/]+|members|labels|audit|planted|finish)$")
"""Routes whose body grows with the number of samples. All others take JSON documents."""


class HttpMiddleware:
    """Base class of middleware around HTTP requests; what else comes, as the lifespan, is passed on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle a request, or pass on what is none."""
        return (self.handle if scope["type"] == "http" else self._app)(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        raise NotImplementedError


class BodyLimits(HttpMiddleware):
    """Middleware that refuses a body that is larger than the limit of its route, or that is sent too slowly."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app)
        self._settings = settings

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        limit, setting = _find_size_limit(scope["method"], scope["path"], self._settings)
        is_log = setting == "MILD_MAX_LOG_BYTES"  # read as a stream
        length = Headers(scope=scope).get("content-length", "")
        declared = int(length) if length.isdecimal() else 0
        n_read, waited, complete = 0, 0.0, False

        async def receive_within_limits() -> Message:
            nonlocal n_read, waited, complete
            if complete:
                return await receive()  # waits for the end of the connection
            _check_size(max(declared, n_read), limit, setting)
            started = time.monotonic()
            message = await self._receive_in_time(receive, n_read, waited)
            waited += time.monotonic() - started
            n_read += len(message.get("body", b""))
            _check_size(n_read, limit, setting)
            if n_read > UNACCOUNTED_BYTES and not is_log:
                take_memory_now(len(message.get("body", b"")))
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_within_limits, send)

    async def _receive_in_time(self, receive: Receive, n_read: int, waited: float) -> Message:
        """Return the next message, or raise the HTTP error 408 if the body pauses for too long or is too slow.

        Parameters
        ----------
        receive
            ASGI's function that returns the next message.
        n_read
            Bytes of the body so far.
        waited
            Seconds spent waiting for the body so far.
        """
        pause, rate = self._settings.body_pause_seconds, self._settings.min_body_rate
        try:
            async with asyncio.timeout(min(pause, pause + n_read / rate - waited)):
                return await receive()
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body stopped or slowed down after {n_read} bytes; send it without pauses of more than {pause:g} "
                f"s (MILD_BODY_PAUSE_SECONDS), and at {rate} bytes a second or more (MILD_MIN_BODY_RATE)",
                {"Connection": "close"},
            ) from None


def _find_size_limit(method: str, path: str, settings: Settings) -> tuple[int, str]:
    """Return the most bytes of a body that a route takes, and the name of the setting for it."""
    if _LOG_ROUTES.search(f"{method} {path}"):
        return settings.max_log_bytes, "MILD_MAX_LOG_BYTES"
    if _BITMAP_ROUTES.search(path) or settings.max_body_bytes <= settings.max_document_bytes:
        return settings.max_body_bytes, "MILD_MAX_BODY_BYTES"
    return settings.max_document_bytes, "MILD_MAX_DOCUMENT_BYTES"


def _check_size(n_bytes: int, limit: int, setting: str) -> None:
    """Raise the HTTP error 413 if a body exceeds its limit, which is set by `setting`."""
    if n_bytes > limit:
        raise HTTPException(
            413,
            f"the body has {n_bytes} bytes or more, at most {limit} are read; send less at once, "
            f"or have {setting} raised",
        )


_PIECE_BYTES = 64 * 1024
"""Most bytes that are handed to the connection at a time, so that a reader who does not read is noticed."""


class Accounting(HttpMiddleware):
    """Middleware that accounts what a request takes to its key, or to its address, until the response has been sent.

    A request works in its turn, which ends when the response starts, and pauses while it waits for the body. Probes
    need no turn.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        super().__init__(app)
        self._admission = admission

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        caller, client = scope["state"]["caller"], scope.get("client")
        key = caller.key_id if caller is not ANONYMOUS else f"address:{client[0] if client else ''}"
        account = Account(self._admission, key)
        complete = False

        async def receive_between_turns() -> Message:
            nonlocal complete
            had_turn = not complete and account.end_turn()
            message = await receive()
            complete = not message.get("more_body", False)
            if had_turn:
                await account.begin_turn(is_new=False)
            return message

        async def send_in_pieces(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.end_turn()
                length = Headers(raw=message.get("headers", [])).get("content-length")
                if length is not None:  # the body is complete: nothing else is in use while it is sent
                    account.keep_only(int(length))
                await send(message)
                return
            body = message.get("body", b"")
            for start in range(0, len(body) - _PIECE_BYTES, _PIECE_BYTES):
                await send({**message, "body": body[start : start + _PIECE_BYTES], "more_body": True})
            last = max(0, -(-len(body) // _PIECE_BYTES) - 1) * _PIECE_BYTES
            await send({**message, "body": body[last:]} if last else message)

        token = current_account.set(account)
        try:
            if scope["path"].removeprefix(scope.get("root_path", "")) not in PROBES:
                await account.begin_turn()
            await self._app(scope, receive_between_turns, send_in_pieces)
        finally:
            current_account.reset(token)
            account.close()


class Deadline(HttpMiddleware):
    """Middleware that cancels the work on a request after `seconds`.

    The clock does not run while the service waits for the body, and starts from zero with every message of the body.
    It stops when the response starts.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        super().__init__(app)
        self._seconds = seconds

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        response_started = False

        async def receive_untimed() -> Message:
            if response_started:
                return await receive()
            _end_if_expired(deadline)
            deadline.reschedule(None)
            message = await receive()
            deadline.reschedule(asyncio.get_running_loop().time() + self._seconds)
            return message

        async def send_untimed(message: Message) -> None:
            nonlocal response_started
            if not response_started:
                _end_if_expired(deadline)
                deadline.reschedule(None)
                response_started = True
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as deadline:
                with _cancel_repeatedly(deadline, self._seconds):
                    await self._app(scope, receive_untimed, send_untimed)
        except TimeoutError:
            if not deadline.expired():
                raise
            response = problems.make_problem_response(
                Request(scope),
                DeadlineExceeded,
                f"the service worked on this request for {self._seconds:g} s, which is the limit, and gave up; "
                "what it has written already stays, so send the same again, or have MILD_REQUEST_SECONDS raised",
            )
            await response(scope, receive, send)


@contextmanager
def _cancel_repeatedly(deadline: asyncio.Timeout, seconds: float) -> Iterator[None]:
    """Cancel the current task every `seconds` seconds from its deadline on, until it ends.

    Before Python 3.12 a task may lose its cancellation while it is sending, and would then run without a limit.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "a request is handled by a task"
    n_cancelled = 0
    timer: asyncio.TimerHandle

    def cancel_if_expired() -> None:
        nonlocal n_cancelled, timer
        if deadline.expired():
            task.cancel()
            n_cancelled += 1
        timer = loop.call_later(seconds, cancel_if_expired)

    timer = loop.call_later(2 * seconds, cancel_if_expired)
    try:
        yield
    finally:
        timer.cancel()
        for _ in range(n_cancelled):
            task.uncancel()  # the deadline itself undoes the first one


def _end_if_expired(deadline: asyncio.Timeout) -> None:
    """Raise `CancelledError` if the deadline has passed, for a task that has lost its first cancellation."""
    if deadline.expired():
        raise asyncio.CancelledError


_MAX_BUCKETS = 10_000
"""Number of buckets from which on full ones are removed: they are equal to new ones."""


class RateLimiter:
    """Limits how often each key asks, with a token bucket in this process.

    The pools of `admission` limit what requests hold at the same time, which is given back; a token never is.

    Parameters
    ----------
    rate
        Tokens that are added to a bucket per second; 0 turns the limit off.
    burst
        Most tokens in a bucket.
    clock
        Returns a monotonic time in seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take_token(self, key_id: str) -> float:
        """Take a token from the bucket of a key.

        Returns
        -------
        float
            0 if there was a token, else the seconds until there will be one.
        """
        if not self.rate:
            return 0.0
        now = self._clock()
        level = self._count_tokens(key_id, now)
        if level < 1:
            return (1 - level) / self.rate
        if len(self._buckets) >= _MAX_BUCKETS:
            self._buckets = {
                key: level for key, level in self._buckets.items() if self._count_tokens(key, now) < self._burst
            }
        self._buckets[key_id] = (level - 1, now)
        return 0.0

    def _count_tokens(self, key_id: str, now: float) -> float:
        """Return the tokens in the bucket of a key at the time `now`."""
        level, since = self._buckets.get(key_id, (float(self._burst), now))
        return min(self._burst, level + (now - since) * self.rate)
