"""``/runs/{run_id}/rounds/{round}/epochs``: epochs put, whole or in shards, and how far they are."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mild_core.errors import CorrectNotObservedError
from mild_service.api import bodies
from mild_service.api.deps import (
    Attempt,
    CoveragesDep,
    EpochNumber,
    EpochsDep,
    Replace,
    RoundNumber,
    RunId,
    RunsDep,
    ShardNumber,
    ShardsDep,
)
from mild_service.api.epoch_views import CoverageView, EpochView, RoundCoverageView, ShardView
from mild_service.api.preconditions import ConditionDep, conditional, tagged
from mild_service.api.problems import described
from mild_service.api.refusals import BITS, PLACE, WRITE, binary
from mild_service.conflicts import EpochConflict, EpochKind
from mild_service.coverage import state_of
from mild_service.epochs import Put
from mild_service.errors import PreconditionFailed

router = APIRouter(tags=["rounds"])


@router.put(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}",
    response_model=EpochView,
    responses={
        201: {"model": EpochView, "description": "Committed"},
        200: {"description": "It was there with the same content, or was replaced"},
        **described(*WRITE, *BITS, CorrectNotObservedError, EpochConflict, EpochKind, PreconditionFailed),
    },
    openapi_extra=conditional(binary("One bitmap (correct), or two in a row (observed, correct).")),
)
async def put_epoch(
    request: Request,
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    epochs: EpochsDep,
    response: Response,
    condition: ConditionDep,
    attempt: Attempt = None,
    replace: Replace = False,
) -> EpochView:
    """Commit one epoch's bits, all of them or none."""
    bodies.media_type(request, (bodies.BITMAP,), bodies.BITMAP)
    put = Put(run_id, round_, epoch, attempt, replace, condition)
    outcome, held = await epochs.put(put, bodies.Body(request))
    response.headers.update(tagged(held.digest))
    response.status_code = 201 if outcome == "committed" else 200
    return EpochView(
        run_id=run_id,
        round=round_,
        epoch=epoch,
        outcome=outcome,
        attempt=held.attempt,
        num_correct=held.n_correct,
        num_observed=held.n_observed,
    )


@router.put(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}",
    response_model=ShardView,
    responses={
        201: {"model": ShardView, "description": "Stored; if it was the last one, the epoch is committed"},
        200: {"description": "It was there with the same content, or was replaced"},
        **described(*WRITE, *BITS, CorrectNotObservedError, EpochConflict, EpochKind),
    },
    openapi_extra=binary("Two bitmaps in a row over all samples: observed by this writer, then correct."),
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
    """Keep one rank's share of an epoch; the epoch is committed when all are in.

    A sample that several shards have observed is correct if any of them says so.
    """
    run = await runs.find(run_id)
    bodies.media_type(request, (bodies.BITMAP,), bodies.BITMAP)
    body = await bodies.read_bitmaps(request, run.config.n_samples, count=2)
    put = await shards.put(run, round_, epoch, shard, of, body, attempt, replace)
    response.status_code = 201 if put.outcome == "stored" else 200
    return ShardView(
        run_id=run_id,
        round=round_,
        epoch=epoch,
        shard=shard,
        outcome=put.outcome,
        state=state_of(put.epoch),
        attempt=put.epoch.attempt,
        num_shards=of,
        num_missing_shards=of - (put.epoch.n_in or 0),
        num_correct=put.n_correct,
        num_observed=put.n_observed,
    )


@router.get(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}",
    response_model=CoverageView,
    responses=described(*PLACE),
)
async def get_epoch(
    run_id: RunId, round_: RoundNumber, epoch: EpochNumber, runs: RunsDep, coverages: CoveragesDep, response: Response
) -> CoverageView:
    """How far an epoch is: absent, partial or committed; who is missing, sample by sample and shard by shard."""
    found = await coverages.epoch(await runs.find(run_id), round_, epoch)
    if found.epoch is not None:
        response.headers.update(tagged(found.epoch.digest))
    return CoverageView.of(run_id, round_, epoch, found)


@router.get("/runs/{run_id}/rounds/{round}", response_model=RoundCoverageView, responses=described(*PLACE))
async def get_round(run_id: RunId, round_: RoundNumber, runs: RunsDep, coverages: CoveragesDep) -> RoundCoverageView:
    """How far each epoch of a round is, from what is counted already: cheap for a run of any size."""
    run = await runs.find(run_id)
    return RoundCoverageView.of(run, await coverages.round(run, round_))
