"""What a training job may set in its environment, and what holds without: modes, and where the spool is."""

import os
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from mild_core.errors import ParameterError

Mode: TypeAlias = Literal["online", "offline", "disabled"]

SPOOL_DIR = "mild-spool"
SPOOL_BYTES = 10 << 30


def mode(given: Mode | None) -> Mode:
    """The mode that was `given`, or else the one in ``MILD_MODE``, or else online.

    Raises
    ------
    ParameterError
        If it is none.
    """
    found = given or os.environ.get("MILD_MODE") or "online"
    for known in get_args(Mode):
        if found == known:
            chosen: Mode = known
            return chosen
    raise ParameterError(f"the mode is {found!r}; choose one of {', '.join(get_args(Mode))}")


def spool_dir(given: Path | None) -> Path:
    """The folder of all spools: the one `given`, or else that of ``MILD_SPOOL_DIR``, or else ``mild-spool``."""
    return given or Path(os.environ.get("MILD_SPOOL_DIR") or SPOOL_DIR)


def spool_bytes(given: int | None) -> int:
    """Bytes that one run may keep unsent: as `given`, or else ``MILD_SPOOL_BYTES``, or else 10 GiB.

    Raises
    ------
    ParameterError
        If it is no number of bytes.
    """
    found = str(given) if given is not None else os.environ.get("MILD_SPOOL_BYTES") or str(SPOOL_BYTES)
    if not found.isdecimal():
        raise ParameterError(f"the spool's limit is {found!r}; give a number of bytes, such as {SPOOL_BYTES}")
    return int(found)
