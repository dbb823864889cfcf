"""Selection from a file of recorded predictions, the work of ``mild select``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client import RoundFit
from mild_core import bitmap
from mild_core.audit import Annotations, Audit, evaluate_selection
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from mild_core.wrong_predictions import ClassComparison, find_majority_classes
from mild_trainer.clean_set import CleanSet
from mild_trainer.data import files
from mild_trainer.data.class_labels import read_labels, split_names
from mild_trainer.data.label_files import read_label_file
from mild_trainer.errors import DataError
from mild_trainer.recorded_bits import FileSource, RecordedBits

_REMEDY = "save an array `correct` of 0 and 1, shape (n_epochs, n_samples), as .npy, or with `observed` in an .npz"
_PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_ARRAY_SUFFIXES = (".npy", ".npz")
_STATS_SUFFIXES = (".pkl", ".pickle")
_STATS_REMEDY = f"give a stats_dict of example forgetting ({{sample: [losses, accuracies, margins]}}), or {_REMEDY}"


def select_from_file(
    source: FileSource, options: SelectionOptions, plot: Path | None = None
) -> tuple[dict[str, Any], CleanSet, str]:
    """Select the clean set from a file of recorded predictions.

    Parameters
    ----------
    source
        An array file (`read_arrays`), a ``stats_dict`` of example forgetting, or a prediction log.
    options
        How the clean set is chosen.
    plot
        File for a plot of histogram, components and threshold; None draws no plot.

    Returns
    -------
    answer
        The selection as in the HTTP API.
    clean_set
        The set with what is known of each sample.
    description
        What was read, in one line; empty for arrays.
    """
    if plot is not None and plot.suffix.lower() not in _PLOT_SUFFIXES:
        raise DataError(
            f"the picture {plot} ends in {plot.suffix!r}; give a file that ends in {', '.join(_PLOT_SUFFIXES)}"
        )
    recorded = read_source(source)
    labels, audit = recorded.labels, recorded.audit
    if options.needs_labels and labels is not None and (labels < 0).any():
        raise DataError(
            f"{source.path}: sample {int(np.argmax(labels < 0))} has no label, which a cut by class needs; give all "
            "labels with --labels, or leave out --per-class and --min-keep-class"
        )
    selection = select(recorded.rounds, options, Annotations(labels if options.needs_labels else None, audit))
    answer = {**selection.summary(), "indices": selection.indices.tolist()}
    if recorded.ids is not None:
        answer["ids"] = [recorded.ids[index] for index in answer["indices"]]
    if recorded.clean is not None:
        truth = Audit(recorded.n_samples, bitmap.full(recorded.n_samples), bitmap.pack(recorded.clean))
        measured = evaluate_selection(selection.bitmap, selection.scores, truth).summary()
        answer["measured"] = {**measured, "basis": "the true labels of all samples"}
    elif audit is not None:
        answer["measured"] = evaluate_selection(selection.audited_bitmap, selection.scores, audit).summary()
    fit = RoundFit.from_selection(selection)
    if plot is not None and fit is not None:
        from mild_trainer.report.figures import save_histogram  # loads matplotlib, which takes longer than all of this

        save_histogram(fit, answer, plot)
    return answer, recorded.make_clean_set(selection), recorded.description


def read_source(source: FileSource) -> RecordedBits:
    """Read a file by its suffix."""
    path = source.path
    if path.suffix not in _ARRAY_SUFFIXES and not path.exists():
        raise DataError(f"{path} does not exist; give the path of a prediction log, or of a .npy or .npz of arrays")
    if path.suffix in (*_ARRAY_SUFFIXES, *_STATS_SUFFIXES):
        return read_arrays(source)
    try:
        from mild_trainer.prediction_logs import read_log
    except ImportError as error:
        raise DataError(
            f"{path} is no .npy or .npz, and logs are read by the service's code, which lacks {error.name}; install "
            f"mild-selection[service,formats], or {_REMEDY}"
        ) from None
    return read_log(source)


def read_arrays(source: FileSource) -> RecordedBits:
    """Read a ``.npy`` or ``.npz`` file with an array ``correct`` of shape (n_epochs, n_samples), or a ``stats_dict``.

    NaN in ``correct`` stands for a sample that was not observed. An ``.npz`` may have ``predicted``, the predicted
    classes, in place of ``correct``. It may add ``observed`` of the same shape, and arrays of shape (n_samples,):
    ``planted``, the mask of the labels made wrong on purpose; ``labels``, the given labels, which options by class
    need; and ``clean``, the true labels or the mask of the right labels, to measure the clean set. Labels that were
    checked one by one are in ``audit_index`` and ``audit_clean``, of shape (n_checked,), and ``audit_random`` says
    which of them were drawn uniformly: one boolean for all, or one for each.
    """
    path, description = source.path, ""
    if path.suffix in _STATS_SUFFIXES:
        (arrays, description), source = _read_forgetting_stats(path), replace(source, samples_first=False)
    else:
        arrays = files.read_arrays(path, _REMEDY, array_name="correct")
    arrays, class_names = _read_labels(source, arrays)
    name = "correct" if "correct" in arrays else "predicted"
    if name not in arrays:
        raise DataError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'} and no `correct`; {_REMEDY}")
    arrays = _orient_arrays(source, arrays, name)
    n_samples = arrays[name].shape[1]
    labels = _check_label_count(source, arrays.get("labels"), n_samples)
    predicted = None
    if name == "predicted":
        predicted = arrays["predicted"]
        if class_names:
            raise DataError(
                f"{path}: predicted are numbers, and labels are names such as {class_names[0]!r}; give both as numbers"
            )
        arrays["correct"] = _compare_predictions(path, predicted, labels)
    correct, observed = _check_bits(path, "correct", arrays["correct"])
    if "observed" in arrays:
        seen, _ = _check_bits(path, "observed", arrays["observed"])
        if seen.shape != correct.shape:
            raise DataError(f"{path}: observed is {seen.shape}, correct is {correct.shape}; give both the same shape")
        observed &= seen
    if (planted := arrays.get("planted")) is not None:
        _check_mask(path, "planted", planted, (n_samples,), f"{n_samples} samples")
    bits = RoundBits(
        n_samples=n_samples,
        correct=bitmap.pack(correct & observed),
        observed=None if observed.all() else bitmap.pack(observed),
        planted=None if planted is None else bitmap.pack(planted.astype(bool)),
    )
    return RecordedBits(
        [bits],
        labels,
        suggested=None if predicted is None else _count_predictions(predicted, correct, observed),
        audit=_read_audit(path, arrays, n_samples),
        class_names=class_names or None,
        clean=_read_clean(path, arrays, n_samples),
        description=description,
    )


def _read_labels(
    source: FileSource, arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Return the arrays with the labels as classes, -1 where unknown, and the names of the classes.

    With the file ``--labels``, an array that is no bits holds predicted classes.
    """
    if source.labels is None:
        if "labels" not in arrays:
            return arrays, ()
        labels, names = split_names(read_labels(str(source.path), "labels", arrays["labels"]))
        return {**arrays, "labels": labels}, names
    if "labels" in arrays:
        raise DataError(f"{source.path} has labels of its own; leave --labels out")
    array = arrays.get("correct")
    if source.path.suffix == ".npy" and array is not None:
        if array.size and array.dtype.kind in "iu" and array.max() > 1:
            arrays = {"predicted": array}
        else:
            raise DataError(
                f"{source.path} holds 0 and 1, which with --labels may be classes or bits; save it in an .npz as "
                "`predicted` or as `correct`"
            )
    labels, names = _read_label_file(source, source.labels)
    return {**arrays, "labels": labels}, names


