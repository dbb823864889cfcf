"""Media types of requests and responses, and the check of a request's content type."""

from fastapi import Request

from mild_service.errors import UnsupportedMediaType

JSON = "application/json"
NDJSON = "application/x-ndjson"
BITMAP = "application/octet-stream"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"
TEXT = "text/plain"
FORM = "application/x-www-form-urlencoded"
EVENT_STREAM = "text/event-stream"
PROBLEM = "application/problem+json"


def check_content_type(request: Request, allowed: tuple[str, ...], default: str) -> str:
    """Return the content type of a request without its parameters, or `default` if the header is absent."""
    content_type = request.headers.get("content-type", default).partition(";")[0].strip().lower()
    if content_type not in allowed:
        raise UnsupportedMediaType(
            f"content type {content_type!r} is not read here; send {' or '.join(allowed)} "
            f"(curl: -H 'Content-Type: {default}')"
        )
    return content_type
