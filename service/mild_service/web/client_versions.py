"""What clients may rely on: the version of this interface, and the oldest of our clients that speaks it."""

import re

from mild_service.errors import ClientTooOld

API_VERSION = 1
OLDEST_CLIENT = "0.1.0"

_CLIENT = re.compile(r"mild-client/([0-9]{1,6}(?:\.[0-9]{1,6}){0,2})")


def check_client(agent: str) -> None:
    """Refuse one of our own clients that is too old to be understood, by its User-Agent; others are not judged.

    Raises
    ------
    ClientTooOld
        If it is.
    """
    found = _CLIENT.match(agent)
    if found and _parts(found[1]) < _parts(OLDEST_CLIENT):
        raise ClientTooOld(
            f"this is mild-client {found[1]}, the service understands {OLDEST_CLIENT} and newer ones; "
            "pip install --upgrade mild-selection"
        )


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
