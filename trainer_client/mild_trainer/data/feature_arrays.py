"""Checks of arrays of features, and the statistics that standardise them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_trainer.errors import DataError

_REMEDY = "save x_train as floats of shape (n_samples, n_features), one row for each sample"
_BLOCK_VALUES = 1 << 22
"""Number of values that are converted at a time, so that no copy of a whole matrix is made in double precision."""


def read_features(source: str, values: NDArray[Any], n_samples: int) -> NDArray[Any]:
    """Return features of shape (n_samples, n_features), as float16 where they are stored so, and else as float32.

    Parameters
    ----------
    source
        File and name of the array, for messages.
    values
        The array as read.
    n_samples
        Number of labels.
    """
    there = f"{source} is {values.dtype} of shape {values.shape}"
    if values.ndim in (3, 4):
        raise DataError(f"{there}; {_REMEDY}: pool or flatten the other axes, or take --dataset npz for pictures")
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "fiub":
        raise DataError(f"{there}; {_REMEDY}")
    if len(values) != n_samples:
        turned = "; it seems to be the wrong way round" if values.shape[1] == n_samples else ""
        raise DataError(f"{source}: {len(values)} rows of features have {n_samples} labels; give one each{turned}")
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        features = np.ascontiguousarray(values, dtype=np.float16 if values.dtype == np.float16 else np.float32)
    for start, block in iter_blocks(features):
        check_finite(source, block, start, values)
    return features


def check_finite(source: str, block: NDArray[Any], first_row: int, values: NDArray[Any] | None = None) -> None:
    """Raise DataError if a feature in a block of rows is not finite.

    Parameters
    ----------
    source
        Name of the array that the block is part of, for the message.
    block
        Shape (n_rows, n_features).
    first_row
        Number of its first row.
    values
        The array before its conversion to float32, whose value the message shows; None for that of the block.
    """
    if not (finite := np.isfinite(block)).all():
        row, column = (int(position) for position in np.argwhere(~finite)[0])
        value = block[row, column] if values is None else values[first_row + row, column]
        raise DataError(
            f"{source}[{first_row + row}, {column}] is {value}, and features have to be finite numbers of float32; "
            "replace such values, or leave the sample out"
        )


def iter_blocks(features: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield blocks of rows of about `_BLOCK_VALUES` values, each with the number of its first row."""
    n_rows = max(1, _BLOCK_VALUES // features.shape[1])
    for start in range(0, len(features), n_rows):
        yield start, features[start : start + n_rows]


def compute_feature_statistics(features: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation of every feature, shape (n_features,) each, computed in double precision.

    The standard deviation of a feature that has one value in all samples is 1.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    squares = sum(np.square(block - mean).sum(axis=0) for _, block in iter_blocks(features))
    std = np.sqrt(squares / len(features))
    return mean.astype(np.float32), np.where(find_constant(features), 1, std).astype(np.float32)


def describe_constant(source: str, features: NDArray[Any]) -> list[str]:
    """Return a sentence about features that have one value in all training samples, if there are any."""
    n_constant, n_features = int(find_constant(features).sum()), features.shape[1]
    if n_constant == n_features:
        raise DataError(f"{source}: no feature differs between training samples; give features that do")
    return [f"constant: {n_constant:,} of {n_features:,} features, which tell nothing"] if n_constant else []


def find_constant(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask of the features that have one value in all samples, shape (n_features,)."""
    constant: NDArray[np.bool_] = features.min(axis=0) == features.max(axis=0)
    return constant
