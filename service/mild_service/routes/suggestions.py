"""``/runs/{run_id}/suggestions``: which labels the model would have given to dropped samples."""

import csv
import io
import itertools
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.errors import ParameterError
from mild_service.errors import InvalidRequest, NoEpochs, NotAcceptable, RoundNotOpen, RoundsNotComparable, RunNotFound
from mild_service.web import bodies
from mild_service.web.dependencies import (
    Changes,
    LabelsAndAuditsDep,
    RunId,
    RunsDep,
    SampleIdsDep,
    SuggesterDep,
    UntilEpoch,
    WhichRound,
)
from mild_service.web.problems import described
from mild_service.web.responses import CSV, negotiate, respond

router = APIRouter(tags=["samples"])

_MAX_PAGE = 100_000


class SuggestionView(BaseModel):
    """A dropped sample, and what it was most often taken for."""

    index: int
    id: str | None = Field(description="Its external id; null where no ids were put.")
    label: int | None = Field(
        description="Its given label: as put, else as logs told it beside a wrong prediction; null where neither did."
    )
    suggested: int | None = Field(
        description="The class that was predicted in most epochs, ties going to the given label, then to the lowest; "
        "null where that is the given label and nobody told it, or nothing is known."
    )
    votes: int = Field(description="Epochs in which it was predicted.")
    share: float | None = Field(description="Their share of the epochs in which the sample was observed.")


class SuggestionsView(BaseModel):
    """Dropped samples by index, from the `offset`-th on."""

    run_id: str
    round: int
    provisional: bool
    num_dropped: int
    offset: int
    suggestions: list[SuggestionView]


@router.get(
    "/runs/{run_id}/suggestions",
    response_model=SuggestionsView,
    responses={
        200: {
            "content": {CSV: {"schema": {"type": "string", "description": "The same columns; a header line."}}},
            "description": "Some dropped samples",
        },
        **described(
            InvalidRequest, ParameterError, RunNotFound, RoundNotOpen, RoundsNotComparable, NoEpochs, NotAcceptable
        ),
    },
)
async def get_suggestions(
    request: Request,
    run_id: RunId,
    runs: RunsDep,
    suggester: SuggesterDep,
    labels_and_audits: LabelsAndAuditsDep,
    sample_ids: SampleIdsDep,
    which: WhichRound,
    changes: Changes,
    until_epoch: UntilEpoch = None,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="Dropped samples to pass over.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Most samples in one answer.")] = _MAX_PAGE,
) -> Response:
    """Dropped samples with the class that logs predicted most often, counted over the epochs behind the set."""
    form = negotiate(request, (bodies.JSON, CSV))
    run = await runs.find(run_id)
    found = await suggester.suggest(run, which, changes, until_epoch, offset, limit)
    labels = await labels_and_audits.read_labels(run, found.samples)
    names = None if run.ids is None else await sample_ids.get_ids(run, found.samples)
    evidence = found.inspection.evidence

    def body() -> bytes:
        given = found.counted.labels.astype("int64") - 1 if labels is None else labels
        rows = [
            _row(*values)
            for values in zip(
                found.samples.tolist(),
                itertools.repeat(None, found.samples.size) if names is None else names,
                given.tolist(),
                found.counted.tally.suggested.tolist(),
                found.counted.tally.n_votes.tolist(),
                found.counted.n_observed.tolist(),
                strict=True,
            )
        ]
        if form.kind == CSV:
            return _csv(rows)
        head = {"run_id": run_id, "round": evidence.round.number, "provisional": not evidence.round.finished}
        return orjson.dumps({**head, "num_dropped": found.n_dropped, "offset": offset, "suggestions": rows})

    return await respond(form, body)


def _row(index: int, name: str | None, label: int, suggested: int, votes: int, observed: int) -> dict[str, Any]:
    given = None if label < 0 else label
    return {
        "index": index,
        "id": name,
        "label": given,
        "suggested": suggested - 1 if suggested else given if votes else None,
        "votes": votes,
        "share": votes / observed if observed else None,
    }


def _csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(SuggestionView.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
