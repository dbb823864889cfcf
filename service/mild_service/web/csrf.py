"""Protection against cross-site request forgery and DNS rebinding."""

import ipaddress

from starlette.datastructures import URL
from starlette.requests import Request

from mild_service.errors import CrossSite


def check_same_site(request: Request) -> None:
    """Check that a page of this service sent a browser's request, by its headers Sec-Fetch-Site and Origin."""
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


def check_dns_rebinding(request: Request) -> None:
    """Refuse a request to a public host name, to protect a service that requires no key from DNS rebinding.

    The owner of a public name may point it at this machine, and a browser then takes the owner's page for a page of
    this service. IP addresses and names without a dot are safe.
    """
    host = _parse_origin(f"http://{request.headers.get('host', '')}")[1] or ""
    if "." in host and not _is_ip_address(host):
        raise CrossSite(
            f"this service requires no key, and anyone may have pointed the name {host[:100]!r} at it; open the page "
            "by its address or as localhost, name its origin in MILD_CORS_ORIGINS, or make a key"
        )


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parse_origin(url: str) -> tuple[str, str | None, int | None]:
    """Return the scheme, host and port of a URL; an empty scheme and twice None if the URL is invalid."""
    try:
        parts = URL(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None
