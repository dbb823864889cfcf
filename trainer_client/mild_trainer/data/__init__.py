"""Loading of the trainer's data sets by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mild_trainer.data.class_filter import ClassFilter
from mild_trainer.data.dataset import Dataset, check_dataset
from mild_trainer.data.folder import load_folder, load_webvision
from mild_trainer.data.npz import load_features, load_npz
from mild_trainer.data.published import load_cifar10, load_cifar100, load_digits, load_mnist

__all__ = ["ClassFilter", "Dataset", "guess_dataset", "load"]

_LOADERS: Mapping[str, Callable[[Path | None, ClassFilter], Dataset]] = MappingProxyType(
    {
        "digits": lambda _, __: load_digits(),
        "cifar10": lambda data_dir, _: load_cifar10(data_dir),
        "cifar100": lambda data_dir, _: load_cifar100(data_dir),
        "mnist": load_mnist,
        "npz": load_npz,
        "features": load_features,
        "folder": load_folder,
        "webvision": load_webvision,
    }
)
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


_MARKS: Mapping[str, str] = MappingProxyType(
    {
        "cifar-10-batches-py": "cifar10",
        "data_batch_1": "cifar10",
        "cifar-100-python": "cifar100",
        "train-images-idx3-ubyte": "mnist",
        "train-images-idx3-ubyte.gz": "mnist",
        "info/synsets.txt": "webvision",
    }
)
"""Files and folders that tell which data set a folder holds."""


def guess_dataset(data_dir: Path | None) -> str:
    """Return the name of the data set in `data_dir`: a published one, an ``.npz`` file, or a folder of pictures.

    Without `data_dir`, return ``digits``, which need no files.
    """
    if data_dir is None:
        return "digits"
    if data_dir.suffix.lower() == ".npz" and not data_dir.is_dir():
        return "npz"
    return next((name for mark, name in _MARKS.items() if (data_dir / mark).exists()), "folder")
