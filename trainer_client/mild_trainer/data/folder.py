"""Image folders: ``train/<class>/*.png`` and ``test/<class>/*.png`` (or ``val/``)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})
_REMEDY = "lay it out as train/<class>/<image> and test/<class>/<image> (or val/), with the same classes in both"


def load_folder(data_dir: Path | None) -> Dataset:
    """Read every image below `data_dir`; all are brought to the size of the first and to colour.

    Raises
    ------
    DataError
        If a folder or its images are missing, or an image cannot be read.
    """
    root = files.folder(data_dir, "the images")
    held_out = "test" if (root / "test").is_dir() or not (root / "val").is_dir() else "val"
    classes = _classes(root / "train")
    if _classes(root / held_out) != classes:
        raise DataError(
            f"{root}: train has the classes {_named(classes)}, "
            f"{held_out} has {_named(_classes(root / held_out))}; {_REMEDY}"
        )
    train = _paths(root / "train", classes)
    test = _paths(root / held_out, classes)
    size = _size(train[0][0])
    x_train, y_train = _read(train, size)
    x_test, y_test = _read(test, size)
    return Dataset(root.name, x_train, y_train, x_test, y_test, len(classes))


def _named(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def _classes(folder: Path) -> list[str]:
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not classes:
        raise DataError(f"{folder} holds no class folders; {_REMEDY}")
    return classes


def _paths(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Every image with its class, in a fixed order: a sample's index never changes."""
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))}); {_REMEDY}")
    return found


def _size(path: Path) -> tuple[int, int]:
    return _open(path, None).shape[1], _open(path, None).shape[0]


def _read(paths: Sequence[tuple[Path, int]], size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((len(paths), size[1], size[0], 3), dtype=np.uint8)
    for i, (path, _) in enumerate(paths):
        images[i] = _open(path, size)
    return images, np.array([label for _, label in paths], dtype=np.int64)


def _open(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            coloured = image.convert("RGB")
            return np.asarray(coloured if size is None else coloured.resize(size, Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
