"""Whether a page of this service has sent a request, or one of another site in the name of whoever looks at it."""

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


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = URL(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None
