"""The version of this client, and the check that the service supports it."""

import logging
import re
from collections.abc import Mapping
from importlib.metadata import version

logger = logging.getLogger(__name__)

VERSION = version("mild-selection")


def warn_if_outdated(versions: Mapping[str, object]) -> None:
    """Log a warning if this client is older than the oldest client in `versions`, those of the service."""
    oldest = str(versions.get("oldest_client", "0"))
    if _parse_version(oldest) > _parse_version(VERSION):
        logger.warning(
            "this is mild-selection %s, the service supports clients from %s on; install a newer one", VERSION, oldest
        )


def _parse_version(version: str) -> list[int]:
    """Return the first three numbers of a version."""
    return [int(part) for part in re.findall(r"[0-9]+", version)[:3]]
