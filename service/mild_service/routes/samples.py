"""Details of a selection: scores of all samples, one sample's history, all cuts, and the evaluation by the audit."""

from typing import Annotated, Any

import numpy as np
import orjson
from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.audit import Audit, evaluate
from mild_core.errors import ParameterError, SampleIndexError
from mild_core.types import Metric, Verdict
from mild_service.errors import (
    InvalidRequest,
    NoAudit,
    NoEpochs,
    NotAcceptable,
    RoundNotOpen,
    RoundsNotComparable,
    RunNotFound,
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
from mild_service.web.problems import error_responses
from mild_service.web.responses import encode_npy, negotiate, respond


class EvaluationView(MeasuredView):
    """A round's set against the audit, with the counts behind the figures."""

    run_id: str
    round: int
    provisional: bool
    clean: int = Field(description="Audited samples whose label is true.")
    kept: int = Field(description="Audited samples in the set.")
    kept_clean: int = Field(description="Those among them whose label is true.")


class ScoresView(BaseModel):
    """Scores and posteriors of the samples `offset`, `offset` + 1, …; null where there is none."""

    run_id: str
    round: int
    provisional: bool
    metric: Metric
    num_samples: int
    offset: int
    scores: list[float | None] = Field(description="Low is clean; null for a sample that was never observed.")
    noisy_posterior: list[float | None] = Field(description="Probability of being mislabelled.")


class HistoryView(BaseModel):
    """A sample in one round."""

    round: int
    member: bool = Field(description="Whether the model was trained on it.")
    planted: bool = Field(description="Whether its label was broken on purpose: the bits are about that label.")
    history: str = Field(description="A character per epoch: 1 memorised, 0 misclassified, . not observed.")


class SampleView(BaseModel):
    """What is known of one sample, and why it was kept or dropped."""

    run_id: str
    round: int
    provisional: bool
    index: int
    id: str | None = Field(description="Its external id; null where no ids were put.")
    label: int | None = Field(description="Its given label; null where no labels were put.")
    suggested: int | None = Field(
        description="The class that logs predicted most often; null where they predicted none, or put no label."
    )
    audited: bool | None = Field(description="Whether the audit found its label to be true; null if it was not asked.")
    rounds: list[HistoryView]
    epochs: int = Field(description="Epochs of the rounds that count.")
    observed: int = Field(description="Those among them in which it was observed.")
    misclassified: int = Field(description="Those among them in which it was misclassified.")
    score: float | None
    noisy_posterior: float | None
    kept: bool
    why: str


class ImpliedView(BaseModel):
    """What the fitted mixture implies of a cut, with 90% intervals; null where it says nothing that can be believed."""

    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None


class CutMeasuredView(BaseModel):
    """What the audit says of a cut."""

    precision: float | None
    recall: float | None
    f1: float | None


class CutView(BaseModel):
    """One cut: samples with a metric up to `value` would be kept."""

    cut: int
    value: float
    num_kept: int
    estimated: ImpliedView
    measured: CutMeasuredView | None = Field(description="Null without an audit.")


class SweepView(BaseModel):
    """Every cut of the histogram, from the one that keeps the fewest on."""

    run_id: str
    round: int
    provisional: bool
    metric: Metric
    threshold: ThresholdView = Field(description="The cut that the set was made with.")
    verdict: Verdict
    cuts: list[CutView]


router = APIRouter(tags=["samples"])

_MAX_PAGE = 1_000_000
_ERRORS = (InvalidRequest, ParameterError, RunNotFound, RoundNotOpen, NoEpochs)


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
        **error_responses(*_ERRORS, RoundsNotComparable, NotAcceptable),
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
    """Every sample's score and its probability of being mislabelled: JSON, or an array of two rows."""
    representation = negotiate(request, (media_types.JSON, media_types.NPY))
    choice = await selections.plan(await runs.find(run_id), which, changes, until_epoch)
    inspection = await selections.inspect(choice)
    page = slice(offset, offset + limit)
    encode = _encode_scores_npy if representation.media_type == media_types.NPY else _encode_scores_json
    return await respond(representation, lambda: encode(inspection, page))


@router.get(
    "/runs/{run_id}/samples/{index}",
    response_model=SampleView,
    responses=error_responses(*_ERRORS, RoundsNotComparable, SampleIndexError),
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
    """One sample: its history over all rounds, its score, and why it was kept or dropped, in words."""
    run = await runs.find(run_id)
    choice = await selections.plan(run, which, changes, until_epoch)
    story = await tables.get_history(choice, index)
    run, audit = await labels_and_audits.read_audit(run)
    label, explanation = await labels_and_audits.read_label(run, index), story.explanation
    return SampleView(
        **_round_fields(story.evidence),
        index=index,
        id=None if run.ids is None else (await sample_ids.get_ids(run, np.array([index])))[0],
        label=label,
        suggested=story.counted.suggested_class(0, label),
        audited=audit.get_mark(index),
        rounds=[
            HistoryView(round=number, member=history.member, planted=history.planted, history=history.bits)
            for number, history in enumerate(explanation.rounds)
        ],
        epochs=explanation.epochs,
        observed=explanation.observed,
        misclassified=explanation.misclassified,
        score=explanation.score,
        noisy_posterior=explanation.noisy_posterior,
        kept=explanation.kept,
        why=explanation.why,
    )


@router.get("/runs/{run_id}/rounds/{round}/sweep", response_model=SweepView, responses=error_responses(*_ERRORS))
async def get_sweep(
    run_id: RunId,
    round_: RoundNumber,
    runs: RunsDep,
    selections: SelectionsDep,
    changes: Changes,
    until_epoch: UntilEpoch = None,
) -> Response:
    """Every possible cut: how many samples it keeps, and its estimated and measured quality."""
    choice = await selections.plan(await runs.find(run_id), round_, changes, until_epoch)
    return Response(orjson.dumps(await selections.compute_sweep(choice)), media_type=media_types.JSON)


@router.get(
    "/runs/{run_id}/rounds/{round}/evaluation",
    response_model=EvaluationView,
    responses=error_responses(*_ERRORS, NoAudit),
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
    """The round's set, or the set of other options, evaluated by the audit."""
    run, audit = await labels_and_audits.read_audit(await runs.find(run_id))
    if not audit.n_known:
        raise NoAudit(
            f"run {run_id!r} has 0 audited samples, at least 1 is needed to measure by; "
            f"check some labels and send the result with PUT /runs/{run_id}/audit"
        )
    inspection = await selections.inspect(await selections.plan(run, round_, changes, until_epoch))
    document = await to_thread.run_sync(lambda: orjson.dumps(_evaluate(inspection, audit)))
    return Response(document, media_type=media_types.JSON)


def _round_fields(evidence: Evidence) -> dict[str, Any]:
    return {
        "run_id": evidence.run.run_id,
        "round": evidence.round.number,
        "provisional": not evidence.round.finished,
    }


def _encode_scores_npy(inspection: InspectedSelection, page: slice) -> bytes:
    selection = inspection.selection
    return encode_npy(np.stack((selection.scores[page], selection.noisy_posterior[page])))


def _encode_scores_json(inspection: InspectedSelection, page: slice) -> bytes:
    selection = inspection.selection
    document = {
        **_round_fields(inspection.evidence),
        "metric": selection.options.metric,
        "num_samples": selection.n_samples,
        "offset": page.start,
        "scores": selection.scores[page],
        "noisy_posterior": selection.noisy_posterior[page],
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)  # NaN becomes null


def _evaluate(inspection: InspectedSelection, audit: Audit) -> dict[str, Any]:
    evaluation = evaluate(inspection.selection.measurable, inspection.selection.scores, audit)
    return {
        **_round_fields(inspection.evidence),
        **evaluation.summary(),
        "clean": evaluation.clean,
        "kept": evaluation.kept,
        "kept_clean": evaluation.kept_clean,
    }
