"""The version of the API, and the oldest client that it supports."""

import re

from mild_service.errors import ClientTooOld

API_VERSION = 1
OLDEST_CLIENT = "0.1.0"

_CLIENT_PATTERN = re.compile(r"mild-client/([0-9]{1,6}(?:\.[0-9]{1,6}){0,2})")


def check_client_version(user_agent: str) -> None:
    """Check that a User-Agent does not name an unsupported version of mild-client; other clients may have any."""
    match = _CLIENT_PATTERN.match(user_agent)
    if match and _parse_version(match[1]) < _parse_version(OLDEST_CLIENT):
        raise ClientTooOld(
            f"this is mild-client {match[1]}, the service supports {OLDEST_CLIENT} and newer ones; "
            "pip install --upgrade mild-selection"
        )


def _parse_version(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
