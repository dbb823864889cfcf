"""Sending what spools hold, after a crash, an outage, or a training offline."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mild_client.backends.spool import MARK, Spool
from mild_client.backends.uploader import NOT_NOW, Delivery, send_next
from mild_client.client import MildClient
from mild_client.errors import SpoolError
from mild_core.errors import MildError, ParameterError


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of one spool.

    Attributes
    ----------
    folder, run_id
        Which.
    n_sent
        Records that were sent now.
    n_refused
        Records that lie in ``refused/``, from now and before.
    n_left, n_bytes_left
        What is still to be sent.
    trouble
        Why there is something left, or why the spool cannot be read; empty where neither is so.
    """

    folder: Path
    run_id: str
    n_sent: int = 0
    n_refused: int = 0
    n_left: int = 0
    n_bytes_left: int = 0
    trouble: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the service has everything."""
        return not (self.n_refused or self.n_left or self.trouble)


def find(root: Path) -> list[Path]:
    """Folders of all spools in `root` and below, in the order of their names.

    Raises
    ------
    ParameterError
        If `root` is no folder.
    """
    if not root.is_dir():
        raise ParameterError(f"{root} is no folder; give one with spools in it, such as the --out of a training")
    return sorted(mark.parent for mark in root.rglob(MARK))


def sync(
    root: Path, url: str | None = None, api_key: str | None = None, connect: Callable[[str], MildClient] | None = None
) -> Iterator[Synced]:
    """Send all that is in the spools of `root` and below, each in its order, and say what became of each.

    What the service refuses is set aside in the spool's ``refused/``, with the reason, and the rest is sent. A spool
    that is in use, by a training or another sync, is left to that. Sending twice changes nothing.

    Parameters
    ----------
    root
        A spool, or a folder with spools somewhere in it.
    url
        The service; None: for each spool the one that it names.
    api_key
        Key to send; None takes the one in ``MILD_API_KEY``, if there is one.
    connect
        Makes the client for an address, in place of the usual one.

    Raises
    ------
    ParameterError
        If `root` is no folder, or an address or the key is none.
    """
    clients: dict[str, MildClient] = {}
    try:
        for folder in find(root):
            try:
                with Spool(folder) as spool:
                    address = url or spool.url
                    if address is None:
                        yield _left(spool, 0, "it names no service; give --url")
                        continue
                    if address not in clients:
                        clients[address] = connect(address) if connect else MildClient(address, api_key=api_key)
                    yield _send(spool, clients[address])
            except SpoolError as error:
                yield _unread(folder, error)
    finally:
        for client in clients.values():
            client.close()


def look(root: Path) -> Iterator[Synced]:
    """Say what the spools of `root` and below hold, and send nothing."""
    for folder in find(root):
        try:
            with Spool(folder) as spool:
                yield _left(spool, 0, "")
        except SpoolError as error:
            yield _unread(folder, error)


def _send(spool: Spool, client: MildClient) -> Synced:
    delivery = Delivery(client, spool)
    n_sent = 0
    while spool.peek() is not None:
        try:
            refusal: MildError | None = send_next(spool, delivery)
        except NOT_NOW as error:
            return _left(spool, n_sent, str(error))
        n_sent += refusal is None
    return _left(spool, n_sent, "")


def _left(spool: Spool, n_sent: int, trouble: str) -> Synced:
    n_left = spool.n_left
    return Synced(
        spool.folder, spool.run_id, n_sent, spool.n_refused, n_left, spool.n_bytes_left, trouble if n_left else ""
    )


def _unread(folder: Path, error: SpoolError) -> Synced:
    return Synced(folder, folder.name, trouble=str(error))
