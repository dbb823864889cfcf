"""Sending of the records left in spools by a crash, an outage, or an offline training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

from mild_client.arguments import to_path
from mild_client.backends.spool import MARKER_NAME, Spool
from mild_client.backends.uploader import TEMPORARY_ERRORS, Uploader, upload_next
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
        Number of records in ``refused/``, including earlier ones.
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
    """A refused record: where it is or was, its run, and why the service does not have it (empty if it has)."""

    path: Path
    run_id: str
    reason: str
    is_sent: bool = False


def find_spools(root: str | PathLike[str]) -> list[Path]:
    """Return the folders of all spools in `root` and its subfolders, sorted by path."""
    root = to_path(root, "root")
    if not root.is_dir():
        raise ParameterError(f"{root} is no folder; give one with spools in it, such as the --out of a training")
    return sorted(mark.parent for mark in root.rglob(MARKER_NAME))


def sync_spools(
    root: str | PathLike[str],
    url: str | None = None,
    api_key: str | None = None,
    connect: Callable[[str], MildClient] | None = None,
) -> Iterator[SyncResult]:
    """Send the records of all spools in `root` and its subfolders, and yield a result for each spool.

    The records of a spool are sent in their order. Refused records are moved to its ``refused/`` with the reason, and
    the others are sent. A spool that another process uses is skipped, and its result has a `problem`.

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
    """
    clients: dict[str, MildClient] = {}
    try:
        for folder in find_spools(root):
            try:
                with Spool(folder) as spool:
                    address = url or spool.url
                    if address is None:
                        yield _make_result(spool, 0, "it names no service; give --url")
                        continue
                    if address not in clients:
                        clients[address] = connect(address) if connect else MildClient(address, api_key=api_key)
                    yield _send_records(spool, clients[address])
            except SpoolError as error:
                yield _make_unreadable_result(folder, error)
    finally:
        for client in clients.values():
            client.close()


def inspect_spools(root: str | PathLike[str]) -> Iterator[SyncResult]:
    """Yield a result for each spool in `root` and its subfolders, without sending anything."""
    for folder in find_spools(root):
        try:
            with Spool(folder) as spool:
                yield _make_result(spool, 0, "")
        except SpoolError as error:
            yield _make_unreadable_result(folder, error)


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
        ``send`` sends each record again, and deletes it from ``refused/`` once the service has it. ``drop`` deletes
        it. None only lists them.
    """
    for folder in find_spools(root):
        try:
            with Spool(folder) as spool:
                address = url or spool.url
                if action != "send":
                    for refused in spool.list_refused():
                        yield RefusedResult(refused.path, spool.run_id, refused.read_reason())
                        if action == "drop":
                            refused.delete()
                elif address is None:
                    yield RefusedResult(folder, spool.run_id, "it names no service; give --url")
                else:
                    with connect(address) if connect else MildClient(address, api_key=api_key) as client:
                        yield from _send_refused(spool, client)
        except SpoolError as error:
            yield RefusedResult(folder, folder.name, str(error))


def _send_refused(spool: Spool, client: MildClient) -> Iterator[RefusedResult]:
    """Send the refused records of a spool again, until one cannot be sent now."""
    uploader = Uploader(client, spool)
    for refused in spool.list_refused():
        record = refused.read()
        if record is None or (record.kind == "open" and spool.attempt is not None):
            why = "its bytes are damaged" if record is None else "the run was opened since, and would lose its epochs"
            yield RefusedResult(refused.path, spool.run_id, f"{why}; drop it ({refused.read_reason()})")
            continue
        try:
            uploader.send(record)
        except TEMPORARY_ERRORS as error:
            yield RefusedResult(refused.path, spool.run_id, str(error))
            return
        except MildError as error:
            refused.replace_reason(str(error))
            yield RefusedResult(refused.path, spool.run_id, str(error))
        else:
            refused.delete()
            yield RefusedResult(refused.path, spool.run_id, "", is_sent=True)


def _send_records(spool: Spool, client: MildClient) -> SyncResult:
    """Send the records of a spool until all are sent, or one cannot be sent now."""
    uploader = Uploader(client, spool)
    n_sent = 0
    while spool.peek() is not None:
        try:
            refusal: MildError | None = upload_next(spool, uploader)
        except TEMPORARY_ERRORS as error:
            return _make_result(spool, n_sent, str(error))
        n_sent += refusal is None
    return _make_result(spool, n_sent, "")


def _make_result(spool: Spool, n_sent: int, problem: str) -> SyncResult:
    """Make the result of a spool; `problem` is dropped if all records are sent."""
    n_unsent = spool.n_unsent
    return SyncResult(
        spool.folder, spool.run_id, n_sent, spool.n_refused, n_unsent, spool.n_unsent_bytes, problem if n_unsent else ""
    )


def _make_unreadable_result(folder: Path, error: SpoolError) -> SyncResult:
    """Make the result of a spool that cannot be opened."""
    return SyncResult(folder, folder.name, problem=str(error))
