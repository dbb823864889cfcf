from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from mild_core.types import SelectionOptions
from mild_trainer.data import Dataset, load
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import History
from mild_trainer.training.loop import run_rounds
from tests.trainer.trainings import Uninterrupted


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The whole data set; it is never written to."""
    return load("digits")


@pytest.fixture
def quick() -> TrainSettings:
    """A training of a second: too few epochs to fit anything, so that a fraction decides."""
    return TrainSettings.for_dataset(
        "digits",
        noise="symmetric:0.4",
        limit=200,
        epochs=4,
        rounds=2,
        agree=1.0,
        selection=SelectionOptions(evidence="latest", threshold="fraction", fraction=0.6),
    )


@pytest.fixture
def weighted(quick: TrainSettings) -> TrainSettings:
    """Long enough to be fitted, so that the weights lie between 0 and 1."""
    return replace(quick, epochs=8, use="weights", selection=SelectionOptions())


@pytest.fixture(scope="session")
def uninterrupted(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """What settings come to when nobody interrupts them, and the folder it lies in; trained once for all who ask."""

    @cache
    def trained(settings: TrainSettings) -> tuple[History, Path]:
        out = tmp_path_factory.mktemp("whole")
        return run_rounds(settings, data=digits, out=out), out

    return trained
