"""A real Redis Cluster on this machine: masters and their replicas, each a server process of its own."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from mild_service.store.embedded import find_server
from tests.waiting import wait_until

_SLOTS = 16384


class Node:
    """One server of a cluster.

    Parameters
    ----------
    folder
        Its data.
    port, bus_port
        For clients, and for the other nodes.
    timeout_ms
        A node that is silent for this long is taken for dead.
    """

    def __init__(self, folder: Path, port: int, bus_port: int, timeout_ms: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.bus_port = bus_port
        self._folder = folder
        self._options = {
            "bind": "127.0.0.1",
            "port": port,
            "dir": folder,
            "cluster-enabled": "yes",
            "cluster-port": bus_port,
            "cluster-node-timeout": timeout_ms,
            "cluster-require-full-coverage": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": 0,
            # A replica that waits for a sync that broke off tries again after this, in seconds; by default after 60.
            "repl-timeout": 10,
            "repl-ping-replica-period": 2,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._redis = Redis(port=port, socket_timeout=5.0, retry=Retry(NoBackoff(), 0), decode_responses=True)

    def start(self) -> None:
        """Start the server, with what is in its folder."""
        options = [part for name, value in self._options.items() for part in (f"--{name}", str(value))]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End the server as a power cut would (SIGKILL)."""
        assert self._process is not None, "the server has not been started"
        self._process.kill()
        self._process.wait()
        self._redis.close()

    def pause(self) -> None:
        """Let the server hang, as an overloaded machine would (SIGSTOP)."""
        assert self._process is not None, "the server has not been started"
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End its pause."""
        assert self._process is not None, "the server has not been started"
        self._process.send_signal(signal.SIGCONT)

    def cluster(self, verb: str, *arguments: str | int) -> Any:
        """Give the server a ``CLUSTER`` command."""
        return self._redis.execute_command(f"CLUSTER {verb}", *arguments)  # type: ignore[no-untyped-call]

    def configure(self, name: str, value: str | int) -> None:
        """Change a setting of the server."""
        self._redis.config_set(name, value)

    @property
    def id(self) -> str:
        """What the other nodes call it."""
        return str(self.cluster("MYID"))

    @property
    def role(self) -> str:
        """``master``, ``slave``, or empty while the server does not answer."""
        return self._told("replication").get("role", "")

    @property
    def serves(self) -> bool:
        """Whether it takes the cluster for whole, and follows its master if it is a replica."""
        replication = self._told("replication")
        follows = replication.get("role") == "master" or replication.get("master_link_status") == "up"
        return follows and bool(self.cluster("INFO")["cluster_state"] == "ok")

    def knows(self, other: str) -> bool:
        """Whether it has heard of another node."""
        return any(node["node_id"] == other for node in self.cluster("NODES").values())

    def _told(self, section: str) -> dict[str, str]:
        try:
            return dict(self._redis.info(section))
        except RedisError:  # not listening yet, or loading
            return {}


class LocalCluster:
    """Masters with a replica each; use it as a context manager.

    Parameters
    ----------
    folder
        Where the nodes keep their data.
    n_masters
        The first so many nodes begin as masters, as many more as their replicas, in the same order.
    timeout_ms
        A node that is silent for this long is taken for dead.
    """

    def __init__(self, folder: Path, n_masters: int = 3, timeout_ms: int = 60_000) -> None:
        self._n_masters = n_masters
        ports = _free_ports(4 * n_masters)
        self.nodes = [
            Node(folder / str(place), ports[2 * place], ports[2 * place + 1], timeout_ms)
            for place in range(2 * n_masters)
        ]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Address for clients."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
                self._stack.callback(node.kill)
            self._form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def whole(self) -> bool:
        """Whether every master has its replica."""
        masters = sum(node.role == "master" for node in self.nodes)
        return masters == self._n_masters and all(node.serves for node in self.nodes)

    def _form(self) -> None:
        wait_until(lambda: all(node.role for node in self.nodes), "servers that answer")
        share = -(-_SLOTS // self._n_masters)
        masters, replicas = self.nodes[: self._n_masters], self.nodes[self._n_masters :]
        for place, master in enumerate(masters):
            last = min(_SLOTS, (place + 1) * share) - 1
            master.cluster("ADDSLOTSRANGE", place * share, last)
            master.cluster("SET-CONFIG-EPOCH", place + 1)
        for node in self.nodes[1:]:
            self.nodes[0].cluster("MEET", "127.0.0.1", node.port, node.bus_port)
        for master, replica in zip(masters, replicas, strict=True):
            wait_until(partial(replica.knows, master.id), "a replica that knows its master")
            replica.cluster("REPLICATE", master.id)
        wait_until(self.whole, "a whole cluster")


@contextmanager
def local_cluster(n_masters: int = 3, timeout_ms: int = 60_000) -> Iterator[LocalCluster]:
    """A cluster in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="mild-cluster-"))
    try:
        with LocalCluster(folder, n_masters, timeout_ms) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [listener.getsockname()[1] for listener in listeners]
