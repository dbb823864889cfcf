"""The body of ``PUT /runs/{run_id}/sample-ids``: lines of text, lines of JSON strings, or one JSON array of them."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, cast

import orjson
from anyio import to_thread
from fastapi import Request

from mild_service.api import bodies
from mild_service.config import Settings
from mild_service.errors import MalformedBody
from mild_service.ids import Unit, sample_id_error
from mild_service.ingest.lines import Lines

TEXT = "text/plain"
NDJSON = "application/x-ndjson"
ID_TYPES = (bodies.JSON, NDJSON, TEXT)

_REMEDY = "send a line of text per id, or have MILD_MAX_JSON_BYTES raised"
_BLOCK_BYTES = 512 * 1024
_ROWS = 8192


def unit_of(media_type: str) -> Unit:
    """What a body numbers."""
    return "row" if media_type == bodies.JSON else "line"


async def read_ids(request: Request, media_type: str, settings: Settings) -> AsyncIterator[Sequence[str]]:
    """The ids in a body, some at a time; only those of a JSON array are all read before.

    Raises
    ------
    BodyTooLarge, MalformedBody, BadRecord
        If the body cannot be read.
    SampleIdError
        If one is no text.
    """
    if media_type == bodies.JSON:
        ids = _array(await bodies.read_within(request, settings.max_json_bytes, _REMEDY))
        for start in range(0, len(ids), _ROWS):
            yield _texts(ids[start : start + _ROWS], start + 1, "row")
        return
    decode = _json_lines if media_type == NDJSON else _text_lines
    lines = Lines(settings.max_record_bytes, _BLOCK_BYTES)
    async for piece in bodies.pieces(request, settings.max_log_bytes):
        for block in await to_thread.run_sync(_decoded, lines.feed(piece), decode):
            yield block
    for block in await to_thread.run_sync(_decoded, lines.end(), decode):
        yield block


def _decoded(
    blocks: Iterator[tuple[int, bytes]], decode: Callable[[int, list[bytes]], Sequence[str]]
) -> list[Sequence[str]]:
    return [decode(first, block.split(b"\n")) for first, block in blocks]


def _text_lines(first: int, lines: list[bytes]) -> Sequence[str]:
    out = []
    for number, line in enumerate(lines, first):
        try:
            out.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise sample_id_error("line", number, f"it is not UTF-8 ({error.reason})") from error
    return out


def _json_lines(first: int, lines: list[bytes]) -> Sequence[str]:
    values = []
    for number, line in enumerate(lines, first):
        try:
            values.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise sample_id_error("line", number, f"it is not JSON ({error}), a text in quotes is needed") from error
    return _texts(values, first, "line")


def _array(body: bytes) -> list[Any]:
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}; send an array of texts") from error
    if type(values) is not list:
        raise MalformedBody(f"the body is a JSON {type(values).__name__}; send an array of texts")
    return values


def _texts(values: Sequence[Any], first: int, unit: Unit) -> Sequence[str]:
    if set(map(type, values)) <= {str}:
        return cast(Sequence[str], values)
    number, value = next((n, value) for n, value in enumerate(values, first) if type(value) is not str)
    raise sample_id_error(unit, number, f"got {str(value)[:60]}, a text is needed")
