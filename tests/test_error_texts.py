"""Every error says what happened, with the value, and what to do; no name of a Python exception reaches a person."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mild_client import RunExists
from mild_service.cli import cli as service_app
from mild_service.cli import read_settings
from mild_service.errors import ConfigurationError
from mild_trainer.cli import app
from tests.error_texts import ErrorText, read_texts

TEXTS = read_texts()

VERBS = """
accept add answer ask build change check choose clear compare compress copy correct create delete download draw drop
encode end expect finish fit free give go install lay leave let list listen look lower make name number observe open
pack pass pip plant post put raise read record remove rename renumber repeat replace restore resume retry run save say
see select send set split start stop store take train try unset upgrade use wait write zero
""".split()  # noqa: SIM905  # a list of quoted words would be three times as long
"""What a person can do."""

_REMEDY = re.compile(rf"(?:^|[,;:(] |[,;:]? ?\b(?:and|or|then|to) )(?:have|GET|{'|'.join(VERBS)})\b")

PASSED_ON = {
    "{reasons[-1]}",
    "{describe_os_error(error)}",
    "{_describe_missing_draw(self.audit, n_samples)}",
    "{_describe_no_pictures(part)}",
    "entry {position} of MILD_API_KEYS: {error}",
    "{unit} {number}: {reason}",
    "{where}: {reason}{BadRecord.remedy}",
    "{str(first['ctx']['error'])}",
    "{path}: {text}{hint}",
    "labels are outside 0..{n_classes - 1}, such as {examples}",
    "{n_outside} of {labels.size} labels are outside 0..{highest}, such as {examples}",
    "{file.path}: entry {error.position + 1}: {error}",
}
"""Texts whose end is made elsewhere, and has the remedy."""


def test_texts_are_found() -> None:
    assert len(TEXTS) > 350
    assert {"ParameterError", "RunNotFound", "ConfigurationError", "CheckpointError", "TooLarge"} <= {
        text.error for text in TEXTS
    }


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{text.place}-{text.error}")
def test_a_text_ends_with_what_to_do(text: ErrorText) -> None:
    if text.text in PASSED_ON or text.error == "RunExists":
        return
    problem, remedy = text.parts
    assert problem, text
    assert "…" in remedy or _REMEDY.search(remedy), f"{text.place}: no remedy in {text.text!r}"


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{text.place}-{text.error}")
def test_a_text_names_no_exception(text: ErrorText) -> None:
    for value in text.values:
        assert not (text.catches_os_error and value == text.catches_os_error), f"{text.place}: {value} has an Errno"
        assert not re.search(r"type\((error|exc|reason|cause)\)|(error|exc)!r", value), f"{text.place}: {value}"


def test_a_run_that_exists_says_both_ways_on() -> None:
    assert str(RunExists("it is there")).endswith("go on where it is (resume='allow', or --resume)")


@pytest.mark.parametrize("name", ["request_seconds", "store_timeout"])
def test_settings_that_do_not_fit_together_are_said_without_the_others(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(**{name: 1}, store_url="redis://me:secret@store", max_wait_seconds=2, store_replica_seconds=2)
    text = str(caught.value)
    assert text.startswith(f"{name} is 1 and would cut off")
    assert text.endswith("raise the one or lower the other")
    assert "secret" not in text


NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "command",
    [
        "push no/such.csv --run-id a --url {nowhere}",
        "push {file} --run-id a#b --url {nowhere}",
        "push {file} --run-id a/../b --url {nowhere}",
        "push {file} --run-id a --url nowhere",
        "push {folder} --run-id a --url {nowhere}",
        "report a#b --url {nowhere} --out {folder}/report.html",
        "report {folder} --out {folder}/report.html",
        "review a?b --url {nowhere} --out {folder}/review.csv",
        "review {folder} --out {folder}/review.csv",
        "select no/such.npy",
        "select {file}",
        "select {folder}",
        "sync no/such",
        "get a/../b --url {nowhere} --out {folder}/clean.npy",
        "finish a#b --url {nowhere}",
        "train --run-id a/b --local --out {folder}/out",
        "train --dataset nothing --local --out {folder}/out",
        "train --local --out {file}",
        "train --local --out {file}/below --limit 50 --epochs 1 --rounds 1 --plant 0",
        "train --local --out {folder}/out --noise symmetric:2",
        "demo --run-id a#b --local --out {folder}/out",
    ],
)
def test_a_command_that_cannot_be_done_says_so_in_one_line(command: str, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("epoch,sample,correct\n0,0,maybe\n")
    words = command.format(nowhere=NOWHERE, file=file, folder=tmp_path).split()
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert not re.search(r"Traceback|Errno|\b[A-Z]\w+(Error|Exception)\b", result.output), result.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "command", ["keys list --embedded --data-dir {file}", "export a#b {folder}/a.mild --embedded --data-dir {folder}/d"]
)
def test_a_command_of_the_service_that_cannot_be_done_says_so_in_one_line(command: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    result = CliRunner().invoke(service_app, command.format(file=file, folder=tmp_path).split())
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert not re.search(r"Traceback|Errno|\b[A-Z]\w+(Error|Exception)\b", result.output), result.output
