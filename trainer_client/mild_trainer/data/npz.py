"""The ``npz`` data set: images and labels as arrays of one file, under the names that people use."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import class_labels, files, pixels
from mild_trainer.data.class_filter import ClassFilter
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_REMEDY = (
    "save x_train, y_train (and x_test, y_test, and y_train_clean where known), "
    "images as (n, height, width[, channels]) and a label for each"
)
_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "x_train": ("x_train", "train_x", "train_images", "images_train", "train_data", "x", "images", "data"),
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
        "x_test": ("x_test", "test_x", "test_images", "images_test", "test_data", "x_val", "val_images"),
        "y_test": ("y_test", "test_y", "test_labels", "labels_test", "y_val", "val_labels"),
        "y_train_clean": ("y_train_clean", "y_clean", "clean_labels", "true_labels", "y_true"),
        "ids": ("ids", "sample_ids", "paths", "filenames", "train_ids"),
        "class_names": ("class_names", "label_names", "classes"),
    }
)
"""Names of each array, the preferred one first; upper and lower case are the same."""
_MAX_CHANNELS = 4


def load_npz(path: Path | None, class_filter: ClassFilter) -> Dataset:
    """Load a data set from the arrays of an ``.npz`` file.

    Images of any numeric type become bytes, and channels may come first. Labels may be whole numbers, names, or
    one-hot. Test images, true labels (``y_train_clean``), ``ids`` and ``class_names`` are optional.

    Raises
    ------
    DataError
        If `path` is None, the file is absent or damaged, an array is missing, or images or labels cannot be read in
        only one way.
    """
    if path is None:
        raise DataError("the npz data set is read from a file and none was given; name it with --data-dir")
    arrays = files.read_arrays(path, _describe_remedy(path))
    roles, notes = _assign_roles(path, arrays)
    labels: dict[str, class_labels.RawLabels] = {
        role: class_labels.read_labels(str(path), roles[role], arrays[roles[role]])
        for role in ("y_train", "y_test", "y_train_clean")
        if role in roles
    }
    raw_images = {}
    for role in ("x_train", "x_test"):
        if role in roles:
            images, note = _arrange_axes(path, roles[role], arrays[roles[role]], len(labels[role.replace("x", "y")]))
            raw_images[role] = images
            notes += [note] if note and note not in notes else []
    scaled, scale_text = pixels.scale_arrays(str(path), raw_images.values())
    images_by_role = dict(zip(raw_images, scaled, strict=True))
    x_train = images_by_role["x_train"]
    no_test = np.empty((0, *x_train.shape[1:]), dtype=np.uint8)
    names = _read_texts(arrays, roles.get("class_names")) or []
    numbered = class_labels.number_classes(str(path), labels, names, renumber=class_filter.renumbers("npz"))
    ids = _read_texts(arrays, roles.get("ids"))
    if ids is not None and len(ids) != len(x_train):
        raise DataError(
            f"{path}: {roles['ids']} has {len(ids)} entries for {len(x_train)} training samples; give one each"
        )
    if ids is not None and len(set(ids)) < len(ids):
        repeated = next(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(f"{path}: {roles['ids']} names {repeated!r} twice; give each training sample a name of its own")
    none = np.empty(0, dtype=np.int64)
    return Dataset(
        name=path.stem,
        x_train=x_train,
        y_train=numbered.labels.get("y_train", none),
        x_test=images_by_role.get("x_test", no_test),
        y_test=numbered.labels.get("y_test", none),
        n_classes=numbered.n_classes,
        y_train_clean=numbered.labels.get("y_train_clean"),
        class_names=numbered.class_names,
        sample_ids=None if ids is None else np.array(ids, dtype=np.str_),
        notes=tuple(note for note in (*notes, scale_text and f"pixels: {scale_text}", numbered.note) if note),
    )


def _describe_remedy(path: Path) -> str:
    """Return the last part of the messages about a file that is no ``.npz``, with the file that may have been meant."""
    if path.is_dir():
        candidates = sorted(path.glob("*.npz"))
        if candidates:
            return f"give --data-dir the file, such as {candidates[0]}"
        return "give --data-dir the .npz file, or take --dataset folder for a folder of pictures"
    return _REMEDY


def _assign_roles(path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, str], list[str]]:
    """Return the name of the array for each role, and a note about those that are not read.

    Two arrays of other names are images and labels if their shapes allow only that.
    """
    by_lower = {name.lower(): name for name in arrays}
    roles = {
        role: next(by_lower[name] for name in names if name in by_lower)
        for role, names in _NAMES.items()
        if any(name in by_lower for name in names)
    }
    if "x_train" not in roles and "y_train" not in roles and len(arrays) == 2:
        images, labels = sorted(arrays, key=lambda name: -arrays[name].ndim)
        if arrays[images].ndim in (3, 4) and arrays[labels].ndim in (1, 2):
            roles |= {"x_train": images, "y_train": labels}
    for images, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        missing = [role for role in (images, labels) if role not in roles]
        if images == "x_test" and len(missing) == 2:
            continue  # a test set is optional
        if missing:
            there = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in sorted(arrays.items()))
            raise DataError(f"{path} lacks {' and '.join(missing)}, got {there or 'nothing'}; {_REMEDY}")
    unread = sorted(set(arrays) - set(roles.values()))
    read = [f"{role} is {name}" for role, name in roles.items() if role != name]
    notes = [f"arrays: {', '.join(read)}"] if read else []
    return roles, [*notes, *([f"not read: {', '.join(unread)}"] if unread else [])]


def _arrange_axes(path: Path, name: str, images: NDArray[Any], n_samples: int) -> tuple[NDArray[Any], str]:
    """Return images of shape (n, height, width, n_channels), and what was done to their axes, for people.

    Raises
    ------
    DataError
        If the images have other axes than these, or their number is not that of the labels.
    """
    where = f"{path}: {name}"
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
            f"{where} is {images.dtype} of shape {images.shape}, one row of values for each sample; save it "
            "as (n, height, width[, channels]), as only its owner knows the order of the values"
        )
    if images.ndim != 4:
        raise DataError(f"{where} is {images.dtype} of shape {images.shape}; {_REMEDY}")
    if len(images) != n_samples:
        raise DataError(f"{where}: {len(images)} images have {n_samples} labels; give one each")
    return images, note


def _read_texts(arrays: Mapping[str, NDArray[Any]], name: str | None) -> Sequence[str] | None:
    """Return an array as texts; None without the array."""
    if name is None:
        return None
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in arrays[name].ravel().tolist()]
