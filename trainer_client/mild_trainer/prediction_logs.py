"""Prediction logs of ``mild select``, read by the service's own readers, from a file or from the files of a folder."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, cast

import numpy as np
import zstandard
from numpy.typing import NDArray

from mild_client import logs
from mild_core import bitmap
from mild_core.errors import MildError
from mild_core.types import RoundBits
from mild_core.wrong_predictions import find_majority_classes
from mild_service.errors import BadRecord
from mild_service.ingest import FORMATS, SANDBOXED, read_batches
from mild_service.ingest.accumulator import LogAccumulator, check_classes, check_indices, collect_rounds
from mild_service.ingest.columns import Batch, LogLimits, LogOptions
from mild_service.ingest.name_resolvers import ClassNames, NameResolutionError, NewSampleResolver
from mild_service.ingest.sandbox import Sandbox, write_block
from mild_trainer.data.class_labels import split_names
from mild_trainer.data.label_files import LabelFile, read_label_file
from mild_trainer.errors import DataError
from mild_trainer.recorded_bits import COLUMNS_HINT, LABELS_HINT, FileSource, RecordedBits

_LIMITS = LogLimits(n_samples=2**27, n_rounds=256, n_epochs=65_535, n_records=2**40, record_bytes=2**25, n_cells=2**36)
"""Far beyond what a machine holds: the log is the user's own."""
_SANDBOX_BYTES, _SANDBOX_SECONDS = 2**36, 24 * 3600.0
_BLOCK_BYTES = 1024 * 1024
_AUM_RECORDS = "full_aum_records.csv"
_DYNAMICS = "dynamics_epoch_*.jsonl"


def read_log(source: FileSource) -> RecordedBits:
    """Read a prediction log.

    A record without an outcome stands for a sample that was not observed.
    """
    paths = find_log_files(source.path)
    class_names = ClassNames()
    resolver = NewSampleResolver(_LIMITS.n_samples, _LIMITS.n_samples, _LIMITS.n_cells, source.samples_by)
    label_file = None if source.labels is None else read_label_file(str(source.labels), source.columns)

    def make_limits() -> LogLimits:
        labels = None if label_file is None else _index_labels(label_file, source, class_names, resolver)
        options = LogOptions(source.columns, class_names, labels, skip_unobserved=True)
        return replace(_LIMITS, resolver=resolver, options=options)

    limits = make_limits()
    with closing(Sandbox(_SANDBOX_BYTES, _SANDBOX_SECONDS)) as sandbox:
        log = LogAccumulator(limits, infer_samples=True)
        _add_files(log, paths, sandbox)
        class_names.sort()
        limits = make_limits()
        labels = limits.options.labels
        n_samples = max(log.n_samples, *(len(values) for values in (resolver.ids, labels) if values is not None), 1)
        if log.has_classes or n_samples != log.n_samples:
            # The arrays of classes, and samples without records, need the number of samples beforehand.
            log = LogAccumulator(replace(limits, n_samples=n_samples), keep_classes=True)
            _add_files(log, paths, sandbox)
    try:
        rounds = collect_rounds(log)
        check_classes(log, is_whole=True)
        if labels is None and source.samples_by is None and resolver.ids is None:
            check_indices(log)
    except MildError as error:
        raise _explain(source.path, error) from error
    return RecordedBits(
        rounds,
        labels=log.labels if labels is None else labels,
        suggested=_count_predictions(log, rounds) if log.comparison.n_records else None,
        class_names=class_names.names,
        ids=resolver.ids,
        description=_describe(source.path, log, resolver),
    )


