"""``/runs/{run_id}/planted``: samples that were mislabelled on purpose in round 0."""

from fastapi import APIRouter, Request, Response

from mild_core.errors import SampleIndexError
from mild_service.api import sets
from mild_service.api.deps import Attempt, CoveragesDep, RunId, RunsDep, SettingsDep
from mild_service.api.negotiation import negotiate, respond
from mild_service.api.problems import described
from mild_service.api.refusals import BITS
from mild_service.api.truth_views import PlantedDetail, PlantedView
from mild_service.conflicts import PlantedFrozen, RoundFinished, StaleAttempt
from mild_service.errors import InvalidRequest, NotAcceptable, RunNotFound, StoreFull

router = APIRouter(tags=["truth"])


@router.put(
    "/runs/{run_id}/planted",
    response_model=PlantedView,
    responses=described(
        *BITS, InvalidRequest, SampleIndexError, RunNotFound, StaleAttempt, PlantedFrozen, RoundFinished, StoreFull
    ),
    openapi_extra=sets.taken("The planted samples' bitmap."),
)
async def put_planted(
    request: Request, run_id: RunId, runs: RunsDep, settings: SettingsDep, attempt: Attempt = None
) -> PlantedView:
    """Say who was mislabelled on purpose in round 0, before its first epoch: their bits bound the noise rate.

    Round 0 does not judge them, as its bits are about a label that is not theirs; later rounds do.
    """
    run = await runs.find(run_id)
    planted = await sets.read(request, run.config.n_samples, settings, "planted samples")
    changed, n_planted = await runs.put_planted(run, planted, attempt)
    return PlantedView(run_id=run_id, outcome="set" if changed else "same", num_planted=n_planted)


@router.get(
    "/runs/{run_id}/planted",
    response_model=PlantedDetail,
    responses={
        **sets.given("The planted samples; none where none were put"),
        **described(InvalidRequest, RunNotFound, NotAcceptable),
    },
)
async def get_planted(request: Request, run_id: RunId, runs: RunsDep, coverages: CoveragesDep) -> Response:
    """Who was mislabelled on purpose in round 0: JSON, a bitmap, or indices as npy."""
    form = negotiate(request, sets.FORMS)
    run = await runs.find(run_id)
    planted = await coverages.planted(run)
    n_samples = run.config.n_samples
    return await respond(form, lambda: sets.written(form.kind, planted, n_samples, {"run_id": run_id}, "num_planted"))
