"""Selection from a file of correctness bits, for ``mild select``."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client import RoundFit
from mild_core import bitmap
from mild_core.audit import Annotations, Audit, evaluate
from mild_core.bitmap import Bitmap
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from mild_trainer.data import files
from mild_trainer.errors import DataError

_REMEDY = "save an array `correct` of 0 and 1, shape (n_epochs, n_samples), as .npy, or with `observed` in an .npz"


_PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def select_from_file(path: Path, options: SelectionOptions, plot: Path | None = None) -> dict[str, Any]:
    """Return the selection from a ``.npy`` or ``.npz`` file, as in the HTTP API, with its indices.

    Parameters
    ----------
    path
        An array ``correct`` of shape (n_epochs, n_samples); an ``.npz`` may add ``observed`` of the same shape,
        ``planted`` (a mask of the labels broken on purpose), and ``labels`` with ``clean`` (true labels or a mask) to
        measure the set against; `labels` are also what fits and floors per class go by.
    options
        How the clean set is chosen.
    plot
        File for a plot of histogram, components and cut; None draws none.

    Raises
    ------
    DataError
        If the file is absent or damaged, an array has another shape or other values than 0 and 1, or the plot's
        suffix is not supported.
    """
    if plot is not None and plot.suffix not in _PLOT_SUFFIXES:
        raise DataError(
            f"the picture {plot} ends in {plot.suffix!r}; give a file that ends in {', '.join(_PLOT_SUFFIXES)}"
        )
    arrays = files.read_arrays(path, _REMEDY, array_name="correct")
    if "correct" not in arrays:
        raise DataError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'} and no `correct`; {_REMEDY}")
    correct = _check_bits(path, "correct", arrays["correct"])
    observed = _check_bits(path, "observed", arrays["observed"]) if "observed" in arrays else None
    if observed is not None and observed.shape != correct.shape:
        raise DataError(f"{path}: observed is {observed.shape}, correct is {correct.shape}; give both the same shape")
    bits = RoundBits(
        n_samples=correct.shape[1],
        correct=bitmap.pack(correct if observed is None else correct & observed),
        observed=None if observed is None else bitmap.pack(observed),
        planted=_read_planted(path, arrays, correct.shape[1]),
    )
    labels = _read_labels(path, arrays, correct.shape[1]) if options.by_class else None
    selection = select([bits], options, Annotations(labels))
    answer = {**selection.summary(), "indices": selection.indices.tolist()}
    clean = _read_clean(path, arrays, correct.shape[1])
    if clean is not None:
        audit = Audit(clean.size, bitmap.full(clean.size), bitmap.pack(clean))
        answer["measured"] = evaluate(selection.bitmap, selection.scores, audit).summary()
    fit = RoundFit.from_selection(selection)
    if plot is not None and fit is not None:
        from mild_trainer.report.figures import (
            save_histogram,  # matplotlib takes longer to load than all of this to run
        )

        save_histogram(fit, answer, plot)
    return answer


def _check_bits(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.bool_]:
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biu" or array.max() > 1 or array.min() < 0:
        raise DataError(f"{path}: {name} is {array.dtype} of shape {array.shape}; {_REMEDY}")
    return array.astype(bool)


def _read_planted(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> Bitmap | None:
    """Return the samples whose labels were broken on purpose, shape (n_bytes,)."""
    if "planted" not in arrays:
        return None
    array = arrays["planted"]
    if array.shape != (n_samples,) or array.dtype.kind not in "biu" or array.max() > 1 or array.min() < 0:
        raise DataError(
            f"{path}: planted is {array.dtype} of shape {array.shape} for {n_samples} samples; give a 0 or 1 each"
        )
    return bitmap.pack(array.astype(bool))


def _read_labels(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> NDArray[np.integer] | None:
    """Return the given labels, shape (n_samples,)."""
    labels = arrays.get("labels")
    if labels is not None and (labels.shape != (n_samples,) or labels.dtype.kind not in "iu"):
        raise DataError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape} for {n_samples} samples; give an integer each"
        )
    return labels


def _read_clean(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> NDArray[np.bool_] | None:
    """Return the mask of right labels: from `clean` as a mask, or as true labels to compare with `labels`."""
    clean, labels = arrays.get("clean"), arrays.get("labels")
    if clean is None:
        return None
    for name, array in (("clean", clean), ("labels", labels)):
        if array is not None and array.shape != (n_samples,):
            raise DataError(f"{path}: {name} has shape {array.shape} for {n_samples} samples; give one entry each")
    if clean.dtype == bool:
        return clean
    return np.asarray(clean == (1 if labels is None else labels), dtype=bool)
