"""Writes that count once enough replicas have them.

Replicas that keep an append-only file with ``appendfsync always`` say that they have a write once it is on their disk.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from redis.asyncio.cluster import PipelineCommand

from mild_service.errors import StoreUnreplicated
from mild_service.store.client import Client
from mild_service.store.cluster import Cluster, Unit
from mild_service.store.keys import Keys

Argument = str | bytes | int
Command: TypeAlias = tuple[str, Sequence[Argument]]
"""A key, and a command that writes to its slot."""

_TOUCH = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '') redis.call('DEL', KEYS[1])"
"""Always a write, also where the store is full, that leaves nothing. ``WAIT`` waits for what its own connection has
written: a command that finds everything as it should be writes nothing, and would not wait for whoever wrote it before
and was not acknowledged."""


class Writes:
    """Sends writes.

    Parameters
    ----------
    redis, keys
        The client and the key names.
    n_replicas
        Replicas that must have a write; 0 asks none.
    seconds
        How long a write waits for them.
    """

    def __init__(self, redis: Client, keys: Keys, n_replicas: int = 0, seconds: float = 1.0) -> None:
        self._redis = redis
        self._keys = keys
        self._n_replicas = n_replicas
        self._wait = ("WAIT", n_replicas, round(seconds * 1000))

    async def send(self, *commands: Command) -> list[Any]:
        """Send writes, all at once, and return the replies when enough replicas have all of them.

        Raises
        ------
        StoreUnreplicated
            If too few replicas have them in time. They are written on the master, and may still get lost with it.
        RedisError
            If a command is refused.
        """
        if isinstance(self._redis, Cluster):
            return await self._by_slot(self._redis, commands)
        if not self._n_replicas and len(commands) == 1:
            ((_, arguments),) = commands
            return [await self._redis.execute_command(*arguments)]  # type: ignore[no-untyped-call]
        pipeline = self._redis.pipeline(transaction=False)
        for _, arguments in commands:
            pipeline.execute_command(*arguments)
        for command in self._acknowledgement(commands[0][0]):
            pipeline.execute_command(*command)
        return self._checked(await pipeline.execute(raise_on_error=False), len(commands))

    async def _by_slot(self, cluster: Cluster, commands: Sequence[Command]) -> list[Any]:
        units = [
            Unit(
                cluster.keyslot(key),
                [PipelineCommand(place, *c) for place, c in enumerate([arguments, *self._acknowledgement(key)])],
            )
            for key, arguments in commands
        ]
        await cluster.exchange(units)
        return [reply for unit in units for reply in self._checked(unit.replies, 1)]

    def _acknowledgement(self, key: str) -> list[Sequence[Argument]]:
        """What is sent behind writes to a key's slot, on the same connection."""
        return [("EVAL", _TOUCH, 1, self._keys.touched(key)), self._wait] if self._n_replicas else []

    def _checked(self, replies: Sequence[Any], n_commands: int) -> list[Any]:
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        if self._n_replicas and replies[-1] < self._n_replicas:
            raise StoreUnreplicated(
                f"{replies[-1]} replicas of the store have this write, {self._n_replicas} are needed "
                "(MILD_STORE_REPLICAS); it is not acknowledged, send it again in a second"
            )
        return list(replies[:n_commands])
