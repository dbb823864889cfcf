"""Classes by themselves: a fit and a cut for each of them, and a floor under what is kept of it.

Classes differ in how hard they are and in how often their label is wrong, and one cut for all of them takes most from
the hard ones. A class of twenty samples cannot carry a fit, though: each is drawn to the fit of all samples
(`mixture.fit_groups`), the more so the fewer samples it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import ParameterError
from mild_core.mixture.mixture import Mixture, fit_groups
from mild_core.mixture.weibull import Floats
from mild_core.results import ClassCut, Threshold
from mild_core.threshold import fitted_cut, floored, fraction_cut
from mild_core.types import SelectionOptions, Verdict

MAX_CLASSES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The scored samples of every class.

    Attributes
    ----------
    labels
        Shape (n_classes,), ascending.
    own
        Each scored sample's class, as a place in `labels`, shape (n_scored,).
    counts, cells
        Histograms and samples per cell of every class, shape (n_classes, n_bins) and (n_classes, n_cells).
    """

    labels: NDArray[np.int64]
    own: NDArray[np.intp]
    counts: Floats
    cells: Floats


def group(
    labels: NDArray[np.integer], bins: NDArray[np.integer], n_bins: int, cell: NDArray[np.integer], n_cells: int
) -> Classes:
    """Sort scored samples by their given label.

    Parameters
    ----------
    labels, bins, cell
        Of each scored sample, shape (n_scored,).
    n_bins, n_cells
        Of the histogram and of what the fit sees.

    Raises
    ------
    ParameterError
        If there are more than `MAX_CLASSES` classes.
    """
    found, own = np.unique(labels, return_inverse=True)
    if found.size > MAX_CLASSES:
        raise ParameterError(
            f"the labels have {found.size} classes, at most {MAX_CLASSES} are fitted; leave out per_class and "
            "min_keep_class"
        )
    counts, cells = (
        np.bincount(own * width + place, minlength=found.size * width).reshape(found.size, width).astype(np.float64)
        for place, width in ((bins, n_bins), (cell, n_cells))
    )
    return Classes(found.astype(np.int64), own, counts, cells)


@dataclass(frozen=True, slots=True, eq=False)
class ClassCuts:
    """One cut per class.

    Attributes
    ----------
    fits
        One per class; empty where they have none of their own.
    cuts
        Shape (n_classes,), last bin that is kept.
    floored
        Shape (n_classes,), where the floor of the class made the cut.
    """

    fits: Sequence[Mixture]
    cuts: NDArray[np.int64]
    floored: NDArray[np.bool_]


def cut_classes(
    classes: Classes,
    options: SelectionOptions,
    threshold: Threshold,
    believed: Mixture | None,
    observation: Floats | None,
) -> ClassCuts:
    """Cut every class.

    Parameters
    ----------
    classes
        At least one.
    options
        Whether each has its own cut, and the floors. A given ``value`` is obeyed to the letter: none of them bites.
    threshold
        The cut of all samples together, for classes without one of their own; a cut of None keeps everyone.
    believed
        The fit of all samples together; None where it is not to be cut by.
    observation
        As in `fit_mixture`.
    """
    n_classes, n_bins = classes.counts.shape
    fits: Sequence[Mixture] = ()
    cuts = np.full(n_classes, n_bins - 1 if threshold.cut is None else threshold.cut, dtype=np.int64)
    if threshold.rule == "value":
        return ClassCuts(fits, cuts, np.zeros(n_classes, dtype=np.bool_))
    floor = options.min_keep_class
    if options.per_class:
        floor = max(floor, options.min_keep)
        if options.threshold == "fraction" and options.fraction is not None:
            cuts = np.array([fraction_cut(counts, options.fraction) for counts in classes.counts])
        elif believed is not None:
            fits = fit_groups(believed, classes.cells, observation)
            cuts = _f1_cuts(fits, classes) if options.threshold == "f1" else _own_cuts(fits, classes, options)
    raised = np.array([floored(int(cut), counts, floor) for cut, counts in zip(cuts, classes.counts, strict=True)])
    return ClassCuts(fits, raised, raised > cuts)


def _own_cuts(fits: Sequence[Mixture], classes: Classes, options: SelectionOptions) -> NDArray[np.int64]:
    """Each class by the option's rule, as if there were no other: a target is reached by every class."""
    return np.array([fitted_cut(fit, counts, options) for fit, counts in zip(fits, classes.counts, strict=True)])


def _f1_cuts(fits: Sequence[Mixture], classes: Classes) -> NDArray[np.int64]:
    """The cuts with the best expected F1 score of all classes together.

    F1 is a ratio of sums over the classes, so its best cuts maximise ``2 clean - F1 * kept`` of each class (Dinkelbach
    1967): no class is judged by its own F1, which a class that is mostly mislabelled could only reach by keeping all.
    """
    sizes = classes.counts.sum(axis=1)
    densities = np.stack([fit.densities for fit in fits]) * sizes[:, None, None]
    clean, noisy = np.cumsum(np.concatenate((np.zeros((len(fits), 2, 1)), densities), axis=2), axis=2).swapaxes(0, 1)
    rows, best = np.arange(len(fits)), 0.0
    all_clean = clean[:, -1].sum()
    while True:  # it ends: there are finitely many cuts, and each step's F1 is above the last one's
        cuts: NDArray[np.int64] = np.argmax(2 * clean - best * (clean + noisy), axis=1)
        kept_clean, kept_noisy = clean[rows, cuts].sum(), noisy[rows, cuts].sum()
        f1 = 2 * kept_clean / max(kept_clean + kept_noisy + all_clean, 1e-300)
        if not f1 > best * (1 + 1e-12):
            break
        best = f1
    return cuts - 1


def described(
    classes: Classes, found: ClassCuts, kept: NDArray[np.bool_], verdict: Verdict, *, fitted: bool
) -> tuple[ClassCut, ...]:
    """Every class in plain numbers; `kept` says it of each scored sample, shape (n_scored,)."""
    scored = np.bincount(classes.own, minlength=classes.labels.size)
    own_kept = np.bincount(classes.own[kept], minlength=classes.labels.size)
    rates: list[float | None] = [None] * classes.labels.size
    if found.fits and verdict == "separable":
        rates = [float(fit.weights[1]) for fit in found.fits]
    return tuple(
        ClassCut(int(label), int(n), int(n_kept), int(cut) if fitted else None, rate, bool(raised))
        for label, n, n_kept, cut, rate, raised in zip(
            classes.labels, scored, own_kept, found.cuts, rates, found.floored, strict=True
        )
    )
