"""Details of a selection: scores of all samples, one sample's history, all cuts, and the evaluation by the audit."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import orjson
from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.audit import Audit, evaluate_selection
from mild_core.types import Metric, Verdict
from mild_service.errors import (
    NoAudit,
)
from mild_service.routes.selection import MeasuredView, ThresholdView
from mild_service.selecting.evidence import Evidence
from mild_service.selecting.selections import InspectedSelection
from mild_service.web import media_types
from mild_service.web.dependencies import (
    Changes,
    LabelsAndAuditsDep,
    RoundNumber,
    RunId,
    RunsDep,
    SampleIdsDep,
    SampleTablesDep,
    SelectionsDep,
    UntilEpoch,
    WhichRound,
)
from mild_service.web.responses import (
    encode_lists,
    encode_npy_rows,
    estimate_pieces,
    make_response,
    negotiate,
    split_array,
)


class EvaluationView(MeasuredView):
    """Quality of a round's set by the audit, with the counts behind the figures."""

    run_id: str
    round: int
    provisional: bool
    clean: int = Field(description="Audited samples whose label is true.")
    kept: int = Field(description="Audited samples in the set.")
    kept_clean: int = Field(description="Those among them whose label is true.")


class ScoresView(BaseModel):
    """Scores and posteriors of the samples from `offset` on; null where a sample has none."""

    run_id: str
    round: int
    provisional: bool
    metric: Metric
    num_samples: int
    offset: int
    scores: list[float | None] = Field(description="Low is clean; null for a sample that was never observed.")
    noisy_posterior: list[float | None] = Field(
        description="Probability of being mislabelled, by the fit whatever its verdict; it speaks for the samples only "
        "where that is `separable`."
    )


class HistoryView(BaseModel):
    """History of a sample in one round."""

    round: int
    member: bool = Field(description="Whether the model was trained on it.")
    planted: bool = Field(
        description="Whether its label was made wrong on purpose; the history is then about the wrong label."
    )
    history: str = Field(description="One character per epoch: `1` memorised, `0` misclassified, `.` not observed.")


class SampleView(BaseModel):
    """History, score and labels of one sample, and the reason why it was kept or dropped."""

    run_id: str
    round: int
    provisional: bool
    index: int
    id: str | None = Field(description="Its external id; null if the run has no ids.")
    label: int | None = Field(description="Its given label; null if the run has no labels.")
    suggested: int | None = Field(
        description="The class that logs predicted most often; null if there are no predictions, or no label."
    )
    audited: bool | None = Field(
        description="Whether its label is true by the audit; null if the sample was not audited."
    )
    rounds: list[HistoryView]
    epochs: int = Field(description="Epochs of the rounds that count.")
    observed: int = Field(description="Those among them in which it was observed.")
    misclassified: int = Field(description="Those among them in which it was misclassified.")
    score: float | None
    noisy_posterior: float | None = Field(
        description="Probability of being mislabelled, by the fit; null unless the verdict is `separable`."
    )
    kept: bool
    why: str


class ImpliedView(BaseModel):
    """Quality of a cut by the fitted mixture, with 90% intervals; null where the mixture is not identified."""

    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None


class CutMeasuredView(BaseModel):
    """Quality of a cut by the audit."""

    precision: float | None
    recall: float | None
    f1: float | None


class CutBoundsView(BaseModel):
    """Lower bounds of a cut by a random audit, at 95% each; those of all cuts hold at once."""

    precision: float
    recall: float


class CutView(BaseModel):
    """One cut. It keeps the samples whose metric is at most `value`."""

    cut: int
    value: float
    num_kept: int
    fitted: ImpliedView
    measured: CutMeasuredView | None = Field(description="Null without an audit.")
    bounds: CutBoundsView | None = Field(
        description="Null without a complete draw, or where its answers may have chosen the order of the samples."
    )


class SweepView(BaseModel):
    """Every cut of the histogram, beginning with the cut that keeps the fewest samples."""

    run_id: str
    round: int
    provisional: bool
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
    run_id: RunId,
    runs: RunsDep,
    selections: SelectionsDep,
    which: WhichRound,
    changes: Changes,
    until_epoch: UntilEpoch = None,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="First sample.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Most samples in one answer.")] = _MAX_PAGE,
) -> Response:
    """Return every sample's score and probability of being mislabelled, as JSON or an npy array of two rows."""
    representation = negotiate(request, (media_types.JSON, media_types.NPY))
    plan = await selections.plan(await runs.find(run_id), which, changes, until_epoch)
    inspection = await selections.inspect(plan)
    page = slice(offset, offset + limit)
    is_npy = representation.media_type == media_types.NPY
    n_values = 2 * len(range(*page.indices(inspection.selection.n_samples)))
    n_bytes = estimate_pieces(n_values, 4 if is_npy else _SCORE_CHARS)
    encode = _encode_scores_npy if is_npy else _encode_scores_json
    return await make_response(representation, lambda: encode(inspection, page), n_bytes=n_bytes)


