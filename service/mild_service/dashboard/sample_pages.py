"""``/ui/runs/{run_id}/samples``: the samples of a selection, filtered, in order, page by page.

``/ui/runs/{run_id}/samples/{index}``: one sample's story, and the mark that somebody gives it.

What the pages about samples share: the selection of the round that they show, and how they speak of samples.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qs

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from numpy.typing import NDArray

from mild_core.audit import Audit, AuditChange
from mild_core.inspect.sample_table import Mask, SampleFilter, SampleTable, Sort, find_backward, find_forward
from mild_service.annotations.external_ids import ExternalIds
from mild_service.api_keys import ApiKey
from mild_service.dashboard import charts
from mild_service.dashboard.rendering import link, render
from mild_service.dashboard.run_page import PageDep, RoundQuery, Shown
from mild_service.errors import InvalidRequest, SampleNotFound
from mild_service.image_urls import image_origin, image_url
from mild_service.models import Run
from mild_service.selecting.sample_tables import SampleTables, SelectionTable
from mild_service.selecting.selections import SelectionPlan, Selections
from mild_service.web import bodies, media_types
from mild_service.web.dependencies import (
    CallerDep,
    LabelsAndAuditsDep,
    RunId,
    RunsDep,
    SampleIdsDep,
    SampleTablesDep,
    SelectionsDep,
)


async def choice_of(page: Shown, selections: Selections) -> SelectionPlan | None:
    """The selection of the round that a page shows; None where the round has no epochs yet."""
    if not page.round.epochs:
        return None
    return await selections.plan(page.run, page.round.number, {})


async def tabled_of(page: Shown, selections: Selections, tables: SampleTables) -> SelectionTable | None:
    """The same with its samples."""
    choice = await choice_of(page, selections)
    return None if choice is None else await tables.get(choice)


def show_pictures(request: Request, run: Run) -> None:
    """Let the page show pictures from where the run says that they are."""
    request.state.pictures = image_origin(run.spec.picture_url)


async def rows_of(
    tabled: SelectionTable,
    samples: NDArray[np.integer],
    run: Run,
    sample_ids: ExternalIds,
    labels: NDArray[np.int32] | None,
    audit: Audit,
) -> list[dict[str, Any]]:
    """Some samples as rows of a list."""
    table = tabled.table
    ascending = np.sort(samples).astype(np.int64)
    names = {}
    if run.ids is not None and ascending.size:
        names = dict(zip(ascending.tolist(), await sample_ids.get_ids(run, ascending), strict=True))
    return [
        {
            "index": index,
            "id": names.get(index),
            "picture": image_url(run.spec.picture_url, index, names.get(index)),
            "label": None if labels is None else int(labels[index]),
            "kept": bool(table.kept[index]),
            "scored": bool(table.scored[index]),
            "score": _number(table.scores[index]),
            "noisy": _number(table.noisy_posterior[index]),
            "misclassified": int(table.misclassified[index]),
            "observed": int(table.observed[index]),
            "transitions": int(table.transitions[index]),
            "mark": audit.get_mark(index),
        }
        for index in samples.tolist()
    ]


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)


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

    def wanted(self) -> SampleFilter:
        """Those that the table itself can answer."""
        return SampleFilter(
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
    tables: SampleTablesDep,
    labels_and_audits: LabelsAndAuditsDep,
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
        labels = await tables.get_labels(page.run)
        _, audit = await labels_and_audits.read_audit(page.run)
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
    order = table.sort(sort)
    if before is not None:
        places = find_backward(order, mask, min(before, order.size), PAGE)
        if places.size < PAGE:  # a page at the beginning is a whole one
            places = find_forward(order, mask, 0, PAGE)
    else:
        places = find_forward(order, mask, after or 0, PAGE)
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


async def _find(run: Run, sample_ids: ExternalIds, text: str) -> int | None:
    """The sample that a text names: by its external id, else by its index."""
    if run.ids is not None:
        try:
            return await sample_ids.find_index(run, text)
        except SampleNotFound:
            pass
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < run.spec.num_samples:
        return int(text)
    return None


def _classes(run: Run, labels: NDArray[np.int32]) -> list[int] | None:
    """The classes to choose from; None where there are too many."""
    n_classes = run.spec.num_classes or int(labels.max()) + 1
    return list(range(n_classes)) if n_classes <= _MAX_CLASSES else None


def _range(text: str) -> tuple[int, int] | None:
    first, _, last = text.partition("-")
    return (int(first), int(last or first)) if text else None


Mark = Literal["clean", "wrong", "none"]
Index = Annotated[int, Path(ge=0, lt=2**63, description="The sample.")]
_FORM = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES = 4096
_MEANS = {"clean": True, "wrong": False, "none": None}
_NAMES = {meaning: name for name, meaning in _MEANS.items()}


@router.get("/ui/runs/{run_id}/samples/{index}", response_class=HTMLResponse)
async def show_sample(
    request: Request,
    index: Index,
    page: PageDep,
    selections: SelectionsDep,
    tables: SampleTablesDep,
    labels_and_audits: LabelsAndAuditsDep,
    sample_ids: SampleIdsDep,
    caller: CallerDep,
    was: Annotated[Mark | None, Query(description="The mark before the one that was just given.")] = None,
) -> HTMLResponse:
    """One sample."""
    context: dict[str, Any] = {
        **page.context(),
        "index": index,
        "story": None,
        "was": was,
        "may_mark": _may(caller),
    }
    choice = await choice_of(page, selections)
    if choice is not None:
        story = await tables.get_history(choice, index)
        tabled = await tables.get(choice)
        run, audit = await labels_and_audits.read_audit(page.run)
        label = await labels_and_audits.read_label(run, index)
        name = None if run.ids is None else (await sample_ids.get_ids(run, np.array([index])))[0]
        show_pictures(request, run)
        histogram = tabled.selection.histogram
        context |= {
            "story": story,
            "told": story.explanation,
            "id": name,
            "picture": image_url(run.spec.picture_url, index, name),
            "label": story.counted.given_label(0, label),
            "suggested": story.counted.suggested_class(0, label),
            "votes": int(story.counted.tally.n_votes[0]),
            "n_observed": int(story.counted.n_observed[0]),
            "mark": _NAMES[audit.get_mark(index)],
            "strips": [charts.stretches(history.bits) for history in story.explanation.rounds],
            "drawn": histogram and charts.distribution(histogram, tabled.selection.threshold, story.explanation.score),
            "threshold": tabled.selection.threshold,
        }
    return render(request, "sample.html", context)


@router.post("/ui/runs/{run_id}/samples/{index}/mark")
async def mark_sample(
    request: Request,
    run_id: RunId,
    index: Index,
    runs: RunsDep,
    labels_and_audits: LabelsAndAuditsDep,
    round_: RoundQuery = None,
) -> RedirectResponse:
    """Put the form's mark into the run's audit, and go back to the sample; marks of others at the same time stay."""
    media_types.check_content_type(request, (_FORM,), _FORM)
    form = parse_qs((await bodies.read_json_bytes(request, _MAX_FORM_BYTES)).decode(errors="replace"))
    given = form.get("mark", [""])[0]
    if given not in _MEANS:
        raise InvalidRequest(f"mark: it is {given[:40]!r}, give one of {', '.join(get_args(Mark))}")
    run, audit = await labels_and_audits.read_audit(await runs.find(run_id))
    marks = AuditChange.from_marks([index], [_MEANS[given]], run.spec.num_samples)
    before = _NAMES[audit.get_mark(index)]
    await labels_and_audits.put_audit(run, marks)
    there = link(f"/ui/runs/{run_id}/samples/{index}", round=round_, was=before)
    return RedirectResponse(request.scope.get("root_path", "") + there, 303, headers={"Cache-Control": "no-store"})


def _may(caller: ApiKey) -> bool:
    return caller.allows("write")
