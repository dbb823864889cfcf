"""Selection from a file of correctness bits, the work of ``mild select``."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client import RoundFit
from mild_core import bitmap
from mild_core.audit import Annotations, Audit, evaluate_selection
from mild_core.bitmap import Bitmap
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from mild_trainer.clean_set import CleanSet
from mild_trainer.data import files
from mild_trainer.errors import DataError

_REMEDY = "save an array `correct` of 0 and 1, shape (n_epochs, n_samples), as .npy, or with `observed` in an .npz"


_PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def select_from_file(
    path: Path, options: SelectionOptions, plot: Path | None = None
) -> tuple[dict[str, Any], CleanSet]:
    """Select the clean set from a ``.npy`` or ``.npz`` file; return the selection as in the HTTP API, and the set.

    Parameters
    ----------
    path
        File with an array ``correct`` of shape (n_epochs, n_samples). An ``.npz`` may add ``observed`` of the same
        shape, and arrays of shape (n_samples,): ``planted``, the mask of the labels made wrong on purpose; ``labels``,
        the given labels, which options by class need; and ``clean``, the true labels or the mask of the right labels,
        to measure the clean set. Labels that were checked one by one are in ``audit_index`` and ``audit_clean``, of
        shape (n_checked,), and ``audit_random`` says which of them were drawn uniformly: one boolean for all, or one
        for each.
    options
        How the clean set is chosen.
    plot
        File for a plot of histogram, components and threshold; None draws no plot.

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
    labels = _read_labels(path, arrays, correct.shape[1])
    audit = _read_audit(path, arrays, correct.shape[1])
    selection = select([bits], options, Annotations(labels if options.needs_labels else None, audit))
    answer = {**selection.summary(), "indices": selection.indices.tolist()}
    clean = _read_clean(path, arrays, correct.shape[1])
    if clean is not None:
        truth = Audit(clean.size, bitmap.full(clean.size), bitmap.pack(clean))
        measured = evaluate_selection(selection.bitmap, selection.scores, truth).summary()
        answer["measured"] = {**measured, "basis": "the true labels of all samples"}
    elif audit is not None:
        answer["measured"] = evaluate_selection(selection.audited_bitmap, selection.scores, audit).summary()
    fit = RoundFit.from_selection(selection)
    if plot is not None and fit is not None:
        from mild_trainer.report.figures import (
            save_histogram,  # matplotlib takes longer to load than all of this to run
        )

        save_histogram(fit, answer, plot)
    return answer, CleanSet.from_selection(selection, labels=None if labels is None else labels.tolist())


def _check_bits(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a matrix of 0 and 1 as booleans; raise DataError if it is another array."""
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biu" or array.max() > 1 or array.min() < 0:
        raise DataError(f"{path}: {name} is {array.dtype} of shape {array.shape}; {_REMEDY}")
    return array.astype(bool)


def _read_planted(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> Bitmap | None:
    """Return the bitmap, shape (n_bytes,), of the samples with planted labels; None if the file has none."""
    if "planted" not in arrays:
        return None
    array = arrays["planted"]
    if array.shape != (n_samples,) or array.dtype.kind not in "biu" or array.max() > 1 or array.min() < 0:
        raise DataError(
            f"{path}: planted is {array.dtype} of shape {array.shape} for {n_samples} samples; give a 0 or 1 each"
        )
    return bitmap.pack(array.astype(bool))


def _read_labels(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> NDArray[np.integer] | None:
    """Return the given labels, shape (n_samples,); None if the file has none."""
    labels = arrays.get("labels")
    if labels is not None and (labels.shape != (n_samples,) or labels.dtype.kind not in "iu"):
        raise DataError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape} for {n_samples} samples; give an integer each"
        )
    return labels


def _read_audit(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> Audit | None:
    """Return the checked labels, and which of them were drawn at random; None if the file has none."""
    index, clean, drawn = (arrays.get(f"audit_{name}") for name in ("index", "clean", "random"))
    if index is None and clean is None and drawn is None:
        return None
    if index is None or clean is None:
        missing = "audit_index" if index is None else "audit_clean"
        raise DataError(
            f"{path} has no {missing}; an audit needs audit_index (the checked samples) and audit_clean (for each of "
            "them, whether its given label is right)"
        )
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise DataError(
            f"{path}: audit_index is {index.dtype} of shape {index.shape}; give the checked samples as integers in "
            f"0..{n_samples - 1}, one dimension"
        )
    drawn = np.zeros(1, dtype=bool) if drawn is None else drawn
    for name, array in (("audit_clean", clean), ("audit_random", drawn)):
        is_single = name == "audit_random" and array.size == 1
        is_valid = array.shape == index.shape or is_single
        if not is_valid or array.dtype.kind not in "biu" or (array.size and (array.max() > 1 or array.min() < 0)):
            one_for_all = ", or one for all of them" if name == "audit_random" else ""
            raise DataError(
                f"{path}: {name} is {array.dtype} of shape {array.shape} for {index.size} checked samples; give a 0 or "
                f"1 for each{one_for_all}"
            )
    is_drawn = bool(drawn.item()) if drawn.size == 1 else drawn.astype(bool).tolist()
    return Audit.from_marks(index.tolist(), clean.astype(bool).tolist(), n_samples, random=is_drawn)


def _read_clean(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> NDArray[np.bool_] | None:
    """Return the mask of the right labels, shape (n_samples,); None if the file has no ``clean``.

    The array ``clean`` is the mask itself, or the true labels, which are compared with ``labels``.
    """
    clean, labels = arrays.get("clean"), arrays.get("labels")
    if clean is None:
        return None
    for name, array in (("clean", clean), ("labels", labels)):
        if array is not None and array.shape != (n_samples,):
            raise DataError(f"{path}: {name} has shape {array.shape} for {n_samples} samples; give one entry each")
    if clean.dtype == bool:
        return clean
    return np.asarray(clean == (1 if labels is None else labels), dtype=bool)
