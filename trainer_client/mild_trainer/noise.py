"""Seeded label noise, and a stratified order of samples.

Specifications: ``none``, or a kind and a rate in 0..1, as in ``symmetric:0.4``.

- ``symmetric``: redraws over all classes, the true one included, as published; 10 classes at 0.4 are 0.36 wrong labels.
- ``symmetric-exclusive``: redraws over the other classes.
- ``pairflip``: the next class.
- ``asymmetric``: the most similar class. CIFAR-10: truck to automobile, bird to airplane, deer to horse, cat to
  dog and dog to cat (Patrini et al. 2017). CIFAR-100: the next class within the superclass.
- ``cifar10n:aggre``, ``:random1`` to ``:random3``, ``:worse``, ``cifar100n:noisy``: the labels that people gave, read
  from a file by `mild_trainer.data.human_labels`; nothing is drawn here.
- ``instance``: whether and into what depends on the image, through a random linear map of its pixels per class, with
  flip rates around the given one (part-dependent noise, Xia et al. 2020, arXiv 2006.07836).
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import truncnorm

from mild_core.errors import ParameterError

Labels: TypeAlias = NDArray[np.int64]

_CIFAR10_SIMILAR_CLASSES = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}

# The 20 superclasses of CIFAR-100, five classes each, as in the data set's description (Krizhevsky 2009).
_CIFAR100_SUPERCLASSES = (
    (4, 30, 55, 72, 95),
    (1, 32, 67, 73, 91),
    (54, 62, 70, 82, 92),
    (9, 10, 16, 28, 61),
    (0, 51, 53, 57, 83),
    (22, 39, 40, 86, 87),
    (5, 20, 25, 84, 94),
    (6, 7, 14, 18, 24),
    (3, 42, 43, 88, 97),
    (12, 17, 37, 68, 76),
    (23, 33, 49, 60, 71),
    (15, 19, 21, 31, 38),
    (34, 63, 64, 66, 75),
    (26, 45, 77, 79, 99),
    (2, 11, 35, 46, 98),
    (27, 29, 44, 78, 93),
    (36, 50, 65, 74, 80),
    (47, 52, 56, 59, 96),
    (8, 13, 48, 58, 90),
    (41, 69, 81, 85, 89),
)


def _symmetric(labels: Labels, n_classes: int, rng: np.random.Generator) -> Labels:
    return rng.integers(0, n_classes, len(labels))


def _symmetric_exclusive(labels: Labels, n_classes: int, rng: np.random.Generator) -> Labels:
    return (labels + rng.integers(1, n_classes, len(labels))) % n_classes


def _pairflip(labels: Labels, n_classes: int, rng: np.random.Generator) -> Labels:
    return (labels + 1) % n_classes


def _asymmetric(labels: Labels, n_classes: int, rng: np.random.Generator) -> Labels:
    target = np.arange(n_classes)
    if n_classes == 10:
        for source, similar in _CIFAR10_SIMILAR_CLASSES.items():
            target[source] = similar
    elif n_classes == 100:
        for group in _CIFAR100_SUPERCLASSES:
            target[list(group)] = np.roll(group, -1)
    else:
        raise ParameterError(
            f"asymmetric noise is defined for the 10 classes of CIFAR-10 and the 100 of CIFAR-100, "
            f"not for {n_classes}; use pairflip"
        )
    return target[labels]


_TRANSITIONS: dict[str, Callable[[Labels, int, np.random.Generator], Labels]] = {
    "symmetric": _symmetric,
    "symmetric-exclusive": _symmetric_exclusive,
    "pairflip": _pairflip,
    "asymmetric": _asymmetric,
}
HUMAN_LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"cifar10n": ("aggre", "random1", "random2", "random3", "worse"), "cifar100n": ("noisy",)}
)
"""Names of the human labels, by data set."""
_INSTANCE = "instance"
_RATE_SPREAD = 0.1
"""Standard deviation of the samples' flip rates under `instance` noise, as in Xia et al. 2020."""


