"""The way of requests to the service: connections, headers of every request, and retries."""

import contextlib
import copy
import ipaddress
import logging
import math
import os
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import anyio.to_thread
import httpx

from mild_client.compatibility import VERSION
from mild_client.errors import IntermediaryError, ServiceError, ServiceUnreachable
from mild_client.events import Event, EventStream
from mild_client.requests import FileSlice, Request, build_digest_header
from mild_client.responses import RETRIED_STATUSES, find_failure, parse_retry_after
from mild_core.errors import ParameterError, get_reason

logger = logging.getLogger(__name__)

H = TypeVar("H", httpx.Client, httpx.AsyncClient)

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


class _Connections(Generic[H]):
    """The HTTP client of one process; a process that was forked gets its own, as two cannot share connections.

    Parameters
    ----------
    url
        The service's address.
    http
        HTTP client of the caller, who closes it and sees to forks; None to create one.
    timeout
        Seconds that one response may take.
    """

    _http_class: type[H]

    def __init__(self, url: str, http: H | None, timeout: float) -> None:
        self._options = url, timeout
        self._http: H = http or self._create_http()
        self._pid = os.getpid() if http is None else None
        """Process that has created the HTTP client; None for that of the caller."""

    def _create_http(self) -> H:
        """Create an HTTP client; raise ParameterError if the proxies or certificates of the environment forbid it."""
        try:
            return self._http_class(**build_http_options(*self._options))
        except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:
            names = [name for name in _CLIENT_VARIABLES if os.environ.get(name)]
            settings = ", ".join(f"{name}={os.environ[name]!r}" for name in names if "PROXY" not in name.upper())
            proxies = ", ".join(name for name in names if "PROXY" in name.upper())  # their values may hold passwords
            raise ParameterError(
                f"no HTTP client can be made from the environment ({get_reason(error)}); correct or unset "
                f"{', '.join(filter(None, (settings, proxies))) or 'its proxies and certificates'}"
            ) from error

    def get_http(self) -> H:
        """Return the HTTP client of this process; an inherited one is neither used nor closed."""
        if self._pid not in (None, os.getpid()):
            self._http, self._pid = self._create_http(), os.getpid()
        return self._http