@router.get(
    "/runs/{run_id}/samples/{index}",
    response_model=SampleView,
)
async def get_sample(
    run_id: RunId,
    index: Annotated[int, Path(ge=0, lt=2**63, description="The sample.")],
    runs: RunsDep,
    selections: SelectionsDep,
    tables: SampleTablesDep,
    labels_and_audits: LabelsAndAuditsDep,
    sample_ids: SampleIdsDep,
    which: WhichRound,
    changes: Changes,
    until_epoch: UntilEpoch = None,
) -> SampleView:
    """Return a sample's history over all rounds, its score, and why it was kept or dropped, in words."""
    run = await runs.find(run_id)
    plan = await selections.plan(run, which, changes, until_epoch)
    history = await tables.get_history(plan, index)
    run, audit = await labels_and_audits.read_audit(run)
    label, explanation = await labels_and_audits.read_label(run, index), history.explanation
    return SampleView(
        **_make_round_fields(history.evidence),
        index=index,
        id=None if run.ids is None else (await sample_ids.get_ids(run, np.array([index])))[0],
        label=label,
        suggested=history.counts.suggested_class(0, label),
        audited=audit.get_mark(index),
        rounds=[
            HistoryView(
                round=number,
                member=round_history.member,
                planted=round_history.planted,
                history=round_history.bits,
            )
            for number, round_history in enumerate(explanation.rounds)
        ],
        epochs=explanation.epochs,
        observed=explanation.observed,
        misclassified=explanation.misclassified,
        score=explanation.score,
        noisy_posterior=explanation.noisy_posterior,
        kept=explanation.kept,
        why=explanation.why,
    )


@router.get("/runs/{run_id}/rounds/{round}/sweep", response_model=SweepView)
async def get_sweep(
    run_id: RunId,
    round_: RoundNumber,
    runs: RunsDep,
    selections: SelectionsDep,
    changes: Changes,
    until_epoch: UntilEpoch = None,
) -> Response:
    """Return every possible cut with the number of samples that it keeps, and its estimated and measured quality."""
    plan = await selections.plan(await runs.find(run_id), round_, changes, until_epoch)
    return Response(orjson.dumps(await selections.compute_sweep(plan)), media_type=media_types.JSON)


@router.get(
    "/runs/{run_id}/rounds/{round}/evaluation",
    response_model=EvaluationView,
)
async def get_evaluation(
    run_id: RunId,
    round_: RoundNumber,
    runs: RunsDep,
    selections: SelectionsDep,
    labels_and_audits: LabelsAndAuditsDep,
    changes: Changes,
    until_epoch: UntilEpoch = None,
) -> Response:
    """Return the quality of the round's set, or of the set of other options, by the audit."""
    run, audit = await labels_and_audits.read_audit(await runs.find(run_id))
    if not audit.n_known:
        raise NoAudit(
            f"run {run_id!r} has 0 audited samples, at least 1 is needed to measure by; "
            f"check some labels and send the result with PUT /runs/{run_id}/audit"
        )
    inspection = await selections.inspect(await selections.plan(run, round_, changes, until_epoch))
    document = await to_thread.run_sync(lambda: orjson.dumps(_evaluate_selection(inspection, audit)))
    return Response(document, media_type=media_types.JSON)


def _make_round_fields(evidence: Evidence) -> dict[str, Any]:
    """Return the fields of a response that identify the round."""
    return {
        "run_id": evidence.run.run_id,
        "round": evidence.round.number,
        "provisional": not evidence.round.finished,
    }


def _encode_scores_npy(inspection: InspectedSelection, page: slice) -> Iterator[bytes]:
    return encode_npy_rows((inspection.selection.scores[page], inspection.selection.noisy_posterior[page]))


def _encode_scores_json(inspection: InspectedSelection, page: slice) -> Iterator[bytes]:
    selection = inspection.selection
    fields = {
        **_make_round_fields(inspection.evidence),
        "metric": selection.options.metric,
        "num_samples": selection.n_samples,
        "offset": page.start,
    }
    columns = {"scores": selection.scores[page], "noisy_posterior": selection.noisy_posterior[page]}
    return encode_lists(fields, {name: split_array(column) for name, column in columns.items()})  # NaN becomes null


def _evaluate_selection(inspection: InspectedSelection, audit: Audit) -> dict[str, Any]:
    """Return the fields of `EvaluationView`."""
    evaluation = evaluate_selection(inspection.selection.audited_bitmap, inspection.selection.scores, audit)
    return {
        **_make_round_fields(inspection.evidence),
        **evaluation.summary(),
        "clean": evaluation.clean,
        "kept": evaluation.kept,
        "kept_clean": evaluation.kept_clean,
    }
