"""Presets: named settings of the published experiments and of this project.

Options that are given in addition to a preset override it. The published presets follow MILD (arXiv 2306.11560): only
members are scored, weights are carried from round to round, the density is fitted and cut at the scale of the noisy
component, over 27 stages. Two things differ from the paper: no part of the training set is held out for validation,
and the weight decay is the same in every stage.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions
from mild_trainer.settings import DatasetName, TrainSettings

PUBLISHED_LOOP: Mapping[str, Any] = {
    "observe": "members",
    "weights": "carry",
    "plant": 0.0,
    "agree": 1.0,
    "selection": SelectionOptions(fit="density", threshold="scale", evidence="latest"),
}
"""Settings of the published method that do not depend on the data set or the network."""

_PUBLISHED: Mapping[str, Any] = {
    **PUBLISHED_LOOP,
    "model": "resnet34",
    "rounds": 27,
    "first_epochs": 70,
    "epochs": 20,
    "batch_size": 128,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-3,
    "schedule": "cosine",
    "pad": 4,
    "flip": True,
}
# The members' bits come from the training pass, and what that saves is spent on epochs: on digits with 80% noise, two
# rounds, `one-cycle`, label smoothing 0.1 and seeds 100 to 103, 18 such epochs came to a mean F1 of 0.921, and 15 that
# observe everyone, for 14% more passes, to 0.899.
_FAST: Mapping[str, Any] = {
    "model": "resnet18",
    "epochs": 18,
    "observe": "mixed",
    "rounds": 2,
    "batch_size": 512,
    "lr": 0.4,
    "schedule": "one-cycle",
    "label_smoothing": 0.1,
    "pad": 4,
    "flip": True,
    "finish": "mixmatch",
    "finish_epochs": 60,
    "ema": 0.999,
}


@dataclass(frozen=True, slots=True)
class Preset:
    """Named settings for one data set.

    Attributes
    ----------
    dataset
        Data set to train on.
    settings
        Settings that differ from the data set's defaults.
    source
        Origin of the settings, in words.
    """

    dataset: DatasetName
    settings: Mapping[str, Any]
    source: str

    @property
    def option_values(self) -> dict[str, Any]:
        """Values of all options that the preset sets, by name, including those of the selection."""
        settings = dict(self.settings)
        selection = settings.pop("selection", None)
        options = {} if selection is None else asdict(selection)
        choices = {name: value for name, value in options.items() if value is not None}
        return {"dataset": self.dataset, **settings, **choices}


def _make_published_preset(noise: str, dataset: DatasetName = "cifar10", **settings: Any) -> Preset:
    """Make a preset of the published method with a kind of label noise; `settings` override its settings."""
    return Preset(dataset, {**_PUBLISHED, "noise": noise, **settings}, f"as published: {dataset}, {noise}")


PRESETS: Mapping[str, Preset] = {
    "paper-cifar10-sym50": _make_published_preset("symmetric:0.5", first_epochs=10),
    "paper-cifar10-sym80": _make_published_preset("symmetric:0.8"),
    "paper-cifar10-asym40": _make_published_preset("asymmetric:0.4"),
    "paper-cifar100-sym50": _make_published_preset("symmetric:0.5", "cifar100", epochs=50),
    "paper-cifar100-sym80": _make_published_preset("symmetric:0.8", "cifar100", epochs=50),
    "paper-cifar100-pairflip40": _make_published_preset("pairflip:0.4", "cifar100", epochs=50),
    "fast-cifar10": Preset("cifar10", _FAST, "ours: two short rounds, then MixMatch; not tuned on a GPU yet"),
    "fast-cifar100": Preset("cifar100", _FAST, "ours: two short rounds, then MixMatch; not tuned on a GPU yet"),
    "best-digits": Preset(
        "digits", {"rounds": 2, "finish": "mixmatch", "finish_epochs": 40}, "ours: digits, trained on with MixMatch"
    ),
}


def find_preset(name: str) -> Preset:
    """Return the preset `name`."""
    if name not in PRESETS:
        raise ParameterError(f"preset is {name!r}; give one of {', '.join(PRESETS)}")
    return PRESETS[name]


def make_settings(name: str, **changes: Any) -> TrainSettings:
    """Return the settings of a preset, overridden by the `changes` that are not None."""
    preset = find_preset(name)
    overrides = {key: value for key, value in changes.items() if value is not None}
    return TrainSettings.for_dataset(**{"dataset": preset.dataset, **preset.settings, **overrides})


def format_table() -> str:
    """Return a text of two lines for each preset: its name and source, and the options that it sets."""
    lines = []
    for name, preset in PRESETS.items():
        options = " ".join(
            f"--{key.replace('_', '-')} {_format_value(value)}" for key, value in preset.option_values.items()
        )
        lines.append(f"{name}: {preset.source}\n  {options}")
    return "\n".join(lines)


def _format_value(value: object) -> str:
    """Return a value as text, a boolean in lower case."""
    return str(value).lower() if isinstance(value, bool) else str(value)
