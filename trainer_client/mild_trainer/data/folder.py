"""Image folders: ``train/<class>/*.png`` and ``test/<class>/*.png`` (or ``val/``)."""

from collections.abc import Sequence
from pathlib import Path

from mild_trainer.data import files, pictures
from mild_trainer.data.dataset import Dataset
from mild_trainer.data.wanted import Wanted
from mild_trainer.errors import DataError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})
_REMEDY = "lay it out as train/<class>/<image> and test/<class>/<image> (or val/), with the same classes in both"


def load_folder(data_dir: Path | None, wanted: Wanted) -> Dataset:
    """Read every image of the wanted classes; all are brought to one size, that of the first, and to colour.

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
    classes = [classes[place] for place in wanted.of(classes)]
    train = _paths(root / "train", classes)
    test = _paths(root / held_out, classes)
    size = (wanted.size, wanted.size) if wanted.size else pictures.size_of(train[0][0])
    x_train, y_train = pictures.read(train, size)
    x_test, y_test = pictures.read(test, size)
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
