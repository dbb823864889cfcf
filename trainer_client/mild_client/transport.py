"""What the two drivers share: the service's address, every request's headers, and the judgement of its tries.

When to send a request again, and when to give up.

The API key that a client sends, and where it comes from.

From refusing answers to the error tree: problem documents (RFC 9457), and whatever else a proxy may send.
"""

import logging
import math
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import anyio
import httpx

from mild_client import errors
from mild_client.compatibility import VERSION
from mild_client.errors import ServiceError, ServiceUnreachable
from mild_client.requests import Request
from mild_core.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long to try again; every request of this client may be repeated without harm.

    Attributes
    ----------
    deadline
        Seconds from the first try after which no further one is begun.
    first_deadline
        The same for a client that never had an answer: long enough for a service that is just coming up, and short
        for an address that is wrong.
    first, largest
        Seconds of the first and of the longest pause; they double, and each is drawn from 0 to its length, so that
        clients that failed together do not return together.
    sleep, async_sleep, clock, jitter
        Injected by tests: pauses, tells the seconds, draws from 0..1.
    """

    deadline: float = 120.0
    first_deadline: float = 5.0
    first: float = 0.2
    largest: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    async_sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def pause(self, n_tries: int, asked: float) -> float:
        """Seconds to wait after `n_tries` failures, where the service asked for `asked` at least."""
        longest: float = min(self.largest, self.first * 2 ** min(n_tries - 1, 32))
        return asked + longest * self.jitter()


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that carries `api_key`, or else the key in ``MILD_API_KEY``; empty where there is neither.

    Raises
    ------
    ParameterError
        If the key cannot be sent in a header. The error does not show it.
    """
    key = (api_key or os.environ.get("MILD_API_KEY", "")).strip()
    if not key:
        return {}
    if not all("!" <= character <= "~" for character in key):
        raise ParameterError(
            "the API key holds a character that is not printable ASCII, or a space; give the key as it was made, alone"
        )
    return {"Authorization": f"Bearer {key}"}


RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""

_KINDS: Mapping[int, type[ServiceError]] = MappingProxyType(
    {
        401: errors.NotAllowed,
        403: errors.NotAllowed,
        404: errors.NotFound,
        409: errors.Conflict,
    }
)


def refusal(response: httpx.Response) -> ServiceError:
    """The typed error for a refusing answer, whether the service or something in between wrote it."""
    status = response.status_code
    problem = _document(response)
    code = str(problem.get("type", f"/problems/status-{status}")).rpartition("/")[2]
    detail = problem.get("detail") or f"{response.request.url} answered {status}: {response.text[:200]!r}"
    return _kind(status, code)(
        code=code,
        status=status,
        detail=str(detail),
        retryable=bool(problem.get("retryable", status in RETRIED)),
        request_id=problem.get("request_id") or response.headers.get("X-Request-Id"),
    )


def unexpected(response: httpx.Response) -> ServiceError:
    """The error for an answer that succeeds and is not the service's."""
    return errors.BadRequest(
        code="unexpected-answer",
        status=response.status_code,
        detail=f"{response.request.url} answered with {response.text[:200]!r}, which is no JSON object; "
        "check that the address is that of the selection service",
        retryable=False,
        request_id=response.headers.get("X-Request-Id"),
    )


def retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to wait; the header's date form counts as none."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def _document(response: httpx.Response) -> Mapping[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _kind(status: int, code: str) -> type[ServiceError]:
    if code == "stale-attempt":
        return errors.StaleAttempt
    if status in RETRIED or status >= 500:
        return errors.Unavailable
    return _KINDS.get(status, errors.BadRequest)


logger = logging.getLogger(__name__)

_HEADERS = {"User-Agent": f"mild-client/{VERSION}", "Accept-Encoding": "gzip"}


class Link:
    """The way to one service.

    Parameters
    ----------
    url
        The service's address.
    retry
        When to give up.
    api_key
        Key to send; None takes the one in ``MILD_API_KEY``, if there is one.

    Raises
    ------
    ParameterError
        If `url` is no address of a web server, or the key cannot be sent.
    """

    def __init__(self, url: str, retry: Retry, api_key: str | None = None) -> None:
        self.url = _checked(url)
        self.retry = retry
        self.has_answered = False
        self._headers = {**_HEADERS, **authorization(api_key)}

    def headers(self, request: Request) -> dict[str, str]:
        """All headers of a request but those of the connection."""
        return {**self._headers, **request.headers}

    def tries(self, request: Request, deadline: float | None = None) -> "Tries":
        """A fresh count of the tries of `request`."""
        return Tries(self, f"{request.method} {self.url}{request.path}", deadline)

    def away(self, pause: float) -> float:
        """Seconds to stay away where `pause` is asked for: drawn, as others were sent away with this client."""
        return pause * (1 + self.retry.jitter())


class Tries:
    """The tries of one request: says of each one's outcome whether it stands."""

    def __init__(self, link: Link, what: str, deadline: float | None) -> None:
        self._link = link
        self._what = what
        self._given = deadline
        self._started = link.retry.clock()
        self._n_tries = 0

    def judge(self, outcome: httpx.Response | httpx.TransportError) -> httpx.Response | float:
        """The answer, where it succeeds, or the seconds to wait before the next try.

        Raises
        ------
        ServiceError
            If the service refuses, and another try is no use or comes too late.
        ServiceUnreachable
            If there is no answer, and another try comes too late.
        """
        link, retry = self._link, self._link.retry
        self._n_tries += 1
        failure: ServiceError | ServiceUnreachable
        asked = 0.0
        if isinstance(outcome, httpx.Response):
            link.has_answered = True
            if outcome.is_success:
                return outcome
            failure = refusal(outcome)
            if outcome.status_code not in RETRIED:
                raise failure
            trouble = f"cannot serve now ({failure})"
            asked = retry_after(outcome)
        else:
            reason = _reason(outcome)
            failure = ServiceUnreachable(
                f"{self._what} got no answer in {self._n_tries} tries over {retry.clock() - self._started:.0f} s "
                f"({reason}), the deadline is {self._deadline:g} s; "
                "check that the service runs and that the address is right"
            )
            trouble = f"does not answer ({reason})"
        pause = retry.pause(self._n_tries, asked)
        if retry.clock() - self._started + pause > self._deadline:
            raise failure
        if self._n_tries == 1:
            until = "until it does" if self._deadline == math.inf else f"for {self._deadline:g} s"
            logger.warning("%s %s; trying %s", link.url, trouble, until)
        return pause

    @property
    def _deadline(self) -> float:
        if self._given is not None:
            return self._given
        return self._link.retry.deadline if self._link.has_answered else self._link.retry.first_deadline


def _checked(url: str) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ParameterError(
            f"url is {url!r}; give one with http:// or https:// and a host, such as http://localhost:8000"
        )
    return url.rstrip("/")


def _reason(error: httpx.TransportError) -> str:
    """What the system said, without its number, or else the kind of error: ``connection refused``."""
    said = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return said[0].lower() + said[1:] if said else type(error).__name__
