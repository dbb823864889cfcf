"""The list of runs: ``/ui/`` shows the runs that the caller's key may access, newest first."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field, StringConstraints

from mild_core.alarms import PATIENCE
from mild_service.dashboard.code_snippets import make_first_epoch_snippets
from mild_service.dashboard.progress import find_run_alarms
from mild_service.dashboard.rendering import link, render
from mild_service.models import Round, Run, RunStatus
from mild_service.recording.run_writer import RunWriter
from mild_service.web.dependencies import CallerDep, RunsDep

router = APIRouter(include_in_schema=False)

_PAGE_SIZE = 25
_BATCH_SIZE = 500
"""Number of runs that a search reads at once."""
_MAX_BATCHES = 20
"""Number of batches that a search reads before it stops and offers to continue."""


class RunQuery(BaseModel):
    """The query of the list of runs: what to search for, and the page. It is false if all runs are listed.

    Attributes
    ----------
    q
        Part of the run's id or of a tag's value, ignoring case; empty for any.
    tag
        ``name=value``, or only a name; empty for any.
    status
        Status of the run; empty for any.
    cursor
        Entry in the index of runs behind which the page begins; None for the first page.
    """

    q: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""
    tag: Annotated[str, StringConstraints(strip_whitespace=True, max_length=600)] = ""
    status: RunStatus | Literal[""] = ""
    cursor: str | None = Field(None, pattern=r"^[0-9]{13}:[A-Za-z0-9._-]{1,64}$")

    def __bool__(self) -> bool:
        return bool(self.q or self.tag or self.status)

    def matches(self, run: Run) -> bool:
        """Return whether a run fulfils all conditions."""
        name, _, value = self.tag.partition("=")
        matches_tag = not self.tag or (name in run.tags and ("=" not in self.tag or run.tags[name] == value))
        text = self.q.casefold()
        matches_text = any(text in value.casefold() for value in (run.run_id, *run.tags.values()))
        return matches_tag and matches_text and self.status in ("", run.status)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of the list of runs.

    Attributes
    ----------
    run
        The run.
    round
        The open round.
    progress
        Stored share of the epochs that the run expects in all rounds; None if it does not say how many.
    selection
        Summary of the selection of the last finished round; None if no round is finished.
    alarms
        Alarms, one sentence each.
    """

    run: Run
    round: Round
    progress: float | None
    selection: Mapping[str, Any] | None
    alarms: list[str]


@router.get("/ui", response_class=RedirectResponse)
async def redirect_to_runs(request: Request) -> RedirectResponse:
    """Redirect to the list of runs."""
    return RedirectResponse(request.scope["root_path"] + "/ui/")


@router.get("/ui/", response_class=HTMLResponse)
async def show_runs(
    request: Request, runs: RunsDep, caller: CallerDep, query: Annotated[RunQuery, Query()]
) -> HTMLResponse:
    """Show the list of runs, or how to send a first epoch if there are no runs."""
    matching_runs, next_cursor, search_complete = await _search_runs(runs, caller.prefix, query)
    following = {**query.model_dump(), "cursor": next_cursor}
    context = {
        "rows": await asyncio.gather(*(_build_row(runs, run) for run in matching_runs)),
        "filter": query,
        "next_link": next_cursor and request.scope["root_path"] + link("/ui/", **following),
        "search_complete": search_complete,
        "snippets": make_first_epoch_snippets(str(request.base_url).rstrip("/"), caller),
    }
    return render(request, "runs.html", context)


async def _search_runs(runs: RunWriter, prefix: str, query: RunQuery) -> tuple[list[Run], str | None, bool]:
    """Return a page of the runs that a filter matches.

    Returns
    -------
    tuple
        The runs, the cursor of the next page (None at the end), and whether the search is complete: False if it stopped
        after `_MAX_BATCHES` batches without filling the page.
    """
    cursor = query.cursor
    if not query:
        page = await runs.list_page(_PAGE_SIZE, cursor, prefix)
        return page.runs, page.next_cursor, True
    matching_runs: list[Run] = []
    for _ in range(_MAX_BATCHES):
        page = await runs.list_page(_BATCH_SIZE, cursor, prefix)
        matching_runs += [run for run in page.runs if query.matches(run)]
        cursor = page.next_cursor
        if len(matching_runs) > _PAGE_SIZE:
            return matching_runs[:_PAGE_SIZE], matching_runs[_PAGE_SIZE - 1].index_entry, True
        if cursor is None:
            return matching_runs, None, True
    return matching_runs, cursor, False


async def _build_row(runs: RunWriter, run: Run) -> RunRow:
    """Read the last rounds of a run, and return its row of the list."""
    rounds = await runs.read_rounds(run, first=max(run.round - 1 - PATIENCE, 0))
    spec = run.spec
    progress = None
    if spec.expected_epochs and spec.expected_rounds:
        n_epochs = run.round * spec.expected_epochs + min(len(rounds[-1].epochs), spec.expected_epochs)
        progress = min(n_epochs / (spec.expected_epochs * spec.expected_rounds), 1.0)
    selection = next((round_.selection for round_ in reversed(rounds) if round_.finished), None)
    return RunRow(run, rounds[-1], progress, selection, find_run_alarms(run, rounds, time.time()))
