import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.inspect.explain import explain_sample
from mild_core.selection import select
from mild_core.types import RoundBits
from mild_service.routes.samples import SampleView
from mild_service.routes.suggestions import SuggestionView
from mild_trainer.clean_set import COLUMNS, CleanSet, check_set_path
from mild_trainer.errors import DataError
from mild_trainer.recorded_bits import RecordedBits

KEPT = np.array([True, False, True])
SCORES = np.array([-3, 2.5, np.nan], dtype=np.float32)
PROBABILITY = np.array([0.0125, 1 - 1e-9, np.nan], dtype=np.float32)


def test_a_table_has_a_line_for_each_sample(tmp_path: Path) -> None:
    path = tmp_path / "clean.csv"
    marks = Audit.from_marks([1, 2], [False, True], 3)
    CleanSet(KEPT, SCORES, PROBABILITY, ["a,1", "b", "ü"], [0, 1, None], [None, 0, None], marks).write(path)
    assert path.read_bytes().decode() == (
        "index,id,label,suggested,score,noisy_posterior,kept,mark\n"
        '0,"a,1",0,,-3,0.0125,true,\n1,b,1,0,2.5,1,false,wrong\n2,ü,,,,,true,clean\n'
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["clean.csv"]


def test_the_columns_have_the_names_of_the_api() -> None:
    assert set(COLUMNS) - {"mark"} <= set(SampleView.model_fields)
    assert set(COLUMNS[:4]) <= set(SuggestionView.model_fields)


def test_the_docs_have_each_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text().split("## Files of samples")[1]
    assert tuple(re.findall(r"^\| `(\w+)` \|", text.split("\n## ")[0], re.MULTILINE)) == COLUMNS


def test_a_probability_is_given_only_where_the_fit_identifies_it(tmp_path: Path) -> None:
    learnt = np.arange(20)[:, None] >= np.where(np.arange(90) < 60, np.arange(90) % 7, 18)
    selection = select(learnt)
    for verdict in ("separable", "weak", "unimodal", "learning"):
        judged = replace(selection, verdict=verdict)
        RecordedBits([]).make_clean_set(judged).write(tmp_path / "clean.csv")
        with (tmp_path / "clean.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {bool(row["noisy_posterior"]) for row in rows} == {verdict == "separable"}
        assert all(row["score"] for row in rows)
        explained = explain_sample([RoundBits(90, bitmap.pack(learnt))], judged, 80)
        assert (explained.noisy_posterior is None) == ("likely mislabelled" not in explained.why)
        assert (explained.noisy_posterior is None) == (verdict != "separable")


def test_ids_that_are_paths_and_labels_that_are_names_are_written_as_such(tmp_path: Path) -> None:
    ids, labels = ["cat/1.png", "dog/1.png", "x\ny"], ["cat", "dog", "cat"]
    CleanSet(KEPT, SCORES, PROBABILITY, ids, labels).write(tmp_path / "clean.csv")
    with (tmp_path / "clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["cat/1.png", "dog/1.png", "x\ny"]
    assert [row["label"] for row in rows] == ["cat", "dog", "cat"]


def test_what_is_unknown_is_empty(tmp_path: Path) -> None:
    CleanSet(KEPT).write(tmp_path / "clean.csv")
    assert (tmp_path / "clean.csv").read_text().splitlines()[1:] == ["0,,,,,,true,", "1,,,,,,false,", "2,,,,,,true,"]


def test_a_table_of_many_samples_numbers_them_through(tmp_path: Path) -> None:
    n_samples = 70_000  # more than a block
    CleanSet(np.arange(n_samples) % 2 == 0, labels=range(n_samples)).write(tmp_path / "clean.csv")
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
