"""Files that are written whole or not at all, and that stay written when the power goes."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file at `path`, which stands until the new one does."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    put_in_place(part, path)


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name once it is on the disk; what had that name stands until then."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written down, too; where a system cannot do that for folders, leave it at that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
