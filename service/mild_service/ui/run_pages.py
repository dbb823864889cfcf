"""What the pages of one run share: which round they show, and the context of `run_base.html`."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query

from mild_service.api.deps import RunId, RunsDep
from mild_service.conflicts import RoundNotOpen
from mild_service.runs import Runs
from mild_service.state import Round, Run

RoundQuery = Annotated[
    int | None,
    Query(alias="round", ge=0, description="The round that the page shows; none: the latest that has a set."),
]


@dataclass(frozen=True, slots=True)
class Shown:
    """A run and the round that is looked at.

    Attributes
    ----------
    run
        Its record.
    rounds
        All of its rounds.
    round
        The one that the page shows.
    asked
        Its number where somebody has asked for it, which links go on to do.
    """

    run: Run
    rounds: list[Round]
    round: Round
    asked: int | None

    def context(self) -> dict[str, Any]:
        """What `run_base.html` asks for."""
        return {"run": self.run, "rounds": self.rounds, "round": self.round, "asked_round": self.asked}


async def shown(runs: Runs, run_id: str, asked: int | None) -> Shown:
    """The run with the round that was asked for; without one the open round once it has epochs, else the last before.

    Raises
    ------
    RunNotFound
        If there is no such run.
    RoundNotOpen
        If the round has not begun.
    """
    run = await runs.find(run_id)
    rounds = await runs.rounds(run)
    number = asked
    if number is None:
        number = run.round if rounds[-1].epochs else max(run.round - 1, 0)
    if number > run.round:
        raise RoundNotOpen(
            f"round {number} of run {run_id!r} has not begun, round {run.round} is open; choose one of 0..{run.round}"
        )
    return Shown(run, rounds, rounds[number], asked)


async def _page(run_id: RunId, runs: RunsDep, asked: RoundQuery = None) -> Shown:
    return await shown(runs, run_id, asked)


PageDep = Annotated[Shown, Depends(_page)]
"""What a page of a run shows, by its path and its `round`."""
