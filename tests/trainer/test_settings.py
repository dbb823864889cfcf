import json
import typing
from dataclasses import fields
from pathlib import Path

import pytest

from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions
from mild_trainer import noise
from mild_trainer.settings import DEFAULTS, DatasetName, TrainSettings


def test_every_data_set_has_defaults_that_are_settings() -> None:
    assert set(DEFAULTS) == set(typing.get_args(DatasetName))
    for dataset, defaults in DEFAULTS.items():
        settings = TrainSettings.for_dataset(dataset)
        assert all(getattr(settings, name) == value for name, value in defaults.items())


def test_what_is_given_wins_and_none_is_not_given() -> None:
    settings = TrainSettings.for_dataset("cifar10", model="resnet34", flip=False, epochs=None)
    assert (settings.model, settings.flip, settings.epochs) == ("resnet34", False, DEFAULTS["cifar10"]["epochs"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, r"epochs is 0; give a number in 1\.\.10000"),
        ({"batch_size": 1}, r"batch_size is 1; give a number in 2\.\.1048576"),
        ({"momentum": 1.5}, r"momentum is 1.5; give a number in 0\.\.0.9999"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"cutout": -1}, r"cutout is -1; give a number in 0\.\.4096"),
        ({"plant": 0.6}, r"plant is 0.6; give a number in 0\.\.0.5"),
        ({"plant": 0.02, "observe": "members"}, r"observe is members: .* could never return; plant 0, or observe all"),
        ({"noise": "salt"}, "noise is 'salt'"),
        ({"selection": SelectionOptions(p=2)}, "p is 2"),
    ],
)
def test_a_setting_outside_its_range_is_refused_with_the_range(given: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        TrainSettings.for_dataset("digits", **given)


def test_planting_is_the_default_where_everyone_is_observed() -> None:
    found = {
        observe: TrainSettings.for_dataset("digits", observe=observe).plant for observe in ("all", "mixed", "members")
    }
    assert found == {"all": 0.02, "mixed": 0.02, "members": 0.0}
    assert TrainSettings.for_dataset("digits", observe="members", plant=0.0).plant == 0.0


def test_settings_are_json() -> None:
    settings = TrainSettings.for_dataset("npz", data_dir=Path("mine.npz"))
    found = json.loads(json.dumps(settings.as_json()))
    assert set(found) == {field.name for field in fields(settings)}
    assert found["data_dir"] == "mine.npz"
    assert found["selection"]["metric"] == "mild-simple"


@pytest.mark.parametrize(("observe", "made_by"), [("all", "eval"), ("mixed", "train"), ("members", "train")])
def test_says_which_pass_makes_the_members_bits(observe: str, made_by: str) -> None:
    assert TrainSettings.for_dataset("digits", observe=observe).forward_pass == made_by


def test_the_help_of_noise_lists_every_kind() -> None:
    (field,) = (each for each in fields(TrainSettings) if each.name == "noise")
    assert all(kind in field.metadata["text"] for kind in noise.KINDS)
