"""Reading of array files with helpful errors, and the memory that is free for arrays."""

import gzip
import io
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import get_reason
from mild_trainer.errors import DataError

# The globals in pickles of arrays and numbers, under the names of old and new numpy.
_ALLOWED_GLOBALS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("_codecs", "encode"): str.encode,
}

# First bytes of a .npy file and of an .npz file (a zip archive, which may be empty).
_MAGIC = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")


def find_separator(text: str) -> str:
    """Return what separates the columns of a CSV, by its first line: a comma, or what spreadsheets write for it."""
    return max(",;\t", key=text.partition("\n")[0].count)


def check_folder(data_dir: Path | None, dataset: str) -> Path:
    """Return `data_dir` after checking that it is a folder; `dataset` is the name of the data set in messages."""
    if data_dir is None:
        raise DataError(f"{dataset} is read from a folder and none was given; name it with --data-dir")
    if not data_dir.is_dir():
        fault = "is not a folder" if data_dir.exists() else "does not exist"
        raise DataError(f"{data_dir} {fault}; give the folder that holds {dataset}")
    return data_dir


def read_file(path: Path, remedy: str) -> bytes:
    """Return the content of a file, decompressed if its name ends in ``.gz``.

    Parameters
    ----------
    path
        The file.
    remedy
        Last part of the error message, which says where to get the file.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {remedy}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({get_reason(error)}); {remedy}") from error


def read_arrays(path: Path, remedy: str, array_name: str = "array") -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name, or the array of an ``.npy`` file under `array_name`.

    Parameters
    ----------
    path
        The file.
    remedy
        Last part of the error message, which says where to get the file.
    array_name
        Name for the array of an ``.npy`` file.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; {remedy}")
    try:
        with path.open("rb") as file:  # numpy does not close a damaged file that it has opened
            if not file.read(6).startswith(_MAGIC):
                raise DataError(f"{path} is no .npy or .npz; {remedy}")
            file.seek(0)
            _check_memory(path)
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {array_name: content}
            return {name: _read_member(path, content, name) for name in content}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {remedy}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({get_reason(error)}); {remedy}") from error


def _read_member(path: Path, archive: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Return an array of an ``.npz``; raise DataError where it holds Python objects, which only pickle could read."""
    try:
        return archive[name]
    except ValueError as error:
        if not str(error).startswith("Object arrays"):
            raise
        raise DataError(
            f"{path}: {name} holds Python objects, which are not read; save names as {name}.astype(str), a sparse "
            f"matrix as {name}.toarray(), and rows with the same length each"
        ) from error


def _check_memory(path: Path) -> None:
    """Raise DataError if the arrays of a file take more memory than is free."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        n_bytes = sum(member.file_size for member in archive.infolist())
    if n_bytes > (free := measure_free_bytes()):
        raise DataError(
            f"{path} holds arrays of {n_bytes:,} bytes, and {free:,.0f} bytes of memory are free; save them in a "
            "smaller type, or fewer samples"
        )


def read_torch_arrays(path: Path, remedy: str, array_name: str | None = None) -> dict[str, Any]:
    """Return the dictionary of arrays in a file that ``torch.save`` wrote.

    Parameters
    ----------
    path
        The file.
    remedy
        Last part of the error message, which says where to get the file.
    array_name
        Name for a list, an array or a tensor that is not in a dictionary; None refuses such a file.
    """
    import torch

    allowed: list[Any] = [(value, f"{module}.{name}") for (module, name), value in _ALLOWED_GLOBALS.items()]
    dtypes: set[Any] = {type(np.dtype(kind)) for kind in "bBhHiIlLqQ"}
    try:
        with torch.serialization.safe_globals([*allowed, *dtypes]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error
    if array_name is not None and isinstance(content, (list, np.ndarray, torch.Tensor)):
        content = {array_name: content}
    return _require_dictionary(path, content, remedy)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that loads only arrays and plain values, so that a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function `name` of `module` if it is allowed; raise UnpicklingError if not."""
        if (module, name) not in _ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays and plain values are loaded")
        return _ALLOWED_GLOBALS[module, name]


def read_pickle(path: Path, remedy: str) -> dict[bytes, Any]:
    """Return the dictionary in a pickle file of CIFAR.

    Parameters
    ----------
    path
        The file.
    remedy
        Last part of the error message, which says where to get the file.
    """
    raw = read_file(path, remedy)
    try:
        content = _ArrayUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    return _require_dictionary(path, content, remedy)


def _require_dictionary(path: Path, content: object, remedy: str) -> dict[Any, Any]:
    """Return the content of a file if it is a dictionary; raise DataError if not."""
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__} where a dictionary belongs; {remedy}")
    return content


_MEMORY_FACTS = Path("/proc/meminfo")


def measure_free_bytes() -> float:
    """Return the bytes that can be had without swapping; infinity where the system does not say."""
    try:
        lines = _MEMORY_FACTS.read_text().splitlines()
    except OSError:
        return inf
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), inf)
