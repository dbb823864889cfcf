"""The pages about samples: ``/ui/runs/{run_id}/samples``, filtered and in order, and the page of one sample."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from mild_core.audit import Audit, AuditChange
from mild_core.inspect.sample_table import (
    Mask,
    SampleTable,
    Sort,
    find_next_positions,
    find_previous_positions,
)
from mild_core.results import to_optional_float
from mild_service.annotations.external_ids import ExternalIds
from mild_service.dashboard import charts
from mild_service.dashboard.rendering import link, redirect, render
from mild_service.dashboard.run_page import PageDep, RoundQuery
from mild_service.errors import InvalidRequest, SampleNotFound
from mild_service.image_urls import fill_image_url, find_image_origin
from mild_service.models import Run
from mild_service.selecting.round_selection import RoundSelection
from mild_service.web import bodies
from mild_service.web.dependencies import (
    CallerDep,
    LabelsAndAuditsDep,
    RunDep,
    SampleIdsDep,
)


def allow_images(request: Request, run: Run) -> None:
    """Allow the page that answers a request to load images from the origin of the run's picture addresses."""
    request.state.image_origin = find_image_origin(run.spec.picture_url)


async def describe_samples(
    run: Run,
    samples: NDArray[np.int64],
    labels: NDArray[np.integer] | None,
    audit: Audit,
    sample_ids: ExternalIds,
) -> list[dict[str, Any]]:
    """Return index, id, picture, given label and mark of some samples.

    Parameters
    ----------
    run, audit
        The run, and its audit.
    samples
        Shape (n,), the samples, ascending.
    labels
        Shape (n,), their given labels; None if the run has no labels.
    sample_ids
        Reads the external ids of the samples.
    """
    given_labels = [None] * samples.size if labels is None else labels.tolist()
    ids = await sample_ids.get_optional_ids(run, samples)
    return [
        {
            "index": index,
            "id": sample_id,
            "picture": fill_image_url(run.spec.picture_url, index, sample_id),
            "label": label,
            "mark": audit.get_mark(index),
        }
        for index, sample_id, label in zip(samples.tolist(), ids, given_labels, strict=True)
    ]


async def build_rows(
    selection: RoundSelection, samples: NDArray[np.integer], sample_ids: ExternalIds
) -> list[dict[str, Any]]:
    """Return the values of each row in a list of samples, shape (n_rows,), of a selection."""
    table, run = await selection.build_table(), selection.run
    labels, audit = await selection.read_labels(), await selection.read_audit()
    ascending = np.sort(samples).astype(np.int64)
    described = await describe_samples(run, ascending, None if labels is None else labels[ascending], audit, sample_ids)
    rows = {row["index"]: row for row in described}
    return [
        {
            **rows[index],
            "kept": bool(table.is_kept[index]),
            "scored": bool(table.scored[index]),
            "score": to_optional_float(table.scores[index]),
            "noisy": to_optional_float(table.noisy_posterior[index]),
            "misclassified": int(table.misclassified[index]),
            "observed": int(table.observed[index]),
            "transitions": int(table.transitions[index]),
        }
        for index in samples.tolist()
    ]


router = APIRouter(include_in_schema=False)

PAGE_SIZE = 50
LIST_BYTES = 7
"""Most memory per sample while the samples of one page are found: masks, and the samples in another order."""
_NUMBER = r"^(-?\d{1,9}(\.\d{1,6})?)?$"
_RANGE = r"^(\d{1,9}(-\d{1,9})?)?$"
_MAX_CLASSES = 1000
"""Most classes that the filter form lists."""


AuditFilter: TypeAlias = Literal["", "any", "clean", "wrong", "drawn", "unanswered"]
"""Samples by their mark, and those that were drawn at random: all of them, or those without a mark."""


