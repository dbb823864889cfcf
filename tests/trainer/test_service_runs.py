import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from mild_client import MildClient, RunSpec
from mild_client.commands import format_command
from mild_trainer import cli
from tests.live import serving

N_SAMPLES = 90
LEARNT = np.where(np.arange(N_SAMPLES) < 60, np.arange(N_SAMPLES) % 7, 18)
"""The epoch from which on each sample is predicted as labelled; the last 30 are mislabelled."""


def records(names: list[str] | None = None) -> Iterator[dict[str, object]]:
    for epoch in range(20):
        for index in range(N_SAMPLES):
            predicted = index % 3 if epoch >= LEARNT[index] else (index + 1) % 3
            name = index if names is None else names[index]
            yield {"epoch": epoch, "sample": name, "predicted": predicted, "label": index % 3}


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as url:
        yield url


def invoke(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(cli.app, arguments)


def test_a_run_is_listed_finished_and_read(url: str, tmp_path: Path) -> None:
    assert invoke("runs", "--url", url).output.startswith(f"{url} has no runs; ")
    with MildClient(url) as client:
        client.open_run(RunSpec("a", N_SAMPLES, tags={"data": "digits"}))
        client.post_records("a", records(), complete=True)
    listed = invoke("runs", "--url", url).output.splitlines()
    assert [cell.strip() for cell in listed[3].split("│")[1:4]] == ["a", "running", "90"]
    assert "data=digits" in listed[3]
    finished = invoke("finish", "a", "--url", url, "--out", str(tmp_path / "clean.npy"), "--json")
    assert finished.exit_code == 0, finished.output
    answer = json.loads(finished.stdout)
    assert (answer["num_selected"], "indices" in answer) == (60, False)
    assert np.load(tmp_path / "clean.npy").tolist() == list(range(60))
    assert [cell.strip() for cell in invoke("runs", "--url", url).output.splitlines()[3].split("│")[2:5]] == [
        "finished", "90", "1",
    ]  # fmt: skip
    again = invoke("finish", "a", "--url", url)
    assert (again.exit_code, json.loads(again.stdout)) == (0, {**answer, "indices": list(range(60))})


def test_the_clean_set_of_a_run_is_written_as_a_table(url: str, tmp_path: Path) -> None:
    names = [f"img/{index}.png" for index in range(N_SAMPLES)]
    with MildClient(url) as client:
        client.open_run(RunSpec("a", N_SAMPLES))
        client.put_sample_ids("a", names)
        client.post_records("a", records(names), complete=True)
    out = tmp_path / "clean.csv"
    got = invoke("get", "a", "--url", url, "--out", str(out), "--json")
    assert got.exit_code == 0, got.output
    assert invoke("get", "a", "--url", url, "--out", str(out)).stdout == got.stderr
    assert got.stderr.splitlines()[-1] == f"The clean set: {out}, a line for each of 90 samples, 60 of them kept"
    selection = json.loads(got.stdout)
    assert (selection["provisional"], "ids" in selection) == (True, False)
    assert json.loads(invoke("get", "a", "--url", url).stdout)["ids"] == names[:60]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == names
    assert [row["kept"] for row in rows] == ["true"] * 60 + ["false"] * 30
    assert [(row["label"], row["suggested"]) for row in rows[60:]] == [
        (str(index % 3), str((index + 1) % 3)) for index in range(60, 90)
    ]
    assert selection["verdict"] == "weak"
    assert {row["noisy_posterior"] for row in rows} == {""}
    assert all(float(row["score"]) > selection["threshold"]["value"] for row in rows[60:])


def test_the_set_of_a_draw_is_written_with_its_guarantee(url: str, tmp_path: Path) -> None:
    with MildClient(url) as client:
        client.open_run(RunSpec("a", N_SAMPLES))
        client.post_records("a", records(), complete=True)
        client.finish("a", 0)
        drawn = client.draw_audit("a", 40)["draw"]["indices"]
        client.put_audit("a", drawn, [index < 60 for index in drawn])
    out = tmp_path / "clean.csv"
    got = invoke("get", "a", "--url", url, "--threshold", "fdr", "--alpha", "0.2", "--out", str(out), "--json")
    assert got.exit_code == 0, got.output
    answer = json.loads(got.stdout)
    assert (answer["threshold"]["rule"], answer["guarantee"]["alpha"], answer["guarantee"]["drawn"]) == ("fdr", 0.2, 40)
    assert got.stderr.startswith("At most ")
    assert [name for name in answer if name in ("guarantee", "verdict", "fitted")] == ["guarantee", "verdict", "fitted"]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["kept"] == "true" for row in rows) == answer["num_selected"]
    assert {int(row["index"]): row["mark"] for row in rows if row["mark"]} == {
        index: "clean" if index < 60 else "wrong" for index in drawn
    }


