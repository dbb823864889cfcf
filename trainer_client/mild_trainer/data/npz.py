"""The ``npz`` and ``features`` data sets: images, or vectors, and labels as arrays of one file, under usual names."""

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mild_trainer.data import class_labels, feature_arrays, files, pixels
from mild_trainer.data.class_labels import ClassFilter
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_FEATURES = ("features", "embeddings", "train_features", "train_embeddings")
_TEST_FEATURES = ("test_features", "test_embeddings", "features_test", "embeddings_test")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "x_train": (
        "x_train",
        "train_x",
        "train_images",
        "images_train",
        "train_data",
        "x",
        "images",
        "data",
        *_FEATURES,
    ),
    "y_train": (
        "y_train",
        "train_y",
        "train_labels",
        "labels_train",
        "y",
        "labels",
        "label",
        "targets",
        "target",
    ),
    "x_test": (
        "x_test",
        "test_x",
        "test_images",
        "images_test",
        "test_data",
        "x_val",
        "val_images",
        *_TEST_FEATURES,
    ),
    "y_test": ("y_test", "test_y", "test_labels", "labels_test", "y_val", "val_labels"),
    "y_train_clean": ("y_train_clean", "y_clean", "clean_labels", "true_labels", "y_true"),
    "ids": ("ids", "sample_ids", "paths", "filenames", "train_ids"),
    "class_names": ("class_names", "label_names", "classes"),
}
"""Names of each array, the preferred one first; upper and lower case are the same."""
_MAX_CHANNELS = 4


