"""Sending of the records left in spools by a crash, an outage, or an offline training."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

from mild_client.arguments import to_path
from mild_client.backends.record_log import LogEntry
from mild_client.backends.spool import STATE_NAME, Spool
from mild_client.backends.uploader import TEMPORARY_ERRORS, Uploader
from mild_client.client import MildClient
from mild_client.errors import SpoolError
from mild_core.errors import MildError, ParameterError


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Result of sending one spool.

    Attributes
    ----------
    folder, run_id
        Folder of the spool, and id of its run.
    n_sent
        Number of records that were sent.
    n_refused
        Number of refused records, including earlier ones.
    n_unsent, n_unsent_bytes
        Number of unsent records, and their bytes.
    problem
        Why records are unsent, or why the spool cannot be read; empty otherwise.
    """

    folder: Path
    run_id: str
    n_sent: int = 0
    n_refused: int = 0
    n_unsent: int = 0
    n_unsent_bytes: int = 0
    problem: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the service has accepted all records of the spool."""
        return not (self.n_refused or self.n_unsent or self.problem)


@dataclass(frozen=True, slots=True)
class RefusedResult:
    """A refused record: its spool, run and name, and why the service does not have it (empty if it has)."""

    folder: Path
    run_id: str
    name: str
    reason: str

    @property
    def is_sent(self) -> bool:
        """Whether the service has the record."""
        return not self.reason


def find_spools(root: str | PathLike[str]) -> list[Path]:
    """Return the folders of all spools in `root` and its subfolders, sorted by path."""
    root = to_path(root, "root")
    if not root.is_dir():
        raise ParameterError(f"{root} is no folder; give one with spools in it, such as the --out of a training")
    return sorted(state.parent for state in root.rglob(STATE_NAME))


def sync_spools(
    root: str | PathLike[str],
    url: str | None = None,
    api_key: str | None = None,
    connect: Callable[[str], MildClient] | None = None,
    dry_run: bool = False,
) -> Iterator[SyncResult]:
    """Send the records of all spools in `root` and its subfolders, and yield a result for each spool.

    The records of a spool are sent in their order. Refused records are noted with the reason, and the others are sent.
    A spool that another process uses is skipped, and its result has a `problem`.

    Parameters
    ----------
    root
        A spool, or a folder that has spools in it or in its subfolders.
    url
        Address of the service; None takes the address stored in each spool.
    api_key
        API key to send. None takes the key in ``MILD_API_KEY``, if that is set.
    connect
        Function that creates the client of an address; None creates a `MildClient`.
    dry_run
        Whether to send nothing.
    """
    connect = connect or functools.partial(MildClient, api_key=api_key)
    for folder in find_spools(root):
        try:
            with Spool(folder) as spool:
                n_sent, problem = (0, "") if dry_run else _send_records(spool, url, connect)
                run_id, n_refused, n_unsent = spool.state.run_id, len(spool.state.refused), spool.n_unsent
                problem = problem if n_unsent else ""
                yield SyncResult(folder, run_id, n_sent, n_refused, n_unsent, spool.n_unsent_bytes, problem)
        except SpoolError as error:
            yield SyncResult(folder, folder.name, problem=str(error))


RefusedAction: TypeAlias = Literal["send", "drop"]


def handle_refused(
    root: str | PathLike[str],
    action: RefusedAction | None = None,
    url: str | None = None,
    api_key: str | None = None,
    connect: Callable[[str], MildClient] | None = None,
) -> Iterator[RefusedResult]:
    """Yield a result for each refused record of the spools in `root` and its subfolders, in their order.

    Parameters
    ----------
    root, url, api_key, connect
        As in `sync_spools`.
    action
        ``send`` sends each record again, until the service has it. ``drop`` gives it up. None only lists them.
    """
    connect = connect or functools.partial(MildClient, api_key=api_key)
    for folder in find_spools(root):
        try:
            with Spool(folder) as spool:
                if action == "send":
                    with _connect(spool, url, connect) as client:
                        yield from _send_refused(spool, client)
                    continue
                for entry in spool.read_refused():
                    yield _make_refused_result(spool, entry, spool.state.refused[entry.start])
                    if action == "drop":
                        spool.drop_refused(entry)
        except SpoolError as error:
            yield RefusedResult(folder, folder.name, "spool", str(error))


def _connect(spool: Spool, url: str | None, connect: Callable[[str], MildClient]) -> MildClient:
    """Create a client of the service of a spool; raise SpoolError if it names none, and `url` is None."""
    address = url or spool.state.url
    if address is None:
        raise SpoolError("it names no service; give --url")
    return connect(address)


def _send_refused(spool: Spool, client: MildClient) -> Iterator[RefusedResult]:
    """Send the refused records of a spool again, until one cannot be sent now."""
    uploader = Uploader(client, spool)
    for entry in spool.read_refused():
        record, reason = entry.record, spool.state.refused[entry.start]
        if record is None:
            problem = f"its bytes are damaged; drop it ({reason})"
        elif record.kind == "open" and spool.state.attempt is not None:
            problem = f"the run was opened since, and would lose its epochs; drop it ({reason})"
        else:
            problem = ""
            try:
                uploader.send(record)
                spool.drop_refused(entry)
            except TEMPORARY_ERRORS as error:
                yield _make_refused_result(spool, entry, str(error))
                return
            except MildError as error:
                problem = spool.state.refused[entry.start] = str(error)
                spool.save_state()
        yield _make_refused_result(spool, entry, problem)


def _make_refused_result(spool: Spool, entry: LogEntry, reason: str) -> RefusedResult:
    """Make the result of a refused record; an empty `reason` says that it is sent."""
    name = "damaged bytes" if entry.record is None else entry.record.name
    return RefusedResult(spool.folder, spool.state.run_id, name, reason)


def _send_records(spool: Spool, url: str | None, connect: Callable[[str], MildClient]) -> tuple[int, str]:
    """Send the records of a spool; return how many were sent, and why the next one cannot be sent now."""
    n_sent = 0
    try:
        with _connect(spool, url, connect) as client:
            uploader = Uploader(client, spool)
            while spool.peek() is not None:
                n_sent += uploader.send_next() is None
    except (SpoolError, *TEMPORARY_ERRORS) as error:
        return n_sent, str(error)
    return n_sent, ""
