"""The pages about a selection: its data map, its classes, and its comparison with another selection."""

from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from mild_core.inspect.histograms import (
    Axis,
    Comparison,
    build_class_table,
    build_data_map,
    compare_selections,
    find_confusions,
)
from mild_core.results import to_optional_float
from mild_core.types import RUN_ID_PATTERN
from mild_service.dashboard import charts
from mild_service.dashboard.rendering import render
from mild_service.dashboard.run_page import PageDep, load_page_state
from mild_service.dashboard.sample_pages import allow_images, build_rows
from mild_service.models import run_not_found_error
from mild_service.selecting.label_suggestions import LabelSuggestions
from mild_service.web.dependencies import CallerDep, RunsDep, SampleIdsDep, SelectionsDep

router = APIRouter(include_in_schema=False)

_MAP_COLUMNS, _MAP_ROWS = 36, 18
MAP_BYTES, CLASSES_BYTES, COMPARISON_BYTES = 36, 36, 42
"""Most memory per sample while the samples are counted by cell, by class, and by the scores of two selections."""


@router.get("/ui/runs/{run_id}/map", response_class=HTMLResponse)
async def show_map(request: Request, page: PageDep) -> HTMLResponse:
    """Show the data map of the round's selection: misclassified epochs against transitions."""
    context = {**page.template_context(), "data_map": None}
    table = await page.build_table(MAP_BYTES)
    if table is not None:
        data_map = await anyio.to_thread.run_sync(build_data_map, table, _MAP_COLUMNS, _MAP_ROWS)
        context |= {
            "data_map": data_map,
            "n_epochs": table.n_epochs,
            "n_kept": int(data_map.n_kept.sum()),
            "n_dropped": int(data_map.n_dropped.sum()),
            "cells": [
                (cell, _format_range(data_map.x, cell.column), _format_range(data_map.y, cell.row))
                for cell in charts.make_cells(data_map.n_kept, data_map.n_dropped)
            ],
            "x_ticks": charts.make_count_ticks(data_map.x, 8),
            "y_ticks": charts.make_count_ticks(data_map.y, 5),
        }
    return render(request, "data_map.html", context)


def _format_range(axis: Axis, number: int) -> str:
    """Format the first and the last count in a bin as the filters of the sample list take them, such as '3-5'."""
    first = int(axis.get_edge(number))
    last = int(axis.get_edge(number + 1)) - 1
    return str(first) if first == last else f"{first}-{last}"


_MAX_ROWS = 500
"""Most classes in the list, which begins with the noisiest class."""
_MAX_MATRIX_CLASSES = 20
"""Most classes for which the matrix of given and suggested labels is shown."""
_MAX_PAIRS = 50


@router.get("/ui/runs/{run_id}/classes", response_class=HTMLResponse)
async def show_classes(request: Request, page: PageDep) -> HTMLResponse:
    """Show the round's selection class by class, and the classes that were predicted for dropped samples."""
    context: dict[str, Any] = {**page.template_context(), "started": False, "rows": None, "pairs": None}
    selection, table = page.selection, await page.build_table(CLASSES_BYTES)
    if selection is not None and table is not None:
        context |= {"started": True, "verdict": table.selection.verdict}
        labels = await selection.read_labels()
        if labels is not None:
            rows = await anyio.to_thread.run_sync(build_class_table, table, labels)
            floor = table.selection.options.min_keep
            context |= {"rows": rows[:_MAX_ROWS], "n_classes": len(rows), "floor": floor}
        suggestions = await selection.suggest_all()
        if suggestions is not None:
            n_dropped = table.n_samples - int(table.is_kept.sum())
            context |= {**_build_confusion_context(suggestions), "n_dropped": n_dropped}
    return render(request, "classes.html", context)


def _build_confusion_context(suggestions: LabelSuggestions) -> dict[str, Any]:
    """Return the context for suggested labels: the most frequent pairs, and a matrix if there are few classes."""
    labels, suggested = suggestions.labels, suggestions.suggested
    is_other = (labels >= 0) & (suggested >= 0) & (labels != suggested)
    labels, suggested = labels[is_other], suggested[is_other]
    classes = np.union1d(labels, suggested)
    context: dict[str, Any] = {
        "pairs": find_confusions(labels, suggested, _MAX_PAIRS),
        "n_counted": suggestions.samples.size,
        "n_other": labels.size,
        "matrix": None,
    }
    if 0 < classes.size <= _MAX_MATRIX_CLASSES:
        counts = np.zeros((classes.size, classes.size), dtype=np.int64)
        np.add.at(counts, tuple(np.searchsorted(classes, (labels, suggested))), 1)
        largest = int(counts.max())
        context["columns"] = classes.tolist()
        context["matrix"] = [
            (label, [(count, -(-8 * count // largest)) for count in row.tolist()])
            for label, row in zip(classes.tolist(), counts, strict=True)
        ]
    return context


_MAX_MOVED = 10
"""Most samples in the lists of those that moved into the set or out of it."""


@router.get("/ui/runs/{run_id}/compare", response_class=HTMLResponse)
async def show_comparison(
    request: Request,
    page: PageDep,
    runs: RunsDep,
    selections: SelectionsDep,
    sample_ids: SampleIdsDep,
    caller: CallerDep,
    other: Annotated[str, Query(pattern=f"^({RUN_ID_PATTERN})?$")] = "",
    other_round: Annotated[str, Query(pattern=r"^\d{0,9}$")] = "",
) -> HTMLResponse:
    """Show a comparison of the round's selection with another one, by default that of the round before."""
    if other and not caller.covers(other):
        raise run_not_found_error(other)
    context: dict[str, Any] = {
        **page.template_context(),
        "other": other,
        "other_round": other_round,
        "comparison": None,
        "first": None,
    }
    number = int(other_round) if other_round else None
    if number is None and other in ("", page.run.run_id):
        number = page.round.number - 1
    if number is None or number >= 0:
        first = await load_page_state(runs, selections, other or page.run.run_id, number)
        before, after = [await state.build_table(COMPARISON_BYTES // 2) for state in (first, page)]
        context["first"] = first
        if before is not None and after is not None and page.selection is not None:
            allow_images(request, page.run)
            comparison = await anyio.to_thread.run_sync(compare_selections, before, after)
            context |= {"comparison": comparison, **_build_comparison_chart(comparison)}
            for name, moved in (("moved_in", comparison.moved_in), ("moved_out", comparison.moved_out)):
                samples = moved[:_MAX_MOVED]
                rows = await build_rows(page.selection, samples, sample_ids)
                context[name] = [{**row, "before": to_optional_float(before.scores[row["index"]])} for row in rows]
    return render(request, "compare.html", context)


def _build_comparison_chart(comparison: Comparison) -> dict[str, Any]:
    """Return the cells and the ticks of the chart of both selections' scores."""
    x, y = comparison.x, comparison.y
    return {
        "cells": charts.make_cells(comparison.scores, np.zeros_like(comparison.scores)),
        "x_ticks": charts.make_value_ticks(x.low, x.get_edge(x.n_bins), 6),
        "y_ticks": charts.make_value_ticks(y.low, y.get_edge(y.n_bins), 5),
    }
