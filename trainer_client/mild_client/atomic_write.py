"""Atomic replacement of files, flushed to the disk."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, completely or not at all, and flush it to the disk."""
    temporary_path = path.with_name(f"{path.name}.part")
    try:
        temporary_path.write_bytes(content)
        replace_atomically(temporary_path, path)
    except OSError:
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
