"""What the store's servers say of themselves: version, memory, how they keep what they have, and what time it is.

The version of what lies in the store, and the steps from each version to the next.

A step goes forward only, may be interrupted and begun again, and leaves records that the version before can read: old
and new replicas run side by side while they are replaced. A store without a version is of version 0.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import NoPermissionError, ResponseError

from mild_service.errors import StoreNewer
from mild_service.store import codec
from mild_service.store.cluster import Cluster
from mild_service.store.context import StoreContext
from mild_service.store.error_translation import blob, translated

_ASKED = ("appendonly", "appendfsync", "maxmemory-policy", "save")


@dataclass(frozen=True, slots=True)
class Memory:
    """A server's memory in bytes; `limit` is None where it has none."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server.

    Attributes
    ----------
    name
        Its address, or ``store`` where there is only one.
    info
        Its answer to ``INFO``.
    config
        Those of its settings that count here; without those that it does not show.
    clock_skew
        Its clock less this machine's, in seconds.
    """

    name: str
    info: Mapping[str, Any]
    config: Mapping[str, str]
    clock_skew: float

    @property
    def memory(self) -> Memory:
        """How much it has."""
        return _memory(self.info)


class ServerMonitor:
    """Verbs on the servers that have the keys: the one, or a cluster's masters."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def read_memory(self, run_id: str, spread: bool) -> Memory | None:
        """Memory where a run's keys lie; `spread` says that they lie on all servers. None where that is not told."""
        redis = self._context.redis
        with translated():
            try:
                if not isinstance(redis, Cluster):
                    return _memory(await redis.info("memory"))
                asked = ("INFO", "memory")
                own = self._context.keys.run(run_id)
                told = await redis.execute_on_masters(*asked) if spread else [await redis.execute_at(own, *asked)]
            except NoPermissionError:  # an ACL user without `+info`
                return None
        found = [_memory(info) for info in told]
        limits = [memory.limit for memory in found]
        total = sum(limit for limit in limits if limit is not None)
        return Memory(sum(memory.used for memory in found), None if None in limits else total)

    async def read_status(self) -> list[ServerStatus]:
        """All that is known of each server."""
        with translated():
            return [await self._facts(name, server) for name, server in await list_servers(self._context)]

    async def _facts(self, name: str, server: Redis | ClusterNode) -> ServerStatus:
        info = await server.execute_command("INFO")
        config: dict[str, str] = {}
        for asked in _ASKED:
            try:
                reply = await server.execute_command("CONFIG GET", asked)
            except (NoPermissionError, ResponseError):  # an ACL user, or a provider that hides them
                continue
            config |= {_text(name): _text(value) for name, value in dict(reply).items()}
        seconds, micros = await server.execute_command("TIME")
        return ServerStatus(name, info, config, int(seconds) + int(micros) / 1e6 - self._context.clock())


async def list_servers(context: StoreContext) -> list[tuple[str, Redis | ClusterNode]]:
    """The servers that have keys, each with its name."""
    redis = context.redis
    if not isinstance(redis, Cluster):
        return [("store", redis)]
    await redis.initialize()
    return [(f"{node.host}:{node.port}", node) for node in redis.get_primaries()]


def _memory(info: Mapping[str, Any]) -> Memory:
    return Memory(int(info["used_memory"]), int(info.get("maxmemory", 0)) or None)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


SCHEMA_VERSION = 1


async def migrate(context: StoreContext) -> int:
    """Bring the store to `SCHEMA_VERSION`; return the version that it had. What every replica does at its start.

    Raises
    ------
    StoreNewer
        If it was written by a later version of the service.
    """
    with translated():
        found = await context.redis.get(context.keys.schema)
        version = 0 if found is None else int(found)
        if version > SCHEMA_VERSION:
            raise StoreNewer(
                f"the store has schema {version}, this service knows those up to {SCHEMA_VERSION}; upgrade this service"
            )
        for step in _STEPS[version:]:
            await step(context)
        if version < SCHEMA_VERSION:
            await context.writer.send((context.keys.schema, ("SET", context.keys.schema, SCHEMA_VERSION)))
    return version


async def _pin_options(context: StoreContext) -> None:
    """0 to 1: spell out each run's options, so that no later default changes what a run was opened with."""
    async for entry, _ in context.redis.zscan_iter(context.keys.runs):
        run_id = blob(entry).decode().partition(":")[2]
        key = context.keys.run(run_id)
        held = await context.redis.hget(key, "config")
        if held is None:
            continue
        pinned = codec.write_spec(codec.read_spec(run_id, blob(held)))
        if pinned != blob(held):
            await context.scripts.run("replace_config", [key], [blob(held), pinned])


_STEPS: tuple[Callable[[StoreContext], Awaitable[None]], ...] = (_pin_options,)
"""From version 0 on, one each."""
