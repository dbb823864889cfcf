"""Whether a page of this service has sent a request, or one of another site in the name of whoever looks at it."""

import ipaddress

from starlette.datastructures import URL
from starlette.requests import Request

from mild_service.errors import CrossSite


def check_same_site(request: Request) -> None:
    """Refuse a request that another site's page has made a browser send.

    Browsers say where a request comes from; one that does not is refused as well.

    Raises
    ------
    CrossSite
        If it does not come from a page of this service.
    """
    told, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = f"{request.url.scheme}://{request.url.netloc}"
    if told == "same-origin" or (told is None and origin is not None and _origin(origin) == _origin(ours)):
        return
    raise CrossSite(
        "browsers may change something here from this service's own pages only, this request comes from "
        f"{origin or 'nowhere'!r} ({told or 'the browser does not say more'}); open the page at {ours}, or send a key"
    )


def check_not_rebound(request: Request) -> None:
    """Refuse a page under a public name: its owner may have pointed it at this machine (DNS rebinding).

    Browsers then take the page for this service's own. With an address, or a name without a dot, nobody outside can.

    Raises
    ------
    CrossSite
        If the request came to such a name.
    """
    host = _origin(f"http://{request.headers.get('host', '')}")[1] or ""
    if "." in host and not _is_address(host):
        raise CrossSite(
            f"this service asks for no key, and anybody may have pointed the name {host[:100]!r} at it; open the page "
            "by its address or as localhost, name its origin in MILD_CORS_ORIGINS, or make a key"
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = URL(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None
