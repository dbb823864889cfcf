"""Conversion of callers' arguments to the types of the client, and their validation.

Callers have numpy and torch scalars, lists, tensors, and columns of tables. Each public function converts its arguments
here, once; the rest of the client has ints, floats, numpy arrays, bitmaps and JSON values.
"""

import contextlib
import dataclasses
import io
import logging
import math
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.fields import check_fields
from mild_core.types import EpochBits, RunSpec, SelectionOptions, validate_run_id

logger = logging.getLogger(__name__)

SampleSet: TypeAlias = ArrayLike
"""Samples as a bitmap, uint8 of shape (n_bytes,), as booleans of shape (n_samples,), or as integer indices."""

_METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def to_array(values: Any, name: str) -> NDArray[Any]:
    """Convert a list, tensor or column of a table to an array; a single column of shape (n, 1) becomes (n,)."""
    try:
        if hasattr(values, "detach"):  # a torch tensor, perhaps on a device or with a gradient
            values = values.detach().cpu()
        elif isinstance(values, Mapping):
            raise TypeError("a mapping has no order")
        elif not hasattr(values, "__array__") and not isinstance(values, str | bytes | Sequence):
            values = list(values)
        array = np.asarray(values)
        if array.dtype == object:  # a column with the nullable integers of pandas, say
            array = np.array(array.tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(f"{name} cannot be read as an array ({error}); give a flat list or array") from error
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def to_integer(value: Any, name: str, low: int = 0) -> int:
    """Convert an integer of any type, or a whole float, to an int of at least `low`."""
    number: int | None = None
    with contextlib.suppress(TypeError, ValueError, RuntimeError):  # arrays and tensors of several numbers have no item
        plain = value.item() if hasattr(value, "item") else value
        if isinstance(plain, float) and plain.is_integer():
            plain = int(plain)
        number = None if isinstance(plain, bool) else operator.index(plain)
    if number is None or number < low:
        raise ParameterError(f"{name} is {value!r:.100}; give a whole number of at least {low}")
    return number


def to_round(value: Any) -> int | str:
    """Convert the number of a round to an int; ``latest`` and ``best`` stay."""
    if isinstance(value, str) and value not in ("latest", "best"):
        raise ParameterError(f"round is {value!r:.100}; give a number, 'latest' or 'best'")
    return value if isinstance(value, str) else to_integer(value, "round")


def to_classes(values: Any, name: str, n_samples: int | None = None) -> NDArray[np.integer]:
    """Convert labels or predicted classes to integers of shape (n_samples,)."""
    array = to_array(values, name)
    if array.ndim != 1 or (n_samples is not None and array.size != n_samples):
        raise ParameterError(
            f"{name} has shape {array.shape}; give one class number for each sample, shape "
            f"({n_samples or 'n_samples'},): from one-hot rows their argmax"
        )
    if array.dtype.kind == "b" and name == "labels":  # predictions that are a mask may say which were right
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.floor(array)).all():
        return array.astype(np.int64)
    if array.dtype.kind not in "iu" and array.size:
        remedy = (
            "a mask of right predictions goes to put_epoch"
            if array.dtype == bool
            else f"from names numpy.unique({name}, return_inverse=True)[1]"
        )
        raise ParameterError(
            f"{name} has type {array.dtype}, the first is {array.tolist()[0]!r:.100}; give class numbers "
            f"0..num_classes-1: {remedy}"
        )
    return array if array.dtype.kind in "iu" else array.astype(np.int64)


def to_labels_body(labels: Any, n_samples: int | None = None) -> bytes:
    """Serialise labels, shape (n_samples,), as an array in the format of numpy; such a body stays as it is."""
    if isinstance(labels, bytes):
        return labels
    body = io.BytesIO()
    np.save(body, to_classes(labels, "labels", n_samples), allow_pickle=False)
    return body.getvalue()


