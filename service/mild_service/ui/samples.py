"""``/ui/runs/{run_id}/samples``: the samples of a selection, filtered, in order, page by page."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_core.table import Mask, SampleTable, Sort, Wanted, backward, forward
from mild_service.api.deps import SampleIdsDep, SelectionsDep, TablesDep, TruthsDep
from mild_service.errors import SampleNotFound
from mild_service.ids import SampleIds
from mild_service.state import Run
from mild_service.ui.pages import link, render
from mild_service.ui.run_pages import PageDep
from mild_service.ui.sets import rows_of, show_pictures, tabled_of

router = APIRouter(include_in_schema=False)

PAGE = 50
_NUMBER = r"^(-?\d{1,9}(\.\d{1,6})?)?$"
_RANGE = r"^(\d{1,9}(-\d{1,9})?)?$"
_MAX_CLASSES = 1000
"""Classes that a list to choose from has at most."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What the form says; a field that is left empty asks for nothing."""

    state: Literal["", "kept", "dropped"]
    label: str
    mark: Literal["", "any", "clean", "wrong"]
    low: str
    high: str
    misclassified: str
    transitions: str
    sort: Sort

    @property
    def said(self) -> dict[str, str]:
        """All of it as a query; the order that is the default is left out."""
        names = ("state", "label", "mark", "low", "high", "misclassified", "transitions")
        return {**{name: getattr(self, name) for name in names}, "sort": "" if self.sort == "-score" else self.sort}

    @property
    def any(self) -> bool:
        """Whether fewer than all samples are asked for."""
        return any(value for name, value in self.said.items() if name != "sort")

    def wanted(self) -> Wanted:
        """Those that the table itself can answer."""
        return Wanted(
            kept=None if not self.state else self.state == "kept",
            score=(float(self.low) if self.low else None, float(self.high) if self.high else None),
            misclassified=_range(self.misclassified),
            transitions=_range(self.transitions),
        )

    def mask(self, table: SampleTable, labels: NDArray[np.int32] | None, audit: Audit) -> Mask:
        """Who is asked for."""
        mask = self.wanted().mask(table)
        if self.label and labels is not None:
            mask &= labels == int(self.label)
        if self.mark:
            known, clean = audit.masks
            mask &= known if self.mark == "any" else clean if self.mark == "clean" else known & ~clean
        return mask


async def _filters(
    state: Annotated[Literal["", "kept", "dropped"], Query()] = "",
    label: Annotated[str, Query(pattern=r"^\d{0,10}$")] = "",
    mark: Annotated[Literal["", "any", "clean", "wrong"], Query()] = "",
    low: Annotated[str, Query(pattern=_NUMBER)] = "",
    high: Annotated[str, Query(pattern=_NUMBER)] = "",
    misclassified: Annotated[str, Query(pattern=_RANGE)] = "",
    transitions: Annotated[str, Query(pattern=_RANGE)] = "",
    sort: Annotated[Literal["", "index", "score", "-score"], Query()] = "",
) -> Filters:
    return Filters(state, label, mark, low, high, misclassified, transitions, sort or "-score")


@router.get("/ui/runs/{run_id}/samples", response_class=HTMLResponse)
async def show_samples(
    request: Request,
    page: PageDep,
    selections: SelectionsDep,
    tables: TablesDep,
    truths: TruthsDep,
    sample_ids: SampleIdsDep,
    filters: Annotated[Filters, Depends(_filters)],
    after: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    before: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    find: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    """One page of the samples. `after` and `before` are places in the order, so that a page costs the same anywhere."""
    if find and (index := await _find(page.run, sample_ids, find.strip())) is not None:
        there = link(f"/ui/runs/{page.run.run_id}/samples/{index}", round=page.asked)
        return RedirectResponse(request.scope.get("root_path", "") + there, 303)
    context: dict[str, Any] = {**page.context(), "filters": filters, "find": find, "found": None}
    tabled = await tabled_of(page, selections, tables)
    if tabled is not None:
        show_pictures(request, page.run)
        labels = await tables.labels(page.run)
        _, audit = await truths.audit(page.run)
        found = await anyio.to_thread.run_sync(
            lambda: _turned(tabled.table, filters.mask(tabled.table, labels, audit), filters.sort, after, before)
        )
        samples, context["found"] = found.samples, found
        context["rows"] = await rows_of(tabled, samples, page.run, sample_ids, labels, audit)
        context["n_epochs"] = tabled.table.n_epochs
        context["classes"] = None if labels is None else _classes(page.run, labels)
    return render(request, "samples.html", context)


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """A page of an order.

    Attributes
    ----------
    samples
        Those of the page.
    first, total
        How many that are asked for lie before the page, and all of them.
    previous, next
        Where the pages beside it are: the place that they end before, and that they begin with; None: there is none.
    """

    samples: NDArray[np.integer]
    first: int
    total: int
    previous: int | None
    next: int | None


def _turned(table: SampleTable, mask: Mask, sort: Sort, after: int | None, before: int | None) -> Turned:
    order = table.order(sort)
    if before is not None:
        places = backward(order, mask, min(before, order.size), PAGE)
        if places.size < PAGE:  # a page at the beginning is a whole one
            places = forward(order, mask, 0, PAGE)
    else:
        places = forward(order, mask, after or 0, PAGE)
    total = int(mask.sum())
    if not places.size:
        return Turned(order[:0], 0, total, None, None)
    first = int(mask[order[: places[0]]].sum())
    last = int(places[-1])
    return Turned(
        samples=order[places],
        first=first,
        total=total,
        previous=int(places[0]) if first else None,
        next=last + 1 if first + places.size < total else None,
    )


async def _find(run: Run, sample_ids: SampleIds, text: str) -> int | None:
    """The sample that a text names: by its external id, else by its index."""
    if run.ids is not None:
        try:
            return await sample_ids.find(run, text)
        except SampleNotFound:
            pass
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < run.config.n_samples:
        return int(text)
    return None


def _classes(run: Run, labels: NDArray[np.int32]) -> list[int] | None:
    """The classes to choose from; None where there are too many."""
    n_classes = run.config.n_classes or int(labels.max()) + 1
    return list(range(n_classes)) if n_classes <= _MAX_CLASSES else None


def _range(text: str) -> tuple[int, int] | None:
    first, _, last = text.partition("-")
    return (int(first), int(last or first)) if text else None