class AsyncConnections(_Connections[httpx.AsyncClient]):
    """The connections of the asynchronous client."""

    _http_class = httpx.AsyncClient

    async def send(self, request: httpx.Request, stream: bool) -> httpx.Response:
        """Send a request, and return the response; with `stream`, the body of a successful one is unread."""
        response = await self.get_http().send(request, stream=stream)
        if not response.is_success:
            await response.aread()  # the body of a problem document, of a stream too
        return response

    async def open_file(self, body: FileSlice) -> tuple[dict[str, str], AsyncIterator[bytes]]:
        """Return the headers and the chunks of a body that is read from a file."""
        return await anyio.to_thread.run_sync(body.build_headers), body.aiter_chunks()

    def iter_bytes(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Iterate over the body of a response as it arrives."""
        return response.aiter_raw()

    async def close_response(self, response: httpx.Response) -> None:
        """Give the connection of a response back, whose body may be unread."""
        await response.aclose()

    async def sleep(self, retry: Retry, seconds: float) -> None:
        """Wait for some seconds."""
        await retry.async_sleep(seconds)

    async def close(self) -> None:
        """Close the connections that this process has opened, unless they are the caller's."""
        if self._pid == os.getpid():
            await self._http.aclose()


class BlockingConnections(_Connections[httpx.Client]):
    """The connections of the blocking client: `AsyncConnections`, whose coroutines never wait for an event loop."""

    _http_class = httpx.Client

    async def send(self, request: httpx.Request, stream: bool) -> httpx.Response:
        """Do what `AsyncConnections.send` does."""
        response = self.get_http().send(request, stream=stream)
        if not response.is_success:
            response.read()
        return response

    async def open_file(self, body: FileSlice) -> tuple[dict[str, str], Iterator[bytes]]:
        """Do what `AsyncConnections.open_file` does."""
        return body.build_headers(), body.iter_chunks()

    async def iter_bytes(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Do what `AsyncConnections.iter_bytes` does."""
        for chunk in response.iter_raw():
            yield chunk

    async def close_response(self, response: httpx.Response) -> None:
        """Do what `AsyncConnections.close_response` does."""
        response.close()

    async def sleep(self, retry: Retry, seconds: float) -> None:
        """Do what `AsyncConnections.sleep` does."""
        retry.sleep(seconds)

    async def close(self) -> None:
        """Do what `AsyncConnections.close` does."""
        if self._pid == os.getpid():
            self._http.close()


class Transport:
    """Sends the requests to one service, and repeats them as `Retry` says.

    Parameters
    ----------
    url
        The service's address.
    connections
        The connections, blocking or asynchronous.
    retry
        When to repeat a request, and when to give up.
    api_key
        API key to send. None takes the key in ``MILD_API_KEY``, if that is set.
    """

    def __init__(
        self, url: str, connections: AsyncConnections | BlockingConnections, retry: Retry, api_key: str | None
    ) -> None:
        self._url, self._connections, self._retry = url, connections, retry
        self._has_answered = False
        self._headers = {**_HEADERS, **build_authorization_header(api_key)}

    def with_deadline(self, seconds: float) -> Self:
        """Return a transport with the same connections, which gives up after `seconds`."""
        transport = copy.copy(self)
        transport._retry = replace(self._retry, deadline=seconds, first_deadline=seconds)
        return transport

    async def send(self, request: Request, stream: bool = False) -> httpx.Response:
        """Send a request until it succeeds, and return the response; with `stream`, its body is unread.

        Raises
        ------
        ServiceError
            If the service refuses the request, or cannot serve until the deadline has passed.
        ServiceUnreachable
            If there is no answer of the service until the deadline has passed.
        """
        retry, started, n_attempts = self._retry, self._retry.clock(), 0
        while True:
            n_attempts += 1
            failure: ServiceError | ServiceUnreachable | None = None
            try:
                response = await self._send_once(request, stream)
            except httpx.RequestError as error:
                reason, retry_after = _describe_error(error), 0.0
            else:
                failure = find_failure(response)
                self._has_answered |= not isinstance(failure, IntermediaryError)
                if failure is None:
                    return response
                await self._connections.close_response(response)
                if isinstance(failure, ServiceError) and failure.status not in RETRIED_STATUSES:
                    raise failure
                reason, retry_after = str(failure), parse_retry_after(response)
            limit = retry.deadline if self._has_answered else retry.first_deadline
            seconds = retry.draw_pause(n_attempts, retry_after)
            if retry.clock() - started + seconds > limit:
                raise failure or ServiceUnreachable(
                    f"{request.method} {self._url}{request.path} got no answer in {n_attempts} tries over "
                    f"{retry.clock() - started:.0f} s ({reason}), the deadline is {limit:g} s; "
                    "check that the service runs and that the address is right"
                )
            if n_attempts == 1:
                problem = "does not answer" if failure is None else "cannot serve now"
                until = "until it does" if limit == math.inf else f"for {limit:g} s"
                logger.warning("%s %s (%s); trying %s", self._url, problem, reason, until)
            await self._connections.sleep(retry, seconds)

    async def _send_once(self, request: Request, stream: bool) -> httpx.Response:
        """Send a request with the headers of this client, of the request, and of its content."""
        http, content, headers = self._connections.get_http(), request.content, dict[str, str]()
        chunks: bytes | Iterator[bytes] | AsyncIterator[bytes] | None = None
        if isinstance(content, FileSlice):
            headers, chunks = await self._connections.open_file(content)
        elif content is not None:
            headers, chunks = build_digest_header([content]), content
        timeout = httpx.Timeout(http.timeout)
        if request.read_timeout is not None:
            timeout.read = request.read_timeout
        built = http.build_request(
            request.method,
            self._url + request.path,
            params=dict(request.params) or None,
            headers={**self._headers, **request.headers, **headers},
            content=chunks,
            timeout=timeout,
        )
        return await self._connections.send(built, stream)

    async def iter_events(self, stream: EventStream) -> AsyncGenerator[Event, None]:
        """Iterate over the events of a stream, and reconnect after a lost connection.

        The random part of the pause before that spreads the reconnects of several clients.
        """
        while not stream.has_ended:
            response = await self.send(stream.build_connect_request(), stream=True)
            try:
                with contextlib.suppress(httpx.RequestError):
                    async for chunk in self._connections.iter_bytes(response):
                        for event in stream.feed(chunk):
                            yield event
            finally:
                await self._connections.close_response(response)
            if not stream.has_ended:
                await self._connections.sleep(self._retry, stream.retry_seconds * (1 + self._retry.jitter()))


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


def normalise_url(url: str) -> str:
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
