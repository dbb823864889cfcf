"""The overview and the downloads of a run: ``/ui/runs/{run_id}`` and ``/ui/runs/{run_id}/downloads``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from mild_core.alarms import find_alarms
from mild_core.inspect.sample_table import SampleTable
from mild_core.inspect.sweep import Cut, CutEstimates
from mild_core.statements import describe_draw, describe_quality, describe_verdict, propose_draw_size
from mild_service.admission import take_memory
from mild_service.api_keys import ApiKey
from mild_service.dashboard.code_snippets import make_download_snippet, make_mask_snippet, make_selection_snippets
from mild_service.dashboard.progress import build_learning_curve, find_draw, find_run_alarms
from mild_service.dashboard.rendering import render
from mild_service.errors import RoundNotOpen
from mild_service.models import Round, Run
from mild_service.selecting.round_selection import RoundSelection
from mild_service.web import media_types, responses
from mild_service.web.dependencies import (
    CallerDep,
    RoundNumber,
    RunId,
    RunsDep,
    SelectionsDep,
)

RoundQuery = Annotated[
    int | None,
    Query(alias="round", ge=0, description="The round that the page shows; by default the latest one with a set."),
]


@dataclass(frozen=True, slots=True)
class PageState:
    """The run and the round that a page is about.

    Attributes
    ----------
    run
        The run.
    rounds
        All of its rounds.
    round
        The round that the page shows.
    requested_round
        Number of the round in the request, which the links of the page contain too; None without such a number.
    selection
        The selection of the round; None if it has no epochs.
    """

    run: Run
    rounds: list[Round]
    round: Round
    requested_round: int | None
    selection: RoundSelection | None

    def template_context(self) -> dict[str, Any]:
        """Return the context of the template `run_base.html`."""
        return {"run": self.run, "rounds": self.rounds, "round": self.round, "requested_round": self.requested_round}

    async def build_table(self, n_bytes: int) -> SampleTable | None:
        """Return the table of the samples of the selection; None without one.

        `n_bytes` is the most memory per sample while the page is made of the table; it is taken for the request.
        """
        if self.selection is None:
            return None
        table = await self.selection.build_table()
        await take_memory(n_bytes * table.n_samples)
        return table


async def load_page_state(
    runs: RunsDep, selections: SelectionsDep, run_id: RunId, requested_round: RoundQuery = None
) -> PageState:
    """Load a run and the round that a page is about.

    Parameters
    ----------
    runs, selections
        Read the run and its rounds, and open the selection.
    run_id
        Id of the run.
    requested_round
        Number of the round; None for the open round if it has epochs, and else for the round before it.
    """
    run = await runs.find(run_id)
    rounds = await runs.read_rounds(run)
    number = requested_round
    if number is None:
        number = run.round if rounds[-1].epochs else max(run.round - 1, 0)
    if number > run.round:
        raise RoundNotOpen(
            f"round {number} of run {run_id!r} has not begun, round {run.round} is open; choose one of 0..{run.round}"
        )
    last_rounds = rounds[: number + 1]
    selection = await selections.open(run, number, {}, last_rounds=last_rounds) if rounds[number].epochs else None
    return PageState(run, rounds, rounds[number], requested_round, selection)


PageDep = Annotated[PageState, Depends(load_page_state)]
"""The run and the round that a page shows, from its path and its query parameter `round`."""


router = APIRouter(include_in_schema=False)


@router.get("/ui/runs/{run_id}", response_class=HTMLResponse)
async def show_run(request: Request, page: PageDep, selections: SelectionsDep, caller: CallerDep) -> HTMLResponse:
    """Show the overview of a run. The page itself loads a selection that has to be computed."""
    selection = page.selection
    is_ready = selection is not None and selection.is_stored and page.run.audit is None
    context = {
        **page.template_context(),
        "curve": build_learning_curve(page.run, page.rounds),
        "alarms": find_run_alarms(page.run, page.rounds, time.time()),
        "overlaps": await selections.compute_overlaps(page.run, page.rounds),
        "panel": await _build_panel(request, selection, caller) if selection and is_ready else None,
    }
    return render(request, "run.html", context)


@router.get("/ui/runs/{run_id}/rounds/{round}/selection", response_class=HTMLResponse)
async def show_selection(
    request: Request, run_id: RunId, round_: RoundNumber, runs: RunsDep, selections: SelectionsDep, caller: CallerDep
) -> HTMLResponse:
    """Show the part of the overview about a round's selection, which the page loads later."""
    page = await load_page_state(runs, selections, run_id, round_)
    selection = page.selection or await selections.open(page.run, round_, {})  # which says what is missing
    context = {**page.template_context(), "panel": await _build_panel(request, selection, caller)}
    return render(request, "selection.html", context)


