"""``/ui/runs/{run_id}``: one run at a glance, live while it trains.

What the pages of one run share: which round they show, and the context of `run_base.html`.

``/ui/runs/{run_id}/downloads``: the set in every form, and the requests that fetch it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from mild_core.alarms import find_alarms
from mild_service.api_keys import ApiKey
from mild_service.dashboard.progress import course_of, of_run
from mild_service.dashboard.rendering import render
from mild_service.dashboard.snippets import chosen_cut, in_form, mask
from mild_service.errors import RoundNotOpen
from mild_service.models import Round, Run
from mild_service.recording.run_writer import RunWriter
from mild_service.selecting.selections import Selections
from mild_service.web import media_types, responses
from mild_service.web.dependencies import CallerDep, RoundNumber, RunId, RunsDep, SelectionsDep

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


async def shown(runs: RunWriter, run_id: str, asked: int | None) -> Shown:
    """The run with the round that was asked for; without one the open round once it has epochs, else the last before.

    Raises
    ------
    RunNotFound
        If there is no such run.
    RoundNotOpen
        If the round has not begun.
    """
    run = await runs.find(run_id)
    rounds = await runs.read_rounds(run)
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
        "overlaps": await selections.compute_overlaps(page.run, page.rounds),
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
    choice = await selections.plan(page.run, page.round.number, {})
    document = await selections.read_summary(choice)
    sweep = await selections.compute_sweep(choice)
    fit = await selections.read_fit(choice)
    return {
        "set": document,
        "alarms": find_alarms(*_measured(document), {}),
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


_FORMS = {
    media_types.JSON: (
        "JSON",
        "json",
        "Indices, with verdict, estimates and options. For reading, and small sets.",
    ),
    media_types.BITMAP: ("Bitmap", "bin", "One bit per sample, most significant first. The smallest."),
    media_types.NPY: ("NumPy", "npy", "Sorted int64 indices, for numpy.load."),
    media_types.ARROW: ("Arrow", "arrows", "An IPC stream with the column index, and id with ids=true."),
    media_types.CSV: ("CSV", "csv", "A header line and an index per line, with ids=true the ids beside them."),
}


@router.get("/ui/runs/{run_id}/downloads", response_class=HTMLResponse)
async def show_downloads(request: Request, page: PageDep, caller: CallerDep) -> HTMLResponse:
    """The forms that the set comes in."""
    base, number = str(request.base_url).rstrip("/"), page.round.number
    forms: list[dict[str, Any]] = []
    for media_type in responses.SELECTION_TYPES:
        name, suffix, what = _FORMS[media_type]
        file = f"{page.run.run_id}-round-{number}.{suffix}"
        code = in_form(base, page.run.run_id, number, caller, media_type, file)
        forms.append({"name": name, "media_type": media_type, "what": what, "file": file, "code": code})
    pieces = [*chosen_cut(base, page.run.run_id, number, caller)[:1]]
    pieces.append(("As a mask", mask(base, page.run.run_id, number, page.run.spec.num_samples)))
    context = {**page.context(), "forms": forms, "pieces": pieces}
    return render(request, "downloads.html", context)
