"""The sections of a report about samples: data map, labels of dropped samples, and the most suspicious samples."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mild_trainer.clean_set import COLUMNS
from mild_trainer.data import Dataset
from mild_trainer.report import figures
from mild_trainer.review.review_list import ScoredSamples, rank_samples
from mild_trainer.review.review_runs import ReviewedRun

N_SUSPICIOUS = 50
"""Number of suspicious samples in a report."""
_MAX_CLASSES, _MAX_PAIRS = 20, 30
_MAX_IMAGE_SIDE = 128
"""Longest side of an image in pixels; larger images are scaled down."""
_NO_PAIRS = np.empty((0, 2), dtype=np.int64)


def gather_samples(
    run: ReviewedRun, samples: ScoredSamples, data: Dataset | None = None, predicted: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """Gather the samples of a run that its report shows, for the template ``samples.html``.

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
    first = rank_samples(samples, "suspicious")[:N_SUSPICIOUS]
    images: list[str | None] = [None] * len(first)
    if data is None:
        samples = run.name_samples(samples, np.union1d(first, dropped))
        names = [values or [None] * samples.kept.size for values in (samples.labels, samples.suggested)]
        labels = [(names[0][index], names[1][index]) for index in dropped.tolist()]
        complete = [pair for pair in labels if None not in pair]
        pairs = np.array(complete, dtype=np.int64) if complete else _NO_PAIRS
    else:
        samples = samples.name_samples(data, predicted)
        pairs = _NO_PAIRS if predicted is None else np.stack((data.y_train[dropped], predicted[dropped]), axis=1)
        if not data.has_features:
            brightest = max(1, int(data.x_train.max()))
            # The brightest pixel of the data set is white.
            scaled = (data.x_train[first].astype(np.uint16) * 255 // brightest).astype(np.uint8)
            images = list(map(encode_image, scaled))
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in samples.format_rows(first)]
    return {
        "data_map": figures.draw_data_map(run.make_data_map(samples), run.change_label),
        **count_confusions(pairs, () if data is None else data.class_names),
        "suspicious": list(zip(rows, images, strict=True)),
    }


def count_confusions(pairs: NDArray[np.int64], class_names: Sequence[str] = ()) -> dict[str, Any]:
    """Count how often each given label was predicted as each class.

    Parameters
    ----------
    pairs
        Shape (n, 2), given and predicted label of each sample.
    class_names
        Name of each class; empty for numbers.

    Returns
    -------
    confusions
        The pairs, the names of the classes, and the counts of all pairs, as lists by given and predicted label; with
        more than 20 classes, the counts of the commonest pairs in their place.
    """
    names = class_names or tuple(map(str, range(int(pairs.max(initial=-1)) + 1)))
    n_classes, counts = len(names), None
    if n_classes <= _MAX_CLASSES:
        numbers = pairs[:, 0] * n_classes + pairs[:, 1]
        counts = np.bincount(numbers, minlength=n_classes**2).reshape(n_classes, n_classes).tolist()
    commonest = Counter(map(tuple, pairs.tolist())).most_common(_MAX_PAIRS)
    return {"pairs": pairs, "class_names": names, "counts": counts, "commonest": commonest}


def encode_image(pixels: NDArray[np.uint8]) -> str:
    """Encode an image, shape (height, width, n_channels), as a ``data:`` URL: as RGB, or else its first channel."""
    channels = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
    image = Image.fromarray(np.ascontiguousarray(channels))
    image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
