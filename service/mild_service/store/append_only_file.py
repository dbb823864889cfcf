"""The files that the embedded server keeps its data in: their presence, and the repair of the last one's end.

The server loads a manifest, which names a base file and the files of later writes in their order. Left to itself, it
starts empty where the manifest is missing, and cuts the last file at the first command that seems to go past the end,
with everything behind it (``aof-load-truncated``), although a damaged length looks the same. So it is told not to.

A *write* is a command, or a transaction from MULTI to EXEC. The file has no checksums: damage within a value is found
by the digests of what is stored, not here.
"""

import logging
import mmap
import os
import re
import shutil
import time
from pathlib import Path

from mild_service.errors import ConfigurationError

logger = logging.getLogger(__name__)

_FOLDER = "appendonlydir"
_MANIFEST = "appendonly.aof.manifest"
_MAX_EMPTY_BYTES = 128
"""Bytes that the files of a store without any key stay below: a server that is killed at its first start leaves a base
file of 89 bytes without a manifest."""
_COMMAND = re.compile(rb"\*([1-9]\d{0,8})\r\n")
_ARGUMENT = re.compile(rb"\$(\d{1,10})\r\n")
_UNREADABLE = re.compile(
    rb"(?:Unexpected end of file|Bad file format|Error) reading the append only file (\S+\.aof)"
    rb"(?:.*?(?:unknown command|arguments for) '(.*?)')?"
)
"""What the server logs about a file that it cannot load: the file's name, and the name of a command that is none."""
_DAMAGED = re.compile(
    rb"[^\n#]*(?:AOF manifest|Unable to obtain the AOF file|RDB CRC error|Unexpected EOF reading RDB file)[^\n]*"
)


class DataDamaged(ConfigurationError):
    """The files of the embedded store are damaged or incomplete, and starting its server again does not help."""


def check_files(data_dir: Path, has_data: bool) -> None:
    """Refuse a folder in which a server would start empty although it holds data.

    Parameters
    ----------
    data_dir
        Data folder of the embedded store.
    has_data
        Whether a server has already run in the folder, which then has a manifest.
    """
    folder = data_dir / _FOLDER
    if (folder / _MANIFEST).exists():
        return
    if has_data:
        raise DataDamaged(
            f"{folder / _MANIFEST} was removed while the store ran; restore {data_dir} from a backup, or start with "
            "an empty folder"
        )
    files = [path for pattern in ("*.rdb", "*.aof") for path in folder.glob(pattern)]
    if sum(path.stat().st_size for path in files) >= _MAX_EMPTY_BYTES:
        raise DataDamaged(
            f"{folder} holds files of data but no {_MANIFEST}, and the store would start empty; restore the manifest "
            "or the folder from a backup, or write the manifest (docs/operations.md, Repair of the embedded store), or "
            "give another folder (--data-dir or MILD_DATA_DIR)"
        )
    if (data_dir / "dump.rdb").exists() and not (data_dir / "appendonly.aof").exists():  # which a server takes over
        raise DataDamaged(
            f"{data_dir} holds a snapshot (dump.rdb) but no append-only file, and the store would start empty; serve "
            "it with a Redis or Valkey of your own (MILD_STORE_URL), or give another folder (--data-dir or "
            "MILD_DATA_DIR)"
        )


def repair_end(data_dir: Path, server_log: bytes) -> bool:
    """Repair the end of the append-only file, if it is why the server did not start.

    What is cut off is kept in a file beside it, so that both together are the file as it was.

    Parameters
    ----------
    data_dir
        Data folder of the embedded store, in which no server runs.
    server_log
        What the server wrote before it ended.

    Returns
    -------
    bool
        Whether the file was repaired; False if the server ended for a reason other than its files.
    """
    unreadable = _UNREADABLE.search(server_log)
    if unreadable is None:
        if line := _DAMAGED.search(server_log):
            raise _make_error(
                f"files of {data_dir} are damaged or missing ({line[0].decode(errors='replace').strip()})"
            )
        return False
    path = data_dir / _FOLDER / os.fsdecode(unreadable[1])
    if path.name != _read_last_name(data_dir / _FOLDER / _MANIFEST):
        raise _make_error(f"{path} is damaged, and later files follow")
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        offset, is_last = find_damage(data, unreadable[2])
    if offset == size:
        raise _make_error(f"{path} cannot be loaded")
    if not is_last:
        raise _make_error(
            f"{path} is damaged at byte {offset} of {size}, and whole writes follow, which are never cut off unasked",
            f", or keep a copy and cut it there (truncate -s {offset} {path}), which loses what follows",
        )
    copy = path.with_name(f"{path.name}.cut-{offset}-{time.time_ns()}")
    _move_end(path, offset, copy)
    logger.warning(
        "repaired %s: its last %d bytes were no complete write and are kept in %s; a write that was cut short was "
        "never acknowledged, a write that was damaged later is lost",
        path,
        size - offset,
        copy,
    )
    return True


