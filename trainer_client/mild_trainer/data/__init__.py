"""The data sets that the trainer reads, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mild_trainer.data.dataset import Dataset, check
from mild_trainer.data.files import load_npz
from mild_trainer.data.folder import Wanted, load_folder, load_webvision
from mild_trainer.data.published import load_cifar10, load_cifar100, load_digits, load_mnist

__all__ = ["Dataset", "Wanted", "load"]

_LOADERS: Mapping[str, Callable[[Path | None, Wanted], Dataset]] = MappingProxyType(
    {
        "digits": lambda _, __: load_digits(),
        "cifar10": lambda data_dir, _: load_cifar10(data_dir),
        "cifar100": lambda data_dir, _: load_cifar100(data_dir),
        "mnist": lambda data_dir, _: load_mnist(data_dir),
        "npz": lambda data_dir, _: load_npz(data_dir),
        "folder": load_folder,
        "webvision": load_webvision,
    }
)


def load(name: str, data_dir: Path | None = None, wanted: Wanted | None = None) -> Dataset:
    """Return the data set `name`, what is `wanted` of the folder or file `data_dir` where it needs one.

    Raises
    ------
    DataError
        If it is absent, damaged, or its parts do not belong together.
    """
    return check(_LOADERS[name](data_dir, wanted or Wanted()))
