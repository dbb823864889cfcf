"""How a body is received: no more of it than the limit, and no slower than a working sender would send it."""

import asyncio
import re
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service.config import Settings

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
