"""What a report tells of single samples: the data map, the dropped ones' labels, and the most suspicious ones.

The data map of a report: how often samples were misclassified, and how often that changed.

Given against predicted labels of the dropped samples: what was taken for what.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mild_core.inspect.histograms import DataMap
from mild_trainer.data import Dataset
from mild_trainer.report import figures, html
from mild_trainer.review.review import Judged, ranked, row
from mild_trainer.review.review_runs import Reviewed, Training

_LARGEST = 120.0
"""Area of the largest dot, in points squared."""


def draw_sample_map(found: DataMap, changes: str) -> str:
    """Draw the map as SVG: a dot for each cell with samples, larger where there are more; kept beside dropped.

    Parameters
    ----------
    found
        The counts.
    changes
        What `found` counts upwards.
    """
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    kept, dropped = figure.subplots(1, 2, sharex=True, sharey=True)
    most = max(int(found.kept.max(initial=0)), int(found.dropped.max(initial=0)), 1)
    for axes, counts, colour, name in (
        (kept, found.kept, figures.CLEAN, "kept"),
        (dropped, found.dropped, figures.NOISY, "dropped"),
    ):
        _dots(axes, found, counts, most, colour)
        axes.set_title(f"{int(counts.sum()):,} {name}", color=figures.INK, fontsize=10)
        axes.set_xlabel("misclassified epochs")
    kept.set_ylabel(changes, fontsize=8)
    return figures.svg(figure, "Data map of the samples kept and dropped")


def _dots(axes: Axes, found: DataMap, counts: NDArray[np.int64], most: int, colour: str) -> None:
    figures.plain(axes)
    rows, columns = np.nonzero(counts)
    x, y = (axis.low + axis.width * at + (axis.width - 1) / 2 for axis, at in ((found.x, columns), (found.y, rows)))
    sizes = 4 + _LARGEST * np.log1p(counts[rows, columns]) / np.log1p(most)
    axes.scatter(x, y, s=sizes, color=colour, alpha=0.7, linewidths=0)


_MOST_CLASSES, _MOST_PAIRS = 20, 30


def render_confusions(pairs: NDArray[np.int64]) -> str:
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
    table = html.table(["given \\ predicted", *map(str, range(n_classes))], rows, "counts")
    return f"<p>{len(pairs):,} dropped samples; on the diagonal the network agrees with the given label.</p>{table}"


def _cell(count: int, most: int) -> str:
    strength = round(55 * count / most)
    shade = f" style='background: color-mix(in srgb, var(--accent) {strength}%, transparent)'" if count else ""
    return f"<td{shade}>{count or ''}</td>"


def _commonest(pairs: NDArray[np.int64]) -> str:
    commonest = Counter(map(tuple, pairs.tolist())).most_common(_MOST_PAIRS)
    rows = (html.row((str(given), str(predicted), f"{count:,}")) for (given, predicted), count in commonest)
    table = html.table(("given", "predicted", "samples"), rows, "counts")
    return f"<p>The {len(commonest)} commonest pairs among {len(pairs):,} dropped samples.</p>{table}"


N_SUSPICIOUS = 50
_SIDE = 128
"""Pixels beyond which a picture is made smaller: a page of large ones would not open."""
_NO_PAIRS = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Suspicious:
    """One sample that should be looked at; what is not known is empty, and its picture None."""

    index: str
    name: str
    given: str
    suggested: str
    posterior: str
    kept: str
    picture: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What is known of a run's samples.

    Attributes
    ----------
    counts, changes
        The data map, and what it counts upwards.
    pairs
        Given and predicted label of the dropped samples for which both are known, shape (n, 2).
    suspicious
        The likeliest to be mislabelled first.
    """

    counts: DataMap
    changes: str
    pairs: NDArray[np.int64]
    suspicious: tuple[Suspicious, ...]


def gather(run: Reviewed, training: Training | None, data: Dataset | None) -> Samples:
    """Ask a run for its samples.

    Parameters
    ----------
    run
        The run.
    training
        The training whose last network predicts the labels; None takes what the run suggests.
    data
        The training's data set with the labels as trained on; None where it is not at hand.
    """
    judged = run.judged()
    predicted = None if training is None or data is None else training.predicted(data)
    dropped = np.flatnonzero(~judged.kept)
    first = ranked(judged, "suspicious")[:N_SUSPICIOUS]
    if data is None:
        lines = run.lines(judged, first)
        pairs = _suggested(run.lines(judged, dropped))
    else:
        lines = [_line(judged, index, data, predicted) for index in first.tolist()]
        pairs = _NO_PAIRS if predicted is None else np.stack((data.y_train[dropped], predicted[dropped]), axis=1)
    pictures = [None] * len(lines) if data is None else _pictures(data, first)
    suspicious = tuple(
        Suspicious(index, name, given, suggested, posterior, kept, picture)
        for (index, name, given, suggested, _, posterior, kept, _), picture in zip(lines, pictures, strict=True)
    )
    return Samples(run.counts(judged), run.changes, pairs, suspicious)


def _pictures(data: Dataset, indices: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
    """Some samples' pixels, made as bright as a picture can be by the brightest of all samples."""
    brightest = max(1, int(data.x_train.max()))
    return list((data.x_train[indices].astype(np.uint16) * 255 // brightest).astype(np.uint8))


def _line(judged: Judged, index: int, data: Dataset, predicted: NDArray[np.int64] | None) -> tuple[str, ...]:
    given = int(data.y_train[index])
    guess = None if predicted is None or predicted[index] == given else int(predicted[index])
    return row(judged, index, None, given, guess)


def _suggested(lines: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
    """Given and suggested label of the lines that have both, shape (n, 2)."""
    found = [(int(given), int(suggested)) for _, _, given, suggested, *_ in lines if given and suggested]
    return np.array(found, dtype=np.int64) if found else _NO_PAIRS


def render(samples: Samples) -> str:
    """Return the sections as HTML."""
    figures = "".join(_card(each) for each in samples.suspicious)
    return (
        "<h2>Data map</h2>"
        "<p>Each dot is the samples that were misclassified, and changed, so many times; the larger, the more of them."
        f"</p><figure>{draw_sample_map(samples.counts, samples.changes)}</figure>"
        "<h2>Given against predicted labels of the dropped samples</h2>"
        f"{render_confusions(samples.pairs)}"
        f"<h2>The {len(samples.suspicious)} most suspicious samples</h2><div class='samples'>{figures}</div>"
    )


def _card(each: Suspicious) -> str:
    name = f"{each.index} ({each.name})" if each.name else each.index
    told = [f"given {escape(each.given)}"] if each.given else []
    told += [f"predicted {escape(each.suggested)}"] if each.suggested else []
    told += [f"wrong with probability {float(each.posterior):.3f}"] if each.posterior else []
    told += ["kept" if each.kept == "yes" else "dropped"]
    picture = "" if each.picture is None else f"<img alt='sample {escape(each.index)}' src='{_inline(each.picture)}'>"
    return f"<figure>{picture}<figcaption><b>{escape(name)}</b>{'<br>'.join(told)}</figcaption></figure>"


def _inline(pixels: NDArray[np.uint8]) -> str:
    """A picture of shape (height, width, n_channels) as a ``data:`` address; of odd channels the first."""
    colours = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(colours))
    picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
