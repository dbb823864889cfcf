"""What the two drivers share: the service's address, every request's headers, and the judgement of its tries."""

import logging
import math
import re

import httpx

from mild_client.compatibility import VERSION
from mild_client.credentials import authorization
from mild_client.errors import ServiceError, ServiceUnreachable
from mild_client.flow import Request
from mild_client.problems import RETRIED, refusal, retry_after
from mild_client.retry import Retry
from mild_core.errors import ParameterError

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
