"""The service itself: health, readiness, versions, metrics, and the descriptions of its problems."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from mild_service import __version__
from mild_service.errors import ShuttingDown
from mild_service.selecting.evidence import CORE_VERSION
from mild_service.web.auth import API_VERSION, OLDEST_CLIENT
from mild_service.web.dependencies import SettingsDep
from mild_service.web.problems import RouteNotFound, describe_problems

router = APIRouter(tags=["service"])


class Versions(BaseModel):
    """Versions of the service, and its limits."""

    service: str
    core: str
    api: int = Field(description="Version of the API; within one version, nothing is removed.")
    oldest_client: str
    limits: dict[str, int | float] = Field(description="Every `MILD_MAX_…` setting, as `max_…`.")


@router.get("/health")
async def health() -> dict[str, str]:
    """Report that the process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Report whether the service takes requests; 503 while the store takes no writes or the process shuts down."""
    if request.app.state.drain.has_begun:
        raise ShuttingDown("this process is shutting down; send the request to another one")
    await request.app.state.ping()
    return {"status": "ready"}


@router.get("/version")
async def versions(settings: SettingsDep) -> Versions:
    """Return the versions of the service, its numerics and its API, the oldest supported client, and the limits."""
    return Versions(
        service=__version__,
        core=CORE_VERSION,
        api=API_VERSION,
        oldest_client=OLDEST_CLIENT,
        limits=settings.limits(),
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(generate_latest(request.app.state.telemetry.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/problems")
async def problems() -> dict[str, dict[str, Any]]:
    """Return every problem that the service may answer with, by its code."""
    return describe_problems()


@router.get("/problems/{code}")
async def problem(code: str) -> dict[str, Any]:
    """Return a problem's meaning, its status, and whether the request may succeed later."""
    catalogue = describe_problems()
    if code not in catalogue:
        raise RouteNotFound(f"there is no problem {code[:64]!r}; GET /problems lists all problems")
    return catalogue[code]


@router.get("/", include_in_schema=False)
async def redirect_to_dashboard(request: Request) -> RedirectResponse:
    """Redirect to the dashboard."""
    return RedirectResponse(request.scope["root_path"] + "/ui/")
