"""The parts that both executors share: address and headers of the service, retries, and errors of responses."""

import contextlib
import functools
import ipaddress
import logging
import math
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, TypeVar, cast

import anyio
import httpx

from mild_client import errors
from mild_client.compatibility import VERSION
from mild_client.errors import ClientError, IntermediaryError, ServiceError, ServiceUnreachable
from mild_client.requests import Call, Request, build_digest_header
from mild_core.errors import ParameterError, get_reason

logger = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of the service after which the same request may succeed."""
_SERVICE_HEADER = "Mild-API"
"""Header of every response of the service; a response without it comes from a proxy, a portal or another service."""
_PROBLEM = "application/problem+json"
_LONGEST_RETRY_AFTER = 60.0
"""Seconds that are waited at most because of ``Retry-After``: a training waits, and the header may name years."""

_ERROR_CLASSES = {401: errors.NotAllowed, 403: errors.NotAllowed, 404: errors.NotFound, 409: errors.Conflict}
_CLIENT_VARIABLES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
    *(name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (proxy, proxy.lower())),
)
"""Variables of the environment that httpx reads."""
_HEADERS = {"User-Agent": f"mild-client/{VERSION}", "Accept-Encoding": "gzip"}


@dataclass(frozen=True, slots=True)
class Retry:
    """When to repeat a failed request; every request of this client is idempotent.

    Attributes
    ----------
    deadline
        Seconds after the first attempt, after which no further attempt begins.
    first_deadline
        The same until the first response to this client: long enough for a service that is starting, and short
        enough to report a wrong address.
    first_pause, longest_pause
        Seconds of the first and of the longest pause. The length doubles with each failure. The pause itself is drawn
        from 0 to this length, so that clients that failed at the same time do not all retry at the same time.
    sleep, async_sleep, clock, jitter
        Functions that pause, return the time in seconds, and draw a random number in 0..1; replaceable for tests.
    """

    deadline: float = 120.0
    first_deadline: float = 5.0
    first_pause: float = 0.2
    longest_pause: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    async_sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def draw_pause(self, n_failures: int, retry_after: float) -> float:
        """Draw the seconds to wait after `n_failures`, at least the `retry_after` seconds of the response."""
        longest: float = min(self.longest_pause, self.first_pause * 2 ** min(n_failures - 1, 32))
        return retry_after + longest * self.jitter()


Outcome: TypeAlias = httpx.Response | httpx.RequestError
"""What came of an attempt to send a request."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause after a failed attempt: its seconds, and the outcome, of which a response is to be closed before."""

    seconds: float
    outcome: Outcome


T = TypeVar("T")

Steps: TypeAlias = Generator[Request | Pause, Outcome | None, T]
"""Generator that yields the requests to send and the pauses to make, and receives the outcome of each request."""


