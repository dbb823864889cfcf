"""A body on disk: for formats that are read from a file, with seeking, in a process of its own."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress

from mild_service.errors import Overloaded
from mild_service.ingest.blocks import Block, Texts
from mild_service.ingest.helper import Helper, Reading
from mild_service.ingest.lines import numbered
from mild_service.ingest.names import Names
from mild_service.ingest.records import Batch, Column, Limits, Rows, assemble, numbered_samples, samples_of


class SpoolReader:
    """Writes a body to a temporary file, and has it read when it has ended; a record's number is its row, from 1.

    Parameters
    ----------
    limits
        Of the log.
    form
        The format, as `Helper.read` knows it.
    helper
        Reads the file.

    Raises
    ------
    Overloaded
        If there is no room for the file, or no folder.
    """

    def __init__(self, limits: Limits, form: str, helper: Helper) -> None:
        self._limits = limits
        self._form = form
        self._helper = helper
        self._reading: Reading | None = None
        try:
            self._file = tempfile.TemporaryFile(prefix="mild-log-")  # noqa: SIM115  # closed by close
        except OSError as error:
            raise _no_room(error) from error

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Nothing yet."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _no_room(error) from error
        yield from ()

    def end(self) -> Iterator[Batch]:
        """All records."""
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        self._reading = self._helper.read(self._form, self._file, self._limits.names is not None)
        n_read = 0
        for block in self._reading.blocks():
            rows = Rows("row", numbered(n_read + 1, block.n_rows))
            yield assemble(rows, _columns(rows, block, self._limits.names), self._limits)
            n_read += block.n_rows

    def close(self) -> None:
        """Stop reading, and remove the file."""
        if self._reading is not None:
            self._reading.close()
        with suppress(OSError):  # what is still to be written finds no room
            self._file.close()


def _no_room(error: OSError) -> Overloaded:
    return Overloaded(
        f"the body could not be written to the service's temporary folder ({error.strerror or error}); try again "
        "later, send it as application/x-ndjson or text/csv, or have TMPDIR name a folder with more room"
    )


def _columns(rows: Rows, block: Block, ids: Names | None) -> dict[str, Column]:
    found = {}
    for name, column in block.columns.items():
        if isinstance(column, Column):
            found[name] = numbered_samples(rows, column, ids) if name == "sample" else column
        else:
            found[name] = samples_of(rows, _spelt(column), ids)
    return found


def _spelt(column: Texts) -> list[str | None]:
    if column.places is None:
        return column.texts
    texts = [*column.texts, None]
    return [texts[place] for place in column.places.tolist()]
