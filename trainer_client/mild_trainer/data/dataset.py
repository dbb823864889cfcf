"""`Dataset`, which holds images as bytes, or features as floats, and labels as integers in memory."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mild_trainer import noise
from mild_trainer.data.feature_arrays import compute_feature_statistics
from mild_trainer.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A training and a test set.

    Attributes
    ----------
    name
        Name in reports.
    x_train, x_test
        Images: shape (n_samples, height, width, n_channels), uint8. Features: shape (n_samples, n_features), float16 or
        float32. There may be no test samples.
    y_train, y_test
        Shape (n_samples,), int64, the given labels.
    n_classes
        Labels are 0..n_classes-1.
    y_train_clean
        Shape (n_samples,), int64, the true labels of the training samples; None if they are unknown.
    class_names
        Name of each class; empty if the classes are numbers.
    sample_ids
        Shape (n_samples,), a text for each training sample: its path in the folder of the data, its id, or its index in
        the file where only some of the samples were taken; None if the samples are those of the file.
    notes
        What was skipped or converted on reading, in sentences for people.
    """

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    n_classes: int
    y_train_clean: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    sample_ids: NDArray[np.str_] | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_samples(self) -> int:
        """Number of training samples."""
        return len(self.y_train)

    @property
    def has_features(self) -> bool:
        """Whether the samples are vectors of features, and not images."""
        return self.x_train.ndim == 2

    @property
    def clean(self) -> NDArray[np.bool_] | None:
        """Mask of the samples whose given label is right, shape (n_samples,); None if the true labels are unknown."""
        return None if self.y_train_clean is None else self.y_train == self.y_train_clean

    def get_class_name(self, label: int) -> str:
        """Return the name of a class, which is its number if it has no other."""
        return self.class_names[label] if self.class_names else str(label)

    def get_sample_id(self, index: int) -> str | None:
        """Return the text that names a training sample; None if that is its index."""
        return None if self.sample_ids is None else str(self.sample_ids[index])

    def describe(self) -> str:
        """Return one line about the samples, images and classes."""
        counts = np.bincount(self.y_train, minlength=self.n_classes).tolist()
        classes = [f"{self.get_class_name(label)} {count:,}" for label, count in enumerate(counts[:_MAX_LISTED])]
        if self.n_classes > _MAX_LISTED:
            classes.append(f"and {self.n_classes - _MAX_LISTED:,} more")
        shape, noun = "x".join(map(str, self.x_train.shape[1:])), "images"
        if self.has_features:
            shape, noun = f"{self.x_train.shape[1]:,} features", "samples"
        test = f"{len(self.y_test):,} test {noun}" if len(self.y_test) else f"no test {noun}"
        return (
            f"{self.name}: {self.n_samples:,} training and {test} of {shape}, "
            f"{self.n_classes:,} classes: {', '.join(classes)}"
        )

    def with_noise(self, spec: str, seed: int) -> Self:
        """Return a copy with label noise; the labels before the noise become the true labels, unless those are known.

        `spec` is a specification such as ``symmetric:0.4``, of the forms in `mild_trainer.noise`.
        """
        noisy_labels, _ = noise.apply_noise(spec, self.y_train, self.n_classes, seed, self.x_train)
        true_labels = self.y_train_clean
        if true_labels is None and spec != "none":
            true_labels = self.y_train
        return replace(self, y_train=noisy_labels, y_train_clean=true_labels)

    def compute_channel_statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean and standard deviation of each channel's training bytes, or of each feature.

        Both have the shape (n_channels,) or (n_features,). The standard deviation of what is constant is 1.
        """
        if self.has_features:
            return compute_feature_statistics(self.x_train)
        counts = [np.bincount(self.x_train[..., c].ravel(), minlength=256) for c in range(self.x_train.shape[-1])]
        values = np.arange(256, dtype=np.float64)
        shares = np.stack(counts) / max(1, self.x_train[..., 0].size)
        mean = shares @ values
        std = np.sqrt(shares @ values**2 - mean**2)
        return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)

    def take_balanced(self, n_samples: int, seed: int) -> Self:
        """Return a copy with at most `n_samples` random training samples, drawn evenly from the given classes.

        Raises
        ------
        DataError
            If `n_samples` is smaller than the number of classes.
        """
        if n_samples >= self.n_samples:
            return self
        if n_samples < self.n_classes:
            raise DataError(f"--limit is {n_samples}, below the {self.n_classes} classes of {self.name}; give more")
        return self.take(np.sort(_draw_balanced(self.y_train, n_samples, np.random.default_rng(seed))))

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return a copy with the training samples at `indices` and the complete test set."""
        return replace(
            self,
            x_train=self.x_train[indices],
            y_train=self.y_train[indices],
            y_train_clean=None if self.y_train_clean is None else self.y_train_clean[indices],
            sample_ids=indices.astype(np.str_) if self.sample_ids is None else self.sample_ids[indices],
        )


_MAX_LISTED = 10
"""Number of classes that a line names."""


def _draw_balanced(labels: NDArray[np.int64], n_samples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the indices of `n_samples` samples, one from each class in turn."""
    order = rng.permutation(len(labels))
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank_in_class[members] = np.arange(len(members))
    return order[np.argsort(rank_in_class[order], kind="stable")[:n_samples]]


def check_dataset(data: Dataset) -> Dataset:
    """Return `data` after checking that it can be trained on.

    Raises
    ------
    DataError
        If there are no training samples, arrays do not match or are of another type, or a label is of no class.
    """
    for part, images, labels in (("training", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        types = {4: ("uint8",), 2: ("float16", "float32")}.get(images.ndim, ())
        if images.ndim != data.x_train.ndim or images.dtype.name not in types:
            raise DataError(
                f"{data.name}: {part} samples are {images.dtype} of shape {images.shape}; "
                "give uint8 of shape (n, height, width, channels), or features as float32 of shape (n, n_features)"
            )
        if len(images) != len(labels) or (part == "training" and not len(labels)):
            raise DataError(f"{data.name}: {len(images)} {part} samples have {len(labels)} labels; give one each")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= data.n_classes:
            raise DataError(
                f"{data.name}: {part} labels run over {labels.min()}..{labels.max()}, "
                f"beyond the {data.n_classes} classes 0..{data.n_classes - 1}; renumber them"
            )
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise DataError(
            f"{data.name}: training samples are {data.x_train.shape[1:]}, test samples {data.x_test.shape[1:]}; "
            "give both the same height, width and channels, or the same features"
        )
    if data.y_train_clean is not None and data.y_train_clean.shape != data.y_train.shape:
        raise DataError(
            f"{data.name}: {data.y_train_clean.size} true labels for {data.n_samples} training samples; give one each"
        )
    return data