class Transport:
    """Address of the service, headers of every request, and the settings of retries.

    Parameters
    ----------
    url
        The service's address.
    retry
        When to repeat a request, and when to give up.
    api_key
        API key to send. None takes the key in ``MILD_API_KEY``, if that is set.
    """

    def __init__(self, url: str, retry: Retry, api_key: str | None = None) -> None:
        self.url = _normalise_url(url)
        self.retry = retry
        self.has_answered = False
        self._headers = {**_HEADERS, **build_authorization_header(api_key)}

    def build_request(
        self,
        http: httpx.Client | httpx.AsyncClient,
        request: Request,
        content: bytes | Iterator[bytes] | AsyncIterator[bytes] | None,
        headers: Mapping[str, str] = {},
    ) -> httpx.Request:
        """Return a request of `http` with the headers of this client, of `request`, of its content, and `headers`."""
        if isinstance(content, bytes):
            headers = build_digest_header([content])
        timeout = httpx.Timeout(http.timeout)
        if request.read_timeout is not None:
            timeout.read = request.read_timeout
        return http.build_request(
            request.method,
            self.url + request.path,
            params=dict(request.params) or None,
            headers={**self._headers, **request.headers, **headers},
            content=content,
            timeout=timeout,
        )

    def run_call(self, call: Call[T], deadline: float | None = None) -> Steps[T]:
        """Return the steps of a call; `deadline` in seconds overrides that of `Retry` for each of its requests."""
        advance: Callable[[], Request] = functools.partial(next, call)
        while True:
            try:
                request = advance()
            except StopIteration as stop:
                return cast("T", stop.value)
            try:
                advance = functools.partial(call.send, (yield from self.try_request(request, deadline)))
            except ClientError as error:
                advance = functools.partial(call.throw, error)

    def try_request(self, request: Request, deadline: float | None = None) -> Steps[httpx.Response]:
        """Return the steps of one request: its attempts and the pauses in between, until it succeeds.

        They end with an error of the client if the request must not be repeated, or the deadline has passed.
        """
        retry, started, n_attempts = self.retry, self.retry.clock(), 0
        while True:
            outcome = yield request
            assert outcome is not None, "only a pause has no outcome"
            n_attempts += 1
            failure: ServiceError | ServiceUnreachable | None = None
            if isinstance(outcome, httpx.Response):
                failure = find_failure(outcome)
                if not isinstance(failure, IntermediaryError):
                    self.has_answered = True
                if failure is None:
                    return outcome
                if isinstance(failure, ServiceError) and failure.status not in RETRIED_STATUSES:
                    raise failure
                reason, retry_after = str(failure), parse_retry_after(outcome)
            else:
                reason, retry_after = _describe_error(outcome), 0.0
            limit = deadline
            if limit is None:
                limit = retry.deadline if self.has_answered else retry.first_deadline
            seconds = retry.draw_pause(n_attempts, retry_after)
            if retry.clock() - started + seconds > limit:
                raise failure or ServiceUnreachable(
                    f"{request.method} {self.url}{request.path} got no answer in {n_attempts} tries over "
                    f"{retry.clock() - started:.0f} s ({reason}), the deadline is {limit:g} s; "
                    "check that the service runs and that the address is right"
                )
            if n_attempts == 1:
                problem = "does not answer" if failure is None else "cannot serve now"
                until = "until it does" if limit == math.inf else f"for {limit:g} s"
                logger.warning("%s %s (%s); trying %s", self.url, problem, reason, until)
            yield Pause(seconds, outcome)

    def draw_reconnect_delay(self, retry_seconds: float) -> float:
        """Draw the seconds to wait before reconnecting, between `retry_seconds` and twice that.

        The random part spreads the reconnects of several clients.
        """
        return retry_seconds * (1 + self.retry.jitter())


def build_http_options(url: str, timeout: float) -> dict[str, Any]:
    """Return the arguments of the httpx client for the service at `url`.

    A service on this machine is never reached through a proxy, whatever ``HTTP_PROXY`` and ``ALL_PROXY`` say.

    Parameters
    ----------
    url
        The service's address.
    timeout
        Seconds that one response may take; connecting may take 5.
    """
    options: dict[str, Any] = {"timeout": httpx.Timeout(timeout, connect=5.0)}
    parts = httpx.URL(url)
    if is_loopback(parts.host):
        options["trust_env"] = False
        if parts.scheme == "https":  # certificates of the environment, which trust_env would have read
            options["verify"] = httpx.create_ssl_context(trust_env=True)
    return options


