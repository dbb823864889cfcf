"""If-Match and If-None-Match of a write, as a condition on what is stored."""

import re
from typing import Annotated

from fastapi import Depends, Header

from mild_service.conditions import Condition
from mild_service.errors import InvalidRequest

_TAG = re.compile(r'"([0-9a-f]{1,64})"')
"""The ETags that writes answer with; no other can match."""
_NOBODY = "none"


async def _condition(
    if_match: Annotated[
        str | None, Header(max_length=8192, description="Write only over content with one of these ETags; * is any.")
    ] = None,
    if_none_match: Annotated[
        str | None, Header(max_length=64, description="Only *: write only where there is nothing yet.")
    ] = None,
) -> Condition:
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


def tagged(digest: str) -> dict[str, str]:
    """The header that names stored content."""
    return {"ETag": f'"{digest}"'}
