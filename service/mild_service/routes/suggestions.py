"""Suggested labels: ``/runs/{run_id}/suggestions``, the classes that were predicted for dropped samples."""

import csv
import io
import itertools
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.errors import ParameterError
from mild_service.errors import InvalidRequest, NoEpochs, NotAcceptable, RoundNotOpen, RoundsNotComparable, RunNotFound
from mild_service.web import media_types
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
from mild_service.web.problems import error_responses
from mild_service.web.responses import make_response, negotiate

router = APIRouter(tags=["samples"])

_MAX_PAGE = 100_000


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


class SuggestionsView(BaseModel):
    """Dropped samples in order of their index, from position `offset` on."""

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
            "content": {
                media_types.CSV: {"schema": {"type": "string", "description": "The same columns; a header line."}}
            },
            "description": "Some dropped samples",
        },
        **error_responses(
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
    offset: Annotated[int, Query(ge=0, lt=2**63, description="Dropped samples to skip.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Most samples in one answer.")] = _MAX_PAGE,
) -> Response:
    """Return dropped samples with the class that logs predicted most often in the epochs of the selection."""
    representation = negotiate(request, (media_types.JSON, media_types.CSV))
    run = await runs.find(run_id)
    suggestions = await suggester.suggest(run, which, changes, until_epoch, offset, limit)
    samples, counted = suggestions.samples, suggestions.counts
    labels = await labels_and_audits.read_labels(run, samples)
    ids = None if run.ids is None else await sample_ids.get_ids(run, samples)
    evidence = suggestions.inspection.evidence

    def make_body() -> bytes:
        given_labels = counted.labels.astype("int64") - 1 if labels is None else labels
        rows = [
            _make_suggestion(*values)
            for values in zip(
                samples.tolist(),
                itertools.repeat(None, samples.size) if ids is None else ids,
                given_labels.tolist(),
                counted.tally.suggested.tolist(),
                counted.tally.n_votes.tolist(),
                counted.n_observed.tolist(),
                strict=True,
            )
        ]
        if representation.media_type == media_types.CSV:
            return _encode_csv(rows)
        document = {
            "run_id": run_id,
            "round": evidence.round.number,
            "provisional": not evidence.round.finished,
            "num_dropped": suggestions.n_dropped,
            "offset": offset,
            "suggestions": rows,
        }
        return orjson.dumps(document)

    return await make_response(representation, make_body)


def _make_suggestion(
    index: int, sample_id: str | None, label: int, suggested: int, votes: int, observed: int
) -> dict[str, Any]:
    """Return the fields of `SuggestionView`; a `label` of -1 is unknown, `suggested` is a class plus 1 or 0."""
    given_label = None if label < 0 else label
    return {
        "index": index,
        "id": sample_id,
        "label": given_label,
        "suggested": suggested - 1 if suggested else given_label if votes else None,
        "votes": votes,
        "share": votes / observed if observed else None,
    }


def _encode_csv(rows: list[dict[str, Any]]) -> bytes:
    """Encode the rows as CSV with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(SuggestionView.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
