"""Which client this is, and whether the service still supports it."""

import logging
import re
from collections.abc import Mapping
from importlib.metadata import version

logger = logging.getLogger(__name__)

VERSION = version("mild-selection")


def warn_if_outdated(versions: Mapping[str, object]) -> None:
    """Log a warning where the service's oldest supported client is newer than this one."""
    oldest = str(versions.get("oldest_client", "0"))
    if _parts(oldest) > _parts(VERSION):
        logger.warning(
            "this is mild-selection %s, the service supports clients from %s on; install a newer one", VERSION, oldest
        )


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", version)[:3]]