class SampleQuery(BaseModel):
    """The query of the list of samples: the fields of its form, of which an empty one does not filter, and the page."""

    state: Literal["", "kept", "dropped"] = ""
    label: str = Field("", pattern=r"^\d{0,10}$")
    mark: AuditFilter = ""
    low: str = Field("", pattern=_NUMBER)
    high: str = Field("", pattern=_NUMBER)
    misclassified: str = Field("", pattern=_RANGE)
    transitions: str = Field("", pattern=_RANGE)
    sort: Literal["", "index", "score", "-score"] = ""
    find: str = Field("", max_length=512)
    after: int | None = Field(None, ge=0, lt=2**31)
    before: int | None = Field(None, ge=0, lt=2**31)

    @property
    def order(self) -> Sort:
        """The order of the samples."""
        return self.sort or "-score"

    @property
    def query(self) -> dict[str, str]:
        """The fields of the form as query parameters; the default order is left empty."""
        query = self.model_dump(exclude={"find", "after", "before"})
        return {**query, "sort": "" if self.order == "-score" else self.order}

    @property
    def is_active(self) -> bool:
        """Whether any field but the order is set."""
        return any(value for name, value in self.query.items() if name != "sort")

    def find_matches(self, table: SampleTable, labels: NDArray[np.int32] | None, audit: Audit) -> Mask:
        """Return whether each sample matches all filters, shape (n_samples,); ranges include both ends.

        Parameters
        ----------
        table
            The sample table.
        labels
            Given labels, shape (n_samples,); None if the run has no labels, and the filter by label is then ignored.
        audit
            The run's audit.
        """
        mask = table.is_kept == (self.state == "kept") if self.state else np.ones(table.n_samples, dtype=np.bool_)
        if self.low:
            mask &= table.scores >= float(self.low)
        if self.high:
            mask &= table.scores <= float(self.high)
        for limits, counts in ((self.misclassified, table.misclassified), (self.transitions, table.transitions)):
            if limits:
                first, _, last = limits.partition("-")
                mask &= (counts >= int(first)) & (counts <= int(last or first)) & (table.observed > 0)
        if self.label and labels is not None:
            mask &= labels == int(self.label)
        if self.mark:
            (audited, clean), drawn = audit.masks, audit.random_mask
            mask &= {
                "any": audited,
                "clean": clean,
                "wrong": audited & ~clean,
                "drawn": drawn,
                "unanswered": drawn & ~audited,
            }[self.mark]
        return mask


@router.get("/ui/runs/{run_id}/samples", response_class=HTMLResponse)
async def show_samples(
    request: Request,
    page: PageDep,
    sample_ids: SampleIdsDep,
    filters: Annotated[SampleQuery, Query()],
) -> Response:
    """Show a page of samples, which begins or ends at the position `after` or `before` of their order."""
    if filters.find and (index := await _find_sample(page.run, sample_ids, filters.find.strip())) is not None:
        return redirect(request, link(f"/ui/runs/{page.run.run_id}/samples/{index}", round=page.requested_round))
    context: dict[str, Any] = {**page.template_context(), "filters": filters, "sample_page": None}
    selection, table = page.selection, await page.build_table(LIST_BYTES)
    if selection is not None and table is not None:
        allow_images(request, page.run)
        labels, audit = await selection.read_labels(), await selection.read_audit()
        sample_page = await anyio.to_thread.run_sync(
            lambda: _select_page(table, filters.find_matches(table, labels, audit), filters)
        )
        context["sample_page"] = sample_page
        context["rows"] = await build_rows(selection, sample_page.samples, sample_ids)
        context["classes"] = None if labels is None else _list_classes(page.run, labels)
    return render(request, "samples.html", context)


@dataclass(frozen=True, slots=True, eq=False)
class SamplePage:
    """One page of the ordered samples.

    Attributes
    ----------
    samples
        Samples of the page.
    first, total
        Number of matching samples before the page, and in total.
    previous, next
        Position in the order before which the previous page ends, and position at which the next page begins; None if
        there is no such page.
    """

    samples: NDArray[np.integer]
    first: int
    total: int
    previous: int | None
    next: int | None