def to_mask(values: Any, name: str, n_samples: int | None = None) -> NDArray[np.bool_]:
    """Convert booleans, or the numbers 0 and 1, to booleans of shape (n_samples,)."""
    array = to_array(values, name)
    is_flag = array.dtype == bool or (array.dtype.kind in "iuf" and bool(((array == 0) | (array == 1)).all()))
    if array.ndim != 1 or not is_flag or (n_samples is not None and array.size != n_samples):
        raise ParameterError(
            f"{name} has shape {array.shape} and type {array.dtype}; give booleans of shape "
            f"({n_samples or 'n_samples'},), one for each sample of the run, or EpochBits"
        )
    return array.astype(bool, copy=False)


def to_indices(values: Any, name: str) -> NDArray[np.int64]:
    """Convert sample indices to an array of shape (n,)."""
    array = to_array(values, name)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size) or (array.size and array.min() < 0):
        raise ParameterError(
            f"{name} has shape {array.shape} and type {array.dtype}; give sample indices of at least 0, shape (n,): "
            "from a mask numpy.flatnonzero(mask)"
        )
    return array.astype(np.int64)


def needs_n_samples(samples: Any) -> bool:
    """Return whether `to_bitmap` needs the number of samples: for all but packed bits."""
    return not isinstance(samples, bytes) and to_array(samples, "samples").dtype != np.uint8


def to_bitmap(samples: Any, name: str, n_samples: int) -> Bitmap:
    """Convert a set of samples to a bitmap of shape (n_bytes,).

    Parameters
    ----------
    samples
        A bitmap (uint8, or bytes), booleans of shape (n_samples,), or integer indices of any length.
    name
        Name of the set in error messages.
    n_samples
        Number of samples of the run.
    """
    if isinstance(samples, bytes):
        return bitmap.validate(samples, n_samples, name)
    array = to_array(samples, name)
    if array.dtype == np.uint8:
        return bitmap.validate(array, n_samples, name)
    if array.dtype == bool:
        return bitmap.pack(to_mask(array, name, n_samples))
    if array.dtype.kind in "iu" and array.shape == (n_samples,) and n_samples > 2 and array.max() <= 1:
        raise ParameterError(
            f"{name} holds {n_samples} numbers that are all 0 or 1, which fits indices and a mask; give a mask as "
            "booleans: .astype(bool)"
        )
    return bitmap.from_indices(to_indices(array, name), n_samples)


def to_epoch_body(correct: Any, observed: Any = None, n_samples: int | None = None) -> bytes:
    """Serialise the bits of an epoch, `EpochBits` or one or two masks of shape (n_samples,), as a valid epoch body.

    Parameters
    ----------
    correct, observed
        `EpochBits`, or booleans of shape (n_samples,); `observed` may be None. An epoch body stays as it is.
    n_samples
        Number of samples of the run; None takes the length of `correct`.
    """
    if isinstance(correct, bytes):
        return correct
    if not isinstance(correct, EpochBits):
        mask = to_mask(correct, "correct", n_samples)
        observed = None if observed is None else bitmap.pack(to_mask(observed, "observed", mask.size))
        bits = EpochBits(mask.size, bitmap.pack(mask), observed)
    else:
        size = to_integer(correct.n_samples, "n_samples")
        if n_samples is not None and size != n_samples:
            raise ParameterError(
                f"the bits are those of {size} samples, the run has {n_samples}; give a bit for each sample of the run"
            )
        observed = None if correct.observed is None else _pack(correct.observed, "observed", size)
        bits = EpochBits(size, _pack(correct.correct, "correct", size), observed)
    body = bits.to_body()
    EpochBits.from_body(body, bits.n_samples)  # raises the error of bits that are not valid
    return body


def check_sample_ids(ids: Iterable[str]) -> Iterable[str]:
    """Yield external ids; raise ParameterError where one is not text, or `ids` is a single text."""
    if isinstance(ids, str):
        raise ParameterError(f"ids are the text {ids!r:.100}; give a list with one text for each sample")
    for index, sample_id in enumerate(ids):
        if not isinstance(sample_id, str):
            raise ParameterError(
                f"the id of sample {index} is {sample_id!r:.100}, which is no text; give ids as they are written "
                "elsewhere, such as str(number)"
            )
        yield sample_id