def find_damage(data: "bytes | mmap.mmap", bad_name: bytes | None = None) -> tuple[int, bool]:
    """Return the offset of the first write that is damaged or incomplete, and whether it is the last one.

    Parameters
    ----------
    data
        Contents of an append-only file.
    bad_name
        Name of a command that the server does not take; a command of this name is damaged.

    Returns
    -------
    offset : int
        Offset of the write; the length of `data` if all are complete.
    is_last : bool
        Whether no complete write follows.
    """
    start = last_start = at = last_at = 0
    in_transaction = False
    while (command := _read_command(data, at)) is not None:
        name, end = command
        if bad_name is not None and name == bad_name.upper():
            break
        in_transaction = name == b"MULTI" or (in_transaction and name != b"EXEC")
        last_at, at = at, end
        if not in_transaction:
            last_start, start = start, at
    if _has_command_across(data, last_at, at):  # a length in the command before takes in the head of this one
        at = last_at
        start = start if in_transaction else last_start
    elif data[at : at + 1] == b"$" and not in_transaction:  # an argument too many: the count before it is damaged
        start = last_start
    return start, not _has_write(data, at + 1)


def _read_command(data: "bytes | mmap.mmap", at: int) -> tuple[bytes, int] | None:
    """Return the name of the command at an offset, in upper case, and its end; None if it is not complete."""
    head = _COMMAND.match(data, at)
    if head is None:
        return None
    name, end = b"", head.end()
    for number in range(int(head[1])):
        length = _ARGUMENT.match(data, end)
        if length is None:
            return None
        end = length.end() + int(length[1])
        if data[end : end + 2] != b"\r\n":
            return None
        if number == 0:
            name = data[length.end() : end].upper()
        end += 2
    return name, end


def _has_command_across(data: "bytes | mmap.mmap", start: int, at: int) -> bool:
    """Return whether a complete command begins within the one at `start`, and ends behind its end `at`."""
    for head in _COMMAND.finditer(data, start + 1, at):
        command = _read_command(data, head.start())
        if command is not None and command[1] > at:
            return True
    return False


def _has_write(data: "bytes | mmap.mmap", at: int) -> bool:
    """Return whether a complete write follows the offset at which one is damaged.

    Commands up to an EXEC without a MULTI belong to the damaged write.
    """
    is_past_damaged, n_commands = False, 0
    while (head := _COMMAND.search(data, at)) is not None:
        command = _read_command(data, head.start())
        if command is None:
            at = head.start() + 1
            continue
        name, at = command
        if name == b"EXEC" and not is_past_damaged:
            is_past_damaged, n_commands = True, 0
        elif name == b"MULTI" or is_past_damaged:
            return True
        else:
            n_commands += 1
    return n_commands > 0


def _read_last_name(manifest: Path) -> str:
    """Return the name of the last file of writes that a manifest names."""
    lines = [line.split() for line in manifest.read_text().splitlines()]
    names = {int(line[3]): line[1] for line in lines if line[4:6] == ["type", "i"]}
    return names[max(names)] if names else ""


def _move_end(path: Path, offset: int, copy: Path) -> None:
    """Move what lies behind an offset of a file to another file, which is on the disk before the file is cut."""
    try:
        with path.open("rb") as file, copy.open("xb") as rest:
            file.seek(offset)
            shutil.copyfileobj(file, rest)
            rest.flush()
            os.fsync(rest.fileno())
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    with path.open("rb+") as file:
        file.truncate(offset)
        os.fsync(file.fileno())


def _make_error(problem: str, remedy: str = "") -> DataDamaged:
    return DataDamaged(
        f"{problem}; restore the folder from a backup, or give another one (--data-dir or MILD_DATA_DIR){remedy}"
    )
