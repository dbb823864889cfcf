"""``/ui/runs/{run_id}``: one run at a glance, live while it trains."""

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from mild_core.alarms import alarms as of_rounds
from mild_service.api.deps import CallerDep, RoundNumber, RunId, RunsDep, SelectionsDep
from mild_service.identity import ApiKey
from mild_service.select import Selections
from mild_service.ui.alarms import of_run
from mild_service.ui.courses import course_of
from mild_service.ui.pages import render
from mild_service.ui.requests import chosen_cut
from mild_service.ui.run_pages import PageDep, Shown, shown

router = APIRouter(include_in_schema=False)


@router.get("/ui/runs/{run_id}", response_class=HTMLResponse)
async def show_run(
    request: Request,
    page: PageDep,
    selections: SelectionsDep,
    caller: CallerDep,
) -> HTMLResponse:
    """The run's overview. What has to be computed first is left to the page to ask for."""
    stored = page.round.finished and page.run.audit is None
    context = {
        **page.context(),
        "course": course_of(page.run, page.rounds),
        "alarms": of_run(page.run, page.rounds, time.time()),
        "overlaps": await selections.overlaps(page.run, page.rounds),
        "panel": await _panel(request, page, selections, caller) if stored else None,
    }
    return render(request, "run.html", context)


@router.get("/ui/runs/{run_id}/rounds/{round}/selection", response_class=HTMLResponse)
async def show_selection(
    request: Request, run_id: RunId, round_: RoundNumber, runs: RunsDep, selections: SelectionsDep, caller: CallerDep
) -> HTMLResponse:
    """The part of the overview that tells of a round's set: computed while the page is there already."""
    page = await shown(runs, run_id, round_)
    context = {**page.context(), "panel": await _panel(request, page, selections, caller)}
    return render(request, "selection.html", context)


async def _panel(request: Request, page: Shown, selections: Selections, caller: ApiKey) -> dict[str, Any]:
    """A round's set, and what could be set in its place."""
    choice = await selections.choose(page.run, page.round.number, {})
    document = await selections.document(choice)
    sweep = await selections.sweep(choice)
    fit = await selections.fit(choice)
    return {
        "set": document,
        "alarms": of_rounds(*_measured(document), {}),
        "drawn": {
            "metric": sweep["metric"],
            "threshold": sweep["threshold"],
            "histogram": fit["histogram"],
            "densities": fit["densities"],
            **_columns(sweep),
        },
        "pieces": chosen_cut(str(request.base_url).rstrip("/"), page.run.run_id, page.round.number, caller),
    }


def _measured(document: Mapping[str, Any]) -> tuple[float | None, float | None]:
    told = document.get("measured") or {}
    return told.get("precision"), told.get("recall")


def _columns(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """All cuts, a list for each of their numbers: a third of the bytes."""
    cuts = sweep["cuts"]
    estimated = {
        name: [cut["estimated"][name] for cut in cuts]
        for part in ("precision", "recall")
        for name in (part, f"{part}_low", f"{part}_high")
    }
    known = bool(cuts) and cuts[0]["measured"] is not None
    measured = {name: [cut["measured"][name] for cut in cuts] for name in ("precision", "recall")} if known else None
    return {
        "value": [cut["value"] for cut in cuts],
        "kept": [cut["num_kept"] for cut in cuts],
        "estimated": estimated,
        "measured": measured,
    }