def to_metrics(metrics: Any) -> dict[str, float]:
    """Convert the metrics of an epoch to floats by name; a metric that cannot be stored is dropped with a warning.

    No metric raises: a training does not end because its loss is NaN.
    """
    try:
        items = dict(metrics).items()
    except (TypeError, ValueError):
        logger.warning("metrics are %s and are dropped; give a mapping of names to numbers", type(metrics).__name__)
        return {}
    numbers: dict[str, float] = {}
    for name, value in items:
        number: float | None = None
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            number = float(value)
        if number is None:
            remedy = "give a single number"
        elif not math.isfinite(number):
            remedy = "only finite numbers are stored"
        elif not isinstance(name, str) or not _METRIC_NAME.fullmatch(name):
            remedy = "name it with 1 to 64 lower-case letters, digits or '_', a letter first"
        else:
            numbers[name] = number
            continue
        logger.warning("the metric %.100r is %.100r and is dropped; %s", name, value, remedy)
    return numbers


def to_path(path: Any, name: str) -> Path:
    """Convert text or any path to a Path."""
    try:
        return Path(os.fsdecode(path))
    except TypeError as error:
        raise ParameterError(f"{name} is {path!r:.100}; give a path as text or as a Path") from error


def to_options(options: Any) -> SelectionOptions:
    """Convert a mapping or `SelectionOptions` to options with values of Python's own types; None takes the defaults."""
    if options is None or isinstance(options, SelectionOptions):
        options = dataclasses.asdict(options or SelectionOptions())
    names = [field.name for field in dataclasses.fields(SelectionOptions)]
    if not isinstance(options, Mapping) or not set(options) <= set(names):
        raise ParameterError(
            f"the selection is {options!r:.200}; give SelectionOptions, or a mapping with some of {', '.join(names)}"
        )
    return SelectionOptions(**to_json(options))


def to_spec(spec: RunSpec) -> RunSpec:
    """Return a valid specification of a run, with values of Python's own types."""
    names = ("num_classes", "expected_epochs", "expected_rounds", "ttl_seconds")
    values = {name: value for name in names if (value := getattr(spec, name)) is not None}
    integers: dict[str, Any] = {name: to_integer(value, name, 1) for name, value in values.items()}
    try:
        tags = {str(name): str(value) for name, value in dict(spec.tags).items()}
    except (TypeError, ValueError) as error:
        raise ParameterError(f"tags are {spec.tags!r:.100}; give a mapping of names to texts") from error
    if isinstance(spec.class_names, str):
        raise ParameterError(
            f"class_names are the text {spec.class_names!r:.100}; give a list with one name for each class"
        )
    valid = dataclasses.replace(
        spec,
        run_id=validate_run_id(spec.run_id),
        num_samples=to_integer(spec.num_samples, "num_samples", 1),
        class_names=None if spec.class_names is None else tuple(map(str, spec.class_names)),
        selection=to_options(spec.selection),
        tags=tags,
        **integers,
    )
    check_fields(valid)
    valid.check_class_names()
    valid.selection.validate_for_run()
    return valid


def to_json(value: Any) -> Any:
    """Convert a scalar, array, tensor, path, mapping or other collection to a JSON value."""
    if value is None or isinstance(value, str | bool | int | float):
        return value.item() if isinstance(value, np.generic) else value
    if hasattr(value, "tolist"):  # numpy, torch, pandas
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): to_json(part) for name, part in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return [to_json(part) for part in value]
    raise ParameterError(f"{value!r:.100} cannot be sent as JSON; give numbers, texts, lists or mappings")


def _pack(bits: Any, name: str, n_samples: int) -> Bitmap:
    """Return packed bits as they are, and pack a mask of shape (n_samples,); `name` is theirs in error messages."""
    array = to_array(bits, name)
    return array if array.dtype == np.uint8 else bitmap.pack(to_mask(array, name, n_samples))
