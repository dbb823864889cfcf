"""Sending of the records left in spools by a crash, an outage, or an offline training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

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


def find_spools(root: str | PathLike[str]) -> list[Path]:
    """Return the folders of all spools in `root` and its subfolders, sorted by path.

    Raises
    ------
    ParameterError
        If `root` is not a folder.
    """
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

    Raises
    ------
    ParameterError
        If `root` is not a folder, or an address or the key is invalid.
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
