"""The JSON body of ``POST /selection``: bits of one or more rounds, as bitmaps in base64 or lists of 0 and 1."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError, CorrectNotObservedError
from mild_core.types import Observe, RoundBits
from mild_service.config import Settings
from mild_service.errors import InvalidRequest
from mild_service.web import bodies
from mild_service.web.bodies import BitList, BitmapText, RequestModel, WholeNumber, decode_bitmap
from mild_service.web.schemas import SelectionRequest

Row = BitmapText | BitList
"""A bitmap in base64, or 0 or 1 for each sample."""
Rows = Annotated[list[Row], Field(max_length=bodies.get_highest("max_epochs"), fail_fast=True)]


class StatelessRound(RequestModel):
    """Bits of one round. The row of an epoch is a bitmap in base64, or a list of 0 or 1 for each sample."""

    correct: Rows
    observed: Rows | None = None
    members: Row | None = None
    planted: Row | None = Field(None, description="Samples whose label was broken on purpose in this round.")


Rounds = Annotated[list[StatelessRound], Field(max_length=bodies.get_highest("max_rounds"), fail_fast=True)]


class StatelessRequest(RequestModel):
    """Bits to select samples by: `rounds`, or `correct` (and `observed`) of a single round."""

    num_samples: WholeNumber | None = Field(
        None, description="Required with bitmaps; by default the length of the lists."
    )
    rounds: Rounds | None = None
    correct: Rows | None = None
    observed: Rows | None = None
    observe: Observe = Field("all", description="`members`: only members should have been observed.")
    options: SelectionRequest = Field(default_factory=SelectionRequest)


def parse_rounds(body: StatelessRequest, settings: Settings) -> list[RoundBits]:
    """Convert the body of a request to the bits of its rounds.

    Parameters
    ----------
    body
        The validated body.
    settings
        Gives the limits.
    """
    rounds = _list_rounds(body)
    n_samples = _count_samples(body.num_samples, rounds)
    settings.check_limit("num_samples", n_samples, "max_samples")
    settings.check_limit("number of rounds", len(rounds), "max_rounds")
    return [_parse_round(number, round_, n_samples, body.observe, settings) for number, round_ in enumerate(rounds)]


def _list_rounds(body: StatelessRequest) -> list[StatelessRound]:
    """Return the rounds in a body, also if it has the fields of a single round."""
    if (body.rounds is None) == (body.correct is None):
        raise InvalidRequest(
            "got both or neither of `rounds` and `correct`; give `rounds`, or the `correct` of a round"
        )
    if body.rounds is None:
        return [StatelessRound(correct=body.correct or [], observed=body.observed)]
    if body.observed is not None:
        raise InvalidRequest("`observed` next to `rounds` belongs to no round; give it inside each round")
    return body.rounds


def _count_samples(num_samples: int | None, rounds: Sequence[StatelessRound]) -> int:
    """Return the number of samples that the body states, or else the length of its first list."""
    rows = [row for round_ in rounds for row in round_.correct]
    if not rows or not all(round_.correct for round_ in rounds):
        raise InvalidRequest("a round has 0 epochs, at least 1 is needed; give a row of `correct` per epoch")
    if num_samples is not None:
        return num_samples
    if isinstance(rows[0], str):
        raise InvalidRequest("bitmaps were given without `num_samples`; say how many samples they hold")
    n_samples, n_epochs = len(rows[0]), max(len(round_.correct) for round_ in rounds)
    if n_epochs > n_samples:
        raise InvalidRequest(
            f"`correct` has {n_epochs} rows of {n_samples} entries, rows are epochs and entries samples; transpose it "
            f"if its rows are samples, else send num_samples={n_samples} with it"
        )
    return n_samples


def _parse_round(
    number: int, round_: StatelessRound, n_samples: int, observe: Observe, settings: Settings
) -> RoundBits:
    settings.check_limit("number of epochs", len(round_.correct), "max_epochs")
    correct = _parse_rows(round_.correct, n_samples, f"rounds[{number}].correct")
    members, planted = (
        None if row is None else _parse_row(row, n_samples, f"rounds[{number}].{name}")
        for name, row in (("members", round_.members), ("planted", round_.planted))
    )
    observed = None
    if round_.observed is not None:
        if len(round_.observed) != len(round_.correct):
            raise InvalidRequest(
                f"round {number} has {len(round_.correct)} rows of `correct` and {len(round_.observed)} of `observed`; "
                "give one of each per epoch"
            )
        observed = _parse_rows(round_.observed, n_samples, f"rounds[{number}].observed")
    bits = RoundBits.from_epochs(n_samples, correct, observed, members, observe, planted)
    if bits.observed is not None and (stray := correct & ~bits.observed).any():
        raise CorrectNotObservedError(
            f"round {number} has {bitmap.popcount(stray)} correct bits without their observed bit; set both, or neither"
        )
    return bits


def _parse_rows(rows: Sequence[Row], n_samples: int, name: str) -> Bitmap:
    return np.stack([_parse_row(row, n_samples, f"{name}[{position}]") for position, row in enumerate(rows)])


def _parse_row(row: Row, n_samples: int, name: str) -> Bitmap:
    if isinstance(row, str):
        return decode_bitmap(row, n_samples, name)
    if len(row) != n_samples:
        raise BitmapLengthError(f"{name} has {len(row)} entries, {n_samples} are needed; give one per sample")
    return bitmap.pack(bodies.to_bits(row, name))
