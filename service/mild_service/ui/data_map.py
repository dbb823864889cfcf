"""``/ui/runs/{run_id}/map``: how often samples were misclassified, and how often that changed."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from mild_core.data_map import Axis, data_map
from mild_service.api.deps import SelectionsDep, TablesDep
from mild_service.ui import grids
from mild_service.ui.pages import render
from mild_service.ui.run_pages import PageDep
from mild_service.ui.sets import tabled_of

router = APIRouter(include_in_schema=False)

_COLUMNS, _ROWS = 36, 18


@router.get("/ui/runs/{run_id}/map", response_class=HTMLResponse)
async def show_map(
    request: Request,
    page: PageDep,
    selections: SelectionsDep,
    tables: TablesDep,
) -> HTMLResponse:
    """The data map of the round's selection."""
    context = {**page.context(), "found": None}
    tabled = await tabled_of(page, selections, tables)
    if tabled is not None:
        found = data_map(tabled.table, _COLUMNS, _ROWS)
        context |= {
            "found": found,
            "n_epochs": tabled.table.n_epochs,
            "n_kept": int(found.kept.sum()),
            "n_dropped": int(found.dropped.sum()),
            "cells": [
                (cell, _range(found.x, cell.column), _range(found.y, cell.row))
                for cell in grids.cells(found.kept, found.dropped)
            ],
            "x_ticks": grids.count_ticks(found.x, 8),
            "y_ticks": grids.count_ticks(found.y, 5),
        }
    return render(request, "data_map.html", context)


def _range(axis: Axis, number: int) -> str:
    """A bin as the sample list's filters take it: the first and the last number in it."""
    first = int(axis.edge(number))
    last = int(axis.edge(number + 1)) - 1
    return str(first) if first == last else f"{first}-{last}"
