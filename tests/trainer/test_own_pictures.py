"""A folder of own pictures, some in the wrong class, becomes a clean set and a review with paths and names."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mild_trainer import cli
from tests.trainer.drawings import SHAPES, write_drawings


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.mark.slow
def test_wrong_pictures_of_a_folder_are_found_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = SHAPES[:4]
    is_right = write_drawings(tmp_path / "shapes", 240, 0.3, seed=5, side=24, names=names)
    (tmp_path / "shapes" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "shapes" / "ring" / "notes.txt").write_text("")
    trained = CliRunner().invoke(cli.app, ["train", "--data-dir", "shapes", "--local", "--rounds", "2"])
    assert trained.exit_code == 0, trained.output
    first_lines = trained.output.splitlines()[:4]
    assert first_lines[0].startswith("shapes: 240 training and no test images of 24x24x3, 4 classes: circle ")
    assert first_lines[1:3] == [
        "shapes: skipped 1 files that are no pictures: 1 of .txt",
        "shapes: skipped 1 hidden or system files and folders",
    ]
    assert first_lines[3].startswith("resnet8 on cpu, 1 thread: up to 2 rounds of 50 epochs, batches of 16; ")
    rows = read(tmp_path / "runs" / "train" / "clean.csv")
    assert {row["id"] for row in rows} == set(is_right)
    assert all(row["label"] == row["id"].partition("/")[0] for row in rows)
    kept = {row["id"] for row in rows if row["kept"] == "true"}
    right = {path for path, each in is_right.items() if each}
    assert 2 * len(kept & right) / (len(kept) + len(right)) > 0.9
    reviewed = CliRunner().invoke(cli.app, ["review", "runs/train", "--limit", "40"])
    assert reviewed.exit_code == 0, reviewed.output
    suspicious = read(tmp_path / "review.csv")
    assert sum(not is_right[row["id"]] for row in suspicious) > 36
    assert {row["label"] for row in suspicious} <= set(names)
    assert [row["index"] for row in suspicious] != sorted((row["index"] for row in suspicious), key=int)
    page = (tmp_path / "runs" / "train" / "report.html").read_text()
    assert page.count("<img alt='sample") == 50
    assert suspicious[0]["id"] in page
