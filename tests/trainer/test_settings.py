import itertools
import json
import math
import typing
from dataclasses import fields
from pathlib import Path

import pytest

from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions
from mild_trainer import noise
from mild_trainer.settings import DEFAULTS, OWN_DATA, SIZE_DEFAULTS, DatasetName, TrainSettings


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


def read_table(head: str) -> dict[str, list[str]]:
    """The cells of a table in the document by the name of the setting; `head` begins its head line."""
    lines = iter(Path("docs/trainer.md").read_text().splitlines())
    next(line for line in lines if line.startswith(head))
    next(lines)
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0].strip("`"): row[1:] for row in cells}


def format_default(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def test_the_document_lists_every_default_of_a_data_set() -> None:
    table = read_table("| setting | `digits` |")
    columns: tuple[tuple[DatasetName, ...], ...] = (
        ("digits",),
        ("mnist",),
        ("cifar10", "cifar100"),
        ("webvision",),
        ("features",),
    )
    assert set(table) == {name for names in columns for dataset in names for name in DEFAULTS[dataset]}
    for name, cells in table.items():
        for cell, datasets in zip(cells, columns, strict=True):
            assert {format_default(getattr(TrainSettings.for_dataset(d), name)) for d in datasets} == {cell}, name
    assert set(OWN_DATA) | {dataset for names in columns for dataset in names} == set(DEFAULTS)


def test_the_document_lists_every_default_of_own_data() -> None:
    table = read_table("| setting, `npz` and `folder` |")
    for column, (_, defaults) in enumerate(SIZE_DEFAULTS):
        assert {name: cells[column] for name, cells in table.items()} == {
            name: format_default(value) for name, value in defaults.items()
        }
    assert [limit for limit, _ in SIZE_DEFAULTS] == [500, 1_000, 2_000, 20_000, math.inf]


@pytest.mark.parametrize(
    ("n_samples", "side", "expected"),
    [
        (600, 32, {"model": "resnet8", "batch_size": 32, "pad": 2, "threads": 1}),
        (1500, 8, {"model": "resnet8", "batch_size": 64, "pad": 0, "threads": 1}),
        (5000, 28, {"model": "resnet8", "epochs": 20, "pad": 1, "threads": 0}),
        (60_000, 64, {"model": "resnet18", "batch_size": 128, "pad": 4, "threads": 0}),
    ],
)
def test_own_data_has_defaults_by_number_and_size(n_samples: int, side: int, expected: dict[str, object]) -> None:
    settings = TrainSettings.for_dataset("folder", epochs=7)
    found = settings.with_size_defaults(n_samples, side, given={"epochs"})
    assert {name: getattr(found, name) for name in {**expected, "epochs": 0, "flip": 0}} == {
        **expected,
        "epochs": 7,
        "flip": False,
    }


def test_published_data_and_a_limit_have_their_own_defaults() -> None:
    cifar = TrainSettings.for_dataset("cifar10")
    assert cifar.with_size_defaults(600, 8, given=()) == cifar
    assert TrainSettings.for_dataset("npz", limit=600).with_size_defaults(60_000, 28, given=()).batch_size == 32
