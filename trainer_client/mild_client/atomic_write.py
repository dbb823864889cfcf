"""Atomic replacement of files, flushed to the disk."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, completely or not at all, and flush it to the disk."""
    with open_atomically(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_atomically(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a file for writing in a ``with`` block, which replaces that at `path` once the block is complete.

    An error of the operating system names `path`, as those of a full disk do not. `mode` and `options` are those of
    `open`.
    """
    temporary_path = path.with_name(f"{path.name}.part")
    try:
        with temporary_path.open(mode, **options) as file:
            yield file
        replace_atomically(temporary_path, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        with contextlib.suppress(OSError):  # a part of it would only take up a disk that is full
            temporary_path.unlink(missing_ok=True)
        raise


def replace_atomically(temporary_path: Path, path: Path) -> None:
    """Flush the file at `temporary_path` to the disk, and rename it to `path`."""
    with temporary_path.open("r+b") as file:
        os.fsync(file.fileno())
    temporary_path.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, if the system can flush folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
