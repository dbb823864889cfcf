"""The calls about the service itself: its versions and limits, and bodies that keep within them."""

from collections.abc import Mapping

import httpx

from mild_client.compatibility import warn_if_outdated
from mild_client.errors import TooLarge
from mild_client.flow import Answer, Flow, Request
from mild_client.problems import unexpected

_SMALL_BYTES = 1024
"""Every service takes bodies of this size."""


class ServiceCalls:
    """Flows that know what the service takes."""

    def __init__(self) -> None:
        self._limits: Mapping[str, float] | None = None

    def ready(self) -> Flow[None]:
        """Return once the service and its store answer; the client's `Retry` says for how long to ask."""
        yield Request("GET", "/ready")

    def version(self) -> Flow[Answer]:
        """Return the service's versions and its published limits, in the wire's names."""
        versions = document((yield Request("GET", "/version")))
        if self._limits is None:
            warn_if_outdated(versions)
        self._limits = versions.get("limits", {})  # a service that publishes none says by refusing what is too much
        return versions

    def limits(self) -> Flow[Mapping[str, float]]:
        """Return the service's limits by name, such as ``max_body_bytes``; asked for once."""
        if self._limits is None:
            yield from self.version()
        return self._limits or {}

    def upload(self, request: Request) -> Flow[httpx.Response]:
        """Send a body that is of no use in parts, provided that the service takes one of its size."""
        assert isinstance(request.content, bytes)
        n_bytes = len(request.content)
        if n_bytes > _SMALL_BYTES:
            limits = yield from self.limits()
            limit = limits.get("max_body_bytes", n_bytes)
            if n_bytes > limit:
                raise TooLarge(
                    f"{request.method} {request.path} takes {n_bytes} bytes, this service takes bodies of {limit:.0f}; "
                    "have MILD_MAX_BODY_BYTES raised there, or send one epoch in several shards"
                )
        return (yield request)


def document(response: httpx.Response) -> Answer:
    """An answer's JSON object.

    Raises
    ------
    BadRequest
        If it is none (``unexpected-answer``).
    """
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise unexpected(response)
    return answer