def find_log_files(path: Path) -> list[Path]:
    """Return the files of a log, sorted by name: `path` itself, or the files in the folder `path`.

    Of a folder, AUM's records and Cartography's dynamics are taken alone. Otherwise all files belong to the log, except
    those whose names begin with ``_`` or ``.``, as in a folder that Spark wrote.
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


def _add_files(log: LogAccumulator, paths: Sequence[Path], sandbox: Sandbox) -> None:
    """Add the records of all files to `log`."""
    for path in paths:
        try:
            log.add_batches(_read_file(path, log.limits, sandbox))
        except MildError as error:
            raise _explain(path, error) from error


def _read_file(path: Path, limits: LogLimits, sandbox: Sandbox) -> Iterator[Batch]:
    """Yield the records of one file."""
    media_type, encoding = logs.detect_format(path)
    try:
        with (
            _open_decompressed(path, encoding, FORMATS[media_type] in SANDBOXED) as content,
            closing(read_batches(media_type, content, limits, sandbox)) as batches,
        ):
            yield from batches
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"it is not validly compressed ({error}); compress it again, or give it as it was") from error


@contextmanager
def _open_decompressed(path: Path, encoding: str | None, is_sandboxed: bool) -> Iterator[IO[bytes]]:
    """Context manager that opens the content of a file; what the sandbox reads is decompressed to a temporary file."""
    with path.open("rb") as file:
        content: IO[bytes] = file
        if encoding == "gzip":
            content = cast("IO[bytes]", gzip.GzipFile(fileobj=file))
        if encoding == "zstd":
            content = cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
        if encoding is None or not is_sandboxed:
            yield content
            return
        with SpooledTemporaryFile(_BLOCK_BYTES, prefix="mild-log-") as copy:
            while block := content.read(_BLOCK_BYTES):
                write_block(copy, block)
            yield copy


def _count_predictions(log: LogAccumulator, rounds: Sequence[RoundBits]) -> NDArray[np.int64]:
    """Return the class that was predicted most often, -1 where that is the given label; shape (n_samples,)."""
    wrong = [log.get_wrong_predictions(key) for key in log.epoch_keys]
    planes = [np.zeros(log.n_samples, dtype=np.uint8), *(epoch.predicted for epoch in wrong if epoch is not None)]
    n_correct = np.zeros(log.n_samples, dtype=np.int64)
    for bits in rounds:
        for row in bits.correct:
            n_correct += bitmap.unpack(row, log.n_samples)
    return find_majority_classes(np.stack(planes), n_correct).suggested.astype(np.int64) - 1


def _describe(path: Path, log: LogAccumulator, resolver: NewSampleResolver) -> str:
    """Describe in one line what was read, and what was left out."""
    named_by = "index" if resolver.ids is None else "id"
    parts = [
        f"{path}: {log.n_records:,} records of {log.n_samples:,} samples in {len(log.epoch_keys)} epochs,",
        f"with samples named by {named_by}",
    ]
    unobserved = f"; {log.n_unobserved:,} records without an outcome count as unobserved" if log.n_unobserved else ""
    n_repeated = log.n_records - log.count_outcomes()
    repeated = (
        f"; {n_repeated:,} records name a sample again in its epoch, which is right if any of its records is: check "
        "that no two samples share a name"
    )
    return " ".join(parts) + unobserved + (repeated if n_repeated else "")


_HINTS = {"label": LABELS_HINT, "field": COLUMNS_HINT}
"""What helps with a record, by what it lacks."""


def _explain(path: Path, error: MildError) -> DataError:
    """Return an error of a reader as the error of a file, with the option that helps."""
    text, hint = str(error).removesuffix(BadRecord.remedy), ""
    if isinstance(error, BadRecord) and error.missing is not None:
        hint = _HINTS[error.missing]
    text = text.replace("send samples_by=", "give --samples-by ").replace("samples_by=", "--samples-by ")
    return DataError(f"{path}: {text}{hint}")


def _index_labels(
    file: LabelFile, source: FileSource, class_names: ClassNames, resolver: NewSampleResolver
) -> NDArray[np.int64]:
    """Return the given labels by sample index, -1 where unknown; shape (n_samples,)."""
    try:
        classes, names = split_names(file.labels)
        if names:
            classes = class_names.resolve(names)[classes]
        else:
            class_names.accept_numbers()
        indices = None if source.samples_by == "ids" else file.find_indices()
        if file.samples is not None and indices is None:
            indices = resolver.resolve(file.samples)
        elif indices is not None and resolver.ids is not None:
            raise DataError(
                f"{file.path} names samples by index and {source.path} by id, such as {resolver.ids[0]!r}; give the "
                "labels by id, or --samples-by ids if the numbers are ids"
            )
    except NameResolutionError as error:
        raise DataError(f"{file.path}: entry {error.position + 1}: {error}") from error
    return file.order_by_index(classes, indices)
