"""Loading of the trainer's data sets by name."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mild_trainer.data.class_labels import ClassFilter
from mild_trainer.data.dataset import Dataset, check_dataset
from mild_trainer.data.npz import holds_features, load_features, load_npz
from mild_trainer.data.published import load_cifar, load_digits, load_mnist
from mild_trainer.errors import DataError

if TYPE_CHECKING:
    from mild_trainer.data.pictures import ImageSource

__all__ = ["ClassFilter", "Dataset", "guess_dataset", "load", "open_images"]

_LOADERS: Mapping[str, Callable[[Path | None, ClassFilter], Dataset]] = {
    "digits": lambda _, __: load_digits(),
    "cifar10": lambda data_dir, _: load_cifar("cifar10", data_dir),
    "cifar100": lambda data_dir, _: load_cifar("cifar100", data_dir),
    "mnist": load_mnist,
    "npz": load_npz,
    "features": load_features,
    "folder": lambda data_dir, class_filter: open_images("folder", data_dir, class_filter).read(),
    "webvision": lambda data_dir, class_filter: open_images("webvision", data_dir, class_filter).read(),
}
_FIXED_CLASSES = ("digits", "cifar10", "cifar100")


def load(name: str, data_dir: Path | None = None, class_filter: ClassFilter | None = None) -> Dataset:
    """Load a data set by name, and check that it can be trained on.

    Parameters
    ----------
    name
        Name of the data set, such as ``cifar10``.
    data_dir
        Folder of its files, or the ``.npz`` file. Not used by ``digits``.
    class_filter
        Classes and image size to load, for folders of images; None takes all classes.

    Raises
    ------
    DataError
        If the data set is absent or damaged, or its arrays do not match.
    """
    class_filter = class_filter or ClassFilter()
    if name in _FIXED_CLASSES:
        class_filter.renumbers(name)
    return check_dataset(_LOADERS[name](data_dir, class_filter))


def open_images(name: str, data_dir: Path | None, class_filter: ClassFilter) -> "ImageSource":
    """Open a data set of images by name, to read them in batches.

    The parameters are those of `load`; the size of the filter is for folders of pictures alone.

    Raises
    ------
    DataError
        If the data set is absent or damaged, or holds no images.
    """
    from mild_trainer.data import folder, pictures  # Pillow takes long to import

    if name == "folder":
        return folder.open_folder(data_dir, class_filter)
    if name == "webvision":
        return folder.open_webvision(data_dir, class_filter)
    data = load(name, data_dir, replace(class_filter, size=0))
    if data.has_features:
        raise DataError(f"{data_dir} holds features already; train on them: mild train --data-dir {data_dir}")
    return pictures.ImageSource(data)


_MARKS: Mapping[str, str] = {
    "cifar-10-batches-py": "cifar10",
    "data_batch_1": "cifar10",
    "cifar-100-python": "cifar100",
    "train-images-idx3-ubyte": "mnist",
    "train-images-idx3-ubyte.gz": "mnist",
    "info/synsets.txt": "webvision",
}
"""Files and folders that tell which data set a folder holds."""


def guess_dataset(data_dir: Path | None) -> str:
    """Return the name of the data set in `data_dir`: a published one, an ``.npz`` file, or a folder of pictures.

    An ``.npz`` file may hold images or features. Without `data_dir`, return ``digits``, which need no files.
    """
    if data_dir is None:
        return "digits"
    if data_dir.suffix.lower() in (".npz", ".npy") and not data_dir.is_dir():
        return "features" if holds_features(data_dir) else "npz"
    return next((name for mark, name in _MARKS.items() if (data_dir / mark).exists()), "folder")
