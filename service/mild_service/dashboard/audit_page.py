"""The random audit of a run: ``/ui/runs/{run_id}/audit`` draws samples, shows them to checkers, and what they bound."""

from dataclasses import asdict, replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from mild_core.audit import ANSWERS, AuditChange
from mild_core.draw import DRAW_SIZE, DrawChoice
from mild_core.statements import describe_checking_time, describe_quality, plan_draws, propose_draw_size
from mild_service.api_keys import ApiKey
from mild_service.dashboard.code_snippets import make_choice_snippet
from mild_service.dashboard.progress import DrawProgress, find_draw
from mild_service.dashboard.rendering import link, redirect, render
from mild_service.dashboard.run_page import PageDep
from mild_service.dashboard.sample_pages import Index, allow_images, describe_samples
from mild_service.errors import InvalidRequest
from mild_service.models import Run
from mild_service.selecting.selections import Selections
from mild_service.web import bodies
from mild_service.web.dependencies import (
    AuditDrawsDep,
    CallerDep,
    LabelsAndAuditsDep,
    RunDep,
    SampleIdsDep,
    SelectionsDep,
)

PAGE_SIZE = 100

router = APIRouter(include_in_schema=False)


@router.get("/ui/runs/{run_id}/audit", response_class=HTMLResponse)
async def show_audit(
    request: Request,
    page: PageDep,
    selections: SelectionsDep,
    labels_and_audits: LabelsAndAuditsDep,
    sample_ids: SampleIdsDep,
    caller: CallerDep,
    number: Annotated[int | None, Query(alias="page", ge=0, lt=2**31)] = None,
) -> HTMLResponse:
    """Show the drawn samples, without what could sway a judgement, and what the draw bounds once all are checked.

    Without a draw, show what draws of several sizes would bound. The default page is that of the first open answer.
    """
    run, audit = await labels_and_audits.read_audit(page.run)
    draw = find_draw(run, audit)
    context: dict[str, Any] = {**page.template_context(), "run": run, "may_mark": caller.allows("write")}
    if draw is None or not draw.n_answered:
        context |= await _plan(run, selections)
    if draw is not None:
        allow_images(request, run)
        number = _find_page(draw, draw.find_next_unanswered(-1)) if number is None else number
        samples = draw.indices[number * PAGE_SIZE :][:PAGE_SIZE]
        _, labels = await labels_and_audits.read_labels(run, samples)
        context |= {
            "choice": draw.choice,
            "rows": await describe_samples(run, samples, labels, audit, sample_ids),
            "number": number,
            "first": number * PAGE_SIZE,
            "n_pages": -(-draw.indices.size // PAGE_SIZE),
            "checking_time": describe_checking_time(draw.indices.size - draw.n_answered),
            "statements": await _describe(request, run, draw, selections, caller) if draw.is_complete else None,
        }
    return render(request, "audit.html", {**context, "draw": draw})


async def _plan(run: Run, selections: Selections) -> dict[str, Any]:
    """Return the context of the form that draws: the choice that will be recorded, and what draws would bound."""
    if not run.round:
        return {"next_choice": None, "plans": [], "draw_size": DRAW_SIZE}
    choice = DrawChoice(run.round - 1, replace(run.spec.selection, threshold="fdr"))
    sweep = await (await selections.open(run, choice.round, {})).compute_sweep()
    sizes = [cut.num_kept for cut in sweep["cuts"]]
    plans = plan_draws(sizes, sweep["threshold"]["cut"]) if sizes else []
    return {"next_choice": choice, "plans": plans, "draw_size": propose_draw_size(sizes[-1] if sizes else 0)}


async def _describe(
    request: Request, run: Run, draw: DrawProgress, selections: Selections, caller: ApiKey
) -> dict[str, Any]:
    """Return the selection that was recorded with a complete draw, and what is known of its set."""
    selection = await (await selections.open(run, draw.choice.round, asdict(draw.choice.options))).read_document()
    stored = asdict(run.spec.selection)
    options = {name: value for name, value in asdict(draw.choice.options).items() if value != stored[name]}
    snippet = make_choice_snippet(str(request.base_url).rstrip("/"), run.run_id, draw.choice.round, caller, options)
    return {"selection": selection, "known": describe_quality(selection), "snippet": snippet}


def _find_page(draw: DrawProgress, index: int | None) -> int:
    """Return the number of the page that shows a drawn sample; the first one for None."""
    return 0 if index is None else int(np.searchsorted(draw.indices, index)) // PAGE_SIZE


@router.post("/ui/runs/{run_id}/audit/draw")
async def draw_samples(request: Request, run: RunDep, audit_draws: AuditDrawsDep) -> RedirectResponse:
    """Draw as many samples as the form asks for, and redirect to them."""
    size = (await bodies.read_form(request)).get("n", "")
    if not (size.isascii() and size.isdigit() and len(size) < 10):
        raise InvalidRequest(f"n is {size[:40]!r}; give the number of samples to draw")
    await audit_draws.draw(run, int(size), None, {})
    return redirect(request, f"/ui/runs/{run.run_id}/audit")


@router.post("/ui/runs/{run_id}/audit/{index}")
async def answer_sample(
    request: Request, run: RunDep, index: Index, labels_and_audits: LabelsAndAuditsDep
) -> RedirectResponse:
    """Mark a drawn sample with the answer in the form, and redirect to the next one without a mark."""
    answer = (await bodies.read_form(request)).get("answer", "")
    if answer not in ANSWERS:
        raise InvalidRequest(f"answer is {answer[:40]!r}; give one of {', '.join(ANSWERS)}")
    run, audit = await labels_and_audits.read_audit(run)
    draw = find_draw(run, audit)
    if draw is None or index not in draw.indices:
        raise InvalidRequest(
            f"sample {index} of run {run.run_id!r} is not drawn; answer the samples of the audit's page"
        )
    await labels_and_audits.put_audit(run, AuditChange.from_marks([index], [ANSWERS[answer]], run.spec.num_samples))
    following = draw.answer(index).find_next_unanswered(index)
    fragment = "" if following is None else f"#sample-{following}"
    number = _find_page(draw, following)
    return redirect(request, link(f"/ui/runs/{run.run_id}/audit", page=number or None) + fragment)
