"""Export of a run to one file, and import of such a file.

The file begins with the line ``mild-run 1`` and a line of JSON. Each field follows as the lengths of its key, name and
value (2, 2 and 8 bytes, big-endian), and then these three themselves. The file ends with three lengths of zero and the
SHA-256 of everything before it.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

import orjson

from mild_core.types import validate_run_id
from mild_service import __version__
from mild_service.errors import ArchiveDamaged
from mild_service.models import Run
from mild_service.store import RunField, Store
from mild_service.store.servers import SCHEMA_VERSION

_MAGIC = b"mild-run 1\n"
_LENGTHS = struct.Struct("!HHQ")
_MAX_VALUE_BYTES = 2**28
"""Most bytes of a value, far more than the largest has: a damaged length must not take all memory."""


async def export_run(store: Store, run_id: str, path: Path) -> int:
    """Write a run to a file, which appears only when it is complete.

    Parameters
    ----------
    store
        Store with the run.
    run_id
        Id of the run.
    path
        Path of the file.

    Returns
    -------
    int
        Size of the file in bytes.
    """
    if path.exists():  # noqa: ASYNC240  # a command, whose event loop does nothing else
        raise ArchiveDamaged(f"{path} exists; give another file, or remove it")
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.sha256()
    try:
        with part.open("wb") as file:

            def write(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            head = {"run_id": run_id, "schema": SCHEMA_VERSION, "version": __version__}
            write(_MAGIC + orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE))
            async for field in store.transfer.export_run(run_id):
                place = field.key.encode()
                write(_LENGTHS.pack(len(place), len(field.field), len(field.value)) + place + field.field)
                write(field.value)
            write(_LENGTHS.pack(0, 0, 0))
            file.write(digest.digest())
            size = file.tell()
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return size


async def import_run(store: Store, path: Path, run_id: str | None = None) -> Run:
    """Check a file that `export_run` has written, and write its run to the store.

    Parameters
    ----------
    store
        Store to write to.
    path
        Path of the file.
    run_id
        New id of the run; None for its old one.
    """
    header = check_archive(path)
    with path.open("rb") as file:
        _read_header(file, path)
        new_id = validate_run_id(header["run_id"] if run_id is None else run_id)
        return await store.transfer.import_run(new_id, _read_fields(file, path))


def check_archive(path: Path) -> Mapping[str, Any]:
    """Check a whole file that `export_run` has written, and return its header."""
    with path.open("rb") as file:
        header = _read_header(file, path)
        for _ in _read_fields(file, path):
            pass
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data, memoryview(data) as content:
            end = file.tell()
            is_intact = hashlib.sha256(content[:end]).digest() == content[end:]
    if not is_intact:
        raise ArchiveDamaged(f"{path} is damaged: its checksum does not match; copy it again")
    return header


def _read_header(file: IO[bytes], path: Path) -> Mapping[str, Any]:
    """Return the header at the beginning of a file, after checking it."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ArchiveDamaged(f"{path} is not a run written by mild-service export; give one that is")
    try:
        head: dict[str, Any] = orjson.loads(file.readline(2**16))
        schema, _ = int(head["schema"]), str(head["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveDamaged(f"{path} is damaged: its first line cannot be read; copy it again") from error
    if schema != SCHEMA_VERSION:
        raise ArchiveDamaged(
            f"{path} has schema {schema}, written by version {head.get('version')}, this service reads "
            f"{SCHEMA_VERSION} alone; use a service of that version"
        )
    return head


def _read_fields(file: IO[bytes], path: Path) -> Iterator[RunField]:
    """Yield the fields that follow the header of a file."""
    while True:
        lengths = file.read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            raise ArchiveDamaged(f"{path} is damaged: it is incomplete; copy it again")
        n_place, n_field, n_value = _LENGTHS.unpack(lengths)
        if not n_place:
            return
        if n_value > _MAX_VALUE_BYTES:
            raise ArchiveDamaged(f"{path} is damaged: a value of {n_value} bytes; copy it again")
        body = file.read(n_place + n_field + n_value)
        if len(body) < n_place + n_field + n_value:
            raise ArchiveDamaged(f"{path} is damaged: it is incomplete; copy it again")
        place, field = body[:n_place], body[n_place : n_place + n_field]
        yield RunField(place.decode(errors="replace"), field, body[n_place + n_field :])
