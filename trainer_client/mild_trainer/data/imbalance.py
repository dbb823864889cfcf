"""Class-imbalanced subsets of balanced data sets, and the shares of the classes that a user declares.

With ``exp:0.01`` (long-tailed), the sizes of the classes fall geometrically, and the last class has a hundredth of the
samples of the first one (Cui et al. 2019, arXiv 1901.05555). With ``step:0.01``, each class of the second half has a
hundredth (Buda et al. 2018).
"""

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import ParameterError
from mild_core.statements import format_at_least
from mild_trainer.data.dataset import Dataset


def parse_imbalance(spec: str) -> tuple[str, float]:
    """Split a specification into its kind and the size of the smallest class as a share of the largest.

    The share of ``none`` is 1.
    """
    kind, _, text = spec.partition(":")
    if spec == "none":
        return kind, 1.0
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if kind not in ("exp", "step") or not 0 < share <= 1:
        raise ParameterError(
            f"imbalance is {spec!r}; give none, or exp or step and a share above 0 and at most 1, such as exp:0.01"
        )
    return kind, share


def parse_class_prior(text: str, n_classes: int | None = None) -> NDArray[np.float64] | None:
    """Return the shares of the classes among the true labels that a user declares, shape (n_classes,).

    Parameters
    ----------
    text
        ``none``; ``balanced``; or numbers in proportion to the shares, such as ``50,30,20``.
    n_classes
        Number of classes; None while it is not known: any number of shares is right, and ``balanced`` is one.

    Returns
    -------
    NDArray[np.float64] | None
        None for ``none``.
    """
    if text == "none":
        return None
    if text == "balanced":
        return np.ones(n_classes or 1)
    try:
        shares = np.array([float(part) for part in text.split(",")])
    except ValueError:
        shares = np.zeros(0)
    if shares.size < 2 or not (np.isfinite(shares) & (shares > 0)).all():
        raise ParameterError(
            f"class_prior is {text!r}; give none, balanced, or a number above 0 for each class, such as 50,30,20"
        )
    if n_classes is not None and shares.size != n_classes:
        raise ParameterError(
            f"class_prior has {shares.size} shares and the data set has {n_classes} classes; give one for each class"
        )
    return shares


def describe_class_prior(text: str, labels: NDArray[np.int64], n_classes: int) -> list[str]:
    """Return a line on what a declared prior implies: no fewer labels are wrong than lie beyond the declared shares."""
    prior = parse_class_prior(text, n_classes)
    if prior is None:
        return []
    excess = np.bincount(labels, minlength=n_classes) / labels.size - prior / prior.sum()
    share = format_at_least(float(excess.clip(min=0).sum()))
    return [f"class prior {text}: if it is true, at least {share} of the given labels are wrong"]


def make_imbalanced(data: Dataset, spec: str, seed: int) -> Dataset:
    """Return a random subset whose classes have unequal sizes; true labels, if known, define the classes.

    Parameters
    ----------
    data
        Data set with classes of about equal size.
    spec
        Kind and share, such as ``step:0.1``.
    seed
        Seed of the draw. At least one sample of each class is kept.
    """
    kind, share = parse_imbalance(spec)
    if spec == "none":
        return data
    classes = data.y_train if data.y_train_clean is None else data.y_train_clean
    # Independent of label noise with the same seed.
    order = np.random.default_rng([seed, 3]).permutation(data.n_samples)
    indices = []
    for label in range(data.n_classes):
        members = order[classes[order] == label]
        position = label / max(1, data.n_classes - 1)
        class_share = share**position if kind == "exp" else (share if position >= 0.5 else 1.0)
        indices.append(members[: max(1, round(class_share * len(members)))])
    return data.take(np.sort(np.concatenate(indices)))
