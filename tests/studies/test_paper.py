"""The programme's runner: the order of its cases, what is done once, failed cases, and its page."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from studies import paper, programme, promise
from studies.programme import SEEDS, Inputs, Row, read_rows
from tests.studies.test_features import make_row

INPUTS = Inputs("cpu", "judging", Path("data"), {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of human labels and of features, of two classes that any head tells apart."""
    labels = np.arange(1200) % 2
    features = labels[:, None] * 4 + np.random.default_rng(0).standard_normal((1200, 5))
    np.savez(tmp_path / "lite2.npz", features=features.astype(np.float32), labels=labels)
    np.savez(tmp_path / "few.npz", features=features[:200].astype(np.float32), labels=labels[:200])
    given = np.where(np.arange(1200) % 5 == 0, 1 - labels, labels).astype(np.uint8)
    np.savez(tmp_path / "cifar-n-labels.npz", c10_worse_label=given, c10_aggre_label=given)
    return tmp_path


def test_choosing_and_judging_share_no_seed() -> None:
    assert not set(SEEDS["choosing"]) & set(SEEDS["judging"])


def test_a_seed_is_done_before_the_next_one(folder: Path) -> None:
    inputs = Inputs("cpu", "judging", folder, {"lite2": folder / "lite2.npz"})
    seeds = [case["seed"] for section in paper.SECTIONS.values() for case in paper.list_cases(section, inputs)]
    assert seeds
    for section in paper.SECTIONS.values():
        own = [int(case["seed"] or 0) for case in paper.list_cases(section, inputs)]
        assert own == sorted(own)
        assert set(own) <= set(SEEDS["judging"])


@pytest.mark.slow
def test_what_is_done_is_not_done_again(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    arguments = ["--section", "promise", "--data-dir", str(folder), "--features", str(folder / "lite2.npz")]
    arguments += ["--limit-cases", "1", "--workers", "1", "--rows", str(rows)]
    assert paper.main(arguments) == paper.main(arguments) == 0
    noises = [row.case["noise"] for row in read_rows(rows)]
    assert noises == ["human:worse", "human:aggre"]
    result = read_rows(rows)[0].result
    assert result["noise_rate"] == pytest.approx(0.2, abs=0.01)
    assert result["recall"] > 0.9
    assert result["share"] < 0.1


@pytest.mark.slow
def test_a_failed_case_leaves_no_row_and_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "few.npz").replace(folder / "lite2.npz")
    rows = folder / "rows.jsonl"
    arguments = ["--section", "promise", "--data-dir", str(folder), "--features", str(folder / "lite2.npz")]
    assert paper.main([*arguments, "--limit-cases", "1", "--workers", "1", "--rows", str(rows)]) == 1
    assert read_rows(rows) == []
    assert "failed: ValueError" in capsys.readouterr().out


def test_no_case_begins_after_the_limit(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    assert paper.run([("promise", {"noise": "none"})], INPUTS, rows, 1, limit_minutes=0) == 0
    assert read_rows(rows) == []


def test_lost_rows_of_the_promise_come_first_and_in_bold(tmp_path: Path) -> None:
    result = {"share": 0.08, "empty": 0.0, "above_alpha": 0.3, "recall": 0.9, "f1": 0.9}
    result |= {"upper_holds": 1.0, "noise_rate": 0.4}
    lost = {**result, "recall": 0.5}
    rows = [
        Row("promise", {"noise": noise, "features": "a", "half": "judging", "seed": 5}, values, 1.0, "machine")
        for noise, values in (("human:worse", result), ("symmetric:0.4", lost))
    ]
    lines = promise.format_rows(rows, tmp_path).splitlines()
    first, second = (line for line in lines if line.startswith("| ") and "0.400" in line)
    assert first.startswith("| **symmetric:0.4** | 1 ")
    assert "the recall is below 0.8" in first
    assert second.startswith("| human:worse | 1 ")
    page = paper.format_page(rows, tmp_path)
    assert "python -m studies.paper --data-dir DIR --features a.npz" in page
    assert f"## {promise.TITLE}" in page


def test_the_lines_of_the_readme_are_replaced() -> None:
    text = "before\n| [features](docs/results.md) | old |\nafter\n"
    rows = [make_row("human:worse", 0.9, 0.8)]
    assert (
        paper.update_readme(text, rows)
        .splitlines()[1]
        .startswith("| [features](docs/results.md) | human:worse | 0.900 (0.900 to 0.900) | 0.800, ")
    )
    assert paper.update_readme(text, []) == text


def test_page_and_readme_are_made_from_the_rows(tmp_path: Path) -> None:
    rows = read_rows(paper.ROWS)
    assert rows
    assert paper.format_page(rows, tmp_path) == paper.PAGE.read_text()
    readme = paper.README.read_text()
    assert "| [features](docs/results.md) | human:worse | 0." in readme
    assert paper.update_readme(readme, rows) == readme


def test_a_legend_names_what_any_panel_shows_once() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], label="a")
    for label in ("a", "b"):
        right.plot([0, 1], label=label)
    programme.add_legend(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
