"""Epochs of a round: ``/runs/{run_id}/rounds/{round}/epochs``, sent whole or in shards, and their status."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.errors import CorrectNotObservedError
from mild_service.errors import EpochConflict, EpochKindConflict, PreconditionFailed
from mild_service.models import CommitOutcome, Epoch, EpochKind, Round, Run, ShardOutcome
from mild_service.recording.epoch_status import EpochState, EpochStatus, epoch_state
from mild_service.recording.epoch_writer import EpochPut
from mild_service.recording.prediction_writer import MergedEpoch
from mild_service.web import bodies, media_types
from mild_service.web.dependencies import (
    Attempt,
    EpochNumber,
    EpochsDep,
    Replace,
    RoundNumber,
    RunId,
    RunsDep,
    ShardNumber,
    ShardsDep,
    StatusReaderDep,
)
from mild_service.web.openapi import BITMAP_ERRORS, ROUND_ERRORS, WRITE_ERRORS, bitmap_body
from mild_service.web.problems import error_responses
from mild_service.web.responses import PreconditionDep, etag_header, with_preconditions
from mild_service.web.schemas import response_model


class EpochView(BaseModel):
    """What an epoch's PUT has done."""

    run_id: str
    round: int
    epoch: int
    outcome: CommitOutcome
    attempt: int
    num_correct: int
    num_observed: int | None = Field(description="Null when the body holds one bitmap: then `observe` says who.")


class ShardView(BaseModel):
    """What a shard's PUT has done."""

    run_id: str
    round: int
    epoch: int
    shard: int
    outcome: ShardOutcome = Field(description="`same`: the store had it.")
    state: EpochState = Field(description="Of the epoch: `committed` once all shards are in.")
    attempt: int
    num_shards: int
    num_missing_shards: int
    num_correct: int = Field(description="Samples of this shard.")
    num_observed: int


if TYPE_CHECKING:
    MergedEpochView: TypeAlias = BaseModel
    _StatusFields: TypeAlias = BaseModel
else:
    MergedEpochView = response_model(MergedEpoch)
    _StatusFields = response_model(EpochStatus)


class PostedView(BaseModel):
    """What a log has done."""

    run_id: str
    records: int
    epochs: list[MergedEpochView]


class EpochStatusView(_StatusFields):
    """Status of an epoch: which samples and shards are stored."""

    run_id: str
    round: int
    epoch: int

    @classmethod
    def of(cls, run_id: str, round_: int, epoch: int, status: EpochStatus) -> Self:
        """View of `status`."""
        return cls.model_validate({"run_id": run_id, "round": round_, "epoch": epoch, **asdict(status)})


class EpochSummary(BaseModel):
    """One epoch in a round's coverage, as its record counts it."""

    epoch: int
    state: EpochState
    kind: EpochKind
    num_correct: int
    num_observed: int = Field(
        description="While shards are coming a sum over them, in which a sample counts as often as it was seen."
    )
    num_shards: int | None
    num_missing_shards: int | None

    @classmethod
    def of(cls, epoch: Epoch, n_expected: int) -> Self:
        """View of `epoch`."""
        n_shards, n_in = epoch.n_shards, epoch.n_stored_shards
        return cls(
            epoch=epoch.number,
            state=epoch_state(epoch),
            kind=epoch.kind,
            num_correct=epoch.n_correct,
            num_observed=n_expected if epoch.n_observed is None else epoch.n_observed,
            num_shards=n_shards,
            num_missing_shards=None if n_shards is None or n_in is None else n_shards - n_in,
        )


class RoundCoverageView(BaseModel):
    """How far the epochs of a round are."""

    run_id: str
    round: int
    state: Literal["open", "finished"]
    num_expected: int = Field(description="Samples that the run observes in every epoch.")
    num_planted: int = Field(description="Samples whose label was broken on purpose in this round.")
    epochs: list[EpochSummary] = Field(description="Ascending.")
    missing_epochs: list[int] = Field(description="Epochs that lack below the greatest that there is.")

    @classmethod
    def of(cls, run: Run, round_: Round) -> Self:
        """View of `round_`."""
        members_only = run.spec.observe == "members" and round_.members is not None
        n_expected = round_.members.n_members if members_only and round_.members else run.spec.num_samples
        return cls(
            run_id=run.run_id,
            round=round_.number,
            state="finished" if round_.finished else "open",
            num_expected=n_expected,
            num_planted=0 if round_.planted is None else round_.planted.n_members,
            epochs=[EpochSummary.of(epoch, n_expected) for epoch in round_.all_epochs.values()],
            missing_epochs=round_.missing_epochs,
        )


