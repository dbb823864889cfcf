"""Prediction logs of ``mild select``, read by the service's own readers, from a file or from the files of a folder."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import numpy as np
import zstandard
from numpy.typing import NDArray

from mild_client import logs
from mild_core import bitmap
from mild_core.errors import MildError
from mild_core.types import RoundBits
from mild_core.wrong_predictions import find_majority_classes
from mild_service.ingest import (
    Batch,
    LogAccumulator,
    LogLimits,
    NewSampleResolver,
    check_indices,
    collect_rounds,
    open_reader,
)
from mild_service.ingest.log_options import ClassNames, LogOptions
from mild_service.ingest.sample_resolvers import SampleNameError
from mild_service.ingest.sandbox import Sandbox
from mild_trainer.data import files
from mild_trainer.errors import DataError
from mild_trainer.recorded_bits import COLUMNS_HINT, LABELS_HINT, FileSource, RecordedBits

_LIMITS = LogLimits(n_samples=2**27, n_rounds=256, n_epochs=65_535, n_records=2**40, record_bytes=2**25, n_cells=2**36)
"""Far beyond what a machine holds: the log is the user's own."""
_SANDBOX_BYTES, _SANDBOX_SECONDS = 2**36, 24 * 3600.0
_BLOCK_BYTES = 1024 * 1024
_AUM_RECORDS = "full_aum_records.csv"
_DYNAMICS = "dynamics_epoch_*.jsonl"
_LABEL_REMEDY = "give a .npy of one label per sample, or a .csv or .json of labels by sample"
_SAMPLE_COLUMNS = ("sample", "id", "index", "path", "guid")
"""Names of the column of samples in a file of labels."""


def read_log(source: FileSource) -> RecordedBits:
    """Read a prediction log.

    A record without an outcome stands for a sample that was not observed.

    Raises
    ------
    DataError
        If the log or the labels cannot be read, or contradict themselves or each other.
    """
    paths = find_log_files(source.path)
    class_names = ClassNames()
    resolver = NewSampleResolver(_LIMITS.n_samples, _LIMITS.n_samples, _LIMITS.n_cells, source.samples_by)
    labels = None if source.labels is None else read_labels(source.labels, source.columns, class_names, resolver)
    limits = replace(
        _LIMITS, resolver=resolver, options=LogOptions(source.columns, class_names, labels, skip_unobserved=True)
    )
    with closing(Sandbox(_SANDBOX_BYTES, _SANDBOX_SECONDS)) as sandbox:
        log = LogAccumulator(limits, infer_samples=True)
        n_unobserved, has_classes = _add_files(log, paths, sandbox)
        n_samples = max(log.n_samples, *(len(values) for values in (resolver.ids, labels) if values is not None), 1)
        if has_classes or n_samples != log.n_samples:
            # The arrays of classes, and samples without records, need the number of samples beforehand.
            log = LogAccumulator(replace(limits, n_samples=n_samples), keep_classes=True)
            _add_files(log, paths, sandbox)
    try:
        rounds = collect_rounds(log)
        if labels is None and source.samples_by is None and resolver.ids is None:
            check_indices(log)
    except MildError as error:
        raise _explain(source.path, error) from error
    suggested = _count_predictions(log, rounds) if has_classes else None
    return RecordedBits(
        rounds,
        labels=log.labels if labels is None and has_classes else labels,
        suggested=suggested,
        class_names=class_names.names,
        ids=resolver.ids,
        description=_describe(source.path, log, resolver, n_unobserved),
    )


def find_log_files(path: Path) -> list[Path]:
    """Return the files of a log, sorted by name: `path` itself, or the files in the folder `path`.

    Of a folder, AUM's records and Cartography's dynamics are taken alone. Otherwise all files belong to the log, except
    those whose names begin with ``_`` or ``.``, as in a folder that Spark wrote.

    Raises
    ------
    DataError
        If the folder has no files, or files of several formats.
    """
    if not path.is_dir():
        return [path]
    for folder in (path, path / "training_dynamics"):
        if (folder / _AUM_RECORDS).is_file():
            return [folder / _AUM_RECORDS]
        if dynamics := sorted(folder.glob(_DYNAMICS)):
            return dynamics
    parts = sorted(
        part for part in path.iterdir() if part.is_file() and part.name[0] not in "_." and part.stat().st_size
    )
    kinds = sorted({"".join(part.suffixes[-2:]) if part.suffix in (".gz", ".zst") else part.suffix for part in parts})
    if not parts:
        raise DataError(f"the folder {path} holds no log; give a file, or a folder of files such as Spark writes")
    if len(kinds) > 1:
        raise DataError(
            f"the folder {path} holds files that end in {', '.join(kinds)}; give one of its files, or a folder of one "
            "format"
        )
    return parts


