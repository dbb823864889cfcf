"""``/runs/{run_id}/rounds/{round}/members``: whom the model is trained on."""

from fastapi import APIRouter, Request, Response

from mild_core.errors import InvalidInput, SampleIndexError
from mild_service.api import sets
from mild_service.api.deps import Attempt, CoveragesDep, RoundNumber, RunId, RunsDep, SettingsDep
from mild_service.api.negotiation import negotiate, respond
from mild_service.api.problems import described
from mild_service.api.refusals import BITS, PLACE, WRITE
from mild_service.api.round_views import MembersDetail, MembersView
from mild_service.conflicts import MembersFrozen
from mild_service.errors import NotAcceptable

router = APIRouter(tags=["rounds"])


@router.put(
    "/runs/{run_id}/rounds/{round}/members",
    response_model=MembersView,
    responses=described(*WRITE, *BITS, InvalidInput, SampleIndexError, MembersFrozen),
    openapi_extra=sets.taken("The members' bitmap."),
)
async def put_members(
    request: Request, run_id: RunId, round_: RoundNumber, runs: RunsDep, settings: SettingsDep, attempt: Attempt = None
) -> MembersView:
    """Set whom the model is trained on, before the round's first epoch."""
    run = await runs.find(run_id)
    members = await sets.read(request, run.config.n_samples, settings, "members")
    changed, n_members = await runs.put_members(run, round_, members, attempt)
    return MembersView(run_id=run_id, round=round_, outcome="set" if changed else "same", num_members=n_members)


@router.get(
    "/runs/{run_id}/rounds/{round}/members",
    response_model=MembersDetail,
    responses={
        **sets.given("The members; everyone, unless they were set or a round before has chosen"),
        **described(*PLACE, NotAcceptable),
    },
)
async def get_members(
    request: Request, run_id: RunId, round_: RoundNumber, runs: RunsDep, coverages: CoveragesDep
) -> Response:
    """Whom the model is trained on in a round: JSON, a bitmap, or indices as npy."""
    form = negotiate(request, sets.FORMS)
    run = await runs.find(run_id)
    members = await coverages.members(run, await coverages.round(run, round_))
    head = {"run_id": run_id, "round": round_}
    return await respond(form, lambda: sets.written(form.kind, members, run.config.n_samples, head, "num_members"))
