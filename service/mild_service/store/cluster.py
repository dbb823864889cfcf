"""A Redis Cluster client whose concurrent commands survive a failover.

redis-py manages the topology, connections and replies; this module routes and retries commands. On moved slots redis-py
closes all connections, including those in use, which breaks unrelated requests under load. It also fails a command when
all connections of a node are in use, and cannot send ``WAIT`` on the connection of a write.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Literal, Self

from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.commands import AsyncRedisClusterCommands
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisError,
    TimeoutError,
    TryAgainError,
)

_ATTEMPTS = 4
_RETRY_DELAY_SECONDS = 0.05
"""Delay before the second attempt; doubled before each further one."""
_CONNECTION_ERRORS = (ConnectionError, TimeoutError)
_RETRYABLE = (*_CONNECTION_ERRORS, AskError, TryAgainError, ClusterDownError)
"""Errors of commands while slots move between nodes; `MovedError` is an `AskError`."""
_EXTRA_CONNECTIONS = 16
"""Additional connections per node for topology queries."""


class CommandUnit:
    """Commands for one slot, sent in order over one connection and retried as a whole."""

    def __init__(self, slot: int, commands: Sequence[PipelineCommand]) -> None:
        self.slot = slot
        self.commands = commands

    @property
    def replies(self) -> list[Any]:
        """The reply or the error of each command."""
        return [command.result for command in self.commands]

    def find_retryable_error(self) -> RedisError | None:
        """Return the first error after which the unit can be sent again; None if there is no such error."""
        return next((reply for reply in self.replies if isinstance(reply, _RETRYABLE)), None)


class Cluster(RedisCluster):
    """Client of a Redis Cluster.

    Parameters
    ----------
    nodes
        Some nodes of the cluster, from which the others are discovered.
    max_exchanges
        Maximum number of concurrent exchanges, each with any number of nodes; further exchanges wait.
    options
        Options of `RedisCluster`.
    """

    def __init__(self, nodes: list[ClusterNode], max_exchanges: int, **options: Any) -> None:
        super().__init__(startup_nodes=nodes, max_connections=max_exchanges + _EXTRA_CONNECTIONS, **options)
        self._exchange_slots = asyncio.Semaphore(max_exchanges)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send a command to the node of its key; redis-py handles commands without a key."""
        if kwargs.get("target_nodes") or args[0] in self.command_flags:
            return await super().execute_command(*args, **kwargs)
        return (await self.execute_all([CommandUnit(self.find_slot(args), [PipelineCommand(0, *args, **kwargs)])]))[0]

    async def ping(self, **_: Any) -> bool:
        """Ping the masters in random order until one answers, since the loss of one shard must not stop the others."""
        async with self._exchange_slots:
            await self.initialize()
            masters = self.get_primaries()
            for master in random.sample(masters, len(masters)):
                try:
                    return bool(await master.execute_command("PING"))
                except _CONNECTION_ERRORS as error:
                    last_error = error
            await self.nodes_manager.initialize()
        raise last_error

    async def execute_at_key(self, key: str, *command: Any) -> Any:
        """Send a command that has no key to the node that holds `key`, and return the reply."""
        return (await self.execute_all([CommandUnit(self.keyslot(key), [PipelineCommand(0, *command)])]))[0]

    async def execute_on_masters(self, *command: Any) -> list[Any]:
        """Send a command that has no key to all masters, and return their replies."""
        await self.initialize()
        slots = {nodes[0].name: slot for slot, nodes in self.nodes_manager.slots_cache.items()}  # one of each master
        return await self.execute_all([CommandUnit(slot, [PipelineCommand(0, *command)]) for slot in slots.values()])

    def pipeline(self, transaction: Any | None = None, shard_hint: Any | None = None) -> "Pipeline":  # type: ignore[override]  # not redis-py's class
        """Return a pipeline that sends its commands to each node in one exchange; transactions are not supported."""
        if transaction or shard_hint:
            raise NotImplementedError(
                "a cluster pipeline has no transactions; use a script for several keys of one slot"
            )
        return Pipeline(self)  # type: ignore[abstract]  # redis-py's annotations only

    async def execute_all(self, units: Sequence[CommandUnit]) -> list[Any]:
        """Send units as `execute_units`; return the replies to all their commands, or raise the first error."""
        await self.execute_units(units)
        replies = [reply for unit in units for reply in unit.replies]
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def execute_units(self, units: Sequence[CommandUnit]) -> None:
        """Send units to their nodes concurrently, and retry the units whose error permits it.

        The replies are stored in the units.
        """
        pending = units
        async with self._exchange_slots:
            await self.initialize()
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(_RETRY_DELAY_SECONDS * 2 ** (attempt - 1))
                    await self._update_slots(pending)
                by_node: dict[ClusterNode, list[CommandUnit]] = {}
                for unit in pending:
                    by_node.setdefault(self.nodes_manager.get_node_from_slot(unit.slot), []).append(unit)
                await asyncio.gather(*(_send_to_node(node, units) for node, units in by_node.items()))
                pending = [unit for unit in pending if unit.find_retryable_error()]
                if not pending:
                    return
        error = pending[0].find_retryable_error()
        assert error is not None, "a pending unit has an error"
        raise error

    async def _update_slots(self, units: Sequence[CommandUnit]) -> None:
        """Update the assignment of slots to nodes after the errors of `units`."""
        errors = [unit.find_retryable_error() for unit in units]
        moved = [error for error in errors if isinstance(error, MovedError)]
        if len(moved) < len(errors):
            await self.nodes_manager.initialize()
        for error in moved:
            await self.nodes_manager.move_slot(error)  # the node that redirected knows best

    def find_slot(self, command: Sequence[Any]) -> int:
        """Return the slot of a command's first key."""
        return self.keyslot(command[3 if command[0] in ("EVAL", "EVALSHA") else 1])


class Pipeline(AsyncRedisClusterCommands):
    """Collects commands of one key each and sends them to their nodes in one exchange."""

    _is_async_client: Literal[True] = True  # for redis-py's annotations

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._units: list[CommandUnit] = []

    def execute_command(self, *args: Any, **kwargs: Any) -> Self:
        """Add a command to the pipeline; nothing is sent yet."""
        self._units.append(
            CommandUnit(self._cluster.find_slot(args), [PipelineCommand(len(self._units), *args, **kwargs)])
        )
        return self

    async def execute(self) -> list[Any]:
        """Send the collected commands and return their replies."""
        return await self._cluster.execute_all(self._units)


async def _send_to_node(node: ClusterNode, units: Sequence[CommandUnit]) -> None:
    """Send units to a node over one connection; errors become the results of their commands."""
    commands = [command for unit in units for command in unit.commands]
    try:
        await node.execute_pipeline(commands)
    except (RedisError, RuntimeError) as error:  # before anything was answered
        last_error = ConnectionError(str(error)) if isinstance(error, RuntimeError) else error
        for command in commands:
            command.result = last_error
    if any(isinstance(command.result, _CONNECTION_ERRORS) for command in commands):
        await _drop_idle_connections(node)


async def _drop_idle_connections(node: ClusterNode) -> None:
    """Close all idle connections of a node, which are dead after the server has ended.

    Each is removed from the pool before it is closed; redis-py's `disconnect_free_connections` leaves them in the pool,
    where another task may pick one up in the meantime.
    """
    for _ in range(len(node._free)):
        connection = node._free.popleft()
        await connection.disconnect(nowait=True)
        node.release(connection)
