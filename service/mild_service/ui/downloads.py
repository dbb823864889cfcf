"""``/ui/runs/{run_id}/downloads``: the set in every form, and the requests that fetch it."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from mild_service.api import representations
from mild_service.api.deps import CallerDep
from mild_service.ui.pages import render
from mild_service.ui.requests import chosen_cut, in_form, mask
from mild_service.ui.run_pages import PageDep

router = APIRouter(include_in_schema=False)

_FORMS = {
    representations.JSON: (
        "JSON",
        "json",
        "Indices, with verdict, estimates and options. For reading, and small sets.",
    ),
    representations.BITMAP: ("Bitmap", "bin", "One bit per sample, most significant first. The smallest."),
    representations.NPY: ("NumPy", "npy", "Sorted int64 indices, for numpy.load."),
    representations.ARROW: ("Arrow", "arrows", "An IPC stream with the column index, and id with ids=true."),
    representations.CSV: ("CSV", "csv", "A header line and an index per line, with ids=true the ids beside them."),
}


@router.get("/ui/runs/{run_id}/downloads", response_class=HTMLResponse)
async def show_downloads(request: Request, page: PageDep, caller: CallerDep) -> HTMLResponse:
    """The forms that the set comes in."""
    base, number = str(request.base_url).rstrip("/"), page.round.number
    forms: list[dict[str, Any]] = []
    for media_type in representations.SELECTION_TYPES:
        name, suffix, what = _FORMS[media_type]
        file = f"{page.run.run_id}-round-{number}.{suffix}"
        code = in_form(base, page.run.run_id, number, caller, media_type, file)
        forms.append({"name": name, "media_type": media_type, "what": what, "file": file, "code": code})
    pieces = [*chosen_cut(base, page.run.run_id, number, caller)[:1]]
    pieces.append(("As a mask", mask(base, page.run.run_id, number, page.run.config.n_samples)))
    context = {**page.context(), "forms": forms, "pieces": pieces}
    return render(request, "downloads.html", context)
