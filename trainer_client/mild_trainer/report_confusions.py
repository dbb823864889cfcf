"""Given against predicted labels of the dropped samples: what was taken for what."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from mild_trainer import report_page

_MOST_CLASSES, _MOST_PAIRS = 20, 30


def render(pairs: NDArray[np.int64]) -> str:
    """Return a heat map as a table; with many classes, the commonest pairs.

    Parameters
    ----------
    pairs
        Shape (n, 2): a sample's given and predicted label.
    """
    if not len(pairs):
        return "<p>No dropped sample has both a given and a predicted label at hand.</p>"
    n_classes = int(pairs.max()) + 1
    return _heat(pairs, n_classes) if n_classes <= _MOST_CLASSES else _commonest(pairs)


def _heat(pairs: NDArray[np.int64], n_classes: int) -> str:
    counts = np.bincount(pairs[:, 0] * n_classes + pairs[:, 1], minlength=n_classes**2).reshape(n_classes, n_classes)
    most = int(counts.max())
    rows = []
    for given in range(n_classes):
        cells = "".join(_cell(int(count), most) for count in counts[given])
        rows.append(f"<tr class='heat'><th scope='row'>{given}</th>{cells}</tr>")
    table = report_page.table(["given \\ predicted", *map(str, range(n_classes))], rows, "counts")
    return f"<p>{len(pairs):,} dropped samples; on the diagonal the network agrees with the given label.</p>{table}"


def _cell(count: int, most: int) -> str:
    strength = round(55 * count / most)
    shade = f" style='background: color-mix(in srgb, var(--accent) {strength}%, transparent)'" if count else ""
    return f"<td{shade}>{count or ''}</td>"


def _commonest(pairs: NDArray[np.int64]) -> str:
    commonest = Counter(map(tuple, pairs.tolist())).most_common(_MOST_PAIRS)
    rows = (report_page.row((str(given), str(predicted), f"{count:,}")) for (given, predicted), count in commonest)
    table = report_page.table(("given", "predicted", "samples"), rows, "counts")
    return f"<p>The {len(commonest)} commonest pairs among {len(pairs):,} dropped samples.</p>{table}"
