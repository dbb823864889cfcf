"""Epochs of a round: ``/runs/{run_id}/rounds/{round}/epochs``, sent whole or in shards, and their status."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_service.models import CommitOutcome, Epoch, EpochKind, Round, Run, ShardOutcome
from mild_service.recording.epoch_status import EpochState, EpochStatus, epoch_state
from mild_service.recording.epoch_writer import EpochWrite
from mild_service.recording.prediction_writer import MergedEpoch
from mild_service.web import bodies, media_types
from mild_service.web.dependencies import (
    Attempt,
    EpochNumber,
    EpochsDep,
    PreconditionDep,
    Replace,
    RoundNumber,
    RunId,
    RunsDep,
    ShardNumber,
    ShardsDep,
    StatusReaderDep,
    make_etag_header,
)
from mild_service.web.openapi import describe_body
from mild_service.web.schemas import make_response_model


class EpochView(BaseModel):
    """Result of a PUT of an epoch."""

    run_id: str
    round: int
    epoch: int
    outcome: CommitOutcome
    attempt: int
    num_correct: int
    num_observed: int | None = Field(
        description="Null if the body has one bitmap; the run's `observe` then says which samples were observed."
    )


class ShardView(BaseModel):
    """Result of a PUT of a shard."""

    run_id: str
    round: int
    epoch: int
    shard: int
    outcome: ShardOutcome = Field(description="`same` if the store had the shard already.")
    state: EpochState = Field(description="State of the epoch: `committed` once all shards are stored.")
    attempt: int
    num_shards: int
    num_missing_shards: int
    num_correct: int = Field(description="Correct samples of this shard.")
    num_observed: int


if TYPE_CHECKING:
    MergedEpochView: TypeAlias = BaseModel
    _StatusFields: TypeAlias = BaseModel
else:
    MergedEpochView = make_response_model(MergedEpoch)
    _StatusFields = make_response_model(EpochStatus)


class PostedView(BaseModel):
    """Result of a POST of a prediction log."""

    run_id: str
    records: int
    epochs: list[MergedEpochView]


class EpochStatusView(_StatusFields):
    """Status of an epoch: which samples and shards are stored."""

    run_id: str
    round: int
    epoch: int


class EpochSummary(BaseModel):
    """Status of an epoch by its stored counts, in the status of a round."""

    epoch: int
    state: EpochState
    kind: EpochKind
    num_correct: int
    num_observed: int = Field(
        description="Until all shards are stored, the sum over the shards, which may count a sample several times."
    )
    num_shards: int | None
    num_missing_shards: int | None

    @classmethod
    def from_epoch(cls, epoch: Epoch, n_expected: int) -> Self:
        """Return the summary of an epoch of a run that observes `n_expected` samples in every epoch."""
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
    """Status of a round and of its epochs."""

    run_id: str
    round: int
    state: Literal["open", "finished"]
    num_expected: int = Field(description="Samples that the run observes in every epoch.")
    num_planted: int = Field(description="Samples whose label was broken on purpose in this round.")
    epochs: list[EpochSummary] = Field(description="Ascending.")
    missing_epochs: list[int] = Field(description="Numbers below the greatest epoch for which there is no epoch.")

    @classmethod
    def from_round(cls, run: Run, round_: Round) -> Self:
        """Return the view of a round."""
        members_only = run.spec.observe == "members" and round_.members is not None
        n_expected = round_.members.n_members if members_only and round_.members else run.spec.num_samples
        return cls(
            run_id=run.run_id,
            round=round_.number,
            state="finished" if round_.finished else "open",
            num_expected=n_expected,
            num_planted=0 if round_.planted is None else round_.planted.n_members,
            epochs=[EpochSummary.from_epoch(epoch, n_expected) for epoch in round_.all_epochs.values()],
            missing_epochs=round_.missing_epochs,
        )


router = APIRouter(tags=["rounds"])


@router.put(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}",
    response_model=EpochView,
    responses={
        201: {"model": EpochView, "description": "Committed"},
        200: {"description": "The epoch was stored with the same content, or was replaced"},
    },
    openapi_extra=describe_body(
        {media_types.BITMAP: "One bitmap (correct), or two in a row (observed, correct)."}, has_precondition=True
    ),
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
    """Store the bits of one epoch, all of them or none."""
    bodies.check_content_type(request, (media_types.BITMAP,), media_types.BITMAP)
    put = EpochWrite(run_id, round_, epoch, attempt, replace, condition)
    outcome, stored_epoch = await epochs.put(put, bodies.RequestBody(request))
    response.headers.update(make_etag_header(stored_epoch.digest))
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
        200: {"description": "The shard was stored with the same content, or was replaced"},
    },
    openapi_extra=describe_body(
        {media_types.BITMAP: "Two bitmaps in a row over all samples: observed by this writer, then correct."}
    ),
)
async def put_shard(
    request: Request,
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    shard: ShardNumber,
    of: Annotated[int, Query(description="Number of shards of the epoch, which its first shard sets.")],
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
    bodies.check_content_type(request, (media_types.BITMAP,), media_types.BITMAP)
    body = await bodies.read_bitmaps(request, run.spec.num_samples, count=2)
    outcome, stored_epoch, packed = await shards.put(run, round_, epoch, shard, of, body, attempt, replace)
    response.status_code = 201 if outcome == "stored" else 200
    return ShardView(
        run_id=run_id,
        round=round_,
        epoch=epoch,
        shard=shard,
        outcome=outcome,
        state=epoch_state(stored_epoch),
        attempt=stored_epoch.attempt,
        num_shards=of,
        num_missing_shards=of - (stored_epoch.n_stored_shards or 0),
        num_correct=packed.n_correct,
        num_observed=packed.n_observed or 0,
    )


@router.get(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}",
    response_model=EpochStatusView,
)
async def get_epoch(
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    runs: RunsDep,
    status_reader: StatusReaderDep,
    response: Response,
) -> EpochStatusView:
    """Return the status of an epoch (absent, partial or committed), with its missing samples and shards."""
    status = await status_reader.read_epoch(await runs.find(run_id), round_, epoch)
    if status.digest is not None:
        response.headers.update(make_etag_header(status.digest))
    return EpochStatusView(run_id=run_id, round=round_, epoch=epoch, **asdict(status))


@router.get("/runs/{run_id}/rounds/{round}", response_model=RoundCoverageView)
async def get_round(
    run_id: RunId, round_: RoundNumber, runs: RunsDep, status_reader: StatusReaderDep
) -> RoundCoverageView:
    """Return the status of each epoch of a round, from stored counts, which is fast for runs of any size."""
    run = await runs.find(run_id)
    return RoundCoverageView.from_round(run, await status_reader.read_round(run, round_))
