"""What the store's servers say of themselves: version, memory, how they keep what they have, and what time it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import NoPermissionError, ResponseError

from mild_service.store.cluster import Cluster
from mild_service.store.faults import translated
from mild_service.store.link import Link

_ASKED = ("appendonly", "appendfsync", "maxmemory-policy", "save")


@dataclass(frozen=True, slots=True)
class Memory:
    """A server's memory in bytes; `limit` is None where it has none."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class ServerFacts:
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


class Servers:
    """Verbs on the servers that have the keys: the one, or a cluster's masters."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def memory(self, run_id: str, spread: bool) -> Memory | None:
        """Memory where a run's keys lie; `spread` says that they lie on all servers. None where that is not told."""
        redis = self._link.redis
        with translated():
            try:
                if not isinstance(redis, Cluster):
                    return _memory(await redis.info("memory"))
                asked = ("INFO", "memory")
                own = self._link.keys.run(run_id)
                told = await redis.at_all(*asked) if spread else [await redis.at(own, *asked)]
            except NoPermissionError:  # an ACL user without `+info`
                return None
        found = [_memory(info) for info in told]
        limits = [memory.limit for memory in found]
        total = sum(limit for limit in limits if limit is not None)
        return Memory(sum(memory.used for memory in found), None if None in limits else total)

    async def facts(self) -> list[ServerFacts]:
        """All that is known of each server."""
        with translated():
            return [await self._facts(name, server) for name, server in await servers_of(self._link)]

    async def _facts(self, name: str, server: Redis | ClusterNode) -> ServerFacts:
        info = await server.execute_command("INFO")
        config: dict[str, str] = {}
        for asked in _ASKED:
            try:
                reply = await server.execute_command("CONFIG GET", asked)
            except (NoPermissionError, ResponseError):  # an ACL user, or a provider that hides them
                continue
            config |= {_text(name): _text(value) for name, value in dict(reply).items()}
        seconds, micros = await server.execute_command("TIME")
        return ServerFacts(name, info, config, int(seconds) + int(micros) / 1e6 - self._link.clock())


async def servers_of(link: Link) -> list[tuple[str, Redis | ClusterNode]]:
    """The servers that have keys, each with its name."""
    redis = link.redis
    if not isinstance(redis, Cluster):
        return [("store", redis)]
    await redis.initialize()
    return [(f"{node.host}:{node.port}", node) for node in redis.get_primaries()]


def _memory(info: Mapping[str, Any]) -> Memory:
    return Memory(int(info["used_memory"]), int(info.get("maxmemory", 0)) or None)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
