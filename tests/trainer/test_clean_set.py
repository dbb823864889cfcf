import csv
from pathlib import Path

import numpy as np
import pytest

from mild_core.selection import select
from mild_trainer.clean_set import CleanSet, check_set_path
from mild_trainer.errors import DataError
from mild_trainer.recorded_bits import RecordedBits

KEPT = np.array([True, False, True])
PROBABILITY = np.array([0.0125, 1 - 1e-9, np.nan], dtype=np.float32)


def test_a_table_has_a_line_for_each_sample(tmp_path: Path) -> None:
    path = tmp_path / "clean.csv"
    CleanSet(KEPT, PROBABILITY, ["a,1", "b", "ü"], [0, 1, None], [None, 0, None]).write(path)
    assert path.read_bytes().decode() == (
        'index,id,label,kept,probability,suggested_label\n0,"a,1",0,true,0.0125,\n1,b,1,false,1,0\n2,ü,,true,,\n'
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["clean.csv"]


def test_ids_that_are_paths_and_labels_that_are_names_are_written_as_such(tmp_path: Path) -> None:
    clean_set = CleanSet(KEPT, PROBABILITY, ["cat/1.png", "dog/1.png", "x\ny"], ["cat", "dog", "cat"], are_paths=True)
    clean_set.write(tmp_path / "clean.csv")
    with (tmp_path / "clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["cat/1.png", "dog/1.png", "x\ny"]
    assert [row["label"] for row in rows] == ["cat", "dog", "cat"]


def test_what_is_unknown_is_empty(tmp_path: Path) -> None:
    CleanSet(KEPT, PROBABILITY).write(tmp_path / "clean.csv")
    assert (tmp_path / "clean.csv").read_text().splitlines()[1:] == ["0,,,true,0.0125,", "1,,,false,1,", "2,,,true,,"]


def test_a_table_of_many_samples_numbers_them_through(tmp_path: Path) -> None:
    n_samples = 70_000  # more than a block
    CleanSet(np.arange(n_samples) % 2 == 0, np.zeros(n_samples), labels=range(n_samples)).write(tmp_path / "clean.csv")
    table = np.loadtxt(tmp_path / "clean.csv", delimiter=",", skiprows=1, usecols=(0, 2), dtype=np.int64)
    assert np.array_equal(table, np.stack([np.arange(n_samples)] * 2, axis=1))


def test_the_set_of_a_selection_is_written_as_indices(tmp_path: Path) -> None:
    selection = select(np.arange(20)[:, None] >= np.where(np.arange(90) < 60, np.arange(90) % 7, 18))
    clean_set = RecordedBits([]).make_clean_set(selection)
    clean_set.write(tmp_path / "clean.npy")
    assert np.load(tmp_path / "clean.npy").tolist() == selection.indices.tolist()
    assert clean_set.describe_file(Path("clean.npy")) == "The clean set: clean.npy, the indices of 60 of 90 samples"
    assert (
        clean_set.describe_file(Path("a.csv")) == "The clean set: a.csv, a line for each of 90 samples, 60 of them kept"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clean.txt", "ends in '.txt'; give a file that ends in .csv or .npy"),
        ("no/clean.csv", "does not exist; create "),
        ("folder.csv", "is a folder; give a file"),
    ],
)
def test_a_place_where_no_set_can_be_written_is_refused_before_the_work(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=message):
        check_set_path(tmp_path / name)
