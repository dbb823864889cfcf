"""Data sets in folders of images: ``train/<class>/*.png`` with ``test/`` or ``val/``, and WebVision 1.0.

WebVision (Li et al. 2017, arXiv 1708.02862) has web images, labelled by the query that found them. In its folder,
``info/train_filelist_google.txt`` and ``info/val_filelist.txt`` have lines of a path and a class, and
``info/synsets.txt`` has one line for each class. The paths of training images begin in the folder itself, those of
validation images in ``val_images_256/``. `--classes 50` gives the usual mini version, the first 50 classes of Google's
images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import get_reason
from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError


def read_image_size(path: Path) -> tuple[int, int]:
    """Return the width and the height of an image.

    Raises
    ------
    DataError
        If the image cannot be read.
    """
    image = _read_image(path, None)
    return image.shape[1], image.shape[0]


def read_images(
    labelled_paths: Sequence[tuple[Path, int]], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read images as RGB in one size, and return them with their classes, shapes (n, height, width, 3) and (n,).

    Parameters
    ----------
    labelled_paths
        Path and class of each image.
    size
        Width and height that the images are resized to.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    images = np.empty((len(labelled_paths), size[1], size[0], 3), dtype=np.uint8)
    for i, (path, _) in enumerate(labelled_paths):
        images[i] = _read_image(path, size)
    return images, np.array([label for _, label in labelled_paths], dtype=np.int64)


def _read_image(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Read an image as RGB, resized to `size` (width, height) unless that is None."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            rgb_image = image.convert("RGB")
            return np.asarray(rgb_image if size is None else rgb_image.resize(size, Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image ({get_reason(error)}); replace or remove it") from error


@dataclass(frozen=True, slots=True)
class ClassFilter:
    """The classes to load from a folder of images, and the size of the images.

    Attributes
    ----------
    classes
        ``all``, the number of classes to take from the first on, or a file whose lines begin with the names of classes.
    size
        Height and width that images are resized to; 0 takes the default of the loader.
    """

    classes: str = "all"
    size: int = 0

    def select_indices(self, names: Sequence[str]) -> list[int]:
        """Return the positions of the selected classes in `names`, the names of all classes, in the order of `classes`.

        Raises
        ------
        DataError
            If `names` has fewer classes, the file cannot be read, or the file has an unknown class or repeats one.
        """
        if self.classes == "all":
            return list(range(len(names)))
        if self.classes.isdecimal():
            n_classes = int(self.classes)
            if not 1 <= n_classes <= len(names):
                raise DataError(
                    f"--classes is {n_classes}, and there are {len(names)}; give a number in 1..{len(names)}"
                )
            return list(range(n_classes))
        path = Path(self.classes)
        try:
            selected_names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"--classes {path} cannot be read ({get_reason(error)}); give a number or a list of classes"
            ) from None
        positions = {name: i for i, name in enumerate(names)}
        unknown = [name for name in selected_names if name not in positions]
        if unknown or not selected_names or len(set(selected_names)) < len(selected_names):
            problem = f"names {unknown[0]!r}, which is no class here" if unknown else "names no class, or one twice"
            raise DataError(f"--classes {path} {problem}; list names such as {names[0]!r}, each once")
        return [positions[name] for name in selected_names]


_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})
_FOLDER_REMEDY = "lay it out as train/<class>/<image> and test/<class>/<image> (or val/), with the same classes in both"


def load_folder(data_dir: Path | None, class_filter: ClassFilter) -> Dataset:
    """Load the selected classes of a folder of images, as RGB, in the size of the filter or of the first image.

    Raises
    ------
    DataError
        If a folder or its images are missing, or an image cannot be read.
    """
    root = files.check_folder(data_dir, "the images")
    test_folder = "test" if (root / "test").is_dir() or not (root / "val").is_dir() else "val"
    classes = _list_classes(root / "train")
    if _list_classes(root / test_folder) != classes:
        raise DataError(
            f"{root}: train has the classes {_format_names(classes)}, "
            f"{test_folder} has {_format_names(_list_classes(root / test_folder))}; {_FOLDER_REMEDY}"
        )
    classes = [classes[position] for position in class_filter.select_indices(classes)]
    train = _list_images(root / "train", classes)
    test = _list_images(root / test_folder, classes)
    size = (class_filter.size, class_filter.size) if class_filter.size else read_image_size(train[0][0])
    x_train, y_train = read_images(train, size)
    x_test, y_test = read_images(test, size)
    return Dataset(root.name, x_train, y_train, x_test, y_test, len(classes))


def _format_names(classes: Sequence[str]) -> str:
    """Return the names of at most five classes, and the number of the others."""
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def _list_classes(folder: Path) -> list[str]:
    """Return the names of the subfolders, sorted; raise DataError if there are none."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not classes:
        raise DataError(f"{folder} holds no class folders; {_FOLDER_REMEDY}")
    return classes


def _list_images(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return path and class of every image, in a fixed order, so that the index of a sample never changes."""
    images = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not images:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))}); {_FOLDER_REMEDY}")
    return images


_WEBVISION_REMEDY = "unpack WebVision 1.0 there: info/, google/ and val_images_256/"
_DEFAULT_SIZE = 128


def load_webvision(data_dir: Path | None, class_filter: ClassFilter) -> Dataset:
    """Load WebVision with the training images of Google, and its validation images as the test set.

    Raises
    ------
    DataError
        If a list is missing or damaged, or an image cannot be read.
    """
    root = files.check_folder(data_dir, "webvision")
    names = _read_lines(root / "info" / "synsets.txt")
    classes = class_filter.select_indices([name.split()[0] for name in names])
    new_labels = {old: new for new, old in enumerate(classes)}
    train = _read_image_list(root / "info" / "train_filelist_google.txt", root, new_labels)
    test = _read_image_list(root / "info" / "val_filelist.txt", root / "val_images_256", new_labels)
    size = class_filter.size or _DEFAULT_SIZE
    x_train, y_train = read_images(train, (size, size))
    x_test, y_test = read_images(test, (size, size))
    return Dataset("webvision", x_train, y_train, x_test, y_test, len(classes))


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank."""
    try:
        text = files.read_file(path, _WEBVISION_REMEDY).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error}); {_WEBVISION_REMEDY}") from None
    return [line for line in text.splitlines() if line.strip()]


def _read_image_list(path: Path, parent: Path, new_labels: dict[int, int]) -> list[tuple[Path, int]]:
    """Return path and new label of the images in a list whose class is a key of `new_labels`."""
    images = []
    for number, line in enumerate(_read_lines(path), start=1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"{path}: line {number} is {line!r}, no path and class; {_WEBVISION_REMEDY}")
        if int(label) in new_labels:
            images.append((parent / name, new_labels[int(label)]))
    if not images:
        raise DataError(f"{path} lists no image of the classes asked for; {_WEBVISION_REMEDY}")
    return images
