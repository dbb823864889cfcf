"""What all parts of the store share: commands, Lua scripts, replicated writes, the clock, and their errors."""

import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from redis.asyncio.cluster import PipelineCommand
from redis.exceptions import (
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,
)

from mild_service.config import Settings
from mild_service.errors import (
    CommandForbidden,
    RoundFinished,
    RoundNotOpen,
    StaleAttempt,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnreplicated,
)
from mild_service.models import Run, run_not_found_error
from mild_service.observability import phase
from mild_service.store.cluster import Cluster, CommandUnit
from mild_service.store.codec import count_chunks
from mild_service.store.connection import Client, connect
from mild_service.store.keys import Keys, RunKeys

Argument = str | bytes | int
Command: TypeAlias = tuple[str, Sequence[Argument]]
"""A key, and the arguments of a command that writes to the slot of this key."""

_NO_EFFECT_WRITE = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '') redis.call('DEL', KEYS[1])"
"""A write without effect that succeeds even in a full store. ``WAIT`` waits for writes of its own connection only: a
command that changes nothing would not wait for an earlier, unacknowledged write of the same content."""

_READ_ONLY = ("read_rounds", "read_shards")
"""Scripts that only read several keys of one slot atomically."""

_WITHOUT_REPLICATION = (*_READ_ONLY, "renew_lock", "cache_selection", "prune_fields")
"""Scripts that need no replicas: losing what they write only costs repeated work."""

_CLOCK_SECONDS = 1.0
"""Seconds after which the store is asked for its time again."""

_ALLOWED_WHEN_FULL = ("mark_deleted", "delete_record", "resume_run", "prune_fields")
"""Scripts that must work in a full store, since they free memory."""


