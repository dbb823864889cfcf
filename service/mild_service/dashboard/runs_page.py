"""``/ui/``: all runs that the reader's key reaches, newest first."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from mild_core.alarms import PATIENCE
from mild_service.dashboard.progress import of_run
from mild_service.dashboard.rendering import link, render
from mild_service.dashboard.snippets import first_epoch
from mild_service.models import Round, Run, RunStatus
from mild_service.recording.run_writer import RunWriter
from mild_service.web.dependencies import CallerDep, RunsDep

router = APIRouter(include_in_schema=False)

_PAGE = 25
_LOOKED_AT = 500
_MOST_LOOKS = 20
"""A search looks at this many times as many runs before it asks whether to go on."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a reader looks for.

    Attributes
    ----------
    text
        Part of the run's id, or of a tag's value, in any case; empty: any.
    tag
        ``name=value``, or a name alone; empty: any.
    status
        None: any.
    """

    text: str
    tag: str
    status: RunStatus | None

    def __bool__(self) -> bool:
        return bool(self.text or self.tag or self.status)

    def lets_through(self, run: Run) -> bool:
        """Whether a run is what the reader looks for."""
        name, _, value = self.tag.partition("=")
        tagged = not self.tag or (name in run.tags and ("=" not in self.tag or run.tags[name] == value))
        text = self.text.casefold()
        named = any(text in held.casefold() for held in (run.run_id, *run.tags.values()))
        return tagged and named and self.status in (None, run.status)


@dataclass(frozen=True, slots=True)
class Line:
    """A run in the list.

    Attributes
    ----------
    run
        Its record.
    round
        The open round.
    n_finished
        Finished rounds.
    done
        Share of the expected epochs of all expected rounds that is in; None where nothing is expected.
    selection
        JSON of the last finished round's set; None before there is one.
    alarms
        What to look at, a sentence each.
    """

    run: Run
    round: Round
    n_finished: int
    done: float | None
    selection: Mapping[str, Any] | None
    alarms: list[str]


@router.get("/ui", response_class=RedirectResponse)
async def go_home(request: Request) -> RedirectResponse:
    """To the list."""
    return RedirectResponse(request.scope["root_path"] + "/ui/")


@router.get("/ui/", response_class=HTMLResponse)
async def show_runs(
    request: Request,
    runs: RunsDep,
    caller: CallerDep,
    q: Annotated[str, Query(max_length=200)] = "",
    tag: Annotated[str, Query(max_length=600)] = "",
    status: Annotated[RunStatus | Literal[""], Query()] = "",
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{13}:[A-Za-z0-9._-]{1,64}$")] = None,
) -> HTMLResponse:
    """The list, or how to send a first epoch where there is none."""
    wanted = Filter(q.strip(), tag.strip(), status or None)
    found, following, ended = await _find(runs, caller.prefix, wanted, cursor)
    lines = await asyncio.gather(*(_line(runs, run) for run in found))
    query = {"q": wanted.text, "tag": wanted.tag, "status": status}
    context = {
        "lines": lines,
        "filter": wanted,
        "cursor": cursor,
        "next_link": following and request.scope["root_path"] + link("/ui/", **query, cursor=following),
        "ended": ended,
        "pieces": first_epoch(str(request.base_url).rstrip("/"), caller),
    }
    return render(request, "runs.html", context)


async def _find(runs: RunWriter, prefix: str, wanted: Filter, cursor: str | None) -> tuple[list[Run], str | None, bool]:
    """A page of runs, where the next begins, and whether all runs were looked at that this page could have had."""
    if not wanted:
        page = await runs.list_page(_PAGE, cursor, prefix)
        return page.runs, page.next_cursor, True
    found: list[Run] = []
    for _ in range(_MOST_LOOKS):
        page = await runs.list_page(_LOOKED_AT, cursor, prefix)
        fitting = [run for run in page.runs if wanted.lets_through(run)]
        found += fitting
        cursor = page.next_cursor
        if len(found) > _PAGE:
            return found[:_PAGE], found[_PAGE - 1].index_entry, True
        if cursor is None:
            return found, None, True
    return found, cursor, False


async def _line(runs: RunWriter, run: Run) -> Line:
    rounds = await runs.read_rounds(run, first=max(run.round - 1 - PATIENCE, 0))
    spec = run.spec
    done = None
    if spec.expected_epochs and spec.expected_rounds:
        n_epochs = run.round * spec.expected_epochs + min(len(rounds[-1].epochs), spec.expected_epochs)
        done = min(n_epochs / (spec.expected_epochs * spec.expected_rounds), 1.0)
    selection = next((held.selection for held in reversed(rounds) if held.finished), None)
    return Line(run, rounds[-1], run.round, done, selection, of_run(run, rounds, time.time()))
