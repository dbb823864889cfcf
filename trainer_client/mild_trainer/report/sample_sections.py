"""The sections of a report about samples: data map, labels of dropped samples, and the most suspicious samples."""

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
from mild_trainer.review.review_list import ScoredSamples, format_data_row, rank_samples
from mild_trainer.review.review_runs import ReviewedRun

_MAX_DOT_AREA = 120.0
"""Area of the largest dot, in points squared."""


def draw_data_map(data_map: DataMap, changes_label: str) -> str:
    """Return the data map as an ``<svg>`` element, with the kept and the dropped samples side by side.

    Every cell with samples is a dot, which is larger for more samples.

    Parameters
    ----------
    data_map
        Counts of samples by misclassified epochs and by changes.
    changes_label
        Label of the y axis.
    """
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    kept, dropped = figure.subplots(1, 2, sharex=True, sharey=True)
    max_count = max(int(data_map.kept.max(initial=0)), int(data_map.dropped.max(initial=0)), 1)
    for axes, counts, colour, name in (
        (kept, data_map.kept, figures.CLEAN, "kept"),
        (dropped, data_map.dropped, figures.NOISY, "dropped"),
    ):
        _draw_dots(axes, data_map, counts, max_count, colour)
        axes.set_title(f"{int(counts.sum()):,} {name}", color=figures.INK, fontsize=10)
        axes.set_xlabel("misclassified epochs")
    kept.set_ylabel(changes_label, fontsize=8)
    return figures.render_svg(figure, "Data map of the samples kept and dropped")


def _draw_dots(axes: Axes, data_map: DataMap, counts: NDArray[np.int64], max_count: int, colour: str) -> None:
    """Draw a dot for each cell with samples; `max_count` samples have the largest dot."""
    figures.style_axes(axes)
    rows, columns = np.nonzero(counts)
    x, y = (
        axis.low + axis.width * positions + (axis.width - 1) / 2
        for axis, positions in ((data_map.x, columns), (data_map.y, rows))
    )
    sizes = 4 + _MAX_DOT_AREA * np.log1p(counts[rows, columns]) / np.log1p(max_count)
    axes.scatter(x, y, s=sizes, color=colour, alpha=0.7, linewidths=0)


_MAX_CLASSES, _MAX_PAIRS = 20, 30


def render_confusions(pairs: NDArray[np.int64], class_names: Sequence[str] = ()) -> str:
    """Return how often each given label was predicted as each class, as an HTML table.

    The table is a heat map; with more than 20 classes, it lists the most frequent pairs instead.

    Parameters
    ----------
    pairs
        Shape (n, 2), given and predicted label of each sample.
    class_names
        Name of each class; empty for numbers.
    """
    if not len(pairs):
        return "<p>No dropped sample has both a given and a predicted label at hand.</p>"
    names = class_names or tuple(map(str, range(int(pairs.max()) + 1)))
    return _render_heat_map(pairs, names) if len(names) <= _MAX_CLASSES else _render_commonest_pairs(pairs, names)


def _render_heat_map(pairs: NDArray[np.int64], names: Sequence[str]) -> str:
    """Render the counts of all pairs of labels; a darker cell has more samples."""
    n_classes = len(names)
    counts = np.bincount(pairs[:, 0] * n_classes + pairs[:, 1], minlength=n_classes**2).reshape(n_classes, n_classes)
    max_count = int(counts.max())
    rows = []
    for given in range(n_classes):
        cells = "".join(_render_count_cell(int(count), max_count) for count in counts[given])
        rows.append(f"<tr class='heat'><th scope='row'>{escape(names[given])}</th>{cells}</tr>")
    table = html.render_table(["given \\ predicted", *names], rows, "counts")
    return f"<p>{len(pairs):,} dropped samples; on the diagonal the network agrees with the given label.</p>{table}"


def _render_count_cell(count: int, max_count: int) -> str:
    strength = round(55 * count / max_count)
    shade = f" style='background: color-mix(in srgb, var(--accent) {strength}%, transparent)'" if count else ""
    return f"<td{shade}>{count or ''}</td>"


def _render_commonest_pairs(pairs: NDArray[np.int64], names: Sequence[str]) -> str:
    """Render the most frequent pairs of labels and their counts."""
    commonest = Counter(map(tuple, pairs.tolist())).most_common(_MAX_PAIRS)
    rows = (html.render_row((names[given], names[predicted], f"{count:,}")) for (given, predicted), count in commonest)
    table = html.render_table(("given", "predicted", "samples"), rows, "counts")
    return f"<p>The {len(commonest)} commonest pairs among {len(pairs):,} dropped samples.</p>{table}"


