"""Dataset Cartography's training dynamics: a line per sample with ``guid``, ``gold`` and ``logits_epoch_<X>``.

The sample is the guid (its index, or as a text its external id), its given label `gold`, and the class with the
greatest logit is what was predicted. A line may hold several epochs.
"""

import re
from collections.abc import Iterator
from typing import Any

from mild_service.ingest.columns import Batch, Limits, Rows, batch_of, short
from mild_service.ingest.ndjson import NdjsonReader, decoded

_LOGITS = re.compile(r"logits_epoch_([0-9]{1,9})")
_EXAMPLE = '{"guid": 17, "logits_epoch_0": [2.9, -2.3], "gold": 0}'
_NUMBERS: tuple[type, ...] = (int,)
_ANY: tuple[type, ...] = (int, str)
_GUIDS = {
    _NUMBERS: "an integer, or an external id once the run has sample ids,",
    _ANY: "an integer or an external id",
}


class CartographyReader(NdjsonReader):
    """Reads Cartography's JSON lines: NDJSON whose lines are samples instead of records."""

    def _batches(self, first: int, block: bytes) -> Iterator[Batch]:
        rows, lines = decoded(first, block)
        guids = _NUMBERS if self._limits.names is None else _ANY
        found = [
            (position, record)
            for position, line in enumerate(lines)
            for record in _records(rows, position, line, guids)
        ]
        if found:
            positions, records = zip(*found, strict=True)
            yield batch_of(Rows("line", rows.numbers[list(positions)]), records, self._limits)


def _records(rows: Rows, position: int, line: Any, guids: tuple[type, ...]) -> Iterator[dict[str, Any]]:
    """One line's records in the terms of the other formats."""
    if type(line) is not dict:
        raise rows.bad(position, None, f"got {short(line)}, an object such as {_EXAMPLE} is needed")
    if type(line.get("gold")) is not int:
        raise rows.bad(position, "gold", f"got {short(line.get('gold'))}, an integer is needed")
    if type(line.get("guid")) not in guids:
        raise rows.bad(position, "guid", f"got {short(line.get('guid'))}, {_GUIDS[guids]} is needed")
    epochs = [match for match in map(_LOGITS.fullmatch, line) if match]
    if not epochs:
        raise rows.bad(position, None, f"it has no logits_epoch_<number>; an object such as {_EXAMPLE} is needed")
    for match in epochs:
        yield {
            "round": line.get("round"),
            "epoch": int(match[1]),
            "sample": line["guid"],
            "predicted": _predicted(rows, position, match[0], line[match[0]], line["gold"]),
            "label": line["gold"],
        }


def _predicted(rows: Rows, position: int, name: str, logits: Any, gold: int) -> int:
    if type(logits) is not list or not logits or not set(map(type, logits)) <= {int, float}:
        raise rows.bad(position, name, f"got {short(logits)}, a list of numbers is needed, one per class")
    if not 0 <= gold < len(logits):
        raise rows.bad(position, "gold", f"got {gold}, one of the {len(logits)} classes of {name} is needed")
    return logits.index(max(logits))


def open_reader(limits: Limits) -> CartographyReader:
    """A reader of one body."""
    return CartographyReader(limits)
