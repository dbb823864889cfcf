from pathlib import Path

import pytest
import torch

from mild_trainer.data import Dataset, load
from mild_trainer.settings import TrainSettings


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The whole data set; it is never written to."""
    return load("digits")


@pytest.fixture
def quick(tmp_path: Path) -> TrainSettings:
    """A training of a second or two."""
    return TrainSettings.for_dataset("digits", noise="symmetric:0.4", limit=200, epochs=8, rounds=2, agree=1.0)
