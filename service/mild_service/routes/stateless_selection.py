"""The JSON body of ``POST /selection`` as evidence: bitmaps in base64, or lists of 0 and 1."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError, CorrectNotObservedError
from mild_core.types import Observe, RoundBits
from mild_service.config import Settings
from mild_service.errors import InvalidRequest, LimitExceeded
from mild_service.web.bodies import Strict, Whole, decode_bitmap
from mild_service.web.schemas import SelectionRequest

Row = str | list[Any]
"""Base64 of a bitmap, or 0 and 1 per sample; looked into below, which is faster than a check per entry."""
Rows = Annotated[list[Row], Field(fail_fast=True)]


class StatelessRound(Strict):
    """One round's evidence: per epoch base64 of a bitmap, or a list of 0 and 1 per sample."""

    correct: Rows
    observed: Rows | None = None
    members: Row | None = None
    planted: Row | None = Field(None, description="Samples whose label was broken on purpose in this round.")


class StatelessRequest(Strict):
    """Bits in, set out. Give `rounds`, or `correct` (and `observed`) of a single one."""

    num_samples: Whole | None = Field(None, description="Needed when bitmaps are given; else the length of the lists.")
    rounds: list[StatelessRound] | None = None
    correct: Rows | None = None
    observed: Rows | None = None
    observe: Observe = Field("all", description="`members`: only members should have been observed.")
    options: SelectionRequest = Field(default_factory=SelectionRequest)


def rounds_of(body: StatelessRequest, settings: Settings) -> list[RoundBits]:
    """The evidence in a request.

    Raises
    ------
    InvalidRequest
        If fields contradict each other or rows are missing.
    LimitExceeded
        If there are too many samples, rounds or epochs.
    BitmapLengthError, TrailingBitsError, CorrectNotObservedError
        If bits are impossible.
    """
    given = _given(body)
    n_samples = _n_samples(body.num_samples, given)
    _within("num_samples", n_samples, settings.max_samples)
    _within("number of rounds", len(given), settings.max_rounds)
    return [_round(number, round_, n_samples, body.observe, settings) for number, round_ in enumerate(given)]


def body_schema() -> dict[str, Any]:
    """JSON schema of the body, with no references: it stands alone in OpenAPI's list of content types."""
    schema = StatelessRequest.model_json_schema()
    definitions = schema.pop("$defs")

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inlined(definitions[node["$ref"].rpartition("/")[2]])
        return {name: inlined(value) for name, value in node.items()}

    plain: dict[str, Any] = inlined(schema)
    return plain


def _given(body: StatelessRequest) -> list[StatelessRound]:
    if (body.rounds is None) == (body.correct is None):
        raise InvalidRequest("give `rounds`, or `correct` of a single round, got both or neither")
    if body.rounds is None:
        return [StatelessRound(correct=body.correct or [], observed=body.observed)]
    if body.observed is not None:
        raise InvalidRequest("`observed` beside `rounds` belongs to no round; give it inside of each round")
    return body.rounds


def _n_samples(told: int | None, rounds: Sequence[StatelessRound]) -> int:
    rows = [row for round_ in rounds for row in round_.correct]
    if not rows or not all(round_.correct for round_ in rounds):
        raise InvalidRequest("a round has 0 epochs, at least 1 is needed; give a row of `correct` per epoch")
    if told is not None:
        return told
    if isinstance(rows[0], str):
        raise InvalidRequest("bitmaps were given without `num_samples`; say how many samples they hold")
    return len(rows[0])


def _within(name: str, value: int, high: int) -> None:
    if not 1 <= value <= high:
        raise LimitExceeded(f"{name} is {value}, this service takes 1..{high}; send a number in that range")


def _round(number: int, given: StatelessRound, n_samples: int, observe: Observe, settings: Settings) -> RoundBits:
    _within("number of epochs", len(given.correct), settings.max_epochs)
    correct = _bitmaps(given.correct, n_samples, f"rounds[{number}].correct")
    members, planted = (
        None if row is None else _bitmap(row, n_samples, f"rounds[{number}].{name}")
        for name, row in (("members", given.members), ("planted", given.planted))
    )
    observed = None
    if given.observed is not None:
        if len(given.observed) != len(given.correct):
            raise InvalidRequest(
                f"round {number} has {len(given.correct)} rows of `correct` and {len(given.observed)} of `observed`; "
                "give one of each per epoch"
            )
        observed = _bitmaps(given.observed, n_samples, f"rounds[{number}].observed")
    bits = RoundBits.of(n_samples, correct, observed, members, observe, planted)
    if bits.observed is not None and (stray := correct & ~bits.observed).any():
        raise CorrectNotObservedError(
            f"round {number} has {bitmap.popcount(stray)} correct bits without their observed bit; set both, or neither"
        )
    return bits


def _bitmaps(rows: Sequence[Row], n_samples: int, what: str) -> Bitmap:
    return np.stack([_bitmap(row, n_samples, f"{what}[{position}]") for position, row in enumerate(rows)])


def _bitmap(row: Row, n_samples: int, what: str) -> Bitmap:
    if isinstance(row, str):
        return decode_bitmap(row, n_samples, what)
    if len(row) != n_samples:
        raise BitmapLengthError(f"{what} has {len(row)} entries, {n_samples} are needed; give one per sample")
    if not (set(map(type, row)) <= {int, bool} and set(row) <= {0, 1}):
        raise InvalidRequest(f"{what} holds something else than 0 and 1 (or true and false); give one bit per sample")
    return bitmap.pack(row)
