"""What every part of the store works with: the client, the key names, the scripts and the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mild_core.errors import MildError
from mild_service.conflicts import RoundFinished, RoundNotOpen, StaleAttempt
from mild_service.errors import RunNotFound
from mild_service.store.client import Client
from mild_service.store.keys import Keys
from mild_service.store.scripts import Scripts
from mild_service.store.writes import Argument, Writes


def run_not_found(run_id: str) -> RunNotFound:
    """The error for a run that is not there."""
    return RunNotFound(
        f"there is no run {run_id!r} (or it has expired); open it first with "
        f'PUT /runs/{run_id} and a body such as {{"num_samples": 50000}}'
    )


def stale_attempt(run_id: str, current: int, got: int | None) -> StaleAttempt:
    """The error for a write of another attempt than the current one."""
    return StaleAttempt(
        f"run {run_id!r} is at attempt {current}, got attempt {got}; a newer trainer has taken over: "
        f"end this one, or take over in turn with PUT /runs/{run_id} and resume_from"
    )


def wrong_round(run_id: str, round_: int, open_: int) -> RoundFinished | RoundNotOpen:
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
class Link:
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
    writes: Writes = field(init=False)
    scripts: Scripts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "writes", Writes(self.redis, self.keys, self.n_replicas, self.replica_seconds))
        object.__setattr__(self, "scripts", Scripts(self.redis, self.writes, self.events_kept))

    def now(self) -> int:
        """Unix time in milliseconds."""
        return int(self.clock() * 1000)


def refused(answer: list[str], run_id: str, round_: int, attempt: int | None) -> MildError:
    """The error for what a script's guard has found."""
    reason, *values = answer
    match reason:
        case "stale":
            return stale_attempt(run_id, int(values[0]), attempt)
        case "finished" | "unopened":
            return wrong_round(run_id, round_, int(values[0]))
        case _:
            return run_not_found(run_id)


def said(attempt: int | None) -> Argument:
    """An attempt as the guard takes it: empty when the caller does not say."""
    return "" if attempt is None else attempt
