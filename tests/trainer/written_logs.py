"""One prediction log as pandas, polars, R, Spark, spreadsheets and other tools write it."""

import csv
import io
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import feather, parquet

N_SAMPLES, N_EPOCHS, N_CLEAN = 90, 20, 60
CLASSES = ("cat", "dog", "owl")
IDS = [f"img_{index:03d}" for index in range(N_SAMPLES)]
LEARNT = np.where(np.arange(N_SAMPLES) < N_CLEAN, np.arange(N_SAMPLES) % 7, 18)
"""The epoch from which on each sample is predicted as labelled: the last 30 are mislabelled."""
LABELS = np.arange(N_SAMPLES) % 3
CORRECT = np.arange(N_EPOCHS)[:, None] >= LEARNT
PREDICTED = np.where(CORRECT, LABELS, (LABELS + 1) % 3)

Row = tuple[Any, ...]
NAMED = [
    (epoch, IDS[index], CLASSES[LABELS[index]], CLASSES[PREDICTED[epoch, index]])
    for epoch in range(N_EPOCHS)
    for index in range(N_SAMPLES)
]
"""Epoch, id, label and prediction of each record."""
BITS = [(epoch, name, label, label == predicted) for epoch, name, label, predicted in NAMED]
"""The same with whether the prediction was correct."""
NUMBERED = [
    (epoch, index, int(LABELS[index]), int(PREDICTED[epoch, index]))
    for epoch in range(N_EPOCHS)
    for index in range(N_SAMPLES)
]
"""The same with numbers for samples and classes."""


def as_csv(header: Sequence[str], rows: Sequence[Row], **dialect: Any) -> str:
    out = io.StringIO()
    csv.writer(out, **{"lineterminator": "\n", **dialect}).writerows([header, *rows])
    return out.getvalue()


def as_table(header: Sequence[str], rows: Sequence[Row]) -> Any:
    return pyarrow.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)))


def write_pandas_csv(folder: Path) -> Path:
    """`to_csv` with its index column, and a column of floats, since one value is missing."""
    path = folder / "log.csv"
    rows: list[Row] = [(i, epoch, name, label, float(bit)) for i, (epoch, name, label, bit) in enumerate(BITS)]
    rows[5] = (*rows[5][:-1], "")
    path.write_text(as_csv(["", "epoch", "id", "target", "correct"], rows))
    return path


def write_pandas_parquet(folder: Path) -> Path:
    """`to_parquet` of a table with an index of its own and a missing value."""
    path = folder / "log.parquet"
    table = as_table(["epoch", "id", "target", "correct"], BITS)
    floats = [None if i == 5 else float(bit) for i, (*_, bit) in enumerate(BITS)]
    table = table.set_column(3, "correct", pyarrow.array(floats))
    table = table.append_column("__index_level_0__", pyarrow.array(range(100, 100 + len(BITS))))
    metadata = {"index_columns": ["__index_level_0__"], "pandas_version": "2.3.0"}
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(metadata)}), path)
    return path


def write_pandas_lines(folder: Path) -> Path:
    """`to_json(orient="records", lines=True)`, to a file that ends in .json."""
    path = folder / "log.json"
    rows = ({"epoch": e, "id": name, "target": label, "predicted": predicted} for e, name, label, predicted in NAMED)
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    return path


def write_pandas_feather(folder: Path) -> Path:
    """`to_feather`: an Arrow file, compressed with LZ4."""
    path = folder / "log.feather"
    feather.write_feather(as_table(["epoch", "id", "target", "predicted"], NAMED), str(path))
    return path


def write_polars_csv(folder: Path) -> Path:
    """`write_csv`, with booleans in lower case."""
    path = folder / "log.csv"
    rows = [(epoch, name, label, "true" if bit else "false") for epoch, name, label, bit in BITS]
    path.write_text(as_csv(["epoch", "id", "target", "correct"], rows))
    return path


def write_polars_lines(folder: Path) -> Path:
    """`write_ndjson`."""
    path = folder / "log.ndjson"
    path.write_text(write_pandas_lines(folder).read_text())
    return path


def write_polars_parquet(folder: Path) -> Path:
    """`write_parquet` of categories: dictionaries of large strings."""
    path = folder / "log.parquet"
    table = as_table(["epoch", "id", "target", "predicted"], NAMED)
    for position, name in enumerate(table.column_names):
        if name != "epoch":
            column = table[name].cast(pyarrow.large_string()).combine_chunks().dictionary_encode()
            table = table.set_column(position, name, column)
    parquet.write_table(table, path, compression="zstd")
    return path


def write_r_csv(folder: Path) -> Path:
    """`write.csv`: quoted row names and texts, NA for a missing value, TRUE and FALSE."""
    path = folder / "log.csv"
    lines = ['"","epoch","id","target","correct"']
    for i, (epoch, name, label, bit) in enumerate(BITS):
        value = "NA" if i == 5 else "TRUE" if bit else "FALSE"
        lines.append(f'"{i + 1}",{epoch},"{name}","{label}",{value}')
    path.write_text("\n".join(lines) + "\n")
    return path


