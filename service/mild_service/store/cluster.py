"""A Redis Cluster's client whose commands survive a failover beside each other.

The library knows the cluster, its connections and its replies; which node a command goes to, and what is tried again,
is decided here. The library's own way closes all connections, those in use too, when it meets slots that have moved:
under load that breaks requests that nothing ailed. It also fails a command when all of a node's connections are taken,
and cannot ask the connection that took a write whether replicas have it.
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

_TRIES = 4
_PAUSE_SECONDS = 0.05
"""Before the second try; doubled before each further one."""
_CONNECTION_ERRORS = (ConnectionError, TimeoutError)
_RETRYABLE = (*_CONNECTION_ERRORS, AskError, TryAgainError, ClusterDownError)
"""What a command may meet while slots change hands; `MovedError` is an `AskError`."""
_SPARE = 16
"""Connections to each node beside those of commands, for the questions who has which slots and who is there."""


class CommandUnit:
    """Commands that go to one slot's node over one connection, one behind the other, and are tried again as a whole."""

    def __init__(self, slot: int, commands: Sequence[PipelineCommand]) -> None:
        self.slot = slot
        self.commands = commands

    @property
    def replies(self) -> list[Any]:
        """A reply, or an error, for each command."""
        return [command.result for command in self.commands]

    def retryable_error(self) -> RedisError | None:
        """The first error that a new attempt may resolve; None if there is none."""
        return next((reply for reply in self.replies if isinstance(reply, _RETRYABLE)), None)


class Cluster(RedisCluster):
    """A client of a whole cluster.

    Parameters
    ----------
    nodes
        Some of the cluster's nodes.
    places
        Exchanges that may be under way at the same time, each with as many nodes as it concerns; others wait.
    options
        As `RedisCluster` takes them.
    """

    def __init__(self, nodes: list[ClusterNode], places: int, **options: Any) -> None:
        super().__init__(startup_nodes=nodes, max_connections=places + _SPARE, **options)
        self._places = asyncio.Semaphore(places)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send one command to whoever has its key; those without a key go the library's way."""
        if kwargs.get("target_nodes") or args[0] in self.command_flags:
            return await super().execute_command(*args, **kwargs)
        return await self._execute(CommandUnit(self._slot(args), [PipelineCommand(0, *args, **kwargs)]))

    async def ping(self, **_: Any) -> bool:
        """Ask one master, another one if that does not answer: the loss of a shard must not stop the others' work."""
        async with self._places:
            await self.initialize()
            masters = self.get_primaries()
            for master in random.sample(masters, len(masters)):
                try:
                    return bool(await master.execute_command("PING"))
                except _CONNECTION_ERRORS as error:
                    lost = error
            await self.nodes_manager.initialize()
        raise lost

    async def execute_at(self, key: str, *command: Any) -> Any:
        """Send a command that names no key to the node that has `key`."""
        return await self._execute(CommandUnit(self.keyslot(key), [PipelineCommand(0, *command)]))

    async def execute_on_masters(self, *command: Any) -> list[Any]:
        """Send a command that names no key to every master."""
        async with self._places:
            await self.initialize()
            for turn in range(_TRIES):
                if turn:
                    await asyncio.sleep(_PAUSE_SECONDS * 2 ** (turn - 1))
                    await self.nodes_manager.initialize()
                try:
                    return await asyncio.gather(*(node.execute_command(*command) for node in self.get_primaries()))
                except _CONNECTION_ERRORS as error:
                    lost = error
        raise lost

    def pipeline(self, transaction: Any | None = None, shard_hint: Any | None = None) -> "Pipeline":  # type: ignore[override]
        """Commands that go to each node in one exchange. There are no transactions: scripts are there for that."""
        if transaction or shard_hint:
            raise NotImplementedError("a script changes or reads several keys of one slot at once")
        return Pipeline(self)  # type: ignore[abstract]  # by the library's annotations only

    async def _execute(self, unit: CommandUnit) -> Any:
        await self.exchange([unit])
        (reply,) = unit.replies
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def exchange(self, units: Sequence[CommandUnit]) -> None:
        """Send units to their nodes, all at once, until each has its replies.

        Raises
        ------
        RedisError
            If slots change hands for longer than the tries take; the commands may have had their effect.
        """
        pending = units
        async with self._places:
            await self.initialize()
            for turn in range(_TRIES):
                if turn:
                    await asyncio.sleep(_PAUSE_SECONDS * 2 ** (turn - 1))
                    await self._look_again(pending)
                by_node: dict[ClusterNode, list[CommandUnit]] = {}
                for unit in pending:
                    by_node.setdefault(self.nodes_manager.get_node_from_slot(unit.slot), []).append(unit)
                await asyncio.gather(*(_send(node, units) for node, units in by_node.items()))
                pending = [unit for unit in pending if unit.retryable_error()]
                if not pending:
                    return
        error = pending[0].retryable_error()
        assert error is not None, "what is pending has met an error"
        raise error

    async def _look_again(self, units: Sequence[CommandUnit]) -> None:
        """Find out who has the slots now."""
        errors = [unit.retryable_error() for unit in units]
        moved = [error for error in errors if isinstance(error, MovedError)]
        if len(moved) < len(errors):
            await self.nodes_manager.initialize()
        for error in moved:
            await self.nodes_manager.move_slot(error)  # who refused knows better than any other node

    def _slot(self, command: Sequence[Any]) -> int:
        return self.keyslot(command[3 if command[0] in ("EVAL", "EVALSHA") else 1])


class Pipeline(AsyncRedisClusterCommands):
    """Commands of one key each, gathered, then sent to their nodes at once."""

    _is_async_client: Literal[True] = True  # for the library's annotations

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._units: list[CommandUnit] = []

    def execute_command(self, *args: Any, **kwargs: Any) -> Self:
        """Gather a command."""
        self._units.append(CommandUnit(self._cluster._slot(args), [PipelineCommand(len(self._units), *args, **kwargs)]))
        return self

    async def execute(self) -> list[Any]:
        """Send what was gathered and return the replies.

        Raises
        ------
        RedisError
            The first that a command has met.
        """
        await self._cluster.exchange(self._units)
        replies = [reply for unit in self._units for reply in unit.replies]
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


async def _send(node: ClusterNode, units: Sequence[CommandUnit]) -> None:
    commands = [command for unit in units for command in unit.commands]
    try:
        await node.execute_pipeline(commands)
    except (RedisError, RuntimeError) as error:  # before anything was answered
        lost = ConnectionError(str(error)) if isinstance(error, RuntimeError) else error
        for command in commands:
            command.result = lost
    if any(isinstance(command.result, _CONNECTION_ERRORS) for command in commands):
        await _drop_idle_connections(node)


async def _drop_idle_connections(node: ClusterNode) -> None:
    """Close the connections that nobody uses: a server that ended has left all of them dead.

    Each is taken out of the pool before it is closed. The library's `disconnect_free_connections` leaves them in, where
    somebody may take one up in that moment.
    """
    for _ in range(len(node._free)):
        connection = node._free.popleft()
        await connection.disconnect(nowait=True)
        node.release(connection)
