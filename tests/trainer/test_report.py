import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mild_core.agreement import HeldOutAgreement
from mild_trainer.data import Dataset
from mild_trainer.report import figures, report, summary
from mild_trainer.report.summary import summarise_training
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import EpochRecord, History
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.progress import ProgressBarReporter, Reporter


@pytest.fixture(scope="module")
def history() -> History:
    settings = TrainSettings.for_dataset("digits", noise="symmetric:0.4", limit=300, epochs=12, rounds=2, oracle=True)
    return run_rounds(settings)


AGREED = HeldOutAgreement(300, 0.5, 0.1, 0.02, 20.0, True)


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_needs_nothing_else(history: History, tmp_path: Path) -> None:
    page = report.render_report(summary.summarise_training(history))
    links = Links()
    links.feed(page)
    assert [link for link in links.found if not link.startswith("#")] == []
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == 3
    assert "clean component" in page
    assert "noisy component" in page
    assert ">cut<" in page
    assert "all labels" in page
    assert "true clean" in page


def test_names_are_escaped(history: History) -> None:
    page = report.render_report(
        summary.summarise_training(replace(history, data=replace(history.data, name="<script>alert(1)</script>")))
    )
    assert "<script>" not in page


def test_a_setting_without_a_value_is_a_dash(history: History) -> None:
    assert history.settings.data_dir is None
    assert "<dt>data_dir</dt><dd>-</dd>" in report.render_report(summary.summarise_training(history))


def test_the_same_training_draws_the_same_page(history: History) -> None:
    assert report.render_report(summary.summarise_training(history)) == report.render_report(
        summary.summarise_training(history)
    )


def test_a_round_without_a_fit_says_so(history: History) -> None:
    bare = replace(history.rounds[0], fit=None, agreement=None)
    untold = replace(history, rounds=(bare,), oracle_accuracy=None, data=replace(history.data, y_train_clean=None))
    page = report.render_report(summary.summarise_training(untold))
    assert "Nothing was fitted." in page
    assert "true clean" not in page


def test_a_histogram_without_components_or_cut_is_drawn(history: History) -> None:
    record = history.rounds[0]
    assert record.fit is not None
    uncut = {**record.summary, "threshold": {"rule": "bayes", "value": None, "cut": None}}
    drawn = figures.draw_histogram(replace(record.fit, densities=()), uncut, 0)
    assert ">cut<" not in drawn
    assert ">samples<" in drawn


def test_the_summary_holds_every_number(history: History, tmp_path: Path) -> None:
    found = json.loads(summary.write_summary(summary.summarise_training(history), tmp_path).read_text())
    assert [entry["round"] for entry in found["rounds"]] == [0, 1]
    assert found["rounds"][1]["members"] == history.rounds[1].n_members
    assert found["rounds"][0]["fitted_noise"] == history.rounds[0].fitted_noise
    assert found["baseline"]["test_accuracy"] == history.rounds[0].test_accuracy
    assert found["dataset"]["num_samples"] == 300
    assert "torch" in found["versions"]


def test_unknown_truth_is_null_and_a_dash(history: History) -> None:
    record = replace(history.rounds[0], agreement=None, summary={**history.rounds[0].summary, "fitted": {}})
    unknown = replace(history, rounds=(record,), oracle_accuracy=None, data=replace(history.data, y_train_clean=None))
    found = summary.summarise_training(unknown)
    assert found["rounds"][0]["f1"] is None
    assert found["rounds"][0]["true_noise"] is None
    assert found["oracle"] is None
    row = dict(zip(summary.HEADINGS, summary.format_table_rows(found)[0], strict=True))
    assert [row[name] for name in ("precision", "recall", "F1", "noise true", "noise fitted")] == ["-"] * 5
    headings, rows = summary.build_rounds_table(found)
    assert headings == ("round", "members", "kept", "test accuracy", "verdict"), "columns without a value are left out"
    assert {len(row) for row in rows} == {len(headings)}
    untested = {**found, "rounds": [{**found["rounds"][0], "test_accuracy": None}], "baseline": {"test_accuracy": None}}
    page = report.render_report(untested)
    assert "accuracy" not in page[: page.index("<h2>Loss")], "nor are cards"


def forget_truth(history: History, **summary: Any) -> dict[str, Any]:
    rounds = tuple(replace(each, agreement=None, summary={**each.summary, **summary}) for each in history.rounds)
    bare = replace(history, rounds=rounds, data=replace(history.data, y_train_clean=None), oracle_accuracy=None)
    return summarise_training(bare)


