"""The data sets that the trainer reads, by name."""

from pathlib import Path

from mild_trainer.data import digits
from mild_trainer.data.dataset import Dataset, check

__all__ = ["Dataset", "load"]


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Return the data set `name`."""
    return check(digits.load())