def _draw_instance_noise(
    labels: Labels, n_classes: int, rate: float, images: NDArray[np.uint8], rng: np.random.Generator
) -> Labels:
    """Draw labels that depend on the images: each sample has its own flip rate, and its pixels determine the new label.

    The flip rates are normal around `rate`, truncated to 0..1. A class has a random linear map from pixels to classes;
    the probabilities of a sample's wrong labels are the softmax of its standardised pixels under its class's map.
    """
    low, high = -rate / _RATE_SPREAD, (1 - rate) / _RATE_SPREAD
    rates = np.asarray(truncnorm.rvs(low, high, rate, _RATE_SPREAD, len(labels), random_state=rng))
    noisy = labels.copy()
    for label in range(n_classes):
        members = np.flatnonzero(labels == label)
        pixels = images[members].reshape(len(members), -1).astype(np.float32)
        pixels = (pixels - pixels.mean(axis=0)) / (pixels.std(axis=0) + 1.0)
        scores = pixels @ rng.standard_normal((pixels.shape[1], n_classes), dtype=np.float32)
        scores[:, label] = -np.inf
        cumulative = softmax(scores, axis=1).cumsum(axis=1, dtype=np.float64)
        new_labels = (cumulative <= rng.random((len(members), 1)) * cumulative[:, -1:]).sum(axis=1)
        flips = rng.random(len(members)) < rates[members]
        noisy[members[flips]] = new_labels[flips]
    return noisy


def parse(spec: str) -> tuple[str, float]:
    """Split a specification into its kind and rate; ``none`` and people's labels, which nothing is drawn for, have 0.

    Raises
    ------
    ParameterError
        If the kind is unknown, the rate is not a number in 0..1, or there are no such human labels.
    """
    kind, _, rate_text = spec.partition(":")
    if spec == "none":
        return kind, 0.0
    if kind in HUMAN_LABELS:
        if rate_text not in HUMAN_LABELS[kind]:
            raise ParameterError(
                f"noise is {spec!r}; {kind} has {', '.join(HUMAN_LABELS[kind])}, such as "
                f"{kind}:{HUMAN_LABELS[kind][-1]}"
            )
        return kind, 0.0
    try:
        rate = float(rate_text)
    except ValueError:
        rate = -1.0
    if kind not in (*_TRANSITIONS, _INSTANCE) or not 0 <= rate <= 1:
        kinds = ", ".join((*_TRANSITIONS, _INSTANCE))
        raise ParameterError(
            f"noise is {spec!r}; give none, or one of {kinds} and a rate in 0..1, such as symmetric:0.4"
        )
    return kind, rate


def apply(
    spec: str, labels: Labels, n_classes: int, seed: int, images: NDArray[np.uint8] | None = None
) -> tuple[Labels, NDArray[np.bool_]]:
    """Return noisy labels and the mask of those that are wrong, shape (n_samples,) each.

    Parameters
    ----------
    spec
        Kind and rate, such as ``pairflip:0.4``.
    labels
        Shape (n_samples,), the true labels.
    n_classes
        Labels are 0..n_classes-1.
    seed
        Seed of the samples and of their labels.
    images
        Shape (n_samples, height, width, n_channels), which `instance` noise depends on.

    Raises
    ------
    ParameterError
        If the specification is invalid, or `instance` noise has no images.

    Notes
    -----
    The rate is exact: ``round(rate * n_samples)`` samples, drawn without replacement, have their label replaced; with
    `instance` noise it is an expectation.
    """
    kind, rate = parse(spec)
    if not rate:
        return labels.copy(), np.zeros(len(labels), dtype=bool)
    rng = np.random.default_rng(seed)
    if kind == _INSTANCE:
        if images is None:
            raise ParameterError(
                "instance noise depends on the images and none are given; give them, or take another kind"
            )
        noisy = _draw_instance_noise(labels, n_classes, rate, images, rng)
        return noisy, noisy != labels
    indices = rng.permutation(len(labels))[: round(rate * len(labels))]
    noisy = labels.copy()
    noisy[indices] = _TRANSITIONS[kind](labels[indices], n_classes, rng)
    return noisy, noisy != labels


def stratified_order(labels: Labels, seed: Sequence[int]) -> NDArray[np.int64]:
    """Return the indices of `labels`, shape (n_samples,), ordered by class and at random within each.

    Parameters
    ----------
    labels
        Shape (n_samples,).
    seed
        Seed of the order. It includes a number for the purpose: otherwise the first samples would be those that label
        noise of the same seed mislabels.

    Notes
    -----
    Every k-th sample of the order takes from all classes in proportion to their size.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]
