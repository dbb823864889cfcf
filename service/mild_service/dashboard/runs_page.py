"""The list of runs: ``/ui/`` shows the runs that the caller's key may access, newest first."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

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


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Conditions of a search for runs. It is false if it has none.

    Attributes
    ----------
    text
        Part of the run's id or of a tag's value, ignoring case; empty for any.
    tag
        ``name=value``, or only a name; empty for any.
    status
        Status of the run; None for any.
    """

    text: str
    tag: str
    status: RunStatus | None

    def __bool__(self) -> bool:
        return bool(self.text or self.tag or self.status)

    def matches(self, run: Run) -> bool:
        """Return whether a run fulfils all conditions."""
        name, _, value = self.tag.partition("=")
        matches_tag = not self.tag or (name in run.tags and ("=" not in self.tag or run.tags[name] == value))
        text = self.text.casefold()
        matches_text = any(text in value.casefold() for value in (run.run_id, *run.tags.values()))
        return matches_tag and matches_text and self.status in (None, run.status)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of the list of runs.

    Attributes
    ----------
    run
        The run.
    round
        The open round.
    n_finished
        Number of finished rounds.
    progress
        Stored share of the epochs that the run expects in all rounds; None if it does not say how many.
    selection
        Summary of the selection of the last finished round; None if no round is finished.
    alarms
        Alarms, one sentence each.
    """

    run: Run
    round: Round
    n_finished: int
    progress: float | None
    selection: Mapping[str, Any] | None
    alarms: list[str]


@router.get("/ui", response_class=RedirectResponse)
async def redirect_to_runs(request: Request) -> RedirectResponse:
    """Redirect to the list of runs."""
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
    """Show the list of runs, or how to send a first epoch if there are no runs."""
    run_filter = RunFilter(q.strip(), tag.strip(), status or None)
    matching_runs, next_cursor, search_complete = await _search_runs(runs, caller.prefix, run_filter, cursor)
    rows = await asyncio.gather(*(_build_row(runs, run) for run in matching_runs))
    query = {"q": run_filter.text, "tag": run_filter.tag, "status": status}
    context = {
        "rows": rows,
        "filter": run_filter,
        "cursor": cursor,
        "next_link": next_cursor and request.scope["root_path"] + link("/ui/", **query, cursor=next_cursor),
        "search_complete": search_complete,
        "snippets": make_first_epoch_snippets(str(request.base_url).rstrip("/"), caller),
    }
    return render(request, "runs.html", context)


async def _search_runs(
    runs: RunWriter, prefix: str, run_filter: RunFilter, cursor: str | None
) -> tuple[list[Run], str | None, bool]:
    """Return a page of the runs that a filter matches.

    Returns
    -------
    tuple
        The runs, the cursor of the next page (None at the end), and whether the search is complete: False if it stopped
        after `_MAX_BATCHES` batches without filling the page.
    """
    if not run_filter:
        page = await runs.list_page(_PAGE_SIZE, cursor, prefix)
        return page.runs, page.next_cursor, True
    matching_runs: list[Run] = []
    for _ in range(_MAX_BATCHES):
        page = await runs.list_page(_BATCH_SIZE, cursor, prefix)
        matching_runs += [run for run in page.runs if run_filter.matches(run)]
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
    return RunRow(run, rounds[-1], run.round, progress, selection, find_run_alarms(run, rounds, time.time()))
