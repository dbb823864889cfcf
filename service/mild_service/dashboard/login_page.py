"""``/ui/login`` and ``/ui/logout``: a key is shown once, and a session's cookie stands for it from then on."""

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from mild_service import api_keys
from mild_service.auth import Authenticator
from mild_service.dashboard.rendering import render
from mild_service.web import bodies, media_types
from mild_service.web.auth import SESSION_COOKIE
from mild_service.web.csrf import check_same_site
from mild_service.web.dependencies import SettingsDep

router = APIRouter(include_in_schema=False)

_FORM = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES = 4096


@router.get("/ui/login")
async def show_login(request: Request) -> HTMLResponse:
    """The form; whoever is logged in already is told so. `next` is the page to go on to."""
    return await _page(request, request.query_params.get("next", ""))


@router.post("/ui/login")
async def log_in(request: Request, settings: SettingsDep) -> Response:
    """Begin a session with the key in the form."""
    check_same_site(request)
    media_types.check_content_type(request, (_FORM,), _FORM)
    form = parse_qs((await bodies.read_json_bytes(request, _MAX_FORM_BYTES)).decode(errors="replace"))
    secret = form.get("key", [""])[0].strip()
    authenticator = _authenticator(request)
    key = await authenticator.find_by_secret(secret) if await authenticator.requires_key() else None
    api_keys.log_audit_event(
        "login" if key else "failed-login",
        key,
        client=request.client.host if request.client else None,
        request_id=request.state.request_id,
    )
    wanted = form.get("next", [""])[0]
    if key is None:
        return await _page(request, wanted, failed=True)
    answer = _go(request, wanted if _is_ours(wanted) else "/ui/")
    answer.set_cookie(
        SESSION_COOKIE,
        await authenticator.begin_session(secret),
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
    if session := request.cookies.get(SESSION_COOKIE):
        await _authenticator(request).end_session(session)
    answer = _go(request, "/ui/login")
    answer.delete_cookie(SESSION_COOKIE, path=request.scope.get("root_path") or "/", httponly=True, samesite="strict")
    return answer


async def _page(request: Request, wanted: str, failed: bool = False) -> HTMLResponse:
    authenticator, session = _authenticator(request), request.cookies.get(SESSION_COOKIE)
    closed = await authenticator.requires_key()
    key = await authenticator.find_by_session(session) if closed and session else None
    context = {"closed": closed, "key": key, "failed": failed, "wanted": wanted if _is_ours(wanted) else ""}
    return render(request, "login.html", context, 401 if failed else 200)


def _is_ours(path: str) -> bool:
    """Whether a path to go on to is one of our pages: a login must not send anybody elsewhere."""
    return path.startswith("/ui/") and "\\" not in path and path.isprintable()


def _go(request: Request, path: str) -> RedirectResponse:
    return RedirectResponse(
        request.scope.get("root_path", "") + path, status_code=303, headers={"Cache-Control": "no-store"}
    )


def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator
