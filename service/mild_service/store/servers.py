"""State of the Redis servers, and the schema version of the store with its migrations.

A migration only goes forward, can be interrupted and repeated, and leaves records that the previous version can read,
since old and new replicas run side by side during an upgrade. A store without a version has version 0.

The step to schema 2, with checksums, is an exception: services of schema 1 refuse its runs as those of a later version,
and what they still write to runs that they know is read as damaged. Replace all of them at once.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import NoPermissionError, ResponseError

from mild_service.errors import StoreDamaged, StoreNewer
from mild_service.store import codec
from mild_service.store.cluster import Cluster
from mild_service.store.context import CommandForbidden, StoreContext, to_texts, translate_errors
from mild_service.store.values import has_checksums, is_intact, seal

SCHEMA_VERSION = 2
_SETTINGS = ("appendonly", "appendfsync", "maxmemory-policy", "save")


@dataclass(frozen=True, slots=True)
class Memory:
    """Used memory and memory limit of the store in bytes; `limit` is None if there is no limit."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """State of one server: its ``INFO``, its settings and its clock.

    Attributes
    ----------
    name
        Address of the server; ``store`` if there is only one server.
    info
        Reply of the server to ``INFO``.
    config
        Settings of persistence and eviction by name; without those that the server does not show.
    clock_skew
        Clock of the server minus the clock of this machine, in seconds.
    """

    name: str
    info: Mapping[str, Any]
    config: Mapping[str, str]
    clock_skew: float

    @property
    def memory(self) -> Memory:
        """Used memory and memory limit of the server."""
        return _parse_memory(self.info)


class ServerMonitor:
    """Reads the state of the servers that hold keys: the single server, or the masters of a cluster."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def read_memory(self, run_id: str, is_spread: bool) -> Memory | None:
        """Read the memory of the servers that hold a run.

        Parameters
        ----------
        run_id
            The run.
        is_spread
            Whether the keys of the run are on all servers of a cluster, or on one only.

        Returns
        -------
        Memory or None
            Sums over these servers; None if the ACL user may not run ``INFO``.
        """
        redis = self._context.redis
        command, key = ("INFO", "memory"), self._context.keys.run(run_id)
        try:
            with translate_errors():
                if not isinstance(redis, Cluster):
                    return _parse_memory(await redis.info("memory"))
                replies = (
                    await redis.execute_on_masters(*command)
                    if is_spread
                    else [await redis.execute_at_key(key, *command)]
                )
        except CommandForbidden:  # an ACL user without `+info`
            return None
        memories = [_parse_memory(info) for info in replies]
        limits = [memory.limit for memory in memories]
        total = sum(limit for limit in limits if limit is not None)
        return Memory(sum(memory.used for memory in memories), None if None in limits else total)

    async def read_status(self) -> list[ServerStatus]:
        """Read the state of every server that holds keys."""
        with translate_errors():
            return [await self._read_server(name, server) for name, server in await list_servers(self._context)]

    async def _read_server(self, name: str, server: Redis | ClusterNode) -> ServerStatus:
        info = await server.execute_command("INFO")
        config: dict[str, str] = {}
        for setting in _SETTINGS:
            try:
                reply = await server.execute_command("CONFIG GET", setting)
            except (NoPermissionError, ResponseError):  # an ACL user, or a provider that hides them
                continue
            config |= {_decode(name): _decode(value) for name, value in dict(reply).items()}
        seconds, micros = await server.execute_command("TIME")
        return ServerStatus(name, info, config, int(seconds) + int(micros) / 1e6 - (self._context.clock or time.time)())


async def list_servers(context: StoreContext) -> list[tuple[str, Redis | ClusterNode]]:
    """Return the name and the client of every server that holds keys."""
    redis = context.redis
    if not isinstance(redis, Cluster):
        return [("store", redis)]
    await redis.initialize()
    return [(f"{node.host}:{node.port}", node) for node in redis.get_primaries()]


def _parse_memory(info: Mapping[str, Any]) -> Memory:
    return Memory(int(info["used_memory"]), int(info.get("maxmemory", 0)) or None)


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


async def migrate(context: StoreContext) -> int:
    """Migrate the store to `SCHEMA_VERSION`, and return the version that it had. Every replica does this at its start.

    A store without runs has no version yet, and nothing to migrate: it is that of `SCHEMA_VERSION` from the start.
    """
    stored_version = await context.call("GET", context.keys.schema)
    version = 0 if stored_version is None else int(stored_version)
    if version > SCHEMA_VERSION:
        raise StoreNewer(
            f"the store has schema {version}, this service knows those up to {SCHEMA_VERSION}; upgrade this service"
        )
    if version < SCHEMA_VERSION:
        await _store_checksums(context)
        is_empty = stored_version is None and not await context.call("EXISTS", context.keys.runs)
        await context.writer.send((context.keys.schema, ("SET", context.keys.schema, SCHEMA_VERSION)))
        return SCHEMA_VERSION if is_empty else version
    return version


async def _store_checksums(context: StoreContext) -> None:
    """Migrate from schema 0 or 1 to 2: add a checksum to each value, then to each run's config.

    A config of schema 0 gets every option, so that new defaults do not change existing runs.
    """
    async for entry in context.iterate_index():
        run_id = entry.partition(":")[2]
        config, uid, round_ = await context.read_fields(context.keys.run(run_id), ["config", "uid", "round"])
        if config is None or uid is None or round_ is None or codec.has_checksum(config):
            continue
        try:
            spec = codec.decode_old_spec(run_id, config)
        except StoreDamaged:
            continue
        keys = context.keys.of_run(run_id, uid.decode())
        for hash_key in keys.list_hashes(int(round_) + 1, codec.count_chunks(spec.num_samples)):
            for field in to_texts(await context.call("HKEYS", hash_key)) if has_checksums(hash_key) else ():
                value = await context.call("HGET", hash_key, field)
                if value is not None and not is_intact(hash_key, field, value):
                    arguments = [field, value, seal(hash_key, field, value)]
                    await context.scripts.run("replace_field", [hash_key], arguments)
        await context.scripts.run("replace_field", [keys.run], ["config", config, codec.encode_spec(spec)])
