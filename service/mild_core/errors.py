"""The error tree of the numerics and the wire format.

::

    MildError
    └── InvalidInput (also a ValueError): the caller's data or parameters
        ├── BitmapLengthError          a body or bitmap of the wrong size
        ├── TrailingBitsError          padding bits past the last sample are set
        ├── CorrectNotObservedError    a correct bit without its observed bit
        ├── SampleIndexError           an index outside 0..num_samples-1
        ├── SampleIdError              an external id that cannot be one, or is there twice
        └── ParameterError             an option outside its range

Every error carries a stable `code` (the service's ``/problems/<code>``) and a message that names the limit,
the value got and the remedy. Nothing here knows of HTTP.
"""

from typing import ClassVar


class MildError(Exception):
    """Base of every error that this project raises on purpose.

    `line` is the line (or row) of the record that is to blame, where the input is a log of records.
    """

    code: str = "error"
    title: ClassVar[str] = "Error"
    retryable: bool = False
    line: int | None = None


class InvalidInput(MildError, ValueError):
    """The caller's data or parameters cannot be used; sending the same again will fail again."""

    code = "invalid-input"
    title = "Invalid input"


class BitmapLengthError(InvalidInput):
    """A bitmap or an epoch body has the wrong number of bytes for its samples."""

    code = "bitmap-length"
    title = "Bitmap has the wrong length"


class TrailingBitsError(InvalidInput):
    """Padding bits behind the last sample are not zero."""

    code = "trailing-bits"
    title = "Bits are set behind the last sample"


class CorrectNotObservedError(InvalidInput):
    """A sample is marked correct in an epoch in which it was not observed."""

    code = "correct-not-observed"
    title = "Correct bit without its observed bit"


class SampleIndexError(InvalidInput):
    """A sample index lies outside the run."""

    code = "sample-index"
    title = "Sample index out of range"


class SampleIdError(InvalidInput):
    """An external sample id is empty, too long, or there twice; the problem's `line` says which."""

    code = "sample-id"
    title = "Sample id cannot be used"


class ParameterError(InvalidInput):
    """An option is unknown or outside its range."""

    code = "invalid-parameter"
    title = "Invalid parameter"
