"""Suggested labels: ``/runs/{run_id}/suggestions``, the classes that were predicted for dropped samples."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_service.routes.selection import SelectionPart
from mild_service.web import media_types
from mild_service.web.dependencies import (
    ChosenSelectionDep,
    SampleIdsDep,
)
from mild_service.web.responses import encode_lists, make_response, negotiate

router = APIRouter(tags=["samples"])

_MAX_PAGE = 100_000
_PART_ROWS = 4096
"""Rows in one piece of a body."""
_ROW_BYTES = {media_types.JSON: 320, media_types.CSV: 120}
"""Most memory of one row: twice its bytes in the body, and its share of a piece."""


class SuggestionView(BaseModel):
    """A dropped sample, and the class that was predicted for it most often."""

    index: int
    id: str | None = Field(description="Its external id; null if the run has no ids.")
    label: int | None = Field(
        description="Its given label: that of the run, or else that of logs with a wrong prediction; null if unknown."
    )
    suggested: int | None = Field(
        description="The class that was predicted in most epochs; if tied, the given label or else the lowest class. "
        "Null if there are no predictions, or if it is the given label and that is unknown."
    )
    votes: int = Field(description="Epochs in which `suggested` was predicted.")
    share: float | None = Field(description="`votes` as a share of the epochs in which the sample was observed.")


class SuggestionsView(SelectionPart):
    """Dropped samples in order of their index, from position `offset` on."""

    num_dropped: int
    offset: int
    suggestions: list[SuggestionView]


@router.get(
    "/runs/{run_id}/suggestions",
    response_model=SuggestionsView,
    responses={
        200: {
            "content": {
                media_types.CSV: {"schema": {"type": "string", "description": "The same columns; a header line."}}
            },
            "description": "Some dropped samples",
        },
    },
)
async def get_suggestions(
    request: Request,
    selection: ChosenSelectionDep,
    sample_ids: SampleIdsDep,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="Dropped samples to skip.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Most samples in one answer.")] = _MAX_PAGE,
) -> Response:
    """Return dropped samples with the class that logs predicted most often in the epochs of the selection."""
    representation = negotiate(request, (media_types.JSON, media_types.CSV))
    n_dropped, suggestions = await selection.suggest_page(offset, limit)
    n_listed = suggestions.samples.size
    ids = await sample_ids.get_optional_ids(selection.run, suggestions.samples)

    def make_rows() -> Iterator[list[dict[str, Any]]]:
        for start in range(0, n_listed, _PART_ROWS):
            part = slice(start, start + _PART_ROWS)
            values = [column[part].tolist() for column in suggestions.columns]
            yield [_make_suggestion(*row) for row in zip(ids[part], *values, strict=True)]

    fields = {**selection.head, "num_dropped": n_dropped, "offset": offset}

    def make_body() -> Iterator[bytes]:
        if representation.media_type == media_types.CSV:
            return _encode_csv(make_rows())
        return encode_lists(fields, {"suggestions": make_rows()})

    return await make_response(representation, make_body, n_bytes=_ROW_BYTES[representation.media_type] * n_listed)


def _make_suggestion(
    sample_id: str | None, index: int, label: int, suggested: int, votes: int, observed: int
) -> dict[str, Any]:
    """Return the fields of `SuggestionView`; a class of -1 is unknown."""
    return {
        "index": index,
        "id": sample_id,
        "label": None if label < 0 else label,
        "suggested": None if suggested < 0 else suggested,
        "votes": votes,
        "share": votes / observed if observed else None,
    }


def _encode_csv(parts: Iterable[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Yield the rows as CSV with a header line."""
    names = list(SuggestionView.model_fields)
    yield ",".join(names).encode() + b"\n"
    for rows in parts:
        text = io.StringIO()
        csv.DictWriter(text, names, lineterminator="\n").writerows(rows)
        yield text.getvalue().encode()
