"""``mild push``: send a prediction log to a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from mild_client.credentials import authorization
from mild_client.errors import ServiceUnreachable
from mild_client.problems import refusal
from mild_trainer.errors import DataError

MEDIA_TYPES: Mapping[str, str] = {
    ".json": "application/json",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".csv": "text/csv",
    ".arrows": "application/vnd.apache.arrow.stream",
    ".parquet": "application/vnd.apache.parquet",
}
"""A log's content type by its file's extension."""
CARTOGRAPHY = "application/x-cartography+ndjson"

_TIMEOUT = httpx.Timeout(60.0, read=600.0)


def push(
    file: Path,
    url: str,
    run_id: str,
    complete: bool = False,
    cartography: bool = False,
    transport: httpx.BaseTransport | None = None,
    api_key: str | None = None,
) -> dict[str, Any]:
    """Stream a file to the service, and return what the service did with it.

    Without `api_key` the one in ``MILD_API_KEY`` is sent, if there is one.

    Raises
    ------
    DataError
        If the extension says nothing of the format.
    ServiceError, ServiceUnreachable
        If the service refuses the log, or does not answer. The same log can be pushed again.
    """
    media_type = CARTOGRAPHY if cartography else MEDIA_TYPES.get(file.suffix.lower())
    if media_type is None:
        raise DataError(f"the extension of {file.name!r} is none of {', '.join(MEDIA_TYPES)}; rename the file")
    key = authorization(api_key)
    with file.open("rb") as body, httpx.Client(base_url=url, timeout=_TIMEOUT, transport=transport) as client:
        try:
            response = client.post(
                f"/runs/{run_id}/predictions",
                params={"complete": complete},
                content=body,
                headers={"Content-Type": media_type, **key},
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServiceUnreachable(
                f"{url} did not take the log ({error}); push it again, what was taken is not taken twice"
            ) from error
    if response.is_error:
        raise refusal(response)
    posted: dict[str, Any] = response.json()
    return posted
