"""``/ui/runs/{run_id}``: one run at a glance, live while it trains."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from mild_service.api.deps import RunId, RunsDep
from mild_service.ui.pages import render
from mild_service.ui.run_pages import RoundQuery, shown

router = APIRouter(include_in_schema=False)


@router.get("/ui/runs/{run_id}", response_class=HTMLResponse)
async def show_run(request: Request, run_id: RunId, runs: RunsDep, round_: RoundQuery = None) -> HTMLResponse:
    """The run's overview."""
    page = await shown(runs, run_id, round_)
    return render(request, "run.html", page.context())
