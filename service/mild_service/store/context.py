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

from mild_core.errors import MildError
from mild_service.errors import (
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
from mild_service.store.connection import Client
from mild_service.store.keys import Keys, RunKeys

Argument = str | bytes | int
Command: TypeAlias = tuple[str, Sequence[Argument]]
"""A key, and the arguments of a command that writes to the slot of this key."""

_NO_EFFECT_WRITE = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '') redis.call('DEL', KEYS[1])"
"""A write without effect that succeeds even in a full store. ``WAIT`` waits for writes of its own connection only: a
command that changes nothing would not wait for an earlier, unacknowledged write of the same content."""

_WITHOUT_GUARD = (
    "open_run",
    "mark_deleted",
    "delete_record",
    "renew_lock",
    "cache_selection",
    "import_run",
    "replace_field",
    "prune_fields",
)
"""Scripts with their own checks; all others start with ``guard.lua``."""

_READ_ONLY = ("read_rounds", "read_shards")
"""Scripts that only read several keys of one slot atomically."""

_WITHOUT_REPLICATION = ("renew_lock", "cache_selection", "prune_fields")
"""Scripts whose writes need no replicas: losing them only costs repeated work."""

_CLOCK_SECONDS = 1.0
"""Seconds after which the store is asked for its time again."""

_ALLOWED_WHEN_FULL = ("mark_deleted", "delete_record", "resume_run", "prune_fields")
"""Scripts that must work in a full store, since they free memory."""


class CommandForbidden(StoreUnavailable):
    """The ACL user of the service may not run a command."""

    code = StoreUnavailable.code


class translate_errors(phase):  # noqa: N801  # as its parent
    """Context manager that times its block as the phase ``store`` and translates Redis errors to `StoreError`.

    Only `NoScriptError` stays as it is: `Scripts` then sends the source of the script.
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

    def __init__(self, redis: Client, keys: Keys, n_replicas: int = 0, seconds: float = 1.0) -> None:
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


class Scripts:
    """Runs the Lua scripts. A script that writes returns a list of texts, the first of which is the outcome."""

    def __init__(self, redis: Client, writer: ReplicatedWriter, max_events: int) -> None:
        self._redis = redis
        self._writer = writer
        self._max_events = max_events

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[str]:
        """Run a script that writes, and return the reply as a list of texts.

        Parameters
        ----------
        name
            Name of the script, without the suffix ``.lua``.
        keys, arguments
            ``KEYS`` and ``ARGV`` of the script. All keys must be in one slot.
        """
        return [bytes(word).decode() for word in await self._evaluate(name, keys, arguments)]

    async def read(self, name: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> list[Any]:
        """Run a script that only reads, and return the reply unchanged. Parameters as in `run`."""
        return list(await self._evaluate(name, keys, arguments))

    async def _evaluate(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a script by its digest, or with its source if the server does not know the script."""
        source, digest = _read_source(name, self._max_events)
        script_arguments = (len(keys), *keys, *arguments)
        with translate_errors():
            try:
                return await self._send(name, keys[0], ("EVALSHA", digest, *script_arguments))
            except NoScriptError:
                # EVAL also caches the script on the node that has the keys. Loading it on all nodes of a cluster would
                # fail if any one of them were down.
                return await self._send(name, keys[0], ("EVAL", source, *script_arguments))

    async def _send(self, name: str, key: str, command: Sequence[Argument]) -> Any:
        if name in _READ_ONLY or name in _WITHOUT_REPLICATION:
            return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
        (answer,) = await self._writer.send((key, command))
        return answer


@cache
def _read_source(name: str, max_events: int) -> tuple[str, str]:
    """Return the source of a script and its digest: its flags, ``append_event.lua`` and ``guard.lua`` come first."""
    folder = files("mild_service.store") / "lua"
    source = (folder / f"{name}.lua").read_text()
    if name in _READ_ONLY:
        source = f"#!lua flags=no-writes\n{source}"
    else:
        events = f"local max_events = {max_events}\n{(folder / 'append_event.lua').read_text()}"
        guard = "" if name in _WITHOUT_GUARD else (folder / "guard.lua").read_text()
        flags = "#!lua flags=allow-oom\n" if name in _ALLOWED_WHEN_FULL else ""
        source = f"{flags}{events}{guard}{source}"
    return source, hashlib.sha1(source.encode()).hexdigest()


class StoreContext:
    """The client, key names, scripts and clock that all parts of the store share.

    Replies are bytes, as the server has sent them. Errors of Redis become those of the service.

    Parameters
    ----------
    redis, keys
        The client and the key names.
    url, timeout
        URL of the store, and seconds that one command may take; for processes that open a client of their own.
    clock
        Function that returns Unix time in seconds, for tests; None takes the clock of the store's server.
    max_events
        Maximum number of events that are kept per run.
    sharded
        Whether keys with different hash tags may be on different servers, so that no script can access both.
    n_replicas, replica_seconds
        Number of replicas that must have a write before it is acknowledged, and the maximum time to wait for them.

    Attributes
    ----------
    writer
        Sends writes that must not be lost.
    scripts
        Runs the Lua scripts.
    """

    def __init__(
        self,
        redis: Client,
        keys: Keys,
        url: str,
        timeout: float,
        clock: Callable[[], float] | None = None,
        max_events: int = 10_000,
        sharded: bool = False,
        n_replicas: int = 0,
        replica_seconds: float = 1.0,
    ) -> None:
        self.redis, self.keys = redis, keys
        self.url, self.timeout = url, timeout
        self.clock, self.sharded = clock, sharded
        self.writer = ReplicatedWriter(redis, keys, n_replicas, replica_seconds)
        self.scripts = Scripts(redis, self.writer, max_events)
        self._server_time = self._read_at = -math.inf

    def keys_of(self, run: Run) -> RunKeys:
        """Return the names of the keys of a run."""
        return self.keys.of_run(run.spec.run_id, run.uid)

    async def call(self, *command: Argument) -> Any:
        """Send a command, and return its reply."""
        with translate_errors():
            return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

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


def encode_attempt(attempt: int | None) -> Argument:
    """Encode an attempt as a script argument; None, which accepts any attempt, becomes empty."""
    return "" if attempt is None else attempt


def refusal_error(answer: list[str], run_id: str, round_: int, attempt: int | None) -> MildError:
    """Build the error for a write that ``guard.lua`` has rejected.

    Parameters
    ----------
    answer
        Reply of the script: the reason and its values.
    run_id, round_, attempt
        Run, round and attempt of the write; `attempt` is None if the write accepted any attempt.
    """
    reason, *values = answer
    match reason:
        case "stale":
            return stale_attempt_error(run_id, int(values[0]), attempt)
        case "finished" | "unopened":
            return wrong_round_error(run_id, round_, int(values[0]))
        case _:
            return run_not_found_error(run_id)


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
