"""Atomic and durable writing of files."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, as a whole or not at all, and flush it to the disk."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    replace_atomically(part, path)


def replace_atomically(part: Path, path: Path) -> None:
    """Flush the file `part` to the disk, and rename it to `path`."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    part.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk; does nothing where the system cannot flush folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
