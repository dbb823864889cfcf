"""What a report tells of single samples: the data map, the dropped ones' labels, and the most suspicious ones."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mild_core.data_map import DataMap
from mild_trainer import report_confusions, report_map
from mild_trainer.data import Dataset
from mild_trainer.review import Judged, ranked, row
from mild_trainer.review_runs import Reviewed, Training

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
        f"</p><figure>{report_map.draw(samples.counts, samples.changes)}</figure>"
        "<h2>Given against predicted labels of the dropped samples</h2>"
        f"{report_confusions.render(samples.pairs)}"
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
