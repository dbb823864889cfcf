"""Reading files that may be absent or damaged, with errors that say so.

Images and labels in one ``.npz`` file.
"""

import gzip
import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

# All that CIFAR's pickles ask for, under the names of old and new numpy.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("_codecs", "encode"): str.encode,
}

# How a .npy and an .npz (a zip archive, an empty one included) begin.
_MAGIC = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")


def folder(data_dir: Path | None, dataset: str) -> Path:
    """Return `data_dir`.

    Raises
    ------
    DataError
        If it was not given or is no folder.
    """
    if data_dir is None:
        raise DataError(f"{dataset} is read from a folder and none was given; name it with --data-dir")
    if not data_dir.is_dir():
        raise DataError(f"{data_dir} is not a folder; give --data-dir the folder that holds {dataset}")
    return data_dir


def read(path: Path, remedy: str) -> bytes:
    """Return the contents of a file, unzipped where its name ends in ``.gz``.

    Raises
    ------
    DataError
        If it is absent or damaged; `remedy` says where to get it.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {remedy}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error


def read_arrays(path: Path, remedy: str, bare: str = "array") -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name, or that of an ``.npy`` file under the name `bare`.

    Raises
    ------
    DataError
        If the file is absent or damaged.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; {remedy}")
    try:
        with path.open("rb") as file:  # numpy leaves a damaged file open that it opened itself
            if not file.read(6).startswith(_MAGIC):
                raise DataError(f"{path} is no .npy or .npz; {remedy}")
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            return {bare: content} if isinstance(content, np.ndarray) else dict(content)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {remedy}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error


def torch_arrays(path: Path, remedy: str) -> dict[str, Any]:
    """Return the dictionary of arrays in a file that ``torch.save`` wrote.

    Raises
    ------
    DataError
        If it is damaged, or holds anything but arrays and plain values.
    """
    import torch

    allowed: list[Any] = [(value, f"{module}.{name}") for (module, name), value in _ALLOWED.items()]
    kinds: set[Any] = {type(np.dtype(kind)) for kind in "bBhHiIlLqQ"}
    try:
        with torch.serialization.safe_globals([*allowed, *kinds]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__} where a dictionary belongs; {remedy}")
    return content


class _ArraysOnly(pickle.Unpickler):
    """Builds arrays and plain values; a pickle that asks for anything else is refused before it can run."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle asks for, where it is harmless."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays and plain values are loaded")
        return _ALLOWED[module, name]


def unpickle(path: Path, remedy: str) -> dict[bytes, Any]:
    """Return the dictionary in one of CIFAR's pickles.

    Raises
    ------
    DataError
        If it is absent, damaged, or holds anything but arrays and plain values.
    """
    raw = read(path, remedy)
    try:
        content = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__} where a dictionary belongs; {remedy}")
    return content


_REMEDY = (
    "save x_train, y_train, x_test, y_test (and y_train_clean where known), "
    "images as uint8 (n, height, width[, channels]) and labels as integers from 0"
)


def load_npz(path: Path | None) -> Dataset:
    """Arrays ``x_train, y_train, x_test, y_test``, and ``y_train_clean`` where the truth is known.

    Raises
    ------
    DataError
        If the file is absent or damaged, or an array is missing or of another type.
    """
    if path is None:
        raise DataError("the npz data set is read from a file and none was given; name it with --data-dir")
    arrays = read_arrays(path, _REMEDY)
    missing = sorted({"x_train", "y_train", "x_test", "y_test"} - set(arrays))
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}, got {', '.join(sorted(arrays)) or 'nothing'}; {_REMEDY}")
    y_train, y_test = _labels(path, "y_train", arrays["y_train"]), _labels(path, "y_test", arrays["y_test"])
    clean = arrays.get("y_train_clean")
    return Dataset(
        name=path.stem,
        x_train=_images(arrays["x_train"]),
        y_train=y_train,
        x_test=_images(arrays["x_test"]),
        y_test=y_test,
        n_classes=int(max(y_train.max(initial=0), y_test.max(initial=0))) + 1,
        y_train_clean=None if clean is None else _labels(path, "y_train_clean", clean),
    )


def _images(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images[..., None] if images.ndim == 3 else images


def _labels(path: Path, name: str, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} is {labels.dtype} of shape {labels.shape}; {_REMEDY}")
    return labels.astype(np.int64)
