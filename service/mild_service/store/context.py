"""What every part of the store works with: the client, the key names, the scripts and the clock.

The Lua scripts, each next to this file in ``lua/``, and the one way to run them.

Writes that count once enough replicas have them.

Replicas that keep an append-only file with ``appendfsync always`` say that they have a write once it is on their disk.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, TypeAlias

from redis.asyncio.cluster import PipelineCommand
from redis.exceptions import NoScriptError

from mild_core.errors import MildError
from mild_service.errors import RoundFinished, RoundNotOpen, RunNotFound, StaleAttempt, StoreUnreplicated
from mild_service.store.cluster import Cluster, CommandUnit
from mild_service.store.connection import Client
from mild_service.store.keys import Keys

Argument = str | bytes | int
Command: TypeAlias = tuple[str, Sequence[Argument]]
"""A key, and a command that writes to its slot."""

_TOUCH = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '') redis.call('DEL', KEYS[1])"
"""Always a write, also where the store is full, that leaves nothing. ``WAIT`` waits for what its own connection has
written: a command that finds everything as it should be writes nothing, and would not wait for whoever wrote it before
and was not acknowledged."""


class ReplicatedWriter:
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
            CommandUnit(
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


_ALONE = ("open", "doom", "bury", "renew", "keep", "import", "pin", "prune")
"""Scripts that check for themselves; the others begin with the guard."""

_READING = ("rounds", "parts")
"""Scripts that change nothing: they read several keys of one slot at one instant."""

_UNWATCHED = ("renew", "keep", "prune")
"""Scripts whose writes may get lost with their server: all they do is save work."""

_ALLOWED_WHEN_FULL = ("doom", "bury", "resume", "prune")
"""A full store must still let runs be deleted, and dropped epochs make room."""


def _source(name: str, events_kept: int) -> str:
    folder = files("mild_service.store") / "lua"
    body = (folder / f"{name}.lua").read_text()
    if name in _READING:
        return f"#!lua flags=no-writes\n{body}"
    tell = f"local events_kept = {events_kept}\n{(folder / 'tell.lua').read_text()}"
    guard = "" if name in _ALONE else (folder / "guard.lua").read_text()
    head = "#!lua flags=allow-oom\n" if name in _ALLOWED_WHEN_FULL else ""
    return f"{head}{tell}{guard}{body}"


class Scripts:
    """The scripts; those that write answer in lists of words, the first of which is the outcome."""

    names = (
        "open",
        "import",
        "pin",
        "resume",
        "commit",
        "shard",
        "merge",
        "members",
        "planted",
        "metrics",
        "finish",
        "truth",
        "ids",
        "patch",
        "doom",
        "bury",
        "renew",
        "keep",
        "prune",
        "rounds",
        "parts",
    )

    def __init__(self, redis: Client, writes: ReplicatedWriter, events_kept: int) -> None:
        self._redis = redis
        self._writes = writes
        self._sources = {name: _source(name, events_kept) for name in self.names}
        self._digests = {name: hashlib.sha1(source.encode()).hexdigest() for name, source in self._sources.items()}

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[str]:
        """Run a script that writes and return its answer."""
        return [bytes(word).decode() for word in await self._evaluate(name, keys, arguments)]

    async def read(self, name: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> list[Any]:
        """Run a script that only reads and return what it has found."""
        return list(await self._evaluate(name, keys, arguments))

    async def _evaluate(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        tail = (len(keys), *keys, *arguments)
        try:
            return await self._send(name, keys[0], ("EVALSHA", self._digests[name], *tail))
        except NoScriptError:
            # Sent whole to where the keys are, which keeps it: in a cluster every node has to learn it, and loading it
            # everywhere would fail with any node.
            return await self._send(name, keys[0], ("EVAL", self._sources[name], *tail))

    async def _send(self, name: str, key: str, command: Sequence[Argument]) -> Any:
        if name in _READING or name in _UNWATCHED:
            return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        (answer,) = await self._writes.send((key, command))
        return answer


def run_not_found_error(run_id: str) -> RunNotFound:
    """The error for a run that is not there."""
    return RunNotFound(
        f"there is no run {run_id!r} (or it has expired); open it first with "
        f'PUT /runs/{run_id} and a body such as {{"num_samples": 50000}}'
    )


def stale_attempt_error(run_id: str, current: int, got: int | None) -> StaleAttempt:
    """The error for a write of another attempt than the current one."""
    return StaleAttempt(
        f"run {run_id!r} is at attempt {current}, got attempt {got}; a newer trainer has taken over: "
        f"end this one, or take over in turn with PUT /runs/{run_id} and resume_from"
    )


def wrong_round_error(run_id: str, round_: int, open_: int) -> RoundFinished | RoundNotOpen:
    """The error for a write to another round than the open one."""
    if round_ < open_:
        return RoundFinished(
            f"round {round_} of run {run_id!r} is finished and never changes, round {open_} is open; "
            "write to the open round"
        )
    return RoundNotOpen(
        f"round {round_} of run {run_id!r} has not begun, round {open_} is open; finish the rounds before it first"
    )


@dataclass(frozen=True)
class StoreContext:
    """The client with what goes with it.

    Attributes
    ----------
    redis, keys, scripts
        The client, the key names, the scripts.
    clock
        Gives Unix time in seconds.
    events_kept
        Events that a run keeps.
    sharded
        Keys of different hash tags may lie on different servers, which no script spans.
    n_replicas, replica_seconds
        Replicas that must have a write before it counts, and how long it waits for them.
    writes
        Sends what must not get lost.
    """

    redis: Client
    keys: Keys
    clock: Callable[[], float] = time.time
    events_kept: int = 10_000
    sharded: bool = False
    n_replicas: int = 0
    replica_seconds: float = 1.0
    writer: ReplicatedWriter = field(init=False)
    scripts: Scripts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "writer", ReplicatedWriter(self.redis, self.keys, self.n_replicas, self.replica_seconds)
        )
        object.__setattr__(self, "scripts", Scripts(self.redis, self.writer, self.events_kept))

    def now(self) -> int:
        """Unix time in milliseconds."""
        return int(self.clock() * 1000)


def refusal_error(answer: list[str], run_id: str, round_: int, attempt: int | None) -> MildError:
    """The error for what a script's guard has found."""
    reason, *values = answer
    match reason:
        case "stale":
            return stale_attempt_error(run_id, int(values[0]), attempt)
        case "finished" | "unopened":
            return wrong_round_error(run_id, round_, int(values[0]))
        case _:
            return run_not_found_error(run_id)


def attempt_argument(attempt: int | None) -> Argument:
    """An attempt as the guard takes it: empty when the caller does not say."""
    return "" if attempt is None else attempt