def _select_page(table: SampleTable, mask: Mask, query: SampleQuery) -> SamplePage:
    """Return the page of the samples in `mask` from the position `after` on, or before the position `before`."""
    order = table.sort_indices(query.order)
    if query.before is not None:
        positions = find_previous_positions(order, mask, min(query.before, order.size), PAGE_SIZE)
        if positions.size < PAGE_SIZE:  # the first page is always full
            positions = find_next_positions(order, mask, 0, PAGE_SIZE)
    else:
        positions = find_next_positions(order, mask, query.after or 0, PAGE_SIZE)
    total = int(mask.sum())
    if not positions.size:
        return SamplePage(order[:0], 0, total, None, None)
    first = int(mask[order[: positions[0]]].sum())
    last = int(positions[-1])
    return SamplePage(
        samples=order[positions],
        first=first,
        total=total,
        previous=int(positions[0]) if first else None,
        next=last + 1 if first + positions.size < total else None,
    )


async def _find_sample(run: Run, sample_ids: ExternalIds, text: str) -> int | None:
    """Return the sample whose external id, or else whose index, is `text`; None if there is none."""
    if run.ids is not None:
        try:
            return await sample_ids.find_index(run, text)
        except SampleNotFound:
            pass
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < run.spec.num_samples:
        return int(text)
    return None


def _list_classes(run: Run, labels: NDArray[np.int32]) -> list[int] | None:
    """Return the classes that the filter form lists; None if there are too many."""
    n_classes = run.spec.num_classes or int(labels.max()) + 1
    return list(range(n_classes)) if n_classes <= _MAX_CLASSES else None


Mark = Literal["clean", "wrong", "none"]
Index = Annotated[int, Path(ge=0, lt=2**63, description="The sample.")]

_MARK_VALUES = {"clean": True, "wrong": False, "none": None}
_MARK_NAMES = {value: name for name, value in _MARK_VALUES.items()}


@router.get("/ui/runs/{run_id}/samples/{index}", response_class=HTMLResponse)
async def show_sample(
    request: Request,
    index: Index,
    page: PageDep,
    sample_ids: SampleIdsDep,
    caller: CallerDep,
    was: Annotated[Mark | None, Query(description="The mark before the latest one.")] = None,
) -> HTMLResponse:
    """Show the history, the score and the labels of one sample."""
    context: dict[str, Any] = {
        **page.template_context(),
        "index": index,
        "explanation": None,
        "was": was,
        "may_mark": caller.allows("write"),
    }
    if page.selection is not None:
        explanation, suggestion = await page.selection.explain(index)
        audit, fit, run = await page.selection.read_audit(), await page.selection.read_fit(), page.selection.run
        labels, suggested = suggestion.labels if suggestion.labels[0] >= 0 else None, int(suggestion.suggested[0])
        (row,) = await describe_samples(run, suggestion.samples, labels, audit, sample_ids)
        allow_images(request, run)
        context |= {
            **row,
            "explanation": explanation,
            "suggested": None if suggested < 0 else suggested,
            "votes": int(suggestion.n_votes[0]),
            "n_observed": int(suggestion.n_observed[0]),
            "mark": _MARK_NAMES[row["mark"]],
            "strips": [charts.make_history_segments(round_history.history) for round_history in explanation.rounds],
            "distribution": charts.make_distribution(fit, explanation.score),
            "threshold": fit["threshold"],
        }
    return render(request, "sample.html", context)


@router.post("/ui/runs/{run_id}/samples/{index}/mark")
async def mark_sample(
    request: Request,
    run: RunDep,
    index: Index,
    labels_and_audits: LabelsAndAuditsDep,
    round_: RoundQuery = None,
) -> RedirectResponse:
    """Add the mark in the form to the run's audit, and redirect to the page of the sample."""
    mark = (await bodies.read_form(request)).get("mark", "")
    if mark not in _MARK_VALUES:
        raise InvalidRequest(f"mark is {mark[:40]!r}; give one of {', '.join(_MARK_VALUES)}")
    run, audit = await labels_and_audits.read_audit(run)
    change = AuditChange.from_marks([index], [_MARK_VALUES[mark]], run.spec.num_samples)
    before = _MARK_NAMES[audit.get_mark(index)]
    await labels_and_audits.put_audit(run, change)
    return redirect(request, link(f"/ui/runs/{run.run_id}/samples/{index}", round=round_, was=before))
