"""Where a run's pictures lie: an address with a place for the sample."""

import ipaddress
import re
from urllib.parse import quote, urlsplit

from mild_core.errors import ParameterError

MAX_URL_LENGTH = 512
_SAFE = re.compile(r"[A-Za-z0-9\-._~:/?#@!$&()*+=%{}\[\]]+")
"""What an address is made of; without blanks, quotes, commas and semicolons it can stand in a header as well."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
_REMEDY = "give https://host/path/{id}.png, or a path of this service's own origin such as /pictures/{index}.png"


def check_image_url(template: str) -> str:
    """Return it.

    Raises
    ------
    ParameterError
        If it is no address that pages may show pictures from, or has no place for the sample.
    """
    if len(template) > MAX_URL_LENGTH:
        raise ParameterError(
            f"picture_url has {len(template)} characters, at most {MAX_URL_LENGTH} are taken; {_REMEDY}"
        )
    if not _SAFE.fullmatch(template):
        raise ParameterError(f"picture_url is {template[:80]!r}, which is no address; {_REMEDY}")
    left = template.replace("{id}", "").replace("{index}", "")
    if left == template or "{" in left or "}" in left:
        raise ParameterError(f"picture_url is {template[:80]!r}; it needs {{id}} or {{index}}, and no other; {_REMEDY}")
    if template.startswith("/") and not template.startswith("//"):
        return template
    try:
        parts = urlsplit(template)
        sound = bool(_HOST.fullmatch(parts.netloc)) and (parts.scheme == "https" or _is_here(parts.scheme, template))
    except ValueError:
        sound = False
    if not sound:
        raise ParameterError(
            f"picture_url is {template[:80]!r}; pictures may come from https, from this service's own origin, or over "
            f"http from the reader's own machine (localhost); {_REMEDY}"
        )
    return template


def image_origin(template: str | None) -> str | None:
    """The origin that pages have to let pictures come from; None where that is their own."""
    if template is None or template.startswith("/"):
        return None
    parts = urlsplit(template)
    return f"{parts.scheme}://{parts.netloc}"


def image_url(template: str | None, index: int, name: str | None) -> str | None:
    """A sample's picture; None where there is none, or where its external id is asked for and not there."""
    if template is None or (name is None and "{id}" in template):
        return None
    return template.replace("{index}", str(index)).replace("{id}", quote(name or "", safe="/"))


def _is_here(scheme: str, template: str) -> bool:
    """Whether it is http on the reader's own machine, which browsers trust."""
    host = urlsplit(template).hostname or ""
    if scheme != "http":
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