def _write_spark(folder: Path, suffix: str, write: Callable[[Path, list[Row]], object]) -> Path:
    """A folder of parts, of which one is empty, with checksums and the mark of success."""
    out = folder / f"log.{suffix.split('.')[-1]}"
    out.mkdir()
    for number, first in enumerate(range(0, len(NAMED), 700)):
        name = f"part-{number:05d}-6f1c3a5e-7d1f-4c5b-9a53-0d9a37d2a3b1-c000.{suffix}"
        write(out / name, NAMED[first : first + 700])
        (out / f".{name}.crc").write_bytes(b"crc\x00\x00\x00\x02\x00")
    (out / f"part-00009-6f1c3a5e-7d1f-4c5b-9a53-0d9a37d2a3b1-c000.{suffix}").touch()
    (out / "_SUCCESS").touch()
    (out / "._SUCCESS.crc").write_bytes(b"crc\x00\x00\x00\x02\x00")
    return out


def write_spark_csv(folder: Path) -> Path:
    """`df.write.option("header", True).csv`."""
    header = ["epoch", "id", "target", "predicted"]
    return _write_spark(folder, "csv", lambda path, rows: path.write_text(as_csv(header, rows)))


def write_spark_json(folder: Path) -> Path:
    """`df.write.json`: lines of JSON in files that end in .json."""

    def write(path: Path, rows: list[Row]) -> object:
        names = ("epoch", "id", "target", "predicted")
        lines = [json.dumps(dict(zip(names, row, strict=True)), separators=(",", ":")) for row in rows]
        return path.write_text("".join(f"{line}\n" for line in lines))

    return _write_spark(folder, "json", write)


def write_spark_parquet(folder: Path) -> Path:
    """`df.write.parquet`: 32-bit integers, compressed with Snappy."""

    def write(path: Path, rows: list[Row]) -> object:
        table = as_table(["epoch", "id", "target", "predicted"], rows)
        table = table.set_column(0, "epoch", table["epoch"].cast(pyarrow.int32()))
        return parquet.write_table(table, path, compression="snappy")

    return _write_spark(folder, "snappy.parquet", write)


def write_spreadsheet(folder: Path) -> Path:
    """CSV of a European spreadsheet: a byte order mark, semicolons, decimal commas and CRLF."""
    path = folder / "log.csv"
    rows = [(epoch, name, label, f"{bit:d},0") for epoch, name, label, bit in BITS]
    text = as_csv(["epoch", "id", "target", "correct"], rows, delimiter=";", lineterminator="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    return path


def write_cartography(folder: Path) -> Path:
    """The folder of Dataset Cartography: a file of JSON lines for each epoch, and guids that are texts."""
    out = folder / "model" / "training_dynamics"
    out.mkdir(parents=True)
    for epoch in range(N_EPOCHS):
        lines = []
        for index in range(N_SAMPLES):
            logits = [2.5 if PREDICTED[epoch, index] == label else -0.5 for label in range(3)]
            lines.append(json.dumps({"guid": IDS[index], f"logits_epoch_{epoch}": logits, "gold": int(LABELS[index])}))
        (out / f"dynamics_epoch_{epoch}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "model"


def write_aum(folder: Path) -> Path:
    """The folder of AUMCalculator(…, compressed=False)."""
    out = folder / "aum"
    out.mkdir()
    header = [
        "sample_id",
        "num_measurements",
        "target_logit",
        "target_val",
        "other_logit",
        "other_val",
        "margin",
        "aum",
    ]
    rows = []
    for index, name in enumerate(IDS):
        for epoch in range(N_EPOCHS):
            label, bit = int(LABELS[index]), CORRECT[epoch, index]
            rows.append((name, epoch + 1, label, 2.0, (label + 1) % 3, 1.0, 1.0 if bit else -1.0, 0.25))
    (out / "full_aum_records.csv").write_text(as_csv(header, rows))
    (out / "aum_values.csv").write_text("sample_id,aum\n" + "".join(f"{name},0.25\n" for name in IDS))
    return out


def write_forgetting(folder: Path) -> Path:
    """The pickle of example forgetting, whose keys are numbers of numpy, and which has entries of whole data sets."""
    path = folder / "cifar10_resnet18__stats_dict.pkl"
    stats: dict[Any, Any] = {
        np.int64(index): [[0.7] * N_EPOCHS, [int(bit) for bit in CORRECT[:, index]], [0.1] * N_EPOCHS]
        for index in range(N_SAMPLES)
    }
    path.write_bytes(pickle.dumps({**stats, "train": [[], [93.1]], "test": [[], [91.4]]}))
    return path


NAMED_LOGS: Mapping[str, Callable[[Path], Path]] = {
    "pandas to_csv": write_pandas_csv,
    "pandas to_parquet": write_pandas_parquet,
    "pandas to_json": write_pandas_lines,
    "pandas to_feather": write_pandas_feather,
    "polars write_csv": write_polars_csv,
    "polars write_ndjson": write_polars_lines,
    "polars write_parquet": write_polars_parquet,
    "R write.csv": write_r_csv,
    "Spark csv": write_spark_csv,
    "Spark json": write_spark_json,
    "Spark parquet": write_spark_parquet,
    "spreadsheet": write_spreadsheet,
}
"""Logs with the columns `id` and `target`, and with names of classes."""
