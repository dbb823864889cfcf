"""Image folders: ``train/<class>/*.png`` and ``test/<class>/*.png`` (or ``val/``).

WebVision 1.0 (Li et al. 2017, arXiv 1708.02862): images of the web, labelled by the query that found them.

Below the folder: ``info/train_filelist_google.txt`` and ``info/val_filelist.txt``, lines of a path and a class;
``info/synsets.txt``, a line a class; training images below the folder itself, validation images in
``val_images_256/``. `--classes 50` is the usual mini version: the first 50 classes, of Google alone.

Image files as arrays.

What of a folder of images is wanted: which classes, and how large.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError


def size_of(path: Path) -> tuple[int, int]:
    """Return an image's width and height.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    image = _open(path, None)
    return image.shape[1], image.shape[0]


def read(paths: Sequence[tuple[Path, int]], size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images in colour, shape (n, height, width, 3), brought to `size` (width, height), and their classes.

    Raises
    ------
    DataError
        If one cannot be read.
    """
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """A choice of classes and a size.

    Attributes
    ----------
    classes
        ``all``; a number: so many classes from the first on; or a file whose lines' first words are their names.
    size
        Height and width that images are brought to; 0: those of the first image.
    """

    classes: str = "all"
    size: int = 0

    def of(self, names: Sequence[str]) -> list[int]:
        """Return the places of the classes wanted among `names`, in the order of the choice.

        Raises
        ------
        DataError
            If there are not as many, the file cannot be read, or it names an unknown class.
        """
        if self.classes == "all":
            return list(range(len(names)))
        if self.classes.isdecimal():
            n_wanted = int(self.classes)
            if not 1 <= n_wanted <= len(names):
                raise DataError(
                    f"--classes is {n_wanted}, and there are {len(names)}; give a number in 1..{len(names)}"
                )
            return list(range(n_wanted))
        path = Path(self.classes)
        try:
            chosen = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--classes {path} cannot be read ({error}); give a number or a list of classes") from None
        places = {name: i for i, name in enumerate(names)}
        unknown = [name for name in chosen if name not in places]
        if unknown or not chosen or len(set(chosen)) < len(chosen):
            said = f"names {unknown[0]!r}, which is no class here" if unknown else "names no class, or one twice"
            raise DataError(f"--classes {path} {said}; list names such as {names[0]!r}, each once")
        return [places[name] for name in chosen]


_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})
_FOLDER_REMEDY = "lay it out as train/<class>/<image> and test/<class>/<image> (or val/), with the same classes in both"


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
            f"{held_out} has {_named(_classes(root / held_out))}; {_FOLDER_REMEDY}"
        )
    classes = [classes[place] for place in wanted.of(classes)]
    train = _paths(root / "train", classes)
    test = _paths(root / held_out, classes)
    size = (wanted.size, wanted.size) if wanted.size else size_of(train[0][0])
    x_train, y_train = read(train, size)
    x_test, y_test = read(test, size)
    return Dataset(root.name, x_train, y_train, x_test, y_test, len(classes))


def _named(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def _classes(folder: Path) -> list[str]:
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not classes:
        raise DataError(f"{folder} holds no class folders; {_FOLDER_REMEDY}")
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
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))}); {_FOLDER_REMEDY}")
    return found


_WEBVISION_REMEDY = "unpack WebVision 1.0 there: info/, google/ and val_images_256/"
_SIZE = 128


def load_webvision(data_dir: Path | None, wanted: Wanted) -> Dataset:
    """Training images of Google's part, and the validation images for testing.

    Raises
    ------
    DataError
        If a list is missing or damaged, or an image cannot be read.
    """
    root = files.folder(data_dir, "webvision")
    names = _lines(root / "info" / "synsets.txt")
    classes = wanted.of([name.split()[0] for name in names])
    renumbered = {old: new for new, old in enumerate(classes)}
    train = _listed(root / "info" / "train_filelist_google.txt", root, renumbered)
    test = _listed(root / "info" / "val_filelist.txt", root / "val_images_256", renumbered)
    size = wanted.size or _SIZE
    x_train, y_train = read(train, (size, size))
    x_test, y_test = read(test, (size, size))
    return Dataset("webvision", x_train, y_train, x_test, y_test, len(classes))


def _lines(path: Path) -> list[str]:
    try:
        text = files.read(path, _WEBVISION_REMEDY).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error}); {_WEBVISION_REMEDY}") from None
    return [line for line in text.splitlines() if line.strip()]


def _listed(path: Path, below: Path, renumbered: dict[int, int]) -> list[tuple[Path, int]]:
    """The images of a list with their new classes, those of other classes left out."""
    found = []
    for number, line in enumerate(_lines(path), start=1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"{path}: line {number} is {line!r}, no path and class; {_WEBVISION_REMEDY}")
        if int(label) in renumbered:
            found.append((below / name, renumbered[int(label)]))
    if not found:
        raise DataError(f"{path} lists no image of the classes asked for; {_WEBVISION_REMEDY}")
    return found
