"""If-Match and If-None-Match of a write, as a condition on what is stored."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request

from mild_service.conditions import NO_CONDITION, Condition
from mild_service.errors import InvalidRequest

_TAG = re.compile(r'"([0-9a-f]{1,64})"')
"""The ETags that writes answer with; no other can match."""
_NOBODY = "none"


_MOST = {"If-Match": 8192, "If-None-Match": 64}
"""Characters."""
_DESCRIPTIONS = {
    "If-Match": "Write only over content with one of these ETags; * is any.",
    "If-None-Match": "Only *: write only where there is nothing yet.",
}


async def _condition(request: Request) -> Condition:
    # Not declared as parameters: FastAPI takes its time over each, with every epoch that is put.
    if_match, if_none_match = (request.headers.get(name) for name in _MOST)
    if if_match is if_none_match is None:
        return NO_CONDITION
    for name, given in (("If-Match", if_match), ("If-None-Match", if_none_match)):
        if len(given or "") > _MOST[name]:
            raise InvalidRequest(
                f"{name} has {len(given or '')} characters, at most {_MOST[name]} are read; name fewer"
            )
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidRequest(f"If-None-Match is {if_none_match!r}; a write takes * alone, or If-Match with an ETag")
    if if_match is None:
        return Condition(absent=if_none_match is not None)
    if if_none_match is not None:
        raise InvalidRequest("If-Match and If-None-Match are both given, and never hold together; send one of them")
    tags = [tag.strip() for tag in if_match.split(",")]
    if tags == ["*"]:
        return Condition(digests=frozenset())
    ours = frozenset(match[1] for tag in tags if (match := _TAG.fullmatch(tag)))
    return Condition(digests=ours or frozenset([_NOBODY]))  # a weak tag never matches (RFC 9110, 13.1.1)


ConditionDep = Annotated[Condition, Depends(_condition)]


def conditional(extra: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAPI's extra of a route that takes a condition: `extra`, and the headers that make one."""
    headers = [
        {
            "name": name.lower(),
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": longest, "title": name},
            "description": _DESCRIPTIONS[name],
        }
        for name, longest in _MOST.items()
    ]
    return {**extra, "parameters": headers}


def tagged(digest: str) -> dict[str, str]:
    """The header that names stored content."""
    return {"ETag": f'"{digest}"'}