def _add_files(log: LogAccumulator, paths: Sequence[Path], sandbox: Sandbox) -> tuple[int, bool]:
    """Add the records of all files to `log`; return how many had no outcome, and whether any had a class."""
    n_unobserved, has_classes = 0, False
    for path in paths:
        try:
            for batch in _read_batches(path, log.limits, sandbox):
                n_unobserved += batch.n_unobserved
                has_classes |= batch.labels is not None
                log.add_batch(batch)
        except MildError as error:
            raise _explain(path, error) from error
    return n_unobserved, has_classes


def _read_batches(path: Path, limits: LogLimits, sandbox: Sandbox) -> Iterator[Batch]:
    """Yield the records of one file."""
    media_type, encoding = logs.detect_format(path)
    with closing(open_reader(media_type, limits, sandbox)) as reader, path.open("rb") as file:
        try:
            with _open_decompressed(file, encoding) as content:
                while block := content.read(_BLOCK_BYTES):
                    yield from reader.feed(block)
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise DataError(
                f"it is not validly compressed ({error}); compress it again, or give it as it was"
            ) from error
        yield from reader.end()


def _open_decompressed(file: IO[bytes], encoding: str | None) -> IO[bytes]:
    if encoding == "gzip":
        return cast("IO[bytes]", gzip.open(file))
    if encoding == "zstd":
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file


def _count_predictions(log: LogAccumulator, rounds: Sequence[RoundBits]) -> NDArray[np.int64] | None:
    """Return the class that was predicted most often, -1 where that is the given label; shape (n_samples,).

    The result is None if the log has no predictions.
    """
    wrong = [log.get_wrong_predictions(key) for key in log.epoch_keys]
    predicted = [epoch.predicted for epoch in wrong if epoch is not None]
    if not predicted:
        return None
    n_correct = np.zeros(log.n_samples, dtype=np.int64)
    for bits in rounds:
        for row in bits.correct:
            n_correct += bitmap.unpack(row, log.n_samples)
    return find_majority_classes(np.stack(predicted), n_correct).suggested.astype(np.int64) - 1


def _describe(path: Path, log: LogAccumulator, resolver: NewSampleResolver, n_unobserved: int) -> str:
    """Describe in one line what was read, and what was left out."""
    named_by = "index" if resolver.ids is None else "id"
    parts = [
        f"{path}: {log.n_records:,} records of {log.n_samples:,} samples in {len(log.epoch_keys)} epochs,",
        f"with samples named by {named_by}",
    ]
    unobserved = f"; {n_unobserved:,} records without an outcome count as unobserved" if n_unobserved else ""
    return " ".join(parts) + unobserved


_SENT = "; correct it and send the whole log again, nothing of it was stored"
_HINTS = {
    "column label: it is missing next to predicted": LABELS_HINT,
    "no record has it": COLUMNS_HINT,
    "the header lacks it": COLUMNS_HINT,
    "it is missing": COLUMNS_HINT,
}
"""What helps with an error of the readers, by a part of its message."""


def _explain(path: Path, error: MildError) -> DataError:
    """Return an error of a reader as the error of a file, with the option that helps."""
    text = str(error).replace(_SENT, "")
    hint = next((hint for part, hint in _HINTS.items() if part in text), "")
    text = text.replace("send samples_by=", "give --samples-by ").replace("samples_by=", "--samples-by ")
    return DataError(f"{path}: {text}{hint}")


