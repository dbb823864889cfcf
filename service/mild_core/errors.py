"""Errors of the numerics and of the wire format.

::

    MildError
    ├── EmptySetError                  no sample can be kept, so there is no set to store
    └── InvalidInput (also a ValueError): the caller's data or parameters
        ├── BitmapLengthError          a body or bitmap of the wrong size
        ├── TrailingBitsError          padding bits past the last sample are set
        ├── CorrectNotObservedError    a correct bit without its observed bit
        ├── SampleIndexError           an index outside 0..num_samples-1
        ├── SampleIdError              an external id that is malformed, or a duplicate
        └── ParameterError             an option outside its range

Every error has a stable `code` (the service's ``/problems/<code>``) and a message that names the limit, the value
received and the remedy. This module does not depend on HTTP.
"""

import re
from typing import ClassVar


class MildError(Exception):
    """Base class of all errors that this project raises.

    Attributes
    ----------
    code
        Stable name of the error, as in the service's ``/problems/<code>``: by default the name of the class in lower
        case with hyphens, without "Error".
    title
        The error in a few words, the same for all errors of a class.
    retryable
        Whether the same call may succeed later.
    line
        Line (or row) of the record that caused the error, where the input is a log of records; else None.
    """

    code: str = "error"
    title: ClassVar[str] = "Error"
    retryable: bool = False
    line: int | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" not in vars(cls):
            cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__.removesuffix("Error")).lower()


class EmptySetError(MildError):
    """No sample can be kept, so there is no set to store; further epochs or other marks may change that."""

    title = "No sample can be kept"


class InvalidInput(MildError, ValueError):
    """The caller's data or parameters are invalid; the same request fails again."""

    title = "Invalid input"


class BitmapLengthError(InvalidInput):
    """A bitmap or an epoch body has the wrong number of bytes for its samples."""

    title = "Bitmap has the wrong length"


class TrailingBitsError(InvalidInput):
    """Padding bits after the last sample are not zero."""

    title = "Bits are set behind the last sample"


class CorrectNotObservedError(InvalidInput):
    """A sample is correct in an epoch in which it was not observed."""

    title = "Correct bit without its observed bit"


class SampleIndexError(InvalidInput):
    """A sample index lies outside the run."""

    title = "Sample index out of range"


class SampleIdError(InvalidInput):
    """An external sample id is malformed, too long or a duplicate; `line` is the line of the id."""

    title = "Sample id cannot be used"


class ParameterError(InvalidInput):
    """An option is unknown or outside its range."""

    code = "invalid-parameter"
    title = "Invalid parameter"


def get_reason(error: Exception) -> str:
    """Return the message of an error without its number and path; the text around it names the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def describe_os_error(error: OSError) -> str:
    """Return an error of the operating system as a message: the path, what happened, and the remedy."""
    path = f"{error.filename}: " if error.filename else ""
    return f"{path}{get_reason(error)}; check the path, its permissions and the space on its disk"
