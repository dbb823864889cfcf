"""What the pages about samples share: the selection of the round that they show, and how they speak of samples."""

from typing import Any

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_service.ids import SampleIds
from mild_service.pictures import address_of, origin_of
from mild_service.select import Choice, Selections
from mild_service.state import Run
from mild_service.tables import Tabled, Tables
from mild_service.ui.run_pages import Shown


async def choice_of(page: Shown, selections: Selections) -> Choice | None:
    """The selection of the round that a page shows; None where the round has no epochs yet."""
    if not page.round.epochs:
        return None
    return await selections.choose(page.run, page.round.number, {})


async def tabled_of(page: Shown, selections: Selections, tables: Tables) -> Tabled | None:
    """The same with its samples."""
    choice = await choice_of(page, selections)
    return None if choice is None else await tables.of(choice)


def show_pictures(request: Request, run: Run) -> None:
    """Let the page show pictures from where the run says that they are."""
    request.state.pictures = origin_of(run.config.picture_url)


async def rows_of(
    tabled: Tabled,
    samples: NDArray[np.integer],
    run: Run,
    sample_ids: SampleIds,
    labels: NDArray[np.int32] | None,
    audit: Audit,
) -> list[dict[str, Any]]:
    """Some samples as rows of a list."""
    table = tabled.table
    ascending = np.sort(samples).astype(np.int64)
    names = {}
    if run.ids is not None and ascending.size:
        names = dict(zip(ascending.tolist(), await sample_ids.names(run, ascending), strict=True))
    return [
        {
            "index": index,
            "id": names.get(index),
            "picture": address_of(run.config.picture_url, index, names.get(index)),
            "label": None if labels is None else int(labels[index]),
            "kept": bool(table.kept[index]),
            "scored": bool(table.scored[index]),
            "score": _number(table.scores[index]),
            "noisy": _number(table.noisy_posterior[index]),
            "misclassified": int(table.misclassified[index]),
            "observed": int(table.observed[index]),
            "transitions": int(table.transitions[index]),
            "mark": audit.mark(index),
        }
        for index in samples.tolist()
    ]


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)