N_SUSPICIOUS = 50
"""Number of suspicious samples in a report."""
_MAX_IMAGE_SIDE = 128
"""Longest side of an image in pixels; larger images are scaled down."""
_NO_PAIRS = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class SuspiciousSample:
    """One suspicious sample, with its values as text; an unknown value is an empty string, an unknown image None."""

    index: str
    name: str
    given: str
    suggested: str
    posterior: str
    kept: str
    image: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, eq=False)
class ReportSamples:
    """The samples of a run that a report shows.

    Attributes
    ----------
    data_map
        Counts of samples by misclassified epochs and by changes.
    changes_label
        Label of the data map's y axis.
    pairs
        Given and predicted labels of the dropped samples, where both are known, shape (n, 2).
    suspicious
        The most suspicious samples, in decreasing order.
    """

    data_map: DataMap
    changes_label: str
    pairs: NDArray[np.int64]
    suspicious: tuple[SuspiciousSample, ...]
    class_names: tuple[str, ...] = ()


def gather_samples(
    run: ReviewedRun, samples: ScoredSamples, data: Dataset | None, predicted: NDArray[np.int64] | None
) -> ReportSamples:
    """Gather the samples of a run that its report shows.

    Parameters
    ----------
    run, samples
        The run, and its samples with their scores.
    data
        The data set with the labels of the training; None where it is not available.
    predicted
        Shape (n_samples,), the labels that the last network predicts. None uses the labels that the run suggests if
        there are no `data`, and else shows none.
    """
    dropped = np.flatnonzero(~samples.kept)
    first_indices = rank_samples(samples, "suspicious")[:N_SUSPICIOUS]
    if data is None:
        rows = run.format_rows(samples, first_indices)
        pairs = _parse_label_pairs(run.format_rows(samples, dropped))
    else:
        rows = [format_data_row(samples, index, data, predicted) for index in first_indices.tolist()]
        pairs = _NO_PAIRS if predicted is None else np.stack((data.y_train[dropped], predicted[dropped]), axis=1)
    images = [None] * len(rows) if data is None or data.has_features else _get_scaled_images(data, first_indices)
    suspicious = tuple(
        SuspiciousSample(index, name, given, suggested, posterior, kept, image)
        for (index, name, given, suggested, _, posterior, kept, _), image in zip(rows, images, strict=True)
    )
    class_names = () if data is None else data.class_names
    return ReportSamples(run.make_data_map(samples), run.change_label, pairs, suspicious, class_names)


def _get_scaled_images(data: Dataset, indices: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
    """Return the images of the samples, scaled so that the brightest pixel of the data set is white."""
    brightest = max(1, int(data.x_train.max()))
    return list((data.x_train[indices].astype(np.uint16) * 255 // brightest).astype(np.uint8))


def _parse_label_pairs(rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
    """Return the given and the suggested labels of the rows that have both, shape (n, 2)."""
    pairs = [(int(given), int(suggested)) for _, _, given, suggested, *_ in rows if given and suggested]
    return np.array(pairs, dtype=np.int64) if pairs else _NO_PAIRS


def render_sample_sections(samples: ReportSamples) -> str:
    """Return the sections about samples as HTML."""
    cards = "".join(_render_sample_card(sample) for sample in samples.suspicious)
    return (
        "<h2>Data map</h2>"
        "<p>Each dot is the samples that were misclassified, and changed, so many times; the larger, the more of them."
        f"</p><figure>{draw_data_map(samples.data_map, samples.changes_label)}</figure>"
        "<h2>Given against predicted labels of the dropped samples</h2>"
        f"{render_confusions(samples.pairs, samples.class_names)}"
        f"<h2>The {len(samples.suspicious)} most suspicious samples</h2><div class='samples'>{cards}</div>"
    )


def _render_sample_card(sample: SuspiciousSample) -> str:
    """Render the image of a sample, if it is known, and its labels."""
    name = f"{sample.index} ({sample.name})" if sample.name else sample.index
    caption = [f"given {escape(sample.given)}"] if sample.given else []
    caption += [f"predicted {escape(sample.suggested)}"] if sample.suggested else []
    caption += [f"wrong with probability {float(sample.posterior):.3f}"] if sample.posterior else []
    caption += ["kept" if sample.kept == "true" else "dropped"]
    image = (
        "" if sample.image is None else f"<img alt='sample {escape(sample.index)}' src='{_encode_image(sample.image)}'>"
    )
    return f"<figure>{image}<figcaption><b>{escape(name)}</b>{'<br>'.join(caption)}</figcaption></figure>"


def _encode_image(pixels: NDArray[np.uint8]) -> str:
    """Encode an image, shape (height, width, n_channels), as a ``data:`` URL: as RGB, or else its first channel."""
    channels = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
    image = Image.fromarray(np.ascontiguousarray(channels))
    image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
