"""The data sets that the trainer reads, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mild_trainer.data.cifar import load_cifar10, load_cifar100
from mild_trainer.data.dataset import Dataset, check
from mild_trainer.data.digits import load_digits
from mild_trainer.data.folder import load_folder
from mild_trainer.data.mnist import load_mnist
from mild_trainer.data.npz import load_npz

__all__ = ["Dataset", "load"]

_LOADERS: Mapping[str, Callable[[Path | None], Dataset]] = MappingProxyType(
    {
        "digits": lambda _: load_digits(),
        "cifar10": load_cifar10,
        "cifar100": load_cifar100,
        "mnist": load_mnist,
        "npz": load_npz,
        "folder": load_folder,
    }
)


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Return the data set `name`, read from the folder or file `data_dir` where it needs one.

    Raises
    ------
    DataError
        If it is absent, damaged, or its parts do not belong together.
    """
    return check(_LOADERS[name](data_dir))
