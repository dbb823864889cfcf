"""WebVision 1.0 (Li et al. 2017, arXiv 1708.02862): images of the web, labelled by the query that found them.

Below the folder: ``info/train_filelist_google.txt`` and ``info/val_filelist.txt``, lines of a path and a class;
``info/synsets.txt``, a line a class; training images below the folder itself, validation images in
``val_images_256/``. `--classes 50` is the usual mini version: the first 50 classes, of Google alone.
"""

from pathlib import Path

from mild_trainer.data import files, pictures
from mild_trainer.data.dataset import Dataset
from mild_trainer.data.wanted import Wanted
from mild_trainer.errors import DataError

_REMEDY = "unpack WebVision 1.0 there: info/, google/ and val_images_256/"
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
    x_train, y_train = pictures.read(train, (size, size))
    x_test, y_test = pictures.read(test, (size, size))
    return Dataset("webvision", x_train, y_train, x_test, y_test, len(classes))


def _lines(path: Path) -> list[str]:
    try:
        text = files.read(path, _REMEDY).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error}); {_REMEDY}") from None
    return [line for line in text.splitlines() if line.strip()]


def _listed(path: Path, below: Path, renumbered: dict[int, int]) -> list[tuple[Path, int]]:
    """The images of a list with their new classes, those of other classes left out."""
    found = []
    for number, line in enumerate(_lines(path), start=1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"{path}: line {number} is {line!r}, no path and class; {_REMEDY}")
        if int(label) in renumbered:
            found.append((below / name, renumbered[int(label)]))
    if not found:
        raise DataError(f"{path} lists no image of the classes asked for; {_REMEDY}")
    return found
