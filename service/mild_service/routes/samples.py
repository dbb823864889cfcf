"""Details of a selection: scores of all samples, one sample's history, all cuts, and the evaluation by the audit."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeAlias

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.inspect.explain import Explanation
from mild_core.inspect.sweep import Cut
from mild_core.types import Metric, Verdict
from mild_service.errors import NoAudit
from mild_service.routes.selection import MeasuredView, SelectionPart, ThresholdView
from mild_service.web import media_types
from mild_service.web.dependencies import ChosenSelectionDep, RoundSelectionDep, SampleIdsDep
from mild_service.web.responses import (
    encode_lists,
    encode_npy_rows,
    estimate_pieces,
    make_response,
    negotiate,
    split_array,
)
from mild_service.web.schemas import make_response_model


class EvaluationView(SelectionPart, MeasuredView):
    """Quality of a round's set by the audit, with the counts behind the figures."""

    clean: int = Field(description="Audited samples whose label is true.")
    kept: int = Field(description="Audited samples in the set.")
    kept_clean: int = Field(description="Those among them whose label is true.")


class ScoresView(SelectionPart):
    """Scores and posteriors of the samples from `offset` on; null where a sample has none."""

    metric: Metric
    num_samples: int
    offset: int
    scores: list[float | None] = Field(description="Low is clean; null for a sample that was never observed.")
    noisy_posterior: list[float | None] = Field(
        description="Probability of being mislabelled, by the fit whatever its verdict; it speaks for the samples only "
        "where that is `separable`."
    )


if TYPE_CHECKING:
    CutView: TypeAlias = BaseModel
    _ExplanationFields: TypeAlias = BaseModel
else:
    CutView = make_response_model(Cut, all_required=True)
    _ExplanationFields = make_response_model(Explanation)


class SampleView(SelectionPart, _ExplanationFields):
    """History, score and labels of one sample, and the reason why it was kept or dropped."""

    id: str | None = Field(description="Its external id; null if the run has no ids.")
    label: int | None = Field(description="Its given label; null if the run has no labels.")
    suggested: int | None = Field(
        description="The class that logs predicted most often; null if there are no predictions, or no label."
    )
    audited: bool | None = Field(
        description="Whether its label is true by the audit; null if the sample was not audited."
    )


class SweepView(SelectionPart):
    """Every cut of the histogram, beginning with the cut that keeps the fewest samples."""

    metric: Metric
    threshold: ThresholdView = Field(description="The cut that the set was made with.")
    verdict: Verdict
    cuts: list[CutView]


router = APIRouter(tags=["samples"])

_MAX_PAGE = 1_000_000
_SCORE_CHARS = 15
"""Most bytes of a score or a posterior in JSON, with its comma."""


@router.get(
    "/runs/{run_id}/scores",
    response_model=ScoresView,
    responses={
        200: {
            "content": {
                media_types.NPY: {
                    "schema": {"type": "string", "format": "binary", "description": "float32, shape (2, n)."}
                }
            },
            "description": "Scores and posteriors",
        },
    },
)
async def get_scores(
    request: Request,
    selection: ChosenSelectionDep,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="First sample.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Most samples in one answer.")] = _MAX_PAGE,
) -> Response:
    """Return every sample's score and probability of being mislabelled, as JSON or an npy array of two rows."""
    representation = negotiate(request, (media_types.JSON, media_types.NPY))
    details, page = await selection.compute_details(), slice(offset, offset + limit)
    columns = {"scores": details.scores[page], "noisy_posterior": details.noisy_posterior[page]}
    is_npy = representation.media_type == media_types.NPY
    n_bytes = estimate_pieces(2 * columns["scores"].size, 4 if is_npy else _SCORE_CHARS)
    fields = {
        **selection.head,
        "metric": details.options.metric,
        "num_samples": details.n_samples,
        "offset": offset,
    }

    def make_body() -> Iterator[bytes]:
        if is_npy:
            return encode_npy_rows(list(columns.values()))
        return encode_lists(fields, {name: split_array(column) for name, column in columns.items()})  # NaN is null

    return await make_response(representation, make_body, n_bytes=n_bytes)


@router.get("/runs/{run_id}/samples/{index}")
async def get_sample(
    index: Annotated[int, Path(ge=0, lt=2**63, description="The sample.")],
    selection: ChosenSelectionDep,
    sample_ids: SampleIdsDep,
) -> SampleView:
    """Return a sample's history over all rounds, its score, and why it was kept or dropped, in words."""
    explanation, suggestion = await selection.explain(index)
    audit, run = await selection.read_audit(), selection.run
    label, suggested = int(suggestion.labels[0]), int(suggestion.suggested[0])
    return SampleView(
        **selection.head,
        id=(await sample_ids.get_optional_ids(run, suggestion.samples))[0],
        label=None if run.labels is None else label,
        suggested=None if suggested < 0 else suggested,
        audited=audit.get_mark(index),
        **asdict(explanation),
    )


@router.get("/runs/{run_id}/rounds/{round}/sweep", response_model=SweepView)
async def get_sweep(selection: RoundSelectionDep) -> Response:
    """Return every possible cut with the number of samples that it keeps, and its estimated and measured quality."""
    return Response(orjson.dumps(await selection.compute_sweep()), media_type=media_types.JSON)


@router.get("/runs/{run_id}/rounds/{round}/evaluation")
async def get_evaluation(selection: RoundSelectionDep) -> EvaluationView:
    """Return the quality of the round's set, or of the set of other options, by the audit."""
    run_id = selection.run.run_id
    if not (await selection.read_audit()).n_checked:
        raise NoAudit(
            f"run {run_id!r} has 0 audited samples, at least 1 is needed to measure by; "
            f"check some labels and send the result with PUT /runs/{run_id}/audit"
        )
    return EvaluationView.model_validate({**selection.head, **(await selection.evaluate()).summary_with_counts()})