def read_labels(
    path: Path, columns: Mapping[str, str], class_names: ClassNames, resolver: NewSampleResolver
) -> NDArray[np.int64]:
    """Read the given labels of a log; shape (n_labels,), -1 where a label is unknown.

    Parameters
    ----------
    path
        A ``.npy`` or a text of one label per sample, or a ``.csv`` or ``.json`` of labels by sample.
    columns
        Columns of ``sample`` and ``label`` that have other names in a ``.csv``.
    class_names
        Maps names of classes to numbers.
    resolver
        Maps external ids to samples, if the labels are by id.

    Raises
    ------
    DataError
        If the file is absent or damaged, or the labels are neither all numbers nor all names.
    """
    names, labels = _read_label_file(path, columns)
    try:
        classes = _number_classes(labels, class_names)
        if names is None:
            return classes
        indices = _find_indices(names, resolver)
    except SampleNameError as error:
        raise DataError(f"{path}: entry {error.position + 1}: {error}") from error
    by_index = np.full(int(indices.max(initial=-1)) + 1, -1, dtype=np.int64)
    if np.unique(indices).size != indices.size:
        raise DataError(f"{path} names a sample twice; name each of its {indices.size} samples once")
    by_index[indices] = classes
    return by_index


def _read_label_file(path: Path, columns: Mapping[str, str]) -> tuple[list[str] | None, list[str]]:
    """Return the names of the samples, or None if the labels are in order, and the texts of the labels."""
    if path.suffix in (".npy", ".npz"):
        arrays = files.read_arrays(path, _LABEL_REMEDY, array_name="labels")
        array = arrays.get("labels", np.zeros(0, dtype=object))
        if array.ndim != 1 or array.dtype.kind not in "iuU" or not array.size:
            raise DataError(f"{path}: labels are {array.dtype} of shape {array.shape}; {_LABEL_REMEDY}")
        return None, [str(label) for label in array.tolist()]
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            content = json.loads(text)
            if isinstance(content, dict):
                return list(content), [str(label) for label in content.values()]
            if isinstance(content, list):
                return None, ["" if label is None else str(label) for label in content]
            raise ValueError("neither a list nor an object")
        return _read_label_table(path, text, columns)
    except FileNotFoundError:
        raise DataError(f"there are no labels {path}; {_LABEL_REMEDY}") from None
    except ValueError as error:
        raise DataError(f"{path} holds no labels ({error}); {_LABEL_REMEDY}") from error


def _read_label_table(path: Path, text: str, columns: Mapping[str, str]) -> tuple[list[str] | None, list[str]]:
    """Return the names and the labels of a CSV with a header, or of lines of one label each."""
    reader = csv.reader(text.splitlines(), delimiter=files.find_separator(text))
    rows = [[cell.strip() for cell in row] for row in reader if row]
    if not rows:
        raise DataError(f"{path} is empty; {_LABEL_REMEDY}")
    label_column = columns.get("label", "label")
    if label_column not in rows[0]:
        if any(len(row) > 1 for row in rows):
            raise DataError(
                f"{path} has no column {label_column!r}, got {', '.join(rows[0])}; name it with --columns label=NAME"
            )
        return None, [row[0] for row in rows]
    head, body = rows[0], rows[1:]
    if any(len(row) != len(head) for row in body):
        raise DataError(f"{path}: a row has more or fewer cells than the header's {len(head)}; {_LABEL_REMEDY}")
    candidates = [columns["sample"]] if "sample" in columns else [name for name in _SAMPLE_COLUMNS if name in head]
    labels = [row[head.index(label_column)] for row in body]
    if not candidates or candidates[0] not in head:
        return None, labels
    return [row[head.index(candidates[0])] for row in body], labels


def _number_classes(labels: Sequence[str], class_names: ClassNames) -> NDArray[np.int64]:
    """Return the class of each label, -1 for an empty one; shape (n_labels,)."""
    classes = np.full(len(labels), -1, dtype=np.int64)
    present = [position for position, label in enumerate(labels) if label]
    texts = [labels[position] for position in present]
    if all(map(_is_number, texts)):
        class_names.accept_numbers()
        classes[present] = [int(float(text)) for text in texts]
    else:
        classes[present] = class_names.resolve(texts)
    return classes


def _is_number(text: str) -> bool:
    return text.removesuffix(".0").isascii() and text.removesuffix(".0").isdigit()


def _find_indices(names: Sequence[str], resolver: NewSampleResolver) -> NDArray[np.int64]:
    """Return the index of each sample: the number itself if these are all numbers from 0 on, else that of the id."""
    if all(name.isascii() and name.isdigit() for name in names):
        numbers = np.array([int(name) for name in names], dtype=np.int64)
        if numbers.size and numbers.max() < 2 * numbers.size:
            return numbers
    return resolver.resolve(names)
