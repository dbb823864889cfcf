"""Seeded label noise, and a stratified order of samples.

A specification is ``none``, or a kind and a rate in 0..1, such as ``symmetric:0.4``. The kinds are:

- ``symmetric``: a random class, which may be the true one, as published. At 0.4, 36% of the labels of 10 classes are
  wrong.
- ``symmetric-exclusive``: a random class other than the true one.
- ``pairflip``: the next class.
- ``asymmetric``: the most similar class. CIFAR-10: truck to automobile, bird to airplane, deer to horse, cat to
  dog and dog to cat (Patrini et al. 2017). CIFAR-100: the next class within the superclass.
- ``cifar10n:aggre``, ``:random1`` to ``:random3``, ``:worse``, ``cifar100n:noisy``: human labels, which
  `mild_trainer.data.label_files` reads from their file; nothing is drawn here.
- ``file:PATH``: labels of a file, which `mild_trainer.data.label_files` reads; nothing is drawn here.
- ``instance``: a class that depends on the image, through a random linear map of its pixels for each true class. The
  flip rates of the samples vary around the given one (part-dependent noise, Xia et al. 2020, arXiv 2006.07836).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

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


def _flip_to_similar_class(labels: Labels, n_classes: int, rng: np.random.Generator) -> Labels:
    """Replace each label by its similar class in CIFAR-10, or by the next class of its superclass in CIFAR-100."""
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
    "symmetric": lambda labels, n_classes, rng: rng.integers(0, n_classes, len(labels)),
    "symmetric-exclusive": lambda labels, n_classes, rng: (
        (labels + rng.integers(1, n_classes, len(labels))) % n_classes
    ),
    "pairflip": lambda labels, n_classes, _: (labels + 1) % n_classes,
    "asymmetric": _flip_to_similar_class,
}
HUMAN_LABELS: Mapping[str, Mapping[str, str]] = {
    "cifar10n": {
        "aggre": "aggre_label",
        "random1": "random_label1",
        "random2": "random_label2",
        "random3": "random_label3",
        "worse": "worse_label",
    },
    "cifar100n": {"noisy": "noisy_label"},
}
"""Column of the published file for each of the human labels of a data set (CIFAR-N, Wei et al. 2022)."""
_INSTANCE = "instance"
FILE = "file"
"""Kind of the labels of a file."""
_FILE_SUFFIXES = (".json", ".npy", ".npz", ".pt", ".pth", ".csv", ".tsv", ".txt")
KINDS = (*_TRANSITIONS, _INSTANCE)
"""Kinds of synthetic noise, each given with a rate."""
_RATE_SPREAD = 0.1
"""Standard deviation of the flip rates of samples with `instance` noise, as in Xia et al. 2020."""


def _draw_instance_noise(
    labels: Labels, n_classes: int, rate: float, images: NDArray[Any], rng: np.random.Generator
) -> Labels:
    """Draw labels that depend on the images: each sample has its own flip rate, and its pixels determine the new label.

    The flip rates are drawn from a normal distribution around `rate`, truncated to 0..1. Each class has a random linear
    map from pixels to classes. The softmax of this map of a sample's standardised pixels gives the probabilities of its
    wrong labels.
    """
    low, high = -rate / _RATE_SPREAD, (1 - rate) / _RATE_SPREAD
    rates = np.asarray(truncnorm.rvs(low, high, rate, _RATE_SPREAD, len(labels), random_state=rng))
    noisy = labels.copy()
    for label in range(n_classes):
        members = np.flatnonzero(labels == label)
        pixels = images[members].reshape(len(members), -1).astype(np.float32)
        spread = pixels.std(axis=0)
        # What hardly differs is not blown up: a grey level, or a thousandth of the features' common spread, is little.
        little = 1.0 if images.dtype == np.uint8 else 1e-3 * spread.mean() or 1.0
        pixels = (pixels - pixels.mean(axis=0)) / (spread + little)
        scores = pixels @ rng.standard_normal((pixels.shape[1], n_classes), dtype=np.float32)
        scores[:, label] = -np.inf
        cumulative = softmax(scores, axis=1).cumsum(axis=1, dtype=np.float64)
        new_labels = (cumulative <= rng.random((len(members), 1)) * cumulative[:, -1:]).sum(axis=1)
        flips = rng.random(len(members)) < rates[members]
        noisy[members[flips]] = new_labels[flips]
    return noisy


def get_label_file(spec: str) -> str | None:
    """Return the path of a specification that names a file of labels, ``file:PATH`` or ``PATH``; None for others."""
    kind, separator, rest = spec.partition(":")
    if kind == FILE and separator:
        return rest
    if any(spec.lower().endswith(suffix) or f"{suffix}:" in spec.lower() for suffix in _FILE_SUFFIXES):
        return spec
    return None


def parse_noise(spec: str) -> tuple[str, float]:
    """Split a specification into its kind and its rate.

    The rate of ``none``, of human labels and of files of labels is 0, as nothing is drawn for them.

    Raises
    ------
    ParameterError
        If the kind or the name of the human labels is unknown, or the rate is not a number in 0..1.
    """
    kind, _, rate_text = spec.partition(":")
    if spec == "none":
        return kind, 0.0
    if get_label_file(spec) is not None:
        return FILE, 0.0
    if kind in HUMAN_LABELS:
        names = list(HUMAN_LABELS[kind])
        if rate_text not in names:
            raise ParameterError(f"noise is {spec!r}; {kind} has {', '.join(names)}, such as {kind}:{names[-1]}")
        return kind, 0.0
    try:
        rate = float(rate_text)
    except ValueError:
        rate = -1.0
    if kind not in KINDS or not 0 <= rate <= 1:
        kinds = ", ".join(KINDS)
        raise ParameterError(
            f"noise is {spec!r}; give none, or one of {kinds} and a rate in 0..1, such as symmetric:0.4, or "
            "file:labels.json"
        )
    return kind, rate


def apply_noise(
    spec: str, labels: Labels, n_classes: int, seed: int, images: NDArray[Any] | None = None
) -> tuple[Labels, NDArray[np.bool_]]:
    """Return noisy labels and the mask of the wrong ones among them, shape (n_samples,) each.

    Parameters
    ----------
    spec
        Specification of the noise, such as ``pairflip:0.4``.
    labels
        Shape (n_samples,), the true labels.
    n_classes
        Labels are 0..n_classes-1.
    seed
        Seed of the draw of the samples and of their labels.
    images
        The images, or features, shape (n_samples, …), required for `instance` noise only.

    Raises
    ------
    ParameterError
        If the specification is invalid, or `images` is None with `instance` noise.

    Notes
    -----
    Exactly ``round(rate * n_samples)`` samples, drawn without replacement, have their label replaced. With `instance`
    noise, this is the expected number.
    """
    kind, rate = parse_noise(spec)
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


def draw_stratified_order(labels: Labels, seed: Sequence[int]) -> NDArray[np.int64]:
    """Return the indices of the samples, shape (n_samples,), ordered by class, and at random within each class.

    Parameters
    ----------
    labels
        Shape (n_samples,), the classes to order by.
    seed
        Seed of the order: the seed of the training, and a number for the purpose. Without the second number, the first
        samples of the order would be those that label noise of the same seed mislabels.

    Notes
    -----
    Every k-th sample of the order gives a subset in which the classes have their proportions in the data.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]
