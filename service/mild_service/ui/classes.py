"""``/ui/runs/{run_id}/classes``: who is kept, class by class, and what dropped samples were taken for."""

from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray

from mild_core.class_table import class_table, confusions
from mild_service.api.deps import SelectionsDep, TablesDep
from mild_service.tables import Suggested, Tabled
from mild_service.ui.pages import render
from mild_service.ui.run_pages import PageDep
from mild_service.ui.sets import choice_of

router = APIRouter(include_in_schema=False)

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
    tables: TablesDep,
) -> HTMLResponse:
    """The round's selection class by class."""
    context: dict[str, Any] = {**page.context(), "started": False, "rows": None, "pairs": None}
    choice = await choice_of(page, selections)
    if choice is not None:
        tabled, labels = await tables.of(choice), await tables.labels(page.run)
        context["started"] = True
        if labels is not None:
            rows = await anyio.to_thread.run_sync(_rows, tabled, labels)
            context |= {"rows": rows[:_MAX_ROWS], "n_classes": len(rows), "floor": tabled.selection.options.min_keep}
            context["verdict"] = tabled.selection.verdict
        suggested = await tables.suggested(choice)
        if suggested is not None:
            context |= _pairs(suggested)
    return render(request, "classes.html", context)


def _rows(tabled: Tabled, labels: NDArray[np.int32]) -> list[dict[str, Any]]:
    """A row per class, the noisiest first."""
    found = class_table(tabled.table, labels)
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


def _pairs(suggested: Suggested) -> dict[str, Any]:
    """What dropped samples were taken for: a matrix where that is small enough to be read, else the largest pairs."""
    classes = np.union1d(suggested.given, suggested.suggested)
    pairs = confusions(suggested.given, suggested.suggested, _MAX_PAIRS)
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
