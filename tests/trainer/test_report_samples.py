import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from mild_client import MildClient
from mild_core.inspect.histograms import count_data_map
from mild_core.types import EpochBits, SelectionOptions
from mild_trainer import cli
from mild_trainer.clean_set import COLUMNS
from mild_trainer.report import figures, report, summary
from mild_trainer.report.report import render
from mild_trainer.review.review_runs import ServiceRun
from tests.trainer.trainings import by_itself

CHOSEN = SelectionOptions(threshold="fraction", fraction=0.75)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_itself(tmp_path_factory.mktemp("report") / "out", n_samples=120, n_epochs=4)


def test_a_folder_is_reported_as_its_training_did(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    result = CliRunner().invoke(cli.app, ["report", str(trained), "--out", str(path)])
    assert (result.exit_code, result.output) == (0, f"Written: {path}\n")
    page = path.read_text()
    assert page == (trained / "report.html").read_text()
    assert page.count('<img alt="sample ') == 50
    assert "<script" not in page
    sources = re.findall(r"(?:src|href)=['\"](?!#)([^'\"]*)", page)
    assert len(sources) == 50
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    picture = Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
    assert picture.size == (8, 8)
    kept, dropped = (int(found) for found in re.findall(r">(\d+) (?:kept|dropped)<", page))
    last = json.loads((trained / "summary.json").read_text())["rounds"][-1]
    assert (kept, dropped) == (last["selected"], 120 - last["selected"])
    assert f"<p>{dropped:,} dropped samples; on the diagonal" in page


def test_without_data_a_folder_is_reported_without_pictures_and_labels(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    folder.mkdir()
    (folder / "bits").symlink_to(trained / "bits")
    numbers = json.loads((trained / "summary.json").read_text())
    numbers["settings"] |= {"dataset": "npz", "data_dir": str(tmp_path / "gone.npz")}
    (folder / "summary.json").write_text(json.dumps(numbers))
    page = report.write_run_report(str(folder), None, None, tmp_path / "page.html").read_text()
    assert "<img" not in page
    assert "No dropped sample has both" in page


def test_a_run_of_a_service_is_reported_with_what_it_knows(service: httpx.Client) -> None:
    n_samples, n_noisy = 40, 10
    correct = np.ones((10, n_samples), dtype=np.bool_)
    correct[:, :n_noisy] = False
    correct[9, 0] = True
    client = MildClient("http://service", http=service)
    with client.run("mine", num_samples=n_samples, selection=CHOSEN) as run:
        for row in correct:
            run.put_epoch(EpochBits(n_samples, np.packbits(row)))
        run.finish()
    reviewed = ServiceRun(client, "mine", None)
    page = report.render_service_run(reviewed)
    assert "<title>Run mine</title>" in page
    assert ">30 kept<" in page
    assert ">10 dropped<" in page
    data_map = reviewed.make_data_map(reviewed.score_samples())
    assert data_map.n_dropped[0, 10] == 9, "these were misclassified in all ten epochs"
    assert data_map.n_dropped[0, 9] == 1
    assert data_map.n_kept[0, 0] == 30


def test_the_map_counts_the_changes_of_every_round(service: httpx.Client) -> None:
    n_samples, n_noisy = 40, 10
    client = MildClient("http://service", http=service)
    with client.run("mine", num_samples=n_samples, selection=CHOSEN) as run:
        for number in range(2):
            correct = np.ones((10, n_samples), dtype=np.bool_)
            correct[:, :n_noisy] = False
            correct[4, :2] = number == 1, number == 0
            for row in correct:
                run.put_epoch(EpochBits(n_samples, np.packbits(row)))
            run.finish()
    reviewed = ServiceRun(client, "mine", None)
    data_map = reviewed.make_data_map(reviewed.score_samples())
    assert (data_map.x.width, data_map.y.n_bins) == (1, 2)
    assert data_map.n_dropped[1, 19] == 2, "memorised once, in one of the two rounds"
    assert data_map.n_dropped[0, 20] == 8
    assert data_map.n_kept[0, 0] == 30


def render_samples(pairs: list[tuple[int, int]], row: Sequence[str] = (), image: str | None = None) -> str:
    confusions = report.count_confusions(np.array(pairs, dtype=np.int64).reshape(-1, 2))
    suspicious = [(dict(zip(COLUMNS, row, strict=True)), image)] if row else []
    return render("samples.html", samples={"data_map": "", **confusions, "suspicious": suspicious})


def test_what_others_named_is_escaped() -> None:
    bad = "<script>alert('1')</script>"
    page = render_samples([(0, 1)], ["1", bad, bad, bad, "", "0.5", "true", ""])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3


def test_confusions_are_counted_and_many_classes_are_told_in_pairs() -> None:
    assert "of the dropped" not in render_samples([]).partition("</h2>")[2].partition("</h2>")[2]
    heat = render_samples([(0, 1), (0, 1), (1, 0), (2, 2)])
    rows = [re.findall(r"<td[^>]*>(\d*)</td>", row) for row in heat.split('<tr class="heat">')[1:]]
    assert rows == [["", "2", ""], ["1", "", ""], ["", "", "1"]]
    pairs = render_samples([(7, 90), (3, 4), (7, 90)])
    assert "<td>7</td><td>90</td><td>2</td></tr>\n<tr><td>3</td>" in pairs


def test_a_large_picture_in_colour_is_made_smaller() -> None:
    url = report.encode_image(np.zeros((400, 200, 3), dtype=np.uint8))
    page = render_samples([], ["1", "", "", "", "", "", "false", ""], url)
    content = re.findall(r'base64,([^"]*)"', page)[0]
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (64, 128)


def test_the_same_map_is_drawn_the_same() -> None:
    found = count_data_map(np.array([3, 3, 90]), np.array([0, 0, 4]), np.array([True, True, False]))
    assert figures.draw_data_map(found, "changes") == figures.draw_data_map(found, "changes")


def test_the_card_holds_what_was_measured(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    numbers = json.loads((trained / "summary.json").read_text())
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-classification"
    accuracy = metadata["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert accuracy == numbers["rounds"][-1]["test_accuracy"]
    assert f"| verdict | {numbers['rounds'][-1]['verdict']} |" in body
    assert "| noise | symmetric:0.4 |" in body
    assert "data_dir" not in card


def test_the_card_loads_the_weights_as_it_says(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", (trained / "README.md").read_text(), re.DOTALL)[0]
    monkeypatch.chdir(trained)
    names: dict[str, object] = {}
    exec(code, names)  # the card that was just written
    assert not names["model"].training  # type: ignore[attr-defined]  # a network


def test_a_card_of_a_finish_names_it_and_one_without_rounds_claims_nothing(trained: Path) -> None:
    numbers = json.loads((trained / "summary.json").read_text())
    finish = {"method": "mixmatch", "n_kept": 7, "test_accuracy": 0.625}
    card = report.render_model_card({**numbers, "finish": finish})
    assert "| test accuracy, mixmatch finish | 0.625 |" in card
    assert '"value": 0.625' in card
    bare = {**numbers, "rounds": [], "baseline": {"test_accuracy": None}}
    assert '"results": []' in report.render_model_card(bare)
    assert summary.describe_planting(bare) is None
    assert "<h2>Rounds</h2>" in report.render_report(bare)


def test_a_page_replaces_no_set(trained: Path) -> None:
    before = (trained / "clean.csv").read_bytes()
    result = CliRunner().invoke(cli.app, ["report", str(trained), "--out", str(trained / "clean.csv")])
    assert result.exit_code == 2
    assert "ends in '.csv'; give a file that ends in .html" in result.stderr
    assert (trained / "clean.csv").read_bytes() == before
