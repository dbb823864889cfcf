"""Class-imbalanced subsets of balanced data.

``exp:0.01`` is long-tailed: sizes fall geometrically, the last class has a hundredth of the first (Cui et al. 2019,
arXiv 1901.05555). ``step:0.01``: the second half of the classes has a hundredth each (Buda et al. 2018).
"""

import numpy as np

from mild_core.errors import ParameterError
from mild_trainer.data.dataset import Dataset


def parse(spec: str) -> tuple[str, float]:
    """Split a specification into its kind and the smallest class's share of the largest; ``none`` has the share 1.

    Raises
    ------
    ParameterError
        If the kind is unknown or the share is not a number above 0 and at most 1.
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


def make_imbalanced(data: Dataset, spec: str, seed: int) -> Dataset:
    """Return a subset with classes of unequal size, by the true classes where they are known.

    Parameters
    ----------
    data
        Classes of about equal size.
    spec
        Kind and share, such as ``step:0.1``.
    seed
        Seed of the draw within each class, of which at least one sample is kept.

    Raises
    ------
    ParameterError
        If the specification cannot be read.
    """
    kind, share = parse(spec)
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
