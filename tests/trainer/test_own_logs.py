"""A log to a clean.csv in one command, as pandas, polars, R, Spark, a spreadsheet and other tools write it."""

import csv
import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from mild_trainer import cli
from tests.trainer import written_logs as logs
from tests.trainer.written_logs import CLASSES, CORRECT, IDS, LABELS, N_CLEAN, N_SAMPLES, PREDICTED

COLUMNS = ["--columns", "sample=id,label=target"]
SUGGESTED = [(label + 1) % 3 for label in LABELS.tolist()]


def invoke(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(cli.app, ["select", *map(str, arguments)])


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def select(source: Path, *arguments: object) -> tuple[list[dict[str, str]], Result]:
    """The rows of the clean.csv, in which the clean samples are kept, and the others not."""
    out = source.parent / "clean.csv"
    result = invoke(source, *arguments, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    rows = read_rows(out)
    assert [row["kept"] for row in rows] == ["true"] * N_CLEAN + ["false"] * (N_SAMPLES - N_CLEAN)
    assert json.loads(result.stdout)["num_selected"] == N_CLEAN
    assert f"The clean set: {out}, a line for each of 90 samples, 60 of them kept" in result.stderr
    return rows, result


@pytest.mark.parametrize("write", logs.NAMED_LOGS.values(), ids=logs.NAMED_LOGS.keys())
def test_a_log_of_any_tool_becomes_a_clean_set(write: Callable[[Path], Path], tmp_path: Path) -> None:
    log = write(tmp_path)
    rows, _ = select(log, *COLUMNS)
    assert [row["id"] for row in rows] == IDS
    assert [row["label"] for row in rows] == [CLASSES[label] for label in LABELS]
    assert json.loads(invoke(log, *COLUMNS).stdout)["ids"] == IDS[:N_CLEAN]


@pytest.mark.parametrize("write", [logs.write_pandas_lines, logs.write_spark_csv, logs.write_polars_parquet])
def test_names_of_classes_are_suggested(write: Callable[[Path], Path], tmp_path: Path) -> None:
    rows, _ = select(write(tmp_path), *COLUMNS)
    assert [row["suggested"] for row in rows[N_CLEAN:]] == [CLASSES[label] for label in SUGGESTED[N_CLEAN:]]
    assert not any(row["suggested"] for row in rows[:N_CLEAN])


@pytest.mark.parametrize("write", [logs.write_pandas_csv, logs.write_pandas_parquet, logs.write_r_csv])
def test_records_without_an_outcome_are_counted(write: Callable[[Path], Path], tmp_path: Path) -> None:
    _, result = select(write(tmp_path), *COLUMNS)
    assert "1,799 records of 90 samples in 20 epochs, with samples named by id; 1 record" in result.stderr


@pytest.mark.parametrize("write", [logs.write_pandas_csv, logs.write_pandas_parquet])
def test_a_compressed_log_is_read_like_the_log(write: Callable[[Path], Path], tmp_path: Path) -> None:
    log = write(tmp_path)
    compressed = log.with_name(f"{log.name}.gz")
    compressed.write_bytes(gzip.compress(log.read_bytes()))
    assert select(compressed, *COLUMNS)[0] == select(log, *COLUMNS)[0]


@pytest.mark.parametrize("write", [logs.write_cartography, logs.write_aum])
def test_the_folder_of_another_tool_becomes_a_clean_set(write: Callable[[Path], Path], tmp_path: Path) -> None:
    rows, _ = select(write(tmp_path))
    assert [row["id"] for row in rows] == IDS
    assert [row["label"] for row in rows] == [str(label) for label in LABELS]
    suggested = [str(label) for label in SUGGESTED[N_CLEAN:]]
    assert [row["suggested"] for row in rows] == [""] * N_CLEAN + suggested


def test_a_compressed_log_of_several_parts_is_read_whole(tmp_path: Path) -> None:
    log = logs.write_pandas_csv(tmp_path)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(gzip.compress(b"".join(lines[i : i + 400])) for i in range(0, len(lines), 400)))
    rows, _ = select(log, *COLUMNS)
    assert [row["id"] for row in rows] == IDS


def test_forgetting_statistics_become_a_clean_set(tmp_path: Path) -> None:
    rows, result = select(logs.write_forgetting(tmp_path))
    assert [row["index"] for row in rows] == [str(index) for index in range(N_SAMPLES)]
    assert "__stats_dict.pkl: 90 samples in 20 epochs" in result.stderr


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this runs when it is unpickled",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({0: [[0.1], [Code()], [0.1]]}, "builtins.print, and only arrays and plain values are loaded"),
        ({"train": [[], [93.1]]}, "holds no entry of a sample"),
        ({0: [[0.1], [0.5], [0.1]]}, "the accuracies of sample 0 are [0.5], not 0 or 1 each"),
        ({0: 3}, "the entry of sample 0 is 3"),
        ({-1: [[0.1], [1], [0.1]]}, "has the entry -1, which is no index of a sample"),
        ({10**9: [[0.1], [1], [0.1]]}, "has 1 samples with indices up to 1000000000"),
        ([1, 2], "holds a list where a dictionary belongs"),
    ],
)
def test_a_pickle_that_is_no_such_statistics_is_refused(
    content: object, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stats_dict.pkl"
    path.write_bytes(pickle.dumps(content))
    result = invoke(path)
    assert (result.exit_code, capfd.readouterr().out) == (2, "")
    assert message in result.stderr
    assert "; " in result.stderr


def write_predictions(folder: Path, header: list[str]) -> Path:
    path = folder / "log.csv"
    path.write_text(logs.as_csv(header, [(epoch, name, predicted) for epoch, name, _, predicted in logs.NAMED]))
    return path


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_numbers_that_may_be_ids_are_refused_until_it_is_said(kind: str, tmp_path: Path) -> None:
    rows = [(epoch, 1000 + 7 * index, predicted, label) for epoch, index, label, predicted in logs.NUMBERED]
    names = ["epoch", "sample", "predicted", "label"]
    log = tmp_path / f"log.{kind}"
    lines = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    log.write_text(logs.as_csv(names, rows) if kind == "csv" else lines)
    refused = invoke(log)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "the log names 90 samples by numbers up to 1623, which may be ids or indices; give --samples-by ids, " in (
        refused.stderr
    )
    ids, _ = select(log, "--samples-by", "ids")
    assert [row["id"] for row in ids] == [str(1000 + 7 * index) for index in range(N_SAMPLES)]


LABEL_FILES = {
    "labels.csv": "id,target\n" + "".join(f"{name},{CLASSES[i % 3]}\n" for i, name in enumerate(IDS)),
    "turned.csv": "target;id\n" + "".join(f"{CLASSES[i % 3]};{IDS[i]}\n" for i in reversed(range(N_SAMPLES))),
    "labels.json": json.dumps({name: CLASSES[i % 3] for i, name in enumerate(IDS)}),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_predictions_alone_are_compared_with_labels_by_id(name: str, tmp_path: Path) -> None:
    labels = tmp_path / name
    labels.write_text(LABEL_FILES[name])
    out = tmp_path / "clean.csv"
    log = write_predictions(tmp_path, ["epoch", "id", "predicted"])
    result = invoke(log, "--columns", "sample=id,label=target", "--labels", labels, "--out", out)
    assert result.exit_code == 0, result.output
    assert {row["id"] for row in read_rows(out) if row["kept"] == "true"} == set(IDS[:N_CLEAN])
    assert {row["id"]: row["label"] for row in read_rows(out)} == {IDS[i]: CLASSES[i % 3] for i in range(N_SAMPLES)}


def write_npy(path: Path) -> None:
    np.save(path, LABELS)


def write_lines(path: Path) -> None:
    path.write_text("".join(f"{label}\n" for label in LABELS))


def write_list(path: Path) -> None:
    path.write_text(json.dumps(LABELS.tolist()))


@pytest.mark.parametrize(
    ("name", "write"), [("labels.npy", write_npy), ("labels.txt", write_lines), ("labels.json", write_list)]
)
def test_predictions_alone_are_compared_with_labels_in_order(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    log = tmp_path / "log.csv"
    log.write_text(logs.as_csv(["epoch", "sample", "predicted"], [(e, i, p) for e, i, _, p in logs.NUMBERED]))
    rows, _ = select(log, "--labels", tmp_path / name)
    assert [row["label"] for row in rows] == [str(label) for label in LABELS]


@pytest.mark.parametrize(
    ("arrays", "arguments"),
    [
        ({"correct": CORRECT.astype(float)}, []),
        ({"correct": np.where(np.eye(20, 90, dtype=bool), np.nan, CORRECT)}, []),
        ({"correct": CORRECT.T, "labels": LABELS}, []),
        ({"correct": CORRECT.T, "observed": np.ones_like(CORRECT.T)}, ["--samples-first"]),
        ({"predicted": PREDICTED, "labels": LABELS}, []),
    ],
    ids=["floats", "nan", "labels tell the axes", "samples first", "predictions"],
)
def test_an_array_that_is_clear_is_read(arrays: dict[str, NDArray[Any]], arguments: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "bits.npz", **arrays)  # type: ignore[arg-type]  # numpy: as if one were allow_pickle
    rows, _ = select(tmp_path / "bits.npz", *arguments)
    if "predicted" in arrays:
        assert [row["suggested"] for row in rows[N_CLEAN:]] == [str(label) for label in SUGGESTED[N_CLEAN:]]


def test_an_array_of_predictions_takes_labels_from_another_file(tmp_path: Path) -> None:
    np.save(tmp_path / "predicted.npy", PREDICTED)
    np.save(tmp_path / "labels.npy", LABELS)
    rows, _ = select(tmp_path / "predicted.npy", "--labels", tmp_path / "labels.npy")
    assert [row["label"] for row in rows] == [str(label) for label in LABELS]


def test_more_epochs_than_samples_may_be_turned_round_and_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bits.npy", CORRECT.T)
    result = invoke(tmp_path / "bits.npy")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "which is 90 epochs of 20 samples, and may be 90 samples of 20 epochs; give --samples-first" in result.stderr
    assert json.loads(invoke(tmp_path / "bits.npy", "--epochs-first").stdout)["num_samples"] == 20


def write_text(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return write


def write_mixture(folder: Path) -> Path:
    out = folder / "logs"
    out.mkdir()
    (out / "a.csv").write_text("epoch,sample,correct\n")
    (out / "b.parquet").write_bytes(b"PAR1")
    return out


def write_nothing(folder: Path) -> Path:
    (folder / "logs").mkdir()
    (folder / "logs" / "_SUCCESS").touch()
    return folder / "logs"


def write_half_compressed(folder: Path) -> Path:
    (folder / "log.csv.gz").write_bytes(gzip.compress(b"epoch,sample,correct\n0,0,1\n", mtime=0)[:-9])
    return folder / "log.csv.gz"


@pytest.mark.parametrize(
    ("write", "arguments", "message"),
    [
        (write_text("log.csv", "step,id,hit\n0,a,1\n"), [], "name the log's own columns with --columns"),
        (write_text("log.ndjson", '{"step": 0, "id": 3, "hit": 1}\n'), [], "name the log's own columns with --columns"),
        (write_text("log.csv", "epoch,sample,predicted\n0,0,1\n"), [], "give the labels in a file with --labels"),
        (write_text("log.csv", "epoch,sample,correct\n"), [], "the log has 0 records, at least 1 is needed"),
        (write_text("log.csv", "epoch,sample,correct\n0,0,maybe\n"), [], "line 2, column correct: got 'maybe'"),
        (write_half_compressed, [], "it is not validly compressed (Compressed file ended"),
        (write_text("aum_values.csv", "sample_id,aum\na,0.5\n"), [], "give full_aum_records.csv"),
        (write_text("log.json", '{"epoch":{"0":0}}'), [], "write it with to_json(orient='records', lines=True)"),
        (write_text("log.txt", "?"), [], "the extension of 'log.txt' is none of .json, "),
        (write_mixture, [], "holds files that end in .csv, .parquet; give one of its files"),
        (write_nothing, [], "holds no log; give a file, or a folder of files such as Spark writes"),
        (write_text("log.csv", ""), ["--columns", "id"], "--columns has 'id'; give FIELD=COLUMN with one of round, "),
        (write_text("log.csv", ""), ["--columns", "sample=a,label=a"], "--columns names a twice; name each once"),
        (
            write_text("log.csv", "epoch,sample,predicted\n0,0,1\n"),
            ["--labels", "no.csv"],
            "no.csv does not exist; give a .json, .npy",
        ),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_with_what_helps(
    write: Callable[[Path], Path], arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = invoke(write(tmp_path), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert not any(word in result.stderr for word in ("send the whole log", "Error(", "Traceback"))


@pytest.mark.parametrize(
    ("arguments", "n_samples"), [(["--samples-by", "ids"], 40), (["--samples-by", "indices"], 4080)]
)
def test_numbers_that_may_be_ids_or_indices_are_asked_about(
    arguments: list[str], n_samples: int, tmp_path: Path
) -> None:
    rows = [f"{epoch},{100 + 102 * sample + sample // 39},1\n" for epoch in range(3) for sample in range(40)]
    log = write_text("log.csv", "epoch,sample,correct\n" + "".join(rows))(tmp_path)
    refused = invoke(log)
    assert refused.exit_code == 2
    assert (
        "names 40 samples by numbers up to 4079, which may be ids or indices; give --samples-by ids" in refused.stderr
    )
    assert json.loads(invoke(log, *arguments).stdout)["num_samples"] == n_samples


ENCODINGS = {"labels from 1": LABELS + 1, "other classes": LABELS + 10}


@pytest.mark.parametrize("labels", ENCODINGS.values(), ids=ENCODINGS.keys())
def test_labels_of_another_numbering_than_the_predictions_are_refused(labels: NDArray[Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", predicted=PREDICTED, labels=labels)
    rows = [
        f"{epoch},{index},{PREDICTED[epoch, index]},{labels[index]}\n"
        for epoch in range(len(PREDICTED))
        for index in range(N_SAMPLES)
    ]
    (tmp_path / "log.tsv").write_text("epoch,sample,predicted,label\n".replace(",", "\t"))
    with (tmp_path / "log.tsv").open("a") as file:
        file.writelines(row.replace(",", "\t") for row in rows)
    for name in ("log.npz", "log.tsv"):
        result = invoke(tmp_path / name, "--out", tmp_path / "clean.csv")
        assert result.exit_code == 2
        assert f"{name}: the log has labels from" in result.stderr or f"{name}: none of the" in result.stderr
        assert not (tmp_path / "clean.csv").exists()


def test_samples_that_share_a_name_are_told_of(tmp_path: Path) -> None:
    rows = [
        f"{epoch},{index // 2},{int(CORRECT[epoch, index])}\n" for epoch in range(len(CORRECT)) for index in range(90)
    ]
    log = write_text("log.csv", "epoch,sample,correct\n" + "".join(rows))(tmp_path)
    assert f"; {45 * len(CORRECT):,} records name a sample again in its epoch" in " ".join(invoke(log).stderr.split())


@pytest.mark.parametrize("out", ["log.csv", "labels.csv", "logs/clean.csv"])
def test_a_set_replaces_nothing_that_it_is_made_from(out: str, tmp_path: Path) -> None:
    log = "epoch,sample,predicted\n0,0,1\n"
    (tmp_path / "logs").mkdir()
    for name in ("log.csv", "logs/part.csv"):
        write_text(name, log)(tmp_path)
    write_text("labels.csv", "sample,label\n0,1\n")(tmp_path)
    source = tmp_path / ("logs" if out.startswith("logs") else "log.csv")
    before = {path: path.read_text() for path in tmp_path.rglob("*.csv")}
    result = invoke(source, "--labels", tmp_path / "labels.csv", "--out", tmp_path / out)
    assert result.exit_code == 2
    assert "would replace or join what it is made from" in result.stderr
    assert {path: path.read_text() for path in tmp_path.rglob("*.csv")} == before


def test_suffixes_of_results_may_be_in_capitals(tmp_path: Path) -> None:
    np.save(tmp_path / "bits.npy", CORRECT)
    assert invoke(tmp_path / "bits.npy", "--out", tmp_path / "CLEAN.CSV").exit_code == 0
    assert invoke(tmp_path / "bits.npy", "--out", tmp_path / "CLEAN.NPY").exit_code == 0
    assert len(read_rows(tmp_path / "CLEAN.CSV")) == N_SAMPLES
    assert np.load(tmp_path / "CLEAN.NPY").tolist() == list(range(N_CLEAN))
