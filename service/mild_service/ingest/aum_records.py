"""AUM's records: the file ``full_aum_records.csv`` of the package ``aum`` (Pleiss et al. 2020), a line per measurement.

``sample_id`` is the sample, ``num_measurements`` the number of its measurements so far, from 1, which stands for the
epoch, ``target_logit`` its given label, ``other_logit`` the best other class, and ``margin`` the difference of their
logits: a positive margin means that the given label was predicted.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from mild_service.ingest.columns import RowNumbers, abbreviate, record_error

_COLUMNS = ("sample_id", "num_measurements", "target_logit", "other_logit", "margin")


def is_header(names: Collection[str]) -> bool:
    """Return whether the columns of a table are those of AUM's records."""
    return set(_COLUMNS) <= set(names)


def check_header(line: int, names: Collection[str]) -> None:
    """Raise `BadRecord` if a table has AUM's values, which are a mean over the epochs and cannot be taken apart."""
    if set(names) == {"sample_id", "aum"}:
        reason = (
            "it is the header of aum_values.csv, which has no epochs; give full_aum_records.csv, which "
            "AUMCalculator(…, compressed=False) writes next to it"
        )
        raise record_error("line", line, None, reason)


def convert_cells(rows: RowNumbers, cells: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Convert the cells of AUM records to those of a log, by field; a margin that is not a number leaves no outcome."""
    names, measurements, labels, others, margins = (cells[name] for name in _COLUMNS)
    epochs, predicted = [], []
    for position, (count, margin, label, other) in enumerate(zip(measurements, margins, labels, others, strict=True)):
        if not (count.isascii() and count.isdigit() and int(count)):
            reason = f"got {abbreviate(count)}, a number of measurements from 1 on is needed"
            raise rows.make_error(position, "num_measurements", reason)
        difference = _parse_margin(rows, position, margin)
        epochs.append(str(int(count) - 1))
        predicted.append("" if math.isnan(difference) else label if difference > 0 else other)
    return {"epoch": epochs, "sample": list(names), "label": list(labels), "predicted": predicted}


def _parse_margin(rows: RowNumbers, position: int, text: str) -> float:
    """Return the margin in a cell; NaN if the cell is empty, as pandas writes NaN."""
    try:
        return float(text or "nan")
    except ValueError:
        raise rows.make_error(position, "margin", f"got {abbreviate(text)}, a number is needed") from None
