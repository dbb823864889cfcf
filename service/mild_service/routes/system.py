"""Health, readiness, versions, counters, and what the problems mean."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from mild_service import __version__
from mild_service.errors import ShuttingDown
from mild_service.selecting.evidence import CORE_VERSION
from mild_service.web.client_versions import API_VERSION, OLDEST_CLIENT
from mild_service.web.dependencies import SettingsDep
from mild_service.web.problems import RouteNotFound, catalogue, described

router = APIRouter(tags=["service"])


class Versions(BaseModel):
    """Versions."""

    service: str
    core: str
    api: int = Field(description="Version of this interface; within one, nothing goes away.")
    oldest_client: str
    limits: dict[str, int | float] = Field(description="Every `MILD_MAX_…` setting, as `max_…`.")


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready", responses=described(ShuttingDown))
async def ready(request: Request) -> dict[str, str]:
    """The process answers, and so does its store; not any more once the process is about to end."""
    if request.app.state.drain.begun:
        raise ShuttingDown("this process is about to end; send to another one")
    await request.app.state.ping()
    return {"status": "ready"}


@router.get("/version")
async def versions(settings: SettingsDep) -> Versions:
    """Versions of the service, its numerics and its interface, the oldest client that it supports, and its limits."""
    return Versions(
        service=__version__,
        core=CORE_VERSION,
        api=API_VERSION,
        oldest_client=OLDEST_CLIENT,
        limits=settings.limits(),
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format."""
    return Response(generate_latest(request.app.state.telemetry.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/problems")
async def problems() -> dict[str, dict[str, Any]]:
    """Every problem that the service may answer with, by its code."""
    return catalogue()


@router.get("/problems/{code}", responses=described(RouteNotFound))
async def problem(code: str) -> dict[str, Any]:
    """What a problem means, its status, and whether to try again."""
    known = catalogue()
    if code not in known:
        raise RouteNotFound(f"there is no problem {code[:64]!r}; GET /problems lists those that there are")
    return known[code]


@router.get("/", include_in_schema=False)
async def root(request: Request) -> RedirectResponse:
    """To the dashboard."""
    return RedirectResponse(request.scope["root_path"] + "/ui/")
