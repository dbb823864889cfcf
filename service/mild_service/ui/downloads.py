"""``/ui/runs/{run_id}/downloads``: the set in every form, and the requests that fetch it."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from mild_service.api.deps import RunId, RunsDep
from mild_service.ui.pages import render
from mild_service.ui.run_pages import RoundQuery, shown

router = APIRouter(include_in_schema=False)


@router.get("/ui/runs/{run_id}/downloads", response_class=HTMLResponse)
async def show_downloads(request: Request, run_id: RunId, runs: RunsDep, round_: RoundQuery = None) -> HTMLResponse:
    """The forms that the set comes in."""
    page = await shown(runs, run_id, round_)
    return render(request, "downloads.html", page.context())
