"""``/ui/login`` and ``/ui/logout``: a key is shown once, and a session's cookie stands for it from then on."""

from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from mild_service import trail
from mild_service.access import Gate
from mild_service.api import bodies
from mild_service.api.deps import SettingsDep
from mild_service.api.guard import COOKIE
from mild_service.api.same_site import check_same_site

router = APIRouter(include_in_schema=False)

_HERE = Path(__file__).parent
_PAGES = Jinja2Templates(_HERE / "templates")
_FORM = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES = 4096


def install(app: FastAPI) -> None:
    """Add the login's routes and the pages' assets to `app`."""
    app.include_router(router)
    app.mount("/ui/static", StaticFiles(directory=_HERE / "static"), name="ui-static")


@router.get("/ui/login")
async def show_login(request: Request) -> HTMLResponse:
    """The form; whoever is logged in already is told so."""
    return await _page(request)


@router.post("/ui/login")
async def log_in(request: Request, settings: SettingsDep) -> Response:
    """Begin a session with the key in the form."""
    check_same_site(request)
    bodies.media_type(request, (_FORM,), _FORM)
    form = parse_qs((await bodies.read_within(request, _MAX_FORM_BYTES)).decode(errors="replace"))
    secret = form.get("key", [""])[0].strip()
    gate = _gate(request)
    key = await gate.by_secret(secret) if await gate.is_closed() else None
    trail.tell(
        "login" if key else "failed-login",
        key,
        client=request.client.host if request.client else None,
        request_id=request.state.request_id,
    )
    if key is None:
        return await _page(request, status_code=401, failed=True)
    answer = _back(request)
    answer.set_cookie(
        COOKIE,
        await gate.begin_session(secret),
        max_age=settings.session_seconds,
        path=request.scope.get("root_path") or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/ui/logout")
async def log_out(request: Request) -> Response:
    """End the session."""
    check_same_site(request)
    if session := request.cookies.get(COOKIE):
        await _gate(request).end_session(session)
    answer = _back(request)
    answer.delete_cookie(COOKIE, path=request.scope.get("root_path") or "/", httponly=True, samesite="strict")
    return answer


async def _page(request: Request, status_code: int = 200, failed: bool = False) -> HTMLResponse:
    gate, session = _gate(request), request.cookies.get(COOKIE)
    closed = await gate.is_closed()
    key = await gate.by_session(session) if closed and session else None
    return _PAGES.TemplateResponse(
        request,
        "login.html",
        {"root": request.scope.get("root_path", ""), "closed": closed, "key": key, "failed": failed},
        status_code=status_code,
        headers={"Cache-Control": "no-store"},
    )


def _back(request: Request) -> RedirectResponse:
    path = f"{request.scope.get('root_path', '')}/ui/login"
    return RedirectResponse(path, status_code=303, headers={"Cache-Control": "no-store"})


def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate
