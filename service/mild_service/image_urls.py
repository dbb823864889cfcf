"""URL templates of sample images: checking them and filling in a sample."""

import re
from urllib.parse import quote, urlsplit

from mild_core.errors import ParameterError
from mild_service.config import is_loopback

MAX_URL_LENGTH = 512
_SAFE = re.compile(r"[A-Za-z0-9\-._~:/?#@!$&()*+=%{}\[\]]+")
"""Characters of a URL; excludes blanks, quotes, commas and semicolons, so that it is safe in a header."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
_REMEDY = "give https://host/path/{id}.png, or a path of this service's own origin such as /pictures/{index}.png"


def check_image_url(template: str) -> str:
    """Check the URL template of a run's images, and return the template."""
    if len(template) > MAX_URL_LENGTH:
        raise ParameterError(
            f"picture_url has {len(template)} characters, at most {MAX_URL_LENGTH} are taken; {_REMEDY}"
        )
    if not _SAFE.fullmatch(template):
        raise ParameterError(f"picture_url is {template[:80]!r}, which is no address; {_REMEDY}")
    remainder = template.replace("{id}", "").replace("{index}", "")
    if remainder == template or "{" in remainder or "}" in remainder:
        raise ParameterError(f"picture_url is {template[:80]!r}; it needs {{id}} or {{index}}, and no other; {_REMEDY}")
    if template.startswith("/") and not template.startswith("//"):
        return template
    try:
        parts = urlsplit(template)
        is_secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        is_allowed = is_secure and bool(_HOST.fullmatch(parts.netloc))
    except ValueError:
        is_allowed = False
    if not is_allowed:
        raise ParameterError(
            f"picture_url is {template[:80]!r}; pictures may come from https, from this service's own origin, or over "
            f"http from the reader's own machine (localhost); {_REMEDY}"
        )
    return template


def find_image_origin(template: str | None) -> str | None:
    """Return the web origin of the images, which a page must allow as an image source.

    The result is None if the page needs no permission: without a template, or for images of its own origin.
    """
    if template is None or template.startswith("/"):
        return None
    parts = urlsplit(template)
    return f"{parts.scheme}://{parts.netloc}"


def fill_image_url(template: str | None, index: int, sample_id: str | None) -> str | None:
    """Return the URL of a sample's image.

    Parameters
    ----------
    template
        URL template of the run; None if the run has none.
    index, sample_id
        Index of the sample, and its external id; None if the run has no external ids.

    Returns
    -------
    str or None
        None without a template, or if the template needs an external id and `sample_id` is None.
    """
    if template is None or (sample_id is None and "{id}" in template):
        return None
    return template.replace("{index}", str(index)).replace("{id}", quote(sample_id or "", safe="/"))