router = APIRouter(tags=["rounds"])


@router.put(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}",
    response_model=EpochView,
    responses={
        201: {"model": EpochView, "description": "Committed"},
        200: {"description": "It was there with the same content, or was replaced"},
        **error_responses(
            *WRITE_ERRORS, *BITMAP_ERRORS, CorrectNotObservedError, EpochConflict, EpochKindConflict, PreconditionFailed
        ),
    },
    openapi_extra=with_preconditions(bitmap_body("One bitmap (correct), or two in a row (observed, correct).")),
)
async def put_epoch(
    request: Request,
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    epochs: EpochsDep,
    response: Response,
    condition: PreconditionDep,
    attempt: Attempt = None,
    replace: Replace = False,
) -> EpochView:
    """Commit one epoch's bits, all of them or none."""
    media_types.check_content_type(request, (media_types.BITMAP,), media_types.BITMAP)
    put = EpochPut(run_id, round_, epoch, attempt, replace, condition)
    outcome, stored_epoch = await epochs.put(put, bodies.RequestBody(request))
    response.headers.update(etag_header(stored_epoch.digest))
    response.status_code = 201 if outcome == "committed" else 200
    return EpochView(
        run_id=run_id,
        round=round_,
        epoch=epoch,
        outcome=outcome,
        attempt=stored_epoch.attempt,
        num_correct=stored_epoch.n_correct,
        num_observed=stored_epoch.n_observed,
    )


@router.put(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}",
    response_model=ShardView,
    responses={
        201: {"model": ShardView, "description": "Stored; if it was the last one, the epoch is committed"},
        200: {"description": "It was there with the same content, or was replaced"},
        **error_responses(*WRITE_ERRORS, *BITMAP_ERRORS, CorrectNotObservedError, EpochConflict, EpochKindConflict),
    },
    openapi_extra=bitmap_body("Two bitmaps in a row over all samples: observed by this writer, then correct."),
)
async def put_shard(
    request: Request,
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    shard: ShardNumber,
    of: Annotated[int, Query(description="In how many shards the epoch is written; its first shard fixes that.")],
    runs: RunsDep,
    shards: ShardsDep,
    response: Response,
    attempt: Attempt = None,
    replace: Replace = False,
) -> ShardView:
    """Store one rank's shard of an epoch; the epoch is committed when all its shards are stored.

    A sample that several shards observed is correct if it is correct in any of them.
    """
    run = await runs.find(run_id)
    media_types.check_content_type(request, (media_types.BITMAP,), media_types.BITMAP)
    body = await bodies.read_bitmaps(request, run.spec.num_samples, count=2)
    put = await shards.put(run, round_, epoch, shard, of, body, attempt, replace)
    response.status_code = 201 if put.outcome == "stored" else 200
    return ShardView(
        run_id=run_id,
        round=round_,
        epoch=epoch,
        shard=shard,
        outcome=put.outcome,
        state=epoch_state(put.epoch),
        attempt=put.epoch.attempt,
        num_shards=of,
        num_missing_shards=of - (put.epoch.n_stored_shards or 0),
        num_correct=put.n_correct,
        num_observed=put.n_observed,
    )


@router.get(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}",
    response_model=EpochStatusView,
    responses=error_responses(*ROUND_ERRORS),
)
async def get_epoch(
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    runs: RunsDep,
    status_reader: StatusReaderDep,
    response: Response,
) -> EpochStatusView:
    """Status of an epoch: absent, partial or committed, with its missing samples and shards."""
    status = await status_reader.read_epoch(await runs.find(run_id), round_, epoch)
    if status.digest is not None:
        response.headers.update(etag_header(status.digest))
    return EpochStatusView.of(run_id, round_, epoch, status)


@router.get("/runs/{run_id}/rounds/{round}", response_model=RoundCoverageView, responses=error_responses(*ROUND_ERRORS))
async def get_round(
    run_id: RunId, round_: RoundNumber, runs: RunsDep, status_reader: StatusReaderDep
) -> RoundCoverageView:
    """Status of each epoch of a round, from stored counts: cheap for a run of any size."""
    run = await runs.find(run_id)
    return RoundCoverageView.of(run, await status_reader.read_round(run, round_))
