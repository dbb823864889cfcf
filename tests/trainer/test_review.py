import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from mild_client import MildClient
from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.errors import InvalidInput, SampleIndexError
from mild_core.inspect.sample_table import build_sample_table
from mild_core.inspect.suspicion import TieBreaks
from mild_core.selection import select
from mild_core.statements import format_at_most
from mild_core.types import EpochBits, RoundBits
from mild_trainer import cli
from mild_trainer.clean_set import COLUMNS
from mild_trainer.errors import ReviewError
from mild_trainer.review import review_list, review_runs
from mild_trainer.review.review_list import ScoredSamples
from tests.live import serving
from tests.trainer.trainings import by_itself

N = 120


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that selected by itself."""
    return by_itself(tmp_path_factory.mktemp("review") / "out", n_samples=150, n_epochs=8)


def score_samples() -> ScoredSamples:
    posterior = np.array([0.9, 0.2, np.nan, 0.9, 0.5, 0.9], dtype=np.float32)
    scores = np.array([4.0, -3.0, np.nan, 5.0, 0.0, 5.0], dtype=np.float32)
    kept = np.array([False, True, False, True, True, False])
    learned = np.array([5, 0, np.nan, 5, 5, 5])
    ties = TieBreaks(posterior, learned, np.zeros(6))
    audit = Audit.from_marks([5], [False], 6)
    return ScoredSamples(kept=kept, scores=scores, noisy_posterior=posterior, audit=audit, ties=ties)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_likeliest_to_be_wrong_come_first_and_the_checked_ones_last() -> None:
    assert review_list.rank_samples(score_samples(), "suspicious").tolist() == [3, 0, 4, 1, 2, 5]
    assert review_list.rank_samples(score_samples(), "uncertain").tolist() == [4, 1, 3, 0, 2, 5]


def test_a_random_order_is_drawn_from_its_seed() -> None:
    orders = [review_list.rank_samples(score_samples(), "random", seed).tolist() for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == list(range(6)) and order[-1] == 5 for order in orders)


def test_a_list_survives_its_way_through_a_file_and_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    unknown = [None] * 5
    samples = replace(score_samples(), ids=[""] * 5 + ["a,b"], labels=[*unknown, 3], suggested=[*unknown, 7])
    review_list.write_list(path, samples.format_rows(np.array([5, 2])))
    first, second = read(path)
    assert first == {
        "index": "5",
        "id": "a,b",
        "label": "3",
        "suggested": "7",
        "score": "5",
        "noisy_posterior": "0.9",
        "kept": "false",
        "mark": "wrong",
    }
    assert (second["index"], second["score"], second["mark"]) == ("2", "", "")
    marks = review_list.read_marks(path, 6)
    assert (marks.n_checked, marks.get_mark(5)) == (1, False)
    with pytest.raises(ReviewError, match="exists and may hold marks; give another --out"):
        review_list.write_list(path, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,score\n1,2\n", "lacks the column 'mark'"),
        ("", "lacks the column 'index'"),
        ("index|mark\n1|clean\n", r"'index\|mark'.*commas, semicolons or tabs"),
        ("index,mark\n1.5,clean\n", "line 2: index is '1.5'"),
        ("index,mark\n1,good\n", "line 2: mark is 'good'; write clean, wrong or unsure"),
        ("index,mark\n-1,clean\n", "line 2: index is '-1'"),
        ("index,mark\n,clean\n", "line 2: index is ''"),
        ("index,mark\n1,\n2\n", "holds 0 marks, at least 1 is needed"),
        ("index,mark\n\x00\xff", "is no CSV|holds 0 marks"),
    ],
)
def test_marks_that_cannot_be_read_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ReviewError, match=message):
        review_list.read_marks(path, 10)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffindex;id;mark\r\n3;a,b;wrong\r\n5;;clean\r\n",
        "index\tmark\n3\twrong\n5\tclean\n",
        'id,mark,index\n"a;b;c\n;;",wrong,3.0\n,clean,5.0\n',
    ],
)
def test_marks_are_read_as_spreadsheets_save_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    path.write_text(text, encoding="utf-8", newline="")
    marks = review_list.read_marks(path, 10)
    assert (marks.n_checked, marks.get_mark(3), marks.get_mark(5)) == (2, False, True)


def test_impossible_marks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    path.write_text("index,mark\n10,clean\n")
    with pytest.raises(SampleIndexError, match=r"10 is outside 0\.\.9"):
        review_list.read_marks(path, 10)
    path.write_text("index,mark\n1,clean\n1, Wrong \n")
    with pytest.raises(InvalidInput, match="marked both clean and mislabelled"):
        review_list.read_marks(path, 10)


def test_a_training_without_a_service_is_listed_marked_and_measured(trained: Path, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "list.csv"
    before = {path: path.read_bytes() for path in (trained / "bits").rglob("*") if path.is_file()}
    result = runner.invoke(cli.app, ["review", str(trained), "--order", "random", "--out", str(out), "--limit", "60"])
    assert result.exit_code == 0, result.output
    assert (
        "60 of 150 samples; write clean, wrong or unsure (counts as wrong) into the column `mark`, "
        f"then: mild review {trained}" in result.output
    )
    lines = read(out)
    assert len(lines) == 60
    assert all(line["label"] in set("0123456789") for line in lines)
    assert any(line["suggested"] for line in lines)
    assert all(line["suggested"] != line["label"] for line in lines)
    for i, line in enumerate(lines):
        line["mark"] = "clean" if i % 3 else "wrong"
    review_file = tmp_path / "marked.csv"
    with review_file.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    measured = runner.invoke(cli.app, ["review", str(trained), "--marks", str(review_file)])
    assert measured.exit_code == 0, measured.output
    found = json.loads(measured.stdout)
    kept = [line["kept"] == "true" for line in lines]
    assert (found["round"], found["known"], found["clean"], found["kept"]) == (0, 60, 40, sum(kept))
    assert found["recall"] == pytest.approx(sum(kept[i] for i in range(60) if i % 3) / 40)
    assert "only if they were drawn at random" in measured.stderr
    for name in ("clean.npy", "clean.csv"):
        path = tmp_path / name
        told = runner.invoke(cli.app, ["review", str(trained), "--marks", str(review_file), "--set", str(path)])
        assert told.exit_code == 0, told.output
        assert f"The clean set: {path}, " in told.stderr
        assert "it follows all marks. Verdict: " in told.stderr
    clean_rows = read(tmp_path / "clean.csv")
    chosen = {int(row["index"]) for row in clean_rows if row["kept"] == "true"}
    assert chosen == set(np.load(tmp_path / "clean.npy").tolist())
    assert all((int(line["index"]) in chosen) == (line["mark"] == "clean") for line in lines)
    listed = {line["index"]: line for line in lines}
    assert len(clean_rows) == 150
    for row in clean_rows:
        line = listed.get(row["index"], {"mark": ""})
        assert row["mark"] == line["mark"]
        assert all(row[name] == line[name] for name in ("id", "label", "suggested") if len(line) > 1)
    refused = runner.invoke(cli.app, ["review", str(trained), "--marks", str(review_file), "--set", "clean.txt"])
    assert (refused.exit_code, "ends in '.txt'" in refused.stderr) == (2, True)
    again = runner.invoke(cli.app, ["review", str(trained), "--out", str(tmp_path / "rest.csv")])
    assert again.exit_code == 0, again.output
    rest = read(tmp_path / "rest.csv")
    assert [bool(line["mark"]) for line in rest] == [False] * 90 + [True] * 60
    scores = [float(line["score"]) for line in rest[:90]]
    assert scores == sorted(scores, reverse=True)
    assert {path: path.read_bytes() for path in (trained / "bits").rglob("*") if path.is_file()} == before


def test_a_run_of_a_service_is_listed_marked_and_measured(
    service: httpx.Client,
) -> None:
    rng = np.random.default_rng(0)
    clean, labels = np.arange(N) < 90, rng.integers(0, 3, N)
    predicted = np.where(rng.random((15, N)) < np.where(clean, 0.92, 0.06), labels, (labels + 1) % 3)
    client = MildClient("http://service", http=service)
    with client.run("reviewed", num_samples=N, num_classes=3) as run:
        client.put_sample_ids("reviewed", [f"image-{i}" for i in range(N)])
        client.put_labels("reviewed", labels)
        for epoch, classes in enumerate(predicted):
            run.log_predictions(epoch, np.arange(N), classes, labels)
        run.finish()
    reviewed = review_runs.ServiceRun(client, "reviewed", None)
    samples = reviewed.score_samples()
    first = review_list.rank_samples(samples, "suspicious")
    bits = RoundBits(N, bitmap.pack(predicted == labels))
    assert first.tolist() == build_sample_table([bits], select(bits), labels).order.tolist()
    listed = np.append(first[:20], first[-1:])
    rows = reviewed.name_samples(samples, listed).format_rows(listed)
    lines = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert all(int(line["index"]) >= 90 and line["kept"] == "false" for line in lines[:20])
    assert all(line["suggested"] == str((int(line["label"]) + 1) % 3) for line in lines[:20])
    assert lines[0]["id"] == f"image-{lines[0]['index']}"
    assert (lines[-1]["kept"], lines[-1]["id"]) == ("true", f"image-{first[-1]}")
    found = reviewed.add_marks(Audit.from_marks(range(N), clean.tolist(), N))
    assert (found["known"], found["precision"], found["recall"], found["f1"]) == (N, 1.0, 1.0, 1.0)
    assert reviewed.score_samples().audit.n_checked == N
    summary, clean_set = reviewed.select_with_audit()
    assert clean_set.kept.tolist() == clean.tolist()
    assert summary["num_selected"] == 90


def mark(path: Path, marks: Sequence[str]) -> None:
    lines = read(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**line, "mark": text} for line, text in zip(lines, marks, strict=False))


def test_a_draw_is_listed_without_what_could_sway_a_checker_and_bounds_the_set(app: FastAPI, tmp_path: Path) -> None:
    with serving(app) as url:
        rng = np.random.default_rng(0)
        clean, labels = np.arange(N) < 90, rng.integers(0, 3, N)
        predicted = np.where(rng.random((15, N)) < np.where(clean, 0.92, 0.06), labels, (labels + 1) % 3)
        with MildClient(url) as client, client.run("drawn", num_samples=N, num_classes=3) as run:
            client.put_labels("drawn", labels)
            for epoch, classes in enumerate(predicted):
                run.log_predictions(epoch, np.arange(N), classes, labels)
            run.finish()

        def review(*arguments: str) -> Result:
            result = CliRunner().invoke(cli.app, ["review", "drawn", "--url", url, *arguments])
            assert result.exit_code == 0, result.output
            return result

        path = tmp_path / "draw.csv"
        told = review("--draw", "40", "--out", str(path)).stdout
        assert f"{path}: 40 samples drawn at random; recorded with them: round 0, metric mild-simple" in told
        assert "rule fdr with alpha 0.1" in told
        assert "  50 checks (about 5 minutes at 5 seconds each): at most " in told
        assert (
            f"unsure (counts as wrong) into the column `mark`, then: mild review drawn --url {url} --marks {path}"
            in told
        )
        lines = read(path)
        indices = [int(line["index"]) for line in lines]
        with MildClient(url) as client:
            assert sorted(indices) == (client.get_draw("drawn") or {})["indices"]
        assert indices != sorted(indices)
        assert [int(line["label"]) for line in lines] == labels[indices].tolist()
        for swaying in ("suggested", "score", "noisy_posterior", "kept", "mark"):
            assert {line[swaying] for line in lines} == {""}

        answers = ["clean" if clean[index] else "unsure" for index in indices]
        mark(path, answers[:37] + [""] * 3)
        assert "37 of 40 drawn samples are answered" in review("--marks", str(path)).stderr
        again = tmp_path / "again.csv"
        assert "37 of them are answered already" in review("--draw", "40", "--out", str(again)).stdout
        mark(path, answers)
        told = review("--marks", str(path)).stderr
        with MildClient(url) as client:
            assert client.audit("drawn", N).get_mark(next(i for i in indices if not clean[i])) is False
            recorded = client.selection("drawn", 0, changes={"threshold": "fdr"})
            own = client.selection("drawn", 0)
        assert f"The set that was recorded with the draw: {recorded['num_selected']} of {N} samples." in told
        assert f"The set of round 0, as it was made: {own['num_selected']} of {N} samples." in told
        for part, selection in zip(told.split("recorded with the draw: ")[:2], (own, recorded), strict=True):
            bound = f"At most {format_at_most(selection['guarantee']['upper'])} of the kept labels are wrong"
            assert part.index(bound) < part.index("On 40 audited samples drawn at random")
        refused = CliRunner().invoke(cli.app, ["review", "drawn", "--url", url, "--draw", "41", "--out", "x.csv"])
        assert refused.exit_code == 2
        assert "another draw would follow the answers" in refused.stderr


def test_the_clean_csv_of_a_training_is_read_back_with_marks(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--limit", "100", "--epochs", "2", "--rounds", "1", "--local", "--out", str(out)]
    assert CliRunner().invoke(cli.app, ["train", *arguments]).exit_code == 0
    rows, before = read(out / "clean.csv"), (out / "report.html").read_text() + (out / "README.md").read_text()
    mark(out / "clean.csv", ["wrong", "clean"] + [""] * 98)
    told = CliRunner().invoke(
        cli.app, ["review", str(out), "--marks", str(out / "clean.csv"), "--set", str(out / "clean.csv")]
    )
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["known"] == 2
    again = read(out / "clean.csv")
    for name in ("report.html", "README.md"):
        text = (out / name).read_text()
        assert "On 2 audited samples" in text
        assert re.search(r"Marks made after \d{4}-\d\d-\d\d \d\d:\d\d UTC are not in these figures", text)
    assert "2 audited" not in before
    assert f"Written again, with all marks: {out / 'report.html'} and {out / 'README.md'}" in told.stderr
    assert [(row["mark"], row["kept"]) for row in again[:2]] == [("wrong", "false"), ("clean", "true")]
    assert [row["label"] for row in again] == [row["label"] for row in rows]
    resumed = CliRunner().invoke(cli.app, ["train", *arguments, "--resume"])
    for text in (resumed.output, *((out / name).read_text() for name in ("report.html", "README.md"))):
        assert "On 2 audited samples" in text, "the marks are still there after another end of the training"


def test_a_draw_needs_a_service(trained: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["review", str(trained), "--draw", "9", "--out", str(tmp_path / "x.csv")])
    assert result.exit_code == 2
    assert "give --order random --limit 9, or train with a service" in result.stderr


def test_the_list_of_a_service_says_how_its_marks_are_sent_back(app: FastAPI, tmp_path: Path) -> None:
    with serving(app) as url:
        with MildClient(url) as client, client.run("hinted", num_samples=10) as run:
            run.put_epoch(EpochBits(10, np.full(2, 0b11000000, dtype=np.uint8)))
        path = tmp_path / "list.csv"
        result = CliRunner().invoke(cli.app, ["review", "hinted", "--url", url, "--out", str(path)])
    assert f"then: mild review hinted --url {url} --marks {path}" in result.output


def test_an_open_run_is_reviewed_by_its_first_round(service: httpx.Client) -> None:
    client = MildClient("http://service", http=service)
    with client.run("open", num_samples=10) as run:
        run.put_epoch(EpochBits(10, np.full(2, 0b11000000, dtype=np.uint8)))
        samples = review_runs.ServiceRun(client, "open", None).score_samples()
    assert samples.kept.all()


def test_the_folder_of_a_training_with_a_service_leads_to_its_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--limit", "100", "--epochs", "1", "--rounds", "1", "--run-id", "mine", "--out", str(out)]
    assert CliRunner().invoke(cli.app, ["train", *arguments]).exit_code == 0
    path = tmp_path / "list.csv"
    result = CliRunner().invoke(cli.app, ["review", str(out), "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert len(read(path)) == 100
    assert all(line["label"] for line in read(path))
    (out / "service").rename(tmp_path / "elsewhere")
    result = CliRunner().invoke(cli.app, ["review", str(out)])
    assert result.exit_code == 2
    assert "was trained with a service, which holds its run 'mine'; give --url" in result.stderr


def test_the_labels_are_left_out_where_the_data_is_gone(trained: Path, tmp_path: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    summary["settings"] |= {"dataset": "npz", "data_dir": str(tmp_path / "gone.npz")}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert review_runs.TrainingFolder.read(tmp_path).load_data() is None
    summary["settings"] |= {"dataset": "digits", "data_dir": None}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    training = review_runs.TrainingFolder.read(tmp_path)
    data = training.load_data()
    assert data is not None
    assert (data.y_train.shape, training.predict_labels(data)) == ((150,), None)


def test_what_cannot_be_reviewed_is_one_line(trained: Path, tmp_path: Path) -> None:
    runner = CliRunner()

    def said(*arguments: str) -> str:
        result = runner.invoke(cli.app, ["review", *arguments])
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    assert "no-run is no folder of a training; give one, or --url" in said("no-run")
    assert "summary.json; give the --out of a finished training" in said(str(tmp_path))
    assert "was trained without a service; leave --url out" in said(str(trained), "--url", "http://localhost:1")
    (tmp_path / "review.csv").touch()
    assert "exists and may hold marks" in said(str(trained), "--out", str(tmp_path / "review.csv"))
    summary = json.loads((trained / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "rounds": []}))
    assert "holds 0 finished rounds" in said(str(tmp_path))
