"""``/ui/runs/{run_id}/map``: how often samples were misclassified, and how often that changed.

``/ui/runs/{run_id}/classes``: who is kept, class by class, and what dropped samples were taken for.

``/ui/runs/{run_id}/compare``: a round's set against another one, of this run or of another run.
"""

from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray

from mild_core.inspect.histograms import (
    Axis,
    Comparison,
    build_class_table,
    build_data_map,
    compare_selections,
    find_confusions,
)
from mild_service.auth import hidden_run_error
from mild_service.dashboard import charts
from mild_service.dashboard.rendering import render
from mild_service.dashboard.run_page import PageDep, shown
from mild_service.dashboard.sample_pages import choice_of, rows_of, show_pictures, tabled_of
from mild_service.selecting.sample_tables import SelectionTable, SuggestedLabels
from mild_service.web.dependencies import (
    CallerDep,
    LabelsAndAuditsDep,
    RunsDep,
    SampleIdsDep,
    SampleTablesDep,
    SelectionsDep,
)

router = APIRouter(include_in_schema=False)

_COLUMNS, _ROWS = 36, 18


@router.get("/ui/runs/{run_id}/map", response_class=HTMLResponse)
async def show_map(
    request: Request,
    page: PageDep,
    selections: SelectionsDep,
    tables: SampleTablesDep,
) -> HTMLResponse:
    """The data map of the round's selection."""
    context = {**page.context(), "found": None}
    tabled = await tabled_of(page, selections, tables)
    if tabled is not None:
        found = build_data_map(tabled.table, _COLUMNS, _ROWS)
        context |= {
            "found": found,
            "n_epochs": tabled.table.n_epochs,
            "n_kept": int(found.kept.sum()),
            "n_dropped": int(found.dropped.sum()),
            "cells": [
                (cell, _range(found.x, cell.column), _range(found.y, cell.row))
                for cell in charts.cells(found.kept, found.dropped)
            ],
            "x_ticks": charts.count_ticks(found.x, 8),
            "y_ticks": charts.count_ticks(found.y, 5),
        }
    return render(request, "data_map.html", context)


def _range(axis: Axis, number: int) -> str:
    """A bin as the sample list's filters take it: the first and the last number in it."""
    first = int(axis.edge(number))
    last = int(axis.edge(number + 1)) - 1
    return str(first) if first == last else f"{first}-{last}"


_MAX_ROWS = 500
"""Classes that are listed: the noisiest ones."""
_MAX_MATRIX = 20
"""Classes up to which pairs of given and suggested label are shown as a matrix."""
_MAX_PAIRS = 50


@router.get("/ui/runs/{run_id}/classes", response_class=HTMLResponse)
async def show_classes(
    request: Request,
    page: PageDep,
    selections: SelectionsDep,
    tables: SampleTablesDep,
) -> HTMLResponse:
    """The round's selection class by class."""
    context: dict[str, Any] = {**page.context(), "started": False, "rows": None, "pairs": None}
    choice = await choice_of(page, selections)
    if choice is not None:
        tabled, labels = await tables.get(choice), await tables.get_labels(page.run)
        context["started"] = True
        if labels is not None:
            rows = await anyio.to_thread.run_sync(_rows, tabled, labels)
            context |= {"rows": rows[:_MAX_ROWS], "n_classes": len(rows), "floor": tabled.selection.options.min_keep}
            context["verdict"] = tabled.selection.verdict
        suggested = await tables.get_suggested_labels(choice)
        if suggested is not None:
            context |= _pairs(suggested)
    return render(request, "classes.html", context)


def _rows(tabled: SelectionTable, labels: NDArray[np.int32]) -> list[dict[str, Any]]:
    """A row per class, the noisiest first."""
    found = build_class_table(tabled.table, labels)
    own = {cut.label: cut for cut in tabled.selection.classes}
    believed = tabled.selection.verdict == "separable"
    rows = []
    for place, label in enumerate(found.classes.tolist()):
        cut = own.get(label)
        mean = float(found.noise[place])
        pooled = None if np.isnan(mean) or not believed else mean
        rows.append(
            {
                "label": label,
                "n_samples": int(found.n_samples[place]),
                "n_kept": int(found.n_kept[place]),
                "share": int(found.n_kept[place]) / int(found.n_samples[place]),
                "noise": pooled if cut is None or cut.noise_rate is None else cut.noise_rate,
                "floored": cut is not None and cut.floored,
            }
        )
    return sorted(rows, key=lambda row: (-(row["noise"] or 0.0), row["share"], row["label"]))


def _pairs(suggested: SuggestedLabels) -> dict[str, Any]:
    """What dropped samples were taken for: a matrix where that is small enough to be read, else the largest pairs."""
    classes = np.union1d(suggested.given, suggested.suggested)
    pairs = find_confusions(suggested.given, suggested.suggested, _MAX_PAIRS)
    context: dict[str, Any] = {
        "pairs": pairs,
        "counted": suggested,
        "n_other": int(suggested.given.size),
        "matrix": None,
    }
    if 0 < classes.size <= _MAX_MATRIX:
        counts = np.zeros((classes.size, classes.size), dtype=np.int64)
        np.add.at(counts, tuple(np.searchsorted(classes, (suggested.given, suggested.suggested))), 1)
        most = int(counts.max())
        context["columns"] = classes.tolist()
        context["matrix"] = [
            (label, [(count, -(-8 * count // most)) for count in row.tolist()])
            for label, row in zip(classes.tolist(), counts, strict=True)
        ]
    return context


_LISTED = 10
"""Samples that are listed of those that moved in, and of those that moved out."""


@router.get("/ui/runs/{run_id}/compare", response_class=HTMLResponse)
async def show_comparison(
    request: Request,
    page: PageDep,
    runs: RunsDep,
    selections: SelectionsDep,
    tables: SampleTablesDep,
    labels_and_audits: LabelsAndAuditsDep,
    sample_ids: SampleIdsDep,
    caller: CallerDep,
    other: Annotated[str, Query(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = "",
    other_round: Annotated[str, Query(pattern=r"^\d{0,9}$")] = "",
) -> HTMLResponse:
    """The round's selection against another: by default that of the round before."""
    if other and not caller.covers(other):
        raise hidden_run_error(other)
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
            found = await anyio.to_thread.run_sync(compare_selections, was, now)
            labels, (_, audit) = await tables.get_labels(page.run), await labels_and_audits.read_audit(page.run)
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
        "cells": charts.cells(found.scores, np.zeros_like(found.scores)),
        "x_ticks": charts.value_ticks(x.low, x.edge(x.n_bins), 6),
        "y_ticks": charts.value_ticks(y.low, y.edge(y.n_bins), 5),
    }