class translate_errors(phase):  # noqa: N801  # as its parent
    """Context manager that times its block as the phase ``store`` and translates Redis errors to `StoreError`.

    Only `NoScriptError` stays as it is: `StoreContext` then sends the source of the script.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("store")

    def __exit__(self, *raised: object) -> None:
        super().__exit__()
        error = raised[1]
        if isinstance(error, RedisError | RedisClusterException) and not isinstance(error, NoScriptError):
            raise _translate(error) from error
        if isinstance(error, RuntimeError) and "closed" in str(error):
            raise StoreUnavailable("the connection to the store was cut; try again in a second") from error


@contextmanager
def translate_blocking_errors() -> Iterator[None]:
    """Context manager that translates Redis errors to `StoreError` in threads and processes that serve no request."""
    try:
        yield
    except (RedisError, RedisClusterException) as error:
        raise _translate(error) from error


def _translate(error: RedisError | RedisClusterException) -> StoreError:
    if isinstance(error, OutOfMemoryError):
        return StoreFull(
            "the store has reached its memory limit; delete runs (DELETE /runs/{run_id}) or raise its `maxmemory`"
        )
    if isinstance(error, ConnectionError | TimeoutError | RedisClusterException):
        reason = "the connection was lost" if isinstance(error, ConnectionError) else "it took too long"
        return StoreUnavailable(f"the store did not answer ({reason}); try again in a second")
    if str(error).startswith("NOREPLICAS"):
        return StoreUnreplicated(
            "the store takes no writes, as too few replicas follow it (min-replicas-to-write); try again in a second"
        )
    if isinstance(error, ReadOnlyError):
        return StoreUnavailable(
            "the store takes no writes, as it is a read-only replica; name its primary in MILD_STORE_URL, or try again "
            "once it is promoted"
        )
    if str(error).startswith("MISCONF"):
        return StoreUnavailable(
            f"the store takes no writes, as it cannot keep them on its disk ({error}); make room on the disk, then try "
            "again"
        )
    kind = CommandForbidden if isinstance(error, NoPermissionError) else StoreUnavailable
    return kind(f"the store refused a command: {error}; see its log, then try again")


def to_texts(names: Iterable[bytes | str]) -> list[str]:
    """Return names as text; what is not UTF-8, as a damaged name may be, is escaped."""
    return [name if isinstance(name, str) else name.decode(errors="backslashreplace") for name in names]


class ReplicatedWriter:
    """Sends writes and waits until enough replicas have them.

    Replicas with an append-only file and ``appendfsync always`` acknowledge a write once it is on their disk.

    Parameters
    ----------
    redis, keys
        The client and the key names.
    n_replicas
        Number of replicas that must have a write; 0 does not wait.
    seconds
        Maximum time that a write waits for them.
    """

    def __init__(self, redis: Client, keys: Keys, n_replicas: int, seconds: float) -> None:
        self._redis = redis
        self._keys = keys
        self._n_replicas = n_replicas
        self._wait_command = ("WAIT", n_replicas, round(seconds * 1000))

    async def send(self, *commands: Command) -> list[Any]:
        """Send writes together, and return their replies once enough replicas have all of the writes."""
        with translate_errors():
            return await self._send(commands)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        if isinstance(self._redis, Cluster):
            return await self._send_by_slot(self._redis, commands)
        if not self._n_replicas and len(commands) == 1:
            ((_, arguments),) = commands
            return [await self._redis.execute_command(*arguments)]  # type: ignore[no-untyped-call]  # redis-py
        pipeline = self._redis.pipeline(transaction=False)
        for _, arguments in commands:
            pipeline.execute_command(*arguments)
        for command in self._wait_commands(commands[0][0]):
            pipeline.execute_command(*command)
        return self._check_replies(await pipeline.execute(raise_on_error=False), len(commands))

    async def _send_by_slot(self, cluster: Cluster, commands: Sequence[Command]) -> list[Any]:
        """Send each write, and the wait for its replicas, over the connection of its slot."""
        units = [
            CommandUnit(
                cluster.keyslot(key),
                [PipelineCommand(i, *words) for i, words in enumerate([arguments, *self._wait_commands(key)])],
            )
            for key, arguments in commands
        ]
        await cluster.execute_units(units)
        return [reply for unit in units for reply in self._check_replies(unit.replies, 1)]

    def _wait_commands(self, key: str) -> list[Sequence[Argument]]:
        """Return the commands that wait for the replicas. They follow a write to `key` on the same connection."""
        return (
            [("EVAL", _NO_EFFECT_WRITE, 1, self._keys.same_slot(key)), self._wait_command] if self._n_replicas else []
        )

    def _check_replies(self, replies: Sequence[Any], n_commands: int) -> list[Any]:
        """Return the replies to the writes; raise if a write failed or too few replicas have it."""
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        if self._n_replicas and replies[-1] < self._n_replicas:
            raise StoreUnreplicated(
                f"{replies[-1]} replicas of the store have this write, {self._n_replicas} are needed "
                "(MILD_STORE_REPLICAS); it is not acknowledged, send it again in a second"
            )
        return list(replies[:n_commands])


@cache
def _read_source(name: str, max_events: int) -> tuple[str, str]:
    """Return the source of a script and its digest: its flags, ``append_event.lua`` and ``guard.lua`` come first."""
    folder = files("mild_service.store") / "lua"
    flags = "no-writes" if name in _READ_ONLY else "allow-oom" if name in _ALLOWED_WHEN_FULL else ""
    source = f"#!lua flags={flags}\n" if flags else ""
    if name not in _READ_ONLY:
        source += f"local max_events = {max_events}\n"
        source += "".join((folder / f"{part}.lua").read_text() for part in ("append_event", "guard"))
    source += (folder / f"{name}.lua").read_text()
    return source, hashlib.sha1(source.encode()).hexdigest()


class StoreContext:
    """The client, key names, scripts and clock that all parts of the store share.

    Replies are bytes, as the server has sent them. Errors of Redis become those of the service.

    Parameters
    ----------
    settings
        Provides the namespace of the keys, the limits and the timeouts.
    url
        URL of a Redis or Valkey server, or of a cluster.
    clock
        Function that returns Unix time in seconds, for tests; None takes the clock of the store's server.

    Attributes
    ----------
    redis, keys
        The client and the key names.
    timeout
        Seconds that one command may take.
    sharded
        Whether keys with different hash tags may be on different servers, so that no script can access both.
    writer
        Sends writes that must not be lost.
    """

    def __init__(self, settings: Settings, url: str, clock: Callable[[], float] | None = None) -> None:
        self.redis, self.keys = connect(settings, url), Keys(settings.store_namespace)
        self.url, self.timeout, self.clock = url, settings.store_timeout, clock
        self.sharded = settings.store_sharded or isinstance(self.redis, Cluster)
        self.writer = ReplicatedWriter(self.redis, self.keys, settings.store_replicas, settings.store_replica_seconds)
        self._max_events = settings.max_events
        self._server_time = self._read_at = -math.inf

    def keys_of(self, run: Run) -> RunKeys:
        """Return the names of the keys of a run."""
        return self.keys.of_run(run.spec.run_id, run.uid, count_chunks(run.spec.num_samples))

    async def call(self, *command: Argument) -> Any:
        """Send a command, and return its reply."""
        with translate_errors():
            return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py

    async def call_all(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """Send commands of one key each in one exchange, and return their replies."""
        pipeline = self.redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with translate_errors():
            return list(await pipeline.execute())

    async def read_hash(self, key: str) -> dict[bytes, bytes]:
        """Return all fields of a hash with their values."""
        fields: dict[bytes, bytes] = await self.call("HGETALL", key)
        return fields

    async def read_fields(self, key: str, fields: Sequence[str | bytes]) -> list[bytes | None]:
        """Return the values of fields of a hash; None for those that are missing."""
        values: list[bytes | None] = await self.call("HMGET", key, *fields)
        return values

    async def run_script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[str]:
        """Run a script that writes, and return the reply as a list of texts, the first of which is the outcome.

        Parameters
        ----------
        name
            Name of the script, without the suffix ``.lua``.
        keys, arguments
            ``KEYS`` and ``ARGV`` of the script. All keys must be in one slot.
        """
        return [bytes(word).decode() for word in await self.read_script(name, keys, arguments)]

    async def read_script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        """Run a script by its digest, or with its source if the server does not know it; return the reply unchanged.

        Parameters as in `run_script`.
        """
        source, digest = _read_source(name, self._max_events)
        script_arguments = (len(keys), *keys, *arguments)
        try:
            return await self._send_script(name, keys[0], ("EVALSHA", digest, *script_arguments))
        except NoScriptError:
            # EVAL also caches the script on the node that has the keys. Loading it on all nodes of a cluster would
            # fail if any one of them were down.
            return await self._send_script(name, keys[0], ("EVAL", source, *script_arguments))

    async def _send_script(self, name: str, key: str, command: Sequence[Argument]) -> list[Any]:
        if name in _WITHOUT_REPLICATION:
            return list(await self.call(*command))
        (reply,) = await self.writer.send((key, command))
        return list(reply)

    async def change_run(
        self,
        script: str,
        run: Run,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        round_: int | None = None,
        attempt: int | None = None,
    ) -> list[str]:
        """Run a script that checks the run first (``guard.lua``), and return its outcome; raise if it was refused.

        Parameters
        ----------
        script, keys
            As in `run_script`; the first key is the run's record.
        arguments
            ``ARGV`` of the script behind uid, attempt, round and time.
        round_, attempt
            The round that must be open, and the writer's attempt; None accepts any round, and any attempt.
        """
        head: list[Argument] = [
            run.uid,
            "" if attempt is None else attempt,
            "" if round_ is None else round_,
            await self.now(),
        ]
        answer = await self.run_script(script, keys, [*head, *arguments])
        match answer:
            case "gone", *_:
                raise run_not_found_error(run.run_id)
            case "stale", current_attempt:
                raise stale_attempt_error(run.run_id, int(current_attempt), attempt)
            case (("finished" | "unopened"), open_round) if round_ is not None:
                raise wrong_round_error(run.run_id, round_, int(open_round))
        return answer

    async def iterate_index(self) -> AsyncIterator[str]:
        """Yield the entries of the index of all runs, in any order; one may be repeated."""
        cursor = None
        while cursor != 0:
            cursor, entries = await self.call("ZSCAN", self.keys.runs, cursor or 0)
            for entry, _ in entries:
                yield entry.decode()

    async def now(self) -> int:
        """Return the Unix time of the store's server in milliseconds, by which all times of runs go.

        All replicas of the service share this clock, whatever their own clocks say. It is asked once in a second, and
        counted on in between.
        """
        if self.clock is not None:
            return int(self.clock() * 1000)
        if time.monotonic() - self._read_at > _CLOCK_SECONDS:
            # With a key, since the cluster has several servers.
            seconds, micros = await self.call("EVAL", "return redis.call('TIME')", 1, self.keys.runs)
            self._server_time, self._read_at = int(seconds) + int(micros) / 1e6, time.monotonic()
        return int((self._server_time + time.monotonic() - self._read_at) * 1000)


class StorePart:
    """A part of the store, with what all parts share."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context


def stale_attempt_error(run_id: str, current_attempt: int, received_attempt: int | None) -> StaleAttempt:
    """Build the error for a write by an attempt that is not the current one."""
    return StaleAttempt(
        f"run {run_id!r} is at attempt {current_attempt}, got attempt {received_attempt}; "
        f"a newer trainer has taken over: end this one, or take over in turn with PUT /runs/{run_id} and resume_from"
    )


def wrong_round_error(run_id: str, round_: int, open_round: int) -> RoundFinished | RoundNotOpen:
    """Build the error for a write to a round that is not open."""
    if round_ < open_round:
        return RoundFinished(
            f"round {round_} of run {run_id!r} is finished and never changes, round {open_round} is open; "
            "write to the open round"
        )
    return RoundNotOpen(
        f"round {round_} of run {run_id!r} has not begun, round {open_round} is open; finish the rounds before it first"
    )
