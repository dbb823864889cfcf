"""A run as one file: a line of JSON that says what it is, every field of it, and a checksum of all that.

``mild-run 1`` and a line of JSON; then per field the lengths of its place, name and value (2, 2 and 8 bytes, the
greatest first) and these three; at the end three zeros and the SHA-256 of everything before.
"""

import hashlib
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import orjson

from mild_service import __version__
from mild_service.errors import ArchiveDamaged
from mild_service.models import Run
from mild_service.store import Part, Store
from mild_service.store.servers import SCHEMA_VERSION

_MAGIC = b"mild-run 1\n"
_LENGTHS = struct.Struct("!HHQ")
_RECORD = "run"
_MOST = 2**28
"""Bytes of a value, far above any that there is: a damaged length must not take all memory."""


async def export(store: Store, run_id: str, path: Path) -> int:
    """Write a run to a file, which appears once it is whole; return its bytes.

    Raises
    ------
    RunNotFound
        If there is no such run.
    RunChanging
        If it was written to meanwhile.
    ArchiveDamaged
        If the file exists.
    """
    if path.exists():  # noqa: ASYNC240  # a command, with nobody else in its loop
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
            async for field in store.transfer.read(run_id):
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


async def load(store: Store, path: Path, run_id: str | None = None) -> Run:
    """Put a file's run into the store, under its own name or another one, once the whole file was found sound.

    Raises
    ------
    ArchiveDamaged
        If the file is no such file, is damaged, or was written by a later version.
    RunIsThere
        If there is a run of that name.
    """
    head = check(path)
    with path.open("rb") as file:
        _head(file, path)
        fields = _fields(file, path)
        record: dict[bytes, bytes] = {}
        rest: list[Part] = []
        for part in fields:
            if part.key != _RECORD:
                rest.append(part)
                break
            record[part.field] = part.value

        async def others() -> AsyncIterator[Part]:
            for part in rest:
                yield part
            for part in fields:
                yield part

        return await store.transfer.write(run_id or head["run_id"], record, others())


def check(path: Path) -> Mapping[str, Any]:
    """Read a file through and return what it says it is.

    Raises
    ------
    ArchiveDamaged
        If it is no such file, is damaged, or was written by a later version.
    """
    with path.open("rb") as file:
        head = _head(file, path)
        for _ in _fields(file, path):
            pass
        end = file.tell()
        told = file.read()
        file.seek(0)
        digest, left = hashlib.sha256(), end
        while left:
            block = file.read(min(left, 2**20))
            digest.update(block)
            left -= len(block)
    if told != digest.digest():
        raise ArchiveDamaged(f"{path} is damaged: its checksum is another one; copy it again")
    return head


def _head(file: IO[bytes], path: Path) -> Mapping[str, Any]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ArchiveDamaged(f"{path} is no run that mild-service export has written; give one")
    try:
        head: dict[str, Any] = orjson.loads(file.readline(2**16))
        schema, _ = int(head["schema"]), str(head["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveDamaged(f"{path} is damaged: its first line cannot be read; copy it again") from error
    if schema > SCHEMA_VERSION:
        raise ArchiveDamaged(
            f"{path} has schema {schema}, written by version {head.get('version')}; this service knows those up to "
            f"{SCHEMA_VERSION}: upgrade it"
        )
    return head


def _fields(file: IO[bytes], path: Path) -> Iterator[Part]:
    """The fields up to the end's mark."""
    while True:
        lengths = file.read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            raise ArchiveDamaged(f"{path} is damaged: it ends in the middle; copy it again")
        n_place, n_field, n_value = _LENGTHS.unpack(lengths)
        if not n_place:
            return
        if n_value > _MOST:
            raise ArchiveDamaged(f"{path} is damaged: a value of {n_value} bytes; copy it again")
        body = file.read(n_place + n_field + n_value)
        if len(body) < n_place + n_field + n_value:
            raise ArchiveDamaged(f"{path} is damaged: it ends in the middle; copy it again")
        place, field = body[:n_place], body[n_place : n_place + n_field]
        yield Part(place.decode(errors="replace"), field, body[n_place + n_field :])