@pytest.mark.parametrize("names", [None, [f"img_{index}" for index in range(N_SAMPLES)]], ids=["numbers", "ids"])
def test_a_log_opens_its_run(names: list[str] | None, url: str, tmp_path: Path) -> None:
    log = tmp_path / "log.ndjson"
    log.write_text("".join(json.dumps(record) + "\n" for record in records(names)))
    push = ["push", str(log), "--url", url, "--run-id", "a", "--complete"]
    refused = invoke(*push)
    assert (refused.exit_code, "there is no run 'a'" in refused.stderr) == (2, True)
    pushed = invoke(*push, "--create")
    assert pushed.exit_code == 0, pushed.output
    assert json.loads(pushed.stdout)["records"] == 20 * N_SAMPLES
    again = invoke(*push, "--create")  # it exists, and has the same
    assert (again.exit_code, json.loads(again.stdout)["epochs"][0]["outcome"]) == (0, "same")
    got = json.loads(invoke("finish", "a", "--url", url).stdout)
    assert (got["num_samples"], got["indices"]) == (N_SAMPLES, list(range(60)))
    assert got.get("ids") == (None if names is None else names[:60])
    with MildClient(url) as client:
        assert client.sample("a", 7)["label"] == 1  # always predicted, so no wrong prediction tells it


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("epoch,id,correct\n0,3,1\n", ": name the log's own columns with --columns, such as --columns sample=id"),
        ("epoch,sample,predicted\n0,3,1\n", "; name the column of the labels with --columns label=NAME, or give"),
        ("epoch,sample,predicted,label\n0,0,cat,owl\n", "has the class 'owl', which is none of the 2 in --class-names"),
    ],
)
def test_a_log_that_no_run_takes_opens_none(log: str, message: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(log)
    refused = invoke(
        "push", str(tmp_path / "log.csv"), "--url", url, "--run-id", "a", "--create", "--class-names", "cat, dog"
    )
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
    assert "there is no run 'a'" in invoke("get", "a", "--url", url).stderr


def test_a_log_that_counts_from_one_is_finished_without_epoch_zero(url: str, tmp_path: Path) -> None:
    log = tmp_path / "log.ndjson"
    counted = ({**record, "epoch": epoch + 1} for record in records() if isinstance(epoch := record["epoch"], int))
    log.write_text("".join(json.dumps(record) + "\n" for record in counted))
    pushed = invoke("push", str(log), "--url", url, "--run-id", "a", "--create")
    assert pushed.stderr == f"Once all epochs are in: {format_command('mild', 'finish', 'a', '--url', url)}\n"
    refused = invoke("finish", "a", "--url", url)
    assert "as in a log that counts its epochs from 1" in refused.stderr
    assert refused.stderr.endswith("; `mild finish --allow-gaps` finishes without them\n")
    finished = invoke("finish", "a", "--url", url, "--allow-gaps")
    assert json.loads(finished.stdout)["indices"] == list(range(60))


@pytest.mark.parametrize(("option", "label"), [([], 0), (["--class-names", "dog,cat"], 1)])
def test_a_log_with_names_becomes_a_run(option: list[str], label: int, url: str, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("epoch,id,predicted,target\n0,a,dog,dog\n0,b,dog,cat\n")
    push = ["push", str(log), "--url", url, "--run-id", "a", "--columns", "sample=id,label=target"]
    assert invoke(*push, "--create", *option).exit_code == 0
    with MildClient(url) as client:
        assert [client.sample("a", index)["label"] for index in range(2)] == [1 - label, label]
        assert client.get_run("a")["num_classes"] == 2
    log.write_text("epoch,id,predicted,target\n1,a,dog,dog\n1,b,cat,cat\n")
    names = ["--class-names", "dog,cat" if label else "cat,dog"]
    assert json.loads(invoke(*push, *names).stdout)["epochs"][0]["num_correct"] == 2


def test_a_run_is_opened_for_more_samples_than_its_log_has(url: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,sample,correct\n0,3,1\n")
    arguments = ["push", str(tmp_path / "log.csv"), "--url", url, "--run-id", "a", "--create", "--num-samples", "50"]
    assert json.loads(invoke(*arguments).stdout)["epochs"][0]["num_missing"] == 49


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "b"], "`mild runs` lists the runs of a service"),
        (["get", "a"], "has no epochs"),
        (["get", "a", "--round", "first"], "round"),
        (["get", "a", "--out", "clean.txt"], "the set clean.txt ends in '.txt'; give a file that ends in .csv or .npy"),
        (["finish", "a"], "has no epochs, at least 1 is needed"),
        (["finish", "b"], "there is no run 'b'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: list[str], message: str, url: str) -> None:
    with MildClient(url) as client:
        client.open_run(RunSpec("a", N_SAMPLES))
    result = invoke(*arguments, "--url", url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