async def _build_panel(request: Request, selection: RoundSelection, caller: ApiKey) -> dict[str, Any]:
    """Return the values of a selection's panel: its summary, its alarms, its chart, and snippets that fetch it."""
    summary, sweep, fit = await selection.read_document(), await selection.compute_sweep(), await selection.read_fit()
    audit, run, measured = await selection.read_audit(), selection.run, summary.get("measured") or {}
    draw_size = propose_draw_size(sweep["cuts"][-1].num_kept if sweep["cuts"] else 0)
    return {
        "selection": summary,
        "statements": describe_quality(summary),
        "verdict_text": describe_verdict(summary),
        "draw": find_draw(run, audit),
        "draw_size": draw_size,
        "draw_step": describe_draw(draw_size),
        "alarms": find_alarms(measured.get("precision"), measured.get("recall"), {}),
        "chart": {
            "metric": sweep["metric"],
            "threshold": sweep["threshold"],
            "histogram": fit["histogram"],
            "densities": fit["densities"],
            **_make_cut_columns(sweep["cuts"]),
        },
        "snippets": make_selection_snippets(
            str(request.base_url).rstrip("/"), run.run_id, selection.round.number, caller
        ),
    }


def _make_cut_columns(cuts: Sequence[Cut]) -> dict[str, Any]:
    """Return the cuts of a sweep as one list per quantity, which takes a third of the bytes of one object per cut."""
    columns = {
        part: {name: [getattr(getattr(cut, part), name) for cut in cuts] for name in ("precision", "recall")}
        if cuts and getattr(cuts[0], part)
        else None
        for part in ("measured", "bounds")
    }
    return {
        "value": [cut.value for cut in cuts],
        "kept": [cut.num_kept for cut in cuts],
        "fitted": {field.name: [getattr(cut.fitted, field.name) for cut in cuts] for field in fields(CutEstimates)},
        **columns,
    }


_FORMATS = {
    media_types.JSON: ("JSON", "json", "Indices, with verdict, estimates and options. For reading, and small sets."),
    media_types.BITMAP: ("Bitmap", "bin", "One bit per sample, most significant first. The smallest."),
    media_types.NPY: ("NumPy", "npy", "Sorted int64 indices, for numpy.load."),
    media_types.ARROW: ("Arrow", "arrows", "An IPC stream with the column index, and id with ids=true."),
    media_types.CSV: ("CSV", "csv", "A header line and an index per line, with ids=true also the ids."),
}


@router.get("/ui/runs/{run_id}/downloads", response_class=HTMLResponse)
async def show_downloads(request: Request, page: PageDep, caller: CallerDep) -> HTMLResponse:
    """Show the formats in which a round's set can be downloaded, with snippets that fetch it."""
    base, number = str(request.base_url).rstrip("/"), page.round.number
    formats: list[dict[str, Any]] = []
    for media_type in responses.SELECTION_TYPES:
        name, extension, description = _FORMATS[media_type]
        file = f"{page.run.run_id}-round-{number}.{extension}"
        code = make_download_snippet(base, page.run.run_id, number, caller, media_type, file)
        formats.append({"name": name, "media_type": media_type, "what": description, "file": file, "code": code})
    mask_snippet = make_mask_snippet(base, page.run.run_id, number, page.run.spec.num_samples)
    snippets = [make_selection_snippets(base, page.run.run_id, number, caller)[0], ("As a mask", mask_snippet)]
    context = {**page.template_context(), "formats": formats, "snippets": snippets}
    return render(request, "downloads.html", context)
