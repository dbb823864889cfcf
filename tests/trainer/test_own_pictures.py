"""A folder of own pictures, some in the wrong class, becomes a clean set and a review with paths and names."""

import csv
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from mild_client import MildClient
from mild_trainer import cli
from tests.live import serving
from tests.trainer.drawings import SHAPES, write_drawings


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_dashboard_names_pictures_and_classes(app: FastAPI, tmp_path: Path) -> None:
    write_drawings(tmp_path / "shapes", 60, 0.3, seed=5, side=16, names=SHAPES[:3])
    with serving(app) as url:
        arguments = ["--data-dir", str(tmp_path / "shapes"), "--url", url, "--run-id", "shapes", "--epochs", "2"]
        trained = CliRunner().invoke(cli.app, ["train", *arguments, "--rounds", "1", "--out", str(tmp_path / "out")])
        assert trained.exit_code == 0, trained.output
        rows = {row["index"]: row for row in read(tmp_path / "out" / "clean.csv")}
        with httpx.Client(base_url=url, headers={"Accept": "text/html"}) as browser:
            pages = {name: browser.get(f"/ui/runs/shapes/{name}").text for name in ("samples", "classes", "samples/7")}
            browser.post("/runs/shapes/audit/draw", json={"n": 5})
            pages["audit"] = browser.get("/ui/runs/shapes/audit").text
    first = re.findall(r'sample-name" href="[^"]*/samples/(\d+)[^>]*><span>([^<]*)</span>', pages["samples"])
    assert len(first) == 50
    assert all(rows[index]["id"] == name for index, name in first)
    labels = re.findall(r'data-label="Label">([^<]*)<', pages["samples"])
    assert labels == [rows[index]["label"] for index, _ in first]
    assert rows["7"]["id"] in pages["samples/7"]
    for page in (pages["samples/7"], pages["classes"], pages["audit"]):
        assert any(name in page for name in SHAPES[:3])
    drawn = re.findall(
        r'id="sample-(\d+)".*?answer-name"><b>([^<]*)</b>.*?Given label <b>([^<]*)</b>', pages["audit"], re.S
    )
    assert len(drawn) == 5
    assert all((rows[index]["id"], rows[index]["label"]) == (name, label) for index, name, label in drawn)


def test_ids_and_names_wait_in_the_spool(app: FastAPI, tmp_path: Path) -> None:
    write_drawings(tmp_path / "shapes", 30, 0.3, seed=5, side=16, names=SHAPES[:3])
    arguments = ["--data-dir", str(tmp_path / "shapes"), "--mode", "offline", "--run-id", "shapes", "--epochs", "1"]
    trained = CliRunner().invoke(cli.app, ["train", *arguments, "--rounds", "1", "--out", str(tmp_path / "out")])
    assert trained.exit_code == 0, trained.output
    with serving(app) as url:
        sent = CliRunner().invoke(cli.app, ["sync", str(tmp_path / "out"), "--url", url])
        assert sent.exit_code == 0, sent.output
        with MildClient(url) as client:
            assert client.sample_ids("shapes") == [row["id"] for row in read(tmp_path / "out" / "clean.csv")]
            assert client.get_run("shapes")["class_names"] == sorted(SHAPES[:3])


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
    assert page.count('<img alt="sample') == 50
    assert suspicious[0]["id"] in page
