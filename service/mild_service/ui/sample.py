"""``/ui/runs/{run_id}/samples/{index}``: one sample's story, and the mark that somebody gives it."""

from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qs

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from mild_core.audit import Marks
from mild_service.api import bodies
from mild_service.api.deps import CallerDep, RunId, RunsDep, SampleIdsDep, SelectionsDep, TablesDep, TruthsDep
from mild_service.errors import InvalidRequest
from mild_service.identity import ApiKey
from mild_service.pictures import address_of
from mild_service.ui import grids
from mild_service.ui.pages import link, render
from mild_service.ui.run_pages import PageDep, RoundQuery
from mild_service.ui.sets import choice_of, show_pictures

router = APIRouter(include_in_schema=False)

Mark = Literal["clean", "wrong", "none"]
Index = Annotated[int, Path(ge=0, lt=2**63, description="The sample.")]
_FORM = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES = 4096
_MEANS = {"clean": True, "wrong": False, "none": None}
_NAMES = {meaning: name for name, meaning in _MEANS.items()}


@router.get("/ui/runs/{run_id}/samples/{index}", response_class=HTMLResponse)
async def show_sample(
    request: Request,
    index: Index,
    page: PageDep,
    selections: SelectionsDep,
    tables: TablesDep,
    truths: TruthsDep,
    sample_ids: SampleIdsDep,
    caller: CallerDep,
    was: Annotated[Mark | None, Query(description="The mark before the one that was just given.")] = None,
) -> HTMLResponse:
    """One sample."""
    context: dict[str, Any] = {
        **page.context(),
        "index": index,
        "story": None,
        "was": was,
        "may_mark": _may(caller),
    }
    choice = await choice_of(page, selections)
    if choice is not None:
        story = await tables.story(choice, index)
        tabled = await tables.of(choice)
        run, audit = await truths.audit(page.run)
        label = await truths.label(run, index)
        name = None if run.ids is None else (await sample_ids.names(run, np.array([index])))[0]
        show_pictures(request, run)
        histogram = tabled.selection.histogram
        context |= {
            "story": story,
            "told": story.told,
            "id": name,
            "picture": address_of(run.config.picture_url, index, name),
            "label": story.counted.given(0, label),
            "suggested": story.counted.suggested(0, label),
            "votes": int(story.counted.tally.n_votes[0]),
            "n_observed": int(story.counted.n_observed[0]),
            "mark": _NAMES[audit.mark(index)],
            "strips": [grids.stretches(history.bits) for history in story.told.rounds],
            "drawn": histogram and grids.distribution(histogram, tabled.selection.threshold, story.told.score),
            "threshold": tabled.selection.threshold,
        }
    return render(request, "sample.html", context)


@router.post("/ui/runs/{run_id}/samples/{index}/mark")
async def mark_sample(
    request: Request, run_id: RunId, index: Index, runs: RunsDep, truths: TruthsDep, round_: RoundQuery = None
) -> RedirectResponse:
    """Put the form's mark into the run's audit, and go back to the sample; marks of others at the same time stay."""
    bodies.media_type(request, (_FORM,), _FORM)
    form = parse_qs((await bodies.read_within(request, _MAX_FORM_BYTES)).decode(errors="replace"))
    given = form.get("mark", [""])[0]
    if given not in _MEANS:
        raise InvalidRequest(f"mark: it is {given[:40]!r}, give one of {', '.join(get_args(Mark))}")
    run, audit = await truths.audit(await runs.find(run_id))
    marks = Marks.of([index], [_MEANS[given]], run.config.n_samples)
    before = _NAMES[audit.mark(index)]
    await truths.put_audit(run, marks)
    there = link(f"/ui/runs/{run_id}/samples/{index}", round=round_, was=before)
    return RedirectResponse(request.scope.get("root_path", "") + there, 303, headers={"Cache-Control": "no-store"})


def _may(caller: ApiKey) -> bool:
    return caller.allows("write")
