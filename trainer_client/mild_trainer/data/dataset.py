"""A data set in memory: images as bytes, labels as integers."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_trainer import noise
from mild_trainer.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A training and a test set.

    Attributes
    ----------
    name
        What it is called in reports.
    x_train, x_test
        Shape (n_samples, height, width, n_channels), uint8.
    y_train, y_test
        Shape (n_samples,), int64, the labels as given.
    n_classes
        Labels are 0..n_classes-1.
    y_train_clean
        Shape (n_samples,), int64, the true labels where they are known.
    """

    name: str
    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    n_classes: int
    y_train_clean: NDArray[np.int64] | None = None

    @property
    def n_samples(self) -> int:
        """Training samples."""
        return len(self.y_train)

    @property
    def clean(self) -> NDArray[np.bool_] | None:
        """Whose given label is true, shape (n_samples,); None where nobody knows."""
        return None if self.y_train_clean is None else self.y_train == self.y_train_clean

    def with_noise(self, spec: str, seed: int) -> Self:
        """The same with labels broken on purpose; those given before count as true, unless the truth is known."""
        given, _ = noise.apply(spec, self.y_train, self.n_classes, seed, self.x_train)
        truth = self.y_train_clean
        if truth is None and spec != "none":
            truth = self.y_train
        return replace(self, y_train=given, y_train_clean=truth)

    def normalisation(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of the training bytes, shape (n_channels,) each; a constant channel gets 1."""
        counts = [np.bincount(self.x_train[..., c].ravel(), minlength=256) for c in range(self.x_train.shape[-1])]
        values = np.arange(256, dtype=np.float64)
        shares = np.stack(counts) / max(1, self.x_train[..., 0].size)
        mean = shares @ values
        std = np.sqrt(shares @ values**2 - mean**2)
        return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)

    def limited(self, n_samples: int, seed: int) -> Self:
        """A subset of at most `n_samples` training samples, as even over the given classes as they allow.

        Raises
        ------
        DataError
            If `n_samples` is below the number of classes.
        """
        if n_samples >= self.n_samples:
            return self
        if n_samples < self.n_classes:
            raise DataError(f"--limit is {n_samples}, below the {self.n_classes} classes of {self.name}; give more")
        return self.taken(np.sort(_balanced(self.y_train, n_samples, np.random.default_rng(seed))))

    def taken(self, chosen: NDArray[np.int64]) -> Self:
        """The training samples of these indices, and the whole test set."""
        clean = None if self.y_train_clean is None else self.y_train_clean[chosen]
        return replace(self, x_train=self.x_train[chosen], y_train=self.y_train[chosen], y_train_clean=clean)


def _balanced(labels: NDArray[np.int64], n_samples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of `n_samples` samples: everyone's turn within the own class comes in a random order."""
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn[order], kind="stable")[:n_samples]]


def check(data: Dataset) -> Dataset:
    """Return `data` if it can be trained on.

    Raises
    ------
    DataError
        If it is empty, its parts do not belong together, or a label lies outside its classes.
    """
    for part, images, labels in (("training", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(
                f"{data.name}: {part} images are {images.dtype} of shape {images.shape}; "
                "give uint8 of shape (n, height, width) or (n, height, width, channels)"
            )
        if len(images) != len(labels) or not len(labels):
            raise DataError(f"{data.name}: {len(images)} {part} images have {len(labels)} labels; give one each")
        if labels.min() < 0 or labels.max() >= data.n_classes:
            raise DataError(
                f"{data.name}: {part} labels run over {labels.min()}..{labels.max()}, "
                f"beyond the {data.n_classes} classes 0..{data.n_classes - 1}; renumber them"
            )
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise DataError(
            f"{data.name}: training images are {data.x_train.shape[1:]}, test images {data.x_test.shape[1:]}; "
            "give both the same height, width and channels"
        )
    if data.y_train_clean is not None and data.y_train_clean.shape != data.y_train.shape:
        raise DataError(
            f"{data.name}: {data.y_train_clean.size} true labels for {data.n_samples} training samples; give one each"
        )
    return data