def _read_label_file(source: FileSource, path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the classes in a file of labels by sample index, -1 where unknown, and the names of the classes."""
    file = read_label_file(str(path), source.columns)
    classes, names = split_names(file.labels)
    indices = file.find_indices()
    if file.samples is not None and indices is None:
        raise DataError(
            f"{file.path} names samples, such as {file.samples[0]!r} in {file.sample_column}, and {source.path} does "
            "not; give the labels by index, or in the order of the samples"
        )
    return file.order_by_index(classes, indices), names


def _check_label_count(
    source: FileSource, labels: NDArray[np.int64] | None, n_samples: int
) -> NDArray[np.int64] | None:
    """Return `labels` after checking that there is one for each sample."""
    if labels is not None and labels.size != n_samples:
        raise DataError(f"{source.labels or source.path}: {labels.size} labels for {n_samples} samples; give one each")
    return labels


def _orient_arrays(source: FileSource, arrays: dict[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays in the shape (n_epochs, n_samples); raise DataError if the axes may be the other way round."""
    array, path = arrays[name], source.path
    if array.ndim != 2:
        raise DataError(f"{path}: {name} is {array.dtype} of shape {array.shape}; {_REMEDY}")
    n_first, n_second = array.shape
    lengths = {arrays[other].shape[0] for other in ("labels", "planted", "clean") if arrays.get(other, array).ndim == 1}
    samples_first = source.samples_first
    if samples_first is None and n_first > n_second and lengths in ({n_first}, {n_second}):
        samples_first = lengths == {n_first}  # an array with an entry for each sample tells the axes apart
    if samples_first is None and n_first > n_second:
        raise DataError(
            f"{path}: {name} has shape {array.shape}, which is {n_first} epochs of {n_second} samples, and may be "
            f"{n_first} samples of {n_second} epochs; give --samples-first, or --epochs-first if it is right"
        )
    if not samples_first:
        return dict(arrays)
    return {other: values.T if other in (name, "observed") else values for other, values in arrays.items()}


def _compare_predictions(path: Path, predicted: NDArray[Any], labels: NDArray[np.integer] | None) -> NDArray[np.bool_]:
    """Return whether each predicted class is the given label, shape (n_epochs, n_samples)."""
    if labels is None:
        raise DataError(f"{path} holds `predicted` and no `labels`; add them, or give them with --labels")
    if predicted.dtype.kind not in "iu" or not predicted.size or predicted.min() < 0:
        raise DataError(f"{path}: predicted is {predicted.dtype}; give class numbers from 0, as integers")
    comparison = ClassComparison()
    comparison.add(predicted.ravel(), np.broadcast_to(labels, predicted.shape).ravel())
    if mismatch := comparison.describe_mismatch(is_whole=True):
        raise DataError(f"{path}: {mismatch}; number the classes of both alike")
    return np.asarray(predicted == labels, dtype=np.bool_)


def _count_predictions(
    predicted: NDArray[np.integer], correct: NDArray[np.bool_], observed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the class that was predicted most often, -1 where that is the given label; shape (n_samples,)."""
    wrong = np.where(observed & ~correct, predicted + 1, 0).astype(np.uint32)
    return find_majority_classes(wrong, (correct & observed).sum(axis=0)).suggested.astype(np.int64) - 1


def _check_bits(path: Path, name: str, array: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return a matrix of 0 and 1 as booleans, and where it is not NaN; raise DataError if it holds something else."""
    is_number = np.ones(array.shape, dtype=bool)
    if array.dtype.kind == "f":
        is_number = ~np.isnan(array)
        array = np.where(is_number, array, 0)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise DataError(f"{path}: {name} is {array.dtype} of shape {array.shape}; {_REMEDY}")
    return array.astype(bool), is_number


def _check_mask(path: Path, name: str, array: NDArray[Any], shape: tuple[int, ...], noun: str, more: str = "") -> None:
    """Raise DataError unless an array has this shape and holds integers or booleans, each 0 or 1.

    `noun` is what the array has an entry for, and `more` another remedy.
    """
    if array.shape != shape or array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise DataError(
            f"{path}: {name} is {array.dtype} of shape {array.shape} for {noun}; give a 0 or 1 for each{more}"
        )


def _read_audit(path: Path, arrays: dict[str, NDArray[Any]], n_samples: int) -> Audit | None:
    """Return the checked labels, and which of them were drawn at random; None if the file has none."""
    index, clean, drawn = (arrays.get(f"audit_{name}") for name in ("index", "clean", "random"))
    if index is None and clean is None and drawn is None:
        return None
    if index is None or clean is None:
        missing = "audit_index" if index is None else "audit_clean"
        raise DataError(
            f"{path} has no {missing}; give both audit_index (the checked samples) and audit_clean (for each of them, "
            "whether its given label is right)"
        )
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise DataError(
            f"{path}: audit_index is {index.dtype} of shape {index.shape}; give the checked samples as integers in "
            f"0..{n_samples - 1}, one dimension"
        )
    drawn = np.zeros(1, dtype=bool) if drawn is None else drawn
    noun, shape = f"{index.size} checked samples", drawn.shape if drawn.size == 1 else index.shape
    _check_mask(path, "audit_clean", clean, index.shape, noun)
    _check_mask(path, "audit_random", drawn, shape, noun, ", or one for all of them")
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


def _read_forgetting_stats(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the arrays of a ``stats_dict`` of example forgetting, and a line that describes them.

    The published training code (Toneva et al. 2019) pickles an entry for each training sample, by its index: lists of
    losses, accuracies (0 or 1) and margins, a value per epoch. The entries ``train`` and ``test`` describe whole data
    sets. A sample with fewer epochs is unobserved in later ones.
    """
    content: dict[Any, Any] = files.read_pickle(path, _STATS_REMEDY)
    accuracies = {
        key: _read_accuracies(path, key, value) for key, value in content.items() if not isinstance(key, str | bytes)
    }
    if not accuracies:
        raise DataError(f"{path} holds no entry of a sample; {_STATS_REMEDY}")
    n_samples, n_epochs = max(accuracies) + 1, max(map(len, accuracies.values()))
    if n_samples > 100 * len(accuracies):
        raise DataError(
            f"{path} has {len(accuracies)} samples with indices up to {n_samples - 1}; number the samples from 0"
        )
    correct, observed = np.zeros((2, n_epochs, n_samples), dtype=bool)
    for index, values in accuracies.items():
        correct[: len(values), index] = values
        observed[: len(values), index] = True
    arrays = {"correct": correct} if observed.all() else {"correct": correct, "observed": observed}
    return arrays, f"{path}: {len(accuracies):,} samples in {n_epochs} epochs"


def _read_accuracies(path: Path, key: Any, value: Any) -> Any:
    """Return the accuracies of a sample as booleans, shape (n_epochs,)."""
    if not isinstance(key, int | np.integer) or key < 0:
        raise DataError(f"{path} has the entry {key!r:.60}, which is no index of a sample; {_STATS_REMEDY}")
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise DataError(f"{path}: the entry of sample {key} is {value!r:.60}; {_STATS_REMEDY}")
    accuracies = np.asarray(value[1])
    if accuracies.ndim != 1 or accuracies.dtype.kind not in "biuf" or not np.isin(accuracies, (0, 1)).all():
        raise DataError(
            f"{path}: the accuracies of sample {key} are {value[1]!r:.60}, not 0 or 1 each; {_STATS_REMEDY}"
        )
    return accuracies.astype(bool)
