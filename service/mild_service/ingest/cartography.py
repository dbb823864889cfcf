"""Dataset Cartography's training dynamics: a line per sample with ``guid``, ``gold`` and ``logits_epoch_<X>``.

``guid`` names the sample, as ``sample`` does in other logs; ``gold`` is its given label. The class with the
greatest logit is the prediction. A line may hold several epochs.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from mild_service.ingest.columns import (
    Batch,
    LogLimits,
    RowNumbers,
    abbreviate,
    make_batch_from_records,
    to_integers,
)
from mild_service.ingest.line_splitter import split_lines
from mild_service.ingest.ndjson import decode_lines

_LOGITS = re.compile(r"logits_epoch_([0-9]{1,9})")
_EXAMPLE = '{"guid": 17, "logits_epoch_0": [2.9, -2.3], "gold": 0}'


def read_cartography(pieces: Iterable[bytes], limits: LogLimits) -> Iterator[Batch]:
    """Yield the records of Cartography's JSON lines, which hold all epochs of a sample."""
    for first, block in split_lines(pieces, limits.record_bytes):
        rows, lines = decode_lines(first, block)
        numbered_records = [
            (position, record) for position, line in enumerate(lines) for record in _split_epochs(rows, position, line)
        ]
        if numbered_records:
            positions, records = zip(*numbered_records, strict=True)
            yield make_batch_from_records(rows.take(list(positions)), records, limits)


def _split_epochs(rows: RowNumbers, position: int, line: Any) -> Iterator[dict[str, Any]]:
    """Yield a record for each epoch in a line, with the field names of the other formats."""
    if type(line) is not dict:
        raise rows.make_error(position, None, f"got {abbreviate(line)}, an object such as {_EXAMPLE} is needed")
    (gold,) = to_integers([line.get("gold")])
    epochs = [match for match in map(_LOGITS.fullmatch, line) if match]
    if not epochs:
        hint = "; send records with `epoch` as application/x-ndjson (mild push without --cartography)"
        reason = f"it has no logits_epoch_<number>; an object such as {_EXAMPLE} is needed"
        raise rows.make_error(position, None, reason + (hint if "epoch" in line else ""))
    if type(gold) is not int:
        raise rows.make_error(position, "gold", f"got {abbreviate(gold)}, an integer is needed")
    if line.get("guid") is None:
        raise rows.make_error(position, "guid", "it is missing; an index or an external id is needed")
    for match in epochs:
        yield {
            "round": line.get("round"),
            "epoch": int(match[1]),
            "sample": line["guid"],
            "predicted": _find_prediction(rows, position, match[0], line[match[0]], gold),
            "label": gold,
        }


def _find_prediction(rows: RowNumbers, position: int, name: str, logits: Any, gold: int) -> int:
    """Return the class with the greatest logit."""
    if type(logits) is not list or not logits or not set(map(type, logits)) <= {int, float}:
        raise rows.make_error(position, name, f"got {abbreviate(logits)}, a list of numbers is needed, one per class")
    if not 0 <= gold < len(logits):
        raise rows.make_error(position, "gold", f"got {gold}, one of the {len(logits)} classes of {name} is needed")
    return logits.index(max(logits))
