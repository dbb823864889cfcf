"""One training in a folder, and a way on from every folder that holds one."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mild_trainer import cli
from mild_trainer.errors import TrainerError
from mild_trainer.job import choose_out_folder
from mild_trainer.training.progress import Reporter


def write_training(folder: Path, name: str = "checkpoint.pt") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_every_training_that_names_no_folder_gets_a_new_one(tmp_path: Path) -> None:
    default = tmp_path / "train"
    assert choose_out_folder(None, default, resume=False) == default
    write_training(default)
    assert choose_out_folder(None, default, resume=False) == tmp_path / "train-2"
    write_training(tmp_path / "train-2", "summary.json")
    assert choose_out_folder(None, default, resume=False) == tmp_path / "train-3"


def test_the_last_training_is_resumed_where_none_is_named(tmp_path: Path) -> None:
    default = tmp_path / "train"
    assert choose_out_folder(None, default, resume=True) == default
    for name in ("train", "train-2"):
        write_training(tmp_path / name)
    assert choose_out_folder(None, default, resume=True) == tmp_path / "train-2"


@pytest.mark.parametrize(("name", "state"), [("checkpoint.pt", "an unfinished"), ("summary.json", "a finished")])
def test_a_folder_with_a_training_is_resumed_or_refused(tmp_path: Path, name: str, state: str) -> None:
    write_training(tmp_path, name)
    with pytest.raises(TrainerError, match=f"holds {state} training; give another folder .*, or --resume to go on"):
        choose_out_folder(tmp_path, tmp_path / "train", resume=False)
    assert choose_out_folder(tmp_path, tmp_path / "train", resume=True) == tmp_path
    assert choose_out_folder(tmp_path / "other", tmp_path / "train", resume=False) == tmp_path / "other"


def test_a_refused_training_changes_nothing(tmp_path: Path) -> None:
    write_training(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(cli.app, ["train", "--out", str(tmp_path)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_training_says_how_to_go_on_and_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "train",
        "--limit",
        "100",
        "--epochs",
        "2",
        "--rounds",
        "1",
        "--flip",
        "--local",
        "--api-key",
        "secret",
    ]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "on_epoch_end", interrupt)
        result = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 130
    assert "Interrupted. To go on from the last checkpoint:" in result.stderr
    command = shlex.split(result.stderr.splitlines()[-1])
    expected = ["--limit", "100", "--epochs", "2", "--rounds", "1", "--flip", "--local"]
    start = command.index("train")
    assert sorted(command[start + 1 :]) == sorted([*expected, "--out", str(tmp_path), "--resume"])
    resumed = CliRunner().invoke(cli.app, command[start:])
    assert resumed.exit_code == 0, resumed.output
    assert (tmp_path / "clean.csv").exists()


def test_an_interruption_before_the_first_checkpoint_is_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mild_trainer.job.Job.run", interrupt)
    result = CliRunner().invoke(cli.app, ["train", "--local", "--out", str(tmp_path)])
    assert (result.exit_code, result.stderr.strip()) == (
        130,
        "Interrupted before the first checkpoint; nothing is lost by starting anew.",
    )
