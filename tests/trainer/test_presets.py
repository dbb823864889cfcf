import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mild_core.errors import ParameterError
from mild_trainer import cli, presets

SMALL = ["--limit", "100", "--epochs", "1", "--rounds", "1", "--finish-epochs", "1", "--local"]


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_a_training_and_documented(name: str) -> None:
    settings = presets.make_settings(name)
    for key, value in presets.PRESETS[name].settings.items():
        assert getattr(settings, key) == value
    assert f"`{name}`" in Path("docs/trainer.md").read_text()
    listed = CliRunner().invoke(cli.app, ["presets"]).output
    assert f"\n{name}: " in f"\n{listed}"


def test_the_published_protocol_is_that_of_the_paper() -> None:
    settings = presets.make_settings("paper-cifar10-sym80")
    assert (settings.model, settings.lr, settings.weight_decay) == ("resnet34", 0.01, 5e-3)
    assert settings.count_epochs(0) + 26 * settings.count_epochs(1) == 70 + 26 * 20
    assert settings.rounds == 27
    assert (settings.observe, settings.weights, settings.plant) == ("members", "carry", 0)
    assert settings.selection.threshold == "scale"
    assert presets.make_settings("paper-cifar10-sym80", rounds=2, model=None).rounds == 2


def test_options_and_variables_win_over_a_preset(tmp_path: Path) -> None:
    arguments = ["train", "--preset", "best-digits", *SMALL, "--out", str(tmp_path)]
    result = CliRunner(env={"MILD_FINISH": "supervised"}).invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert (found["rounds"], found["finish_epochs"], found["finish"]) == (1, 1, "supervised")


def test_a_preset_stands_in_for_defaults_those_of_the_selection_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = presets.Preset("digits", {**presets.PUBLISHED_LOOP, "noise": "symmetric:0.4"}, "as published")
    monkeypatch.setattr(presets, "PRESETS", {"published": published})
    result = CliRunner().invoke(cli.app, ["train", "--preset", "published", *SMALL, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert (found["noise"], found["observe"], found["plant"]) == ("symmetric:0.4", "members", 0)
    assert (found["selection"]["fit"], found["selection"]["threshold"]) == ("density", "scale")


def test_round_0_may_have_its_own_length(tmp_path: Path) -> None:
    arguments = ["train", "--limit", "100", "--epochs", "1", "--first-epochs", "2", "--rounds", "2", "--agree", "1"]
    result = CliRunner().invoke(cli.app, [*arguments, "--local", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rounds = json.loads((tmp_path / "summary.json").read_text())["rounds"]
    assert [len(record["epochs"]) for record in rounds] == [2, 1]


def test_an_unknown_preset_is_one_line_with_the_known_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["train", "--preset", "best", "--local", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: preset is 'best'; give one of paper-cifar10-sym50, ")
    with pytest.raises(ParameterError, match="preset is 'best'"):
        presets.make_settings("best")
