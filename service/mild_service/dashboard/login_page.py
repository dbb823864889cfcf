"""Login and logout: ``/ui/login`` exchanges an API key for a session cookie."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from mild_service import api_keys
from mild_service.auth import Authenticator
from mild_service.dashboard.rendering import redirect, render
from mild_service.web import bodies
from mild_service.web.auth import SESSION_COOKIE
from mild_service.web.csrf import check_same_site
from mild_service.web.dependencies import AuthenticatorDep, SettingsDep

router = APIRouter(include_in_schema=False)


@router.get("/ui/login")
async def show_login(request: Request, authenticator: AuthenticatorDep) -> HTMLResponse:
    """Show the login form, or the current login. The query parameter `next` is the page to continue to."""
    return await _render_login_page(request, authenticator, request.query_params.get("next", ""))


@router.post("/ui/login")
async def log_in(request: Request, authenticator: AuthenticatorDep, settings: SettingsDep) -> Response:
    """Begin a session with the API key in the form, and redirect to the next page."""
    check_same_site(request)
    form = await bodies.read_form(request)
    secret = form.get("key", "").strip()
    key = await authenticator.find_by_secret(secret) if await authenticator.requires_key() else None
    api_keys.log_audit_event(
        "login" if key else "failed-login",
        key,
        client=request.client.host if request.client else None,
        request_id=request.state.request_id,
    )
    next_path = form.get("next", "")
    if key is None:
        return await _render_login_page(request, authenticator, next_path, failed=True)
    response = redirect(request, next_path if _is_own_page(next_path) else "/ui/")
    response.set_cookie(
        SESSION_COOKIE,
        await authenticator.begin_session(secret),
        max_age=settings.session_seconds,
        path=request.scope.get("root_path") or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.post("/ui/logout")
async def log_out(request: Request, authenticator: AuthenticatorDep) -> Response:
    """End the session, and redirect to the login form."""
    check_same_site(request)
    if session := request.cookies.get(SESSION_COOKIE):
        await authenticator.end_session(session)
    response = redirect(request, "/ui/login")
    response.delete_cookie(SESSION_COOKIE, path=request.scope.get("root_path") or "/", httponly=True, samesite="strict")
    return response


async def _render_login_page(
    request: Request, authenticator: Authenticator, next_path: str, failed: bool = False
) -> HTMLResponse:
    """Render the page of the login; `failed` says that the last attempt failed."""
    session = request.cookies.get(SESSION_COOKIE)
    requires_key = await authenticator.requires_key()
    key = await authenticator.find_by_session(session) if requires_key and session else None
    context = {
        "requires_key": requires_key,
        "key": key,
        "failed": failed,
        "next_path": next_path if _is_own_page(next_path) else "",
    }
    return render(request, "login.html", context, 401 if failed else 200)


def _is_own_page(path: str) -> bool:
    """Return whether a path is a page of the dashboard: a login must not redirect to another site."""
    return path.startswith("/ui/") and "\\" not in path and path.isprintable()
