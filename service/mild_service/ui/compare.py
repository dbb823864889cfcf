"""``/ui/runs/{run_id}/compare``: a round's set against another one, of this run or of another run."""

from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from mild_core.comparison import Comparison, compare
from mild_service.access import absent
from mild_service.api.deps import CallerDep, RunsDep, SampleIdsDep, SelectionsDep, TablesDep, TruthsDep
from mild_service.ui import grids
from mild_service.ui.pages import render
from mild_service.ui.run_pages import PageDep, shown
from mild_service.ui.sets import rows_of, show_pictures, tabled_of

router = APIRouter(include_in_schema=False)

_LISTED = 10
"""Samples that are listed of those that moved in, and of those that moved out."""


@router.get("/ui/runs/{run_id}/compare", response_class=HTMLResponse)
async def show_comparison(
    request: Request,
    page: PageDep,
    runs: RunsDep,
    selections: SelectionsDep,
    tables: TablesDep,
    truths: TruthsDep,
    sample_ids: SampleIdsDep,
    caller: CallerDep,
    other: Annotated[str, Query(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = "",
    other_round: Annotated[str, Query(pattern=r"^\d{0,9}$")] = "",
) -> HTMLResponse:
    """The round's selection against another: by default that of the round before."""
    if other and not caller.reaches(other):
        raise absent(other)
    asked = {"other": other, "other_round": other_round}
    context: dict[str, Any] = {**page.context(), **asked, "found": None, "first": None}
    number = int(other_round) if other_round else None
    if number is None and other in ("", page.run.run_id):
        number = page.round.number - 1
    if number is None or number >= 0:
        first = await shown(runs, other or page.run.run_id, number)
        tabled = [await tabled_of(side, selections, tables) for side in (first, page)]
        context["first"] = first
        if tabled[0] is not None and tabled[1] is not None:
            show_pictures(request, page.run)
            was, now = tabled[0].table, tabled[1].table
            found = await anyio.to_thread.run_sync(compare, was, now)
            labels, (_, audit) = await tables.labels(page.run), await truths.audit(page.run)
            context |= {"found": found, **_drawn(found)}
            for name, moved in (("moved_in", found.moved_in), ("moved_out", found.moved_out)):
                rows = await rows_of(tabled[1], moved[:_LISTED], page.run, sample_ids, labels, audit)
                before = was.scores[moved[:_LISTED]].tolist()
                context[name] = [
                    {**row, "before": None if np.isnan(score) else score}
                    for row, score in zip(rows, before, strict=True)
                ]
    return render(request, "compare.html", context)


def _drawn(found: Comparison) -> dict[str, Any]:
    x, y = found.x, found.y
    return {
        "cells": grids.cells(found.scores, np.zeros_like(found.scores)),
        "x_ticks": grids.value_ticks(x.low, x.edge(x.n_bins), 6),
        "y_ticks": grids.value_ticks(y.low, y.edge(y.n_bins), 5),
    }