@dataclass(frozen=True, slots=True)
class _Format:
    """How the samples of a data set lie in the file.

    Attributes
    ----------
    dataset
        Name of the data set.
    first_names
        Names of arrays that go before the others of `_NAMES`.
    n_axes
        Numbers of axes that an array of samples may have whose name tells nothing.
    samples
        What arrays should hold the samples, for messages.
    convert
        Returns the samples by role, ``x_train`` and ``x_test``, of the arrays as read, and what was done, in sentences
        for people.
    """

    dataset: str
    first_names: tuple[str, ...]
    n_axes: tuple[int, ...]
    samples: str
    convert: "Callable[[Path, Mapping[str, _Raw]], tuple[dict[str, NDArray[Any]], list[str]]]"

    @property
    def remedy(self) -> str:
        """What a file should hold, as the last part of a message."""
        return (
            "save x_train, y_train (and x_test, y_test, and y_train_clean where known), "
            f"{self.samples} and a label for each"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Raw:
    """An array of samples as read, its name in the file, and the number of its labels."""

    name: str
    values: NDArray[Any]
    n_labels: int


def load_npz(path: Path | None, class_filter: ClassFilter) -> Dataset:
    """Load images from the arrays of an ``.npz`` file.

    Images of any numeric type become bytes, and channels may come first. Labels may be whole numbers, names, or
    one-hot. Test images, true labels (``y_train_clean``), ``ids`` and ``class_names`` are optional.
    """
    return _load(_IMAGES, path, class_filter)


def load_features(path: Path | None, class_filter: ClassFilter) -> Dataset:
    """Load features from the arrays of an ``.npz`` file: numbers of shape (n_samples, n_features).

    The other arrays are those of `load_npz`.
    """
    return _load(_VECTORS, path, class_filter)


def holds_features(path: Path) -> bool:
    """Return whether an ``.npz`` file holds floats of shape (n, n_features), and no images; False if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [_read_header(archive, name) for name in archive.namelist()]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False
    are_floats = any(n_axes == 2 and dtype.kind == "f" for n_axes, dtype in arrays)
    return are_floats and all(n_axes <= 2 for n_axes, _ in arrays)


def _read_header(archive: zipfile.ZipFile, name: str) -> tuple[int, np.dtype[Any]]:
    """Return the number of axes and the type of an array in an ``.npz`` file, without reading it."""
    with archive.open(name) as file:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    return len(shape), dtype


def _load(form: _Format, path: Path | None, class_filter: ClassFilter) -> Dataset:
    """Load a data set from the arrays of an ``.npz`` file."""
    if path is None:
        raise DataError(f"the {form.dataset} data set is read from a file and none was given; name it with --data-dir")
    arrays = files.read_arrays(path, _describe_remedy(form, path))
    roles, notes = _assign_roles(form, path, arrays)
    labels: dict[str, class_labels.RawLabels] = {
        role: class_labels.read_labels(str(path), roles[role], arrays[roles[role]])
        for role in ("y_train", "y_test", "y_train_clean")
        if role in roles
    }
    raw: dict[str, _Raw] = {
        role: _Raw(roles[role], arrays[roles[role]], len(labels[role.replace("x", "y")]))
        for role in ("x_train", "x_test")
        if role in roles
    }
    samples, sample_notes = form.convert(path, raw)
    x_train = samples["x_train"]
    no_test = np.empty((0, *x_train.shape[1:]), dtype=x_train.dtype)
    names = _read_texts(arrays, roles.get("class_names")) or []
    numbered = class_labels.number_classes(str(path), labels, names, renumber=class_filter.renumbers(form.dataset))
    none = np.empty(0, dtype=np.int64)
    return Dataset(
        name=path.stem,
        x_train=x_train,
        y_train=numbered.labels.get("y_train", none),
        x_test=samples.get("x_test", no_test),
        y_test=numbered.labels.get("y_test", none),
        n_classes=numbered.n_classes,
        y_train_clean=numbered.labels.get("y_train_clean"),
        class_names=numbered.class_names,
        sample_ids=_read_ids(path, arrays, roles.get("ids"), len(x_train)),
        notes=tuple(note for note in (*notes, *sample_notes, numbered.note) if note),
    )


def _describe_remedy(form: _Format, path: Path) -> str:
    """Return the last part of the messages about a file that is no ``.npz``, with the file that may have been meant."""
    if path.is_dir():
        candidates = sorted(path.glob("*.npz"))
        if candidates:
            return f"give --data-dir the file, such as {candidates[0]}"
        return "give --data-dir the .npz file, or take --dataset folder for a folder of pictures"
    return form.remedy


def _assign_roles(form: _Format, path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, str], list[str]]:
    """Return the name of the array for each role, and a note about those that are not read.

    Of two arrays those with other names are samples or labels if their shapes allow only that.
    """
    by_lower = {name.lower(): name for name in arrays}
    roles = {}
    for role, names in _NAMES.items():
        present = sorted(filter(by_lower.__contains__, names), key=lambda name: name not in form.first_names)
        if present:
            roles[role] = by_lower[present[0]]
    if len(arrays) == 2:
        samples, labels = sorted(arrays, key=lambda name: -arrays[name].ndim)
        by_shape = {"x_train": samples, "y_train": labels}
        is_certain = arrays[samples].ndim in form.n_axes and arrays[labels].ndim < arrays[samples].ndim
        if is_certain and roles.items() <= by_shape.items():
            roles = by_shape
    for samples, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        missing = [role for role in (samples, labels) if role not in roles]
        if samples == "x_test" and len(missing) == 2:
            continue  # a test set is optional
        if missing:
            there = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in sorted(arrays.items()))
            raise DataError(f"{path} lacks {' and '.join(missing)}, got {there or 'nothing'}; {form.remedy}")
    unread = sorted(set(arrays) - set(roles.values()))
    read = [f"{role} is {name}" for role, name in roles.items() if role != name]
    notes = [f"arrays: {', '.join(read)}"] if read else []
    return roles, [*notes, *([f"not read: {', '.join(unread)}"] if unread else [])]


def _convert_images(path: Path, raw: Mapping[str, _Raw]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return images as bytes of shape (n, height, width, n_channels), and what was done, for people."""
    arranged, notes = {}, []
    for role, array in raw.items():
        arranged[role], note = _arrange_axes(path, array)
        notes += [note] if note and note not in notes else []
    scaled, scale_text = pixels.scale_arrays(str(path), arranged.values())
    return dict(zip(arranged, scaled, strict=True)), [*notes, *([f"pixels: {scale_text}"] if scale_text else [])]


def _arrange_axes(path: Path, array: _Raw) -> tuple[NDArray[Any], str]:
    """Return images of shape (n, height, width, n_channels), and what was done to their axes, for people."""
    images, n_samples = array.values, array.n_labels
    where = f"{path}: {array.name}"
    note = ""
    if images.ndim in (3, 4) and len(images) != n_samples and images.shape[-1] == n_samples:
        images, note = np.moveaxis(images, -1, 0), "samples: the last axis of the images is that of the samples"
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[1] <= _MAX_CHANNELS < images.shape[3]:
        images = np.ascontiguousarray(np.moveaxis(images, 1, -1))
        note = "channels: first in the file (n, channels, height, width), and moved to the end"
    if images.ndim == 2:
        raise DataError(
            f"{where} is {images.dtype} of shape {images.shape}, one row of values for each sample; take --dataset "
            "features for features, and save pictures as (n, height, width[, channels]), as only their owner knows the "
            "order of the values"
        )
    if images.ndim != 4:
        raise DataError(f"{where} is {images.dtype} of shape {images.shape}; {_IMAGES.remedy}")
    if len(images) != n_samples:
        raise DataError(f"{where}: {len(images)} images have {n_samples} labels; give one each")
    return images, note


def _convert_features(path: Path, raw: Mapping[str, _Raw]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return features as they are stored in memory, and what was found, for people."""
    converted = {
        role: feature_arrays.read_features(f"{path}: {array.name}", array.values, array.n_labels)
        for role, array in raw.items()
    }
    return converted, feature_arrays.describe_constant(str(path), converted["x_train"])


_IMAGES = _Format("npz", (), (3, 4), "images as (n, height, width[, channels])", _convert_images)
_VECTORS = _Format(
    "features", (*_FEATURES, *_TEST_FEATURES), (2,), "features as floats of shape (n, n_features)", _convert_features
)


def _read_ids(
    path: Path, arrays: Mapping[str, NDArray[Any]], name: str | None, n_samples: int
) -> NDArray[np.str_] | None:
    """Return the id of each training sample; None without the array."""
    ids = _read_texts(arrays, name)
    if ids is None:
        return None
    if len(ids) != n_samples:
        raise DataError(f"{path}: {name} has {len(ids)} entries for {n_samples} training samples; give one each")
    if len(set(ids)) < len(ids):
        repeated = next(sample_id for sample_id, count in Counter(ids).items() if count > 1)
        raise DataError(f"{path}: {name} names {repeated!r} twice; give each training sample a name of its own")
    return np.array(ids, dtype=np.str_)


def _read_texts(arrays: Mapping[str, NDArray[Any]], name: str | None) -> Sequence[str] | None:
    """Return an array as texts; None without the array."""
    if name is None:
        return None
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in arrays[name].ravel().tolist()]
