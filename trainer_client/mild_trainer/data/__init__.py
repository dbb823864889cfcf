"""Loading of the trainer's data sets by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mild_trainer.data.class_filter import ClassFilter
from mild_trainer.data.dataset import Dataset, check_dataset
from mild_trainer.data.folder import load_folder, load_webvision
from mild_trainer.data.npz import load_npz
from mild_trainer.data.published import load_cifar10, load_cifar100, load_digits, load_mnist

__all__ = ["ClassFilter", "Dataset", "load"]

_LOADERS: Mapping[str, Callable[[Path | None, ClassFilter], Dataset]] = MappingProxyType(
    {
        "digits": lambda _, __: load_digits(),
        "cifar10": lambda data_dir, _: load_cifar10(data_dir),
        "cifar100": lambda data_dir, _: load_cifar100(data_dir),
        "mnist": load_mnist,
        "npz": load_npz,
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
