"""Protection against cross-site request forgery and DNS rebinding."""

import ipaddress

from starlette.datastructures import URL
from starlette.requests import Request

from mild_service.errors import CrossSite


def check_same_site(request: Request) -> None:
    """Refuse a browser's request that was not sent by a page of this service, judged by Sec-Fetch-Site and Origin.

    Raises
    ------
    CrossSite
        If it was sent by another page, or if the browser sends neither header.
    """
    fetch_site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own_origin = f"{request.url.scheme}://{request.url.netloc}"
    if fetch_site == "same-origin":
        return
    if fetch_site is None and origin is not None and _parse_origin(origin) == _parse_origin(own_origin):
        return
    raise CrossSite(
        "browsers may make changes from this service's own pages only, this request comes from "
        f"{origin or 'nowhere'!r} ({fetch_site or 'the browser does not say more'}); open the page at {own_origin}, "
        "or send a key"
    )


def check_not_rebound(request: Request) -> None:
    """Refuse a request to a public host name, whose owner may have pointed it at this machine (DNS rebinding).

    A browser takes such a page for one of this service. IP addresses and names without a dot are safe.

    Raises
    ------
    CrossSite
        If the Host header is a name with a dot.
    """
    host = _parse_origin(f"http://{request.headers.get('host', '')}")[1] or ""
    if "." in host and not _is_address(host):
        raise CrossSite(
            f"this service requires no key, and anyone may have pointed the name {host[:100]!r} at it; open the page "
            "by its address or as localhost, name its origin in MILD_CORS_ORIGINS, or make a key"
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parse_origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of a URL; none of them if it is invalid."""
    try:
        parts = URL(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None