def test_a_known_truth_leads_and_the_fit_comes_last(history: History) -> None:
    results = summarise_training(history)
    statements = summary.describe_last_set(results)
    assert [statement.basis for statement in statements] == ["true", "fitted"]
    agreement = history.rounds[-1].agreement
    assert agreement is not None
    assert f"{agreement.precision:.1%} of the kept labels are right" in statements[0].text
    assert summary.describe_next_step(statements, "mild review out", results) is None
    assert summary.describe_last_set({**results, "rounds": []}) == []
    assert summary.describe_next_step([], "mild review out", results) is None
    page = report.render_report(results)
    assert page.index(statements[0].text) < page.index("<h2>Rounds</h2>") < page.index("By the fit, ")


def test_without_a_checked_label_the_report_says_what_makes_the_set_known(history: History) -> None:
    for run_id, command in ((None, "--order random --limit 100"), ("r", "--draw 100")):
        results = forget_truth(history, run_id=run_id)
        (unknown, *_) = statements = summary.describe_last_set(results)
        assert (unknown.basis, "is not known: no label was checked." in unknown.text) == ("unknown", True)
        step = summary.describe_next_step(statements, "mild review out", results)
        assert step is not None
        assert step.startswith("Draw 100 samples at random and check them: about 9 minutes")
        assert step.endswith(f"mild review out {command}")
        page, card = report.render_report(results), report.render_model_card(results)
        for text in (page, card):
            assert text.index("is not known: no label was checked.") < text.index(f"mild review RUN {command}")
            assert text.index(f"mild review RUN {command}") < text.index("By the fit, ")
        results["rounds"][-1]["selection"] |= {"num_samples": 10, "unobserved": 1, "planted": 1}
        small = summary.describe_next_step(statements, "mild review out", results)
        assert small is not None
        assert small.startswith("Draw 8 samples at random")
        assert small.endswith(command.replace("100", "8"))


def test_what_was_audited_since_leads_the_report(history: History) -> None:
    results = forget_truth(history)
    measured = {"known": 40, "precision": 0.9, "recall": 0.8, "f1": 0.85, "auc": 0.9, "basis": "40 audited samples"}
    page = report.render_report(results, selection={**results["rounds"][-1]["selection"], "measured": measured})
    assert "is not known" not in page
    assert "On 40 audited samples: " in page


def test_the_table_fits_80_columns(history: History) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(summary.build_terminal_table(summary.summarise_training(history)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert re.search(r"all labels +300", text)
    assert "accuracy" in text


def test_lines_tell_every_step(history: History) -> None:
    stream = io.StringIO()
    lines = Reporter(Console(file=stream, width=120))
    lines.on_round_start("round 0", 300, 8)
    lines.on_epoch_end(history.rounds[0].epochs[0])
    lines.on_round_end(history.rounds[0])
    lines.on_round_end(replace(history.rounds[0], agreement=None))
    lines.on_round_start("true clean set", 1, 1)
    lines.on_comparison_end("true clean set", 0.5, 1.25)
    lines.on_agreement_measured(AGREED)
    text = stream.getvalue().splitlines()
    assert text[0] == "round 0: 8 epochs on 300 samples"
    assert text[1].startswith("round 0 epoch 0: loss ")
    assert "precision" in text[2]
    assert "precision" not in text[3]
    assert text[4:6] == ["true clean set: 1 epoch on 1 sample", "true clean set: test 0.500, 1.2 s"]
    assert text[6].startswith("held-out agreement 0.500, by chance 0.100 (standard error 0.0200, z = 20.0): the labels")


def test_bars_reach_their_end(history: History) -> None:
    stream = io.StringIO()
    with ProgressBarReporter(Console(file=stream, width=120, force_terminal=True)) as bars:
        bars.on_round_start("round 0", 300, 2)
        for epoch in (0, 1):
            bars.on_epoch_end(EpochRecord(0, epoch, 1.0, 0.5, 0.5, 0.1))
        bars.on_round_end(history.rounds[0])
        bars.on_agreement_measured(AGREED)
        bars.on_round_start("true clean set", 200, 3)
        bars.on_comparison_end("true clean set", 0.5, 1.0)
    assert "2/2" in stream.getvalue()
    assert "3/3" in stream.getvalue()
    assert "held-out agreement 0.500" in stream.getvalue()
    assert "round 0: kept" in stream.getvalue()


def test_silence_is_silent(history: History, capsys: pytest.CaptureFixture[str], digits: Dataset) -> None:
    silent = Reporter()
    silent.on_agreement_measured(AGREED)
    silent.on_round_start("round 0", 300, 2)
    silent.on_epoch_end(history.rounds[0].epochs[0])
    silent.on_round_end(history.rounds[0])
    silent.on_comparison_end("true clean set", 0.5, 1.0)
    assert capsys.readouterr().out == ""