@contextlib.contextmanager
def explain_environment() -> Iterator[None]:
    """Raise ParameterError if an HTTP client cannot be created with the proxies and certificates of the environment."""
    try:
        yield
    except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:
        names = [name for name in _CLIENT_VARIABLES if os.environ.get(name)]
        settings = ", ".join(f"{name}={os.environ[name]!r}" for name in names if "PROXY" not in name.upper())
        proxies = ", ".join(name for name in names if "PROXY" in name.upper())  # their values may hold passwords
        raise ParameterError(
            f"no HTTP client can be made from the environment ({get_reason(error)}); correct or unset "
            f"{', '.join(filter(None, (settings, proxies))) or 'its proxies and certificates'}"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: ``localhost``, a name below it, a loopback address or 0.0.0.0."""
    try:
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def build_authorization_header(api_key: str | None) -> dict[str, str]:
    """Return the header with `api_key`, or with the key in ``MILD_API_KEY``; empty if neither is set."""
    key = (api_key or os.environ.get("MILD_API_KEY", "")).strip()
    if not key:
        return {}
    if not all("!" <= character <= "~" for character in key):
        raise ParameterError(
            "the API key holds a character that is not printable ASCII, or a space; give the key alone, as it was "
            "issued"
        )
    return {"Authorization": f"Bearer {key}"}


def find_failure(response: httpx.Response) -> ServiceError | IntermediaryError | None:
    """Return the error of a response; None if the service has done what was asked for.

    Only a problem document of the service (RFC 9457) is a `ServiceError`. Whatever else comes, of any status, was
    written by something in between, such as a proxy or a login page, and says nothing about the request.
    """
    if response.is_success:
        is_own = _SERVICE_HEADER in response.headers and _is_whole(response)
        return None if is_own else make_intermediary_error(response)
    problem = _parse_problem(response)
    return make_intermediary_error(response) if problem is None else _make_service_error(response, problem)


def _make_service_error(response: httpx.Response, problem: Mapping[str, Any]) -> ServiceError:
    """Convert a problem document of the service into a ServiceError."""
    status, code = response.status_code, str(problem["type"]).rpartition("/")[2]
    return _choose_error_class(status, code)(
        code=code,
        status=status,
        detail=str(problem.get("detail") or problem.get("title") or code),
        retryable=bool(problem.get("retryable", status in RETRIED_STATUSES)),
        request_id=problem.get("request_id") or response.headers.get("X-Request-Id"),
    )


def make_intermediary_error(response: httpx.Response) -> IntermediaryError:
    """Make the error for a response that the service did not write, or that was cut or changed on its way."""
    status, request = response.status_code, response.request
    is_changed = response.is_success and _SERVICE_HEADER in response.headers
    author = "the service, cut or changed on its way" if is_changed else "something between here and the service"
    location = f", and leads to {response.headers['Location']}" if "Location" in response.headers else ""
    body = f": {response.text[:100]!r}" if response.is_closed and response.content else ""
    return IntermediaryError(
        f"{request.method} {request.url} got an answer of status {status} by {author}{location}{body}; "
        f"{next(remedy for statuses, remedy in _REMEDIES if status in statuses)}",
        status,
    )


_REMEDIES: Sequence[tuple[Container[int], str]] = (
    (range(300, 400), "give the address that it leads to, if that is the service's, or sign in there"),
    ((401, 403, 407, 511), "give the proxy or portal what it asks for, or have it let the service's requests through"),
    ((411, 413, 414, 431, 494), "have the proxy's limits on requests raised, or give an address that avoids it"),
    (range(500, 1000), "see in the proxy's log whether it reaches the service, and whether that runs"),
    (range(1000), f"check that the address is the service's, and that proxies pass the header {_SERVICE_HEADER} on"),
)
"""What helps against responses of an intermediary, by their status; the first match counts."""


def parse_retry_after(response: httpx.Response) -> float:
    """Return the seconds to wait by the header ``Retry-After``, a number or a date, from 0 to 60."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdecimal() else _parse_date(value) - _parse_date(response.headers["Date"])
    except (ValueError, KeyError, OverflowError):  # absent, or nothing that HTTP defines
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _parse_date(value: str) -> float:
    """Return the Unix time in seconds of a date in a header; raise ValueError if it is none."""
    return parsedate_to_datetime(value).timestamp()


def _is_whole(response: httpx.Response) -> bool:
    """Return whether a successful response may be whole and unchanged, or the beginning of a stream of events.

    HTTP itself shows that a body of declared length was cut; one of HTTP/1.0 without a length shows it only by what is
    in it.
    """
    headers, media_type = response.headers, _parse_media_type(response)
    if response.status_code == httpx.codes.NO_CONTENT:
        return True
    if not response.is_closed:
        return media_type == "text/event-stream"
    if "Content-Length" in headers or "Transfer-Encoding" in headers or media_type != "application/json":
        return True
    try:
        response.json()
    except ValueError:
        return False
    return True


def _parse_media_type(response: httpx.Response) -> str:
    """Return the media type of a response, without its parameters."""
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _parse_problem(response: httpx.Response) -> Mapping[str, Any] | None:
    """Return the problem document of a response; None if it has none of the service."""
    if _parse_media_type(response) != _PROBLEM:
        return None
    try:
        problem = response.json()
    except ValueError:
        return None
    is_own = isinstance(problem, dict) and str(problem.get("type", "")).startswith("/problems/")
    return problem if is_own else None


def _choose_error_class(status: int, code: str) -> type[ServiceError]:
    if code == "stale-attempt":
        return errors.StaleAttempt
    if status in RETRIED_STATUSES or status >= 500:
        return errors.Unavailable
    return _ERROR_CLASSES.get(status, errors.BadRequest)


def _normalise_url(url: str) -> str:
    """Return `url` without a trailing slash; raise ParameterError if it is not the address of a service."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ParameterError(
            f"url is {url!r}; give one with http:// or https:// and a host, such as http://localhost:8000"
        )
    if parts.query or parts.fragment:
        service = parts.copy_with(query=None, fragment=None)
        raise ParameterError(f"url is {url!r}; give it without what follows the '?' or '#', such as {service}")
    return str(url).rstrip("/")


def _describe_error(error: httpx.RequestError) -> str:
    """Return the error message without its number, such as ``connection refused``, or the class of the error."""
    message = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return message[0].lower() + message[1:] if message else type(error).__name__
