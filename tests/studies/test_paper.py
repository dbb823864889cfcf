"""The programme's runner: the order of its cases, what is done once, failed cases, and its page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mild_core.types import SelectionOptions
from mild_trainer import settings
from studies import paper, programme, promise, runner
from studies.programme import SEEDS, Case, Inputs, Line, Row, make_fingerprint, read_rows
from tests.studies.test_features import make_row

INPUTS = Inputs("cpu", "judging", Path("data"), {})


def run_paper(arguments: Sequence[str]) -> int:
    """Run the command with arguments, and return its exit code."""
    return runner.main(paper.STUDY, paper.__doc__, arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of human labels and of features, of two classes that any head tells apart."""
    labels = np.arange(1200) % 2
    features = labels[:, None] * 4 + np.random.default_rng(0).standard_normal((1200, 5))
    np.savez(tmp_path / "lite2.npz", features=features.astype(np.float32), labels=labels)
    np.savez(tmp_path / "few.npz", features=features[:200].astype(np.float32), labels=labels[:200])
    human_labels = np.where(np.arange(1200) % 5 == 0, 1 - labels, labels).astype(np.uint8)
    np.savez(tmp_path / "cifar-n-labels.npz", c10_worse_label=human_labels, c10_aggre_label=human_labels)
    return tmp_path


def test_choosing_and_judging_share_no_seed() -> None:
    assert not set(SEEDS["choosing"]) & set(SEEDS["judging"])


def test_a_seed_is_done_before_the_next_one(folder: Path) -> None:
    inputs = Inputs("cpu", "judging", folder, {"lite2": folder / "lite2.npz"})
    seeds = [case["seed"] for name in paper.SECTIONS for case in runner.list_cases(name, inputs)]
    assert seeds
    for name in paper.SECTIONS:
        own = [int(case["seed"] or 0) for case in runner.list_cases(name, inputs)]
        assert own == sorted(own)
        assert set(own) <= set(SEEDS["judging"])


@pytest.mark.slow
def test_what_is_done_is_not_done_again(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    arguments = ["--section", "promise", "--data-dir", str(folder), "--features", str(folder / "lite2.npz")]
    arguments += ["--limit-cases", "1", "--workers", "1", "--rows", str(rows)]
    assert run_paper(arguments) == run_paper(arguments) == 0
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
    assert run_paper([*arguments, "--limit-cases", "1", "--workers", "1", "--rows", str(rows)]) == 1
    assert read_rows(rows) == []
    assert "failed: ValueError" in capsys.readouterr().out


def test_no_case_begins_after_the_limit(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    assert runner.run_cases([("promise", {"noise": "none"})], INPUTS, rows, 1, limit_minutes=0) == 0
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
        .startswith("| [features](docs/results.md) | human:worse | 0.900 (0.900 to 0.900); 0.970 | 0.800, ")
    )
    assert paper.update_readme(text, []) == text


def test_a_changed_default_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    case: Case = {"features": "lite2", "noise": "none", "half": "judging", "seed": 5}
    before = make_fingerprint(promise.list_settings(case))
    assert before == make_fingerprint(promise.list_settings(case))
    options = promise.OPTIONS
    monkeypatch.setattr(promise, "OPTIONS", replace(options, alpha=0.2))
    of_options = make_fingerprint(promise.list_settings(case))
    monkeypatch.setattr(promise, "OPTIONS", options)
    monkeypatch.setattr(settings, "DEFAULTS", {"features": {**settings.DEFAULTS["features"], "dither": 0.5}})
    of_defaults = make_fingerprint(promise.list_settings(case))
    assert len({before, of_options, of_defaults}) == 3


def test_a_setting_that_is_off_counts_as_missing() -> None:
    @dataclass(frozen=True)
    class Options(SelectionOptions):
        smoothing: float = 0.0

    assert make_fingerprint([Options()]) == make_fingerprint([SelectionOptions()])
    assert make_fingerprint([Options(smoothing=0.1)]) != make_fingerprint([SelectionOptions()])


def test_rows_of_other_settings_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case: Case = {"features": "lite2", "noise": "human:worse", "half": "judging", "seed": 5}
    signed = Row("promise", case, {}, 1.0, "machine", make_fingerprint(promise.list_settings(case)))
    others = [
        replace(signed, fingerprint="0123456789ab"),
        replace(signed, section="bygone"),
        replace(signed, section="stability"),  # whose cases have a loop
    ]
    rows = folder / "rows.jsonl"
    arguments = ["--data-dir", str(folder), "--features", str(folder / "lite2.npz"), "--rows", str(rows)]
    for n_current, own in enumerate(([], [signed])):
        rows.write_text("".join(row.to_line() for row in (*others, replace(signed, fingerprint=None), *own)))
        assert run_paper([*arguments, "--list"]) == 0
        output = capsys.readouterr()
        assert f"promise: {n_current} of 15 cases" in output.out
        n_all = 4 + n_current
        assert f"left out: 1 of {n_all} rows, which have no fingerprint of the settings" in output.err
        assert f"left out: 3 of {n_all} rows, which were computed with other settings than today's" in output.err
    assert runner.find_current_rows([signed]) == [signed]
    assert capsys.readouterr().err == ""


def test_a_page_without_rows_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paper, "PAGE", folder / "results.md")
    assert run_paper(["--write", "--rows", str(folder / "rows.jsonl")]) == 1
    assert "has no row of today's settings; nothing is written" in capsys.readouterr().err
    assert not paper.PAGE.exists()


def test_page_and_readme_are_made_from_the_rows(tmp_path: Path) -> None:
    rows = runner.find_current_rows(read_rows(paper.ROWS))
    if not rows:
        pytest.skip("no row of today's settings; run `python -m studies.paper`")
    assert paper.format_page(rows, tmp_path) == paper.PAGE.read_text()
    readme = paper.README.read_text()
    assert "| [features](docs/results.md) | human:worse | 0." in readme
    assert paper.update_readme(readme, rows) == readme


def test_lost_lines_come_first_and_in_bold_with_their_reason() -> None:
    lines = [Line("a", ["1"], -2.0), Line("b", ["2"], -1.0, "all"), Line("d", ["4"], -2.0), Line("c", [], -1.5, "some")]
    table = programme.format_judged(["name", "number"], lines)
    assert [line.split(" ")[1] for line in table.splitlines() if line] == ["name", "---", "**c**", "**b**", "a", "d"]
    assert "| name | number | what is lost |" in table
    assert "| **b** | 2 | all |" in table
    assert "| a | 1 | - |" in table


def test_a_legend_names_what_any_panel_shows_once() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], label="a")
    for label in ("a", "b"):
        right.plot([0, 1], label=label)
    programme.add_legend(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
