"""Per-class cuts: a fit, a cut and a minimum of kept samples for every class.

Classes differ in how hard they are and in how often their label is wrong, and one cut for all drops most samples of the
hard ones. A class of twenty samples has too little data for a fit, so the fit of a class is drawn towards the fit of
all samples, the more the fewer samples the class has (`mixture.fit_groups`).

A cell is a pair of the observed and the misclassified epochs of a sample (`partial_observation`). Where all
samples were observed in every epoch, the cells are the bins of the histogram.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.mixture.mixture import Mixture, fit_groups
from mild_core.mixture.weibull import Floats
from mild_core.partial_observation import PartialObservation
from mild_core.results import ClassCut, Threshold
from mild_core.statistics import ClassTables
from mild_core.threshold import apply_min_keep, choose_cut, find_fraction_cut
from mild_core.types import SelectionOptions, Verdict


@dataclass(frozen=True, slots=True, eq=False)
class ClassGroups:
    """Scored samples grouped by their given label.

    Attributes
    ----------
    labels
        Shape (n_classes,), the labels that occur, ascending.
    counts
        Shape (n_classes, n_bins), number of samples of every class in every bin.
    cell_counts
        Shape (n_classes, n_cells), number of samples of every class in every cell.
    """

    labels: NDArray[np.int64]
    counts: Floats
    cell_counts: Floats

    def find_positions(self, labels: NDArray[np.integer]) -> NDArray[np.intp]:
        """Return the position of given labels, shape of `labels`; any position for a label without scored samples."""
        positions = np.searchsorted(self.labels, labels)
        clipped: NDArray[np.intp] = np.minimum(positions, self.labels.size - 1)
        return clipped


@dataclass(frozen=True, slots=True, eq=False)
class ClassCuts:
    """One cut per class.

    Attributes
    ----------
    fits
        One fit per class; empty where classes have no fits of their own.
    cuts
        Shape (n_classes,), last bin that is kept of every class; -1 if no bin is.
    floored
        Shape (n_classes,), whether the cut of a class was raised to keep its minimum share.
    """

    fits: Sequence[Mixture]
    cuts: NDArray[np.int64]
    floored: NDArray[np.bool_]


def group_by_class(tables: ClassTables, n_bins: int, observation: PartialObservation | None) -> ClassGroups:
    """Count the scored samples of every class per bin and per cell.

    Parameters
    ----------
    tables
        The samples by given label.
    n_bins
        Number of bins.
    observation
        The cells; None if they are the bins.
    """
    label, bins = np.divmod(tables.by_bin.keys, n_bins)
    labels = tables.labels
    counts = np.zeros((labels.size, n_bins))
    counts[np.searchsorted(labels, label), bins] = tables.by_bin.sums[0]
    if observation is None:
        return ClassGroups(labels, counts, counts)
    label, cells = np.divmod(tables.by_cell.keys, n_bins**2)
    keys = np.searchsorted(labels, label) * len(observation.likelihood) + observation.find_positions(cells)
    cell_counts = np.bincount(keys, tables.by_cell.sums[0], labels.size * len(observation.likelihood))
    return ClassGroups(labels, counts, cell_counts.reshape(labels.size, -1).astype(np.float64))


def cut_classes(
    groups: ClassGroups,
    options: SelectionOptions,
    threshold: Threshold,
    mixture: Mixture | None,
    cell_likelihood: Floats | None,
) -> ClassCuts:
    """Choose the cut of every class.

    Parameters
    ----------
    groups
        The scored samples by class, at least one class.
    options
        The threshold rule, whether every class has its own cut (`per_class`), and the minimum shares. The minimum
        shares do not apply to the rule ``value``.
    threshold
        The cut of all samples together, which classes without a cut of their own use. If its `cut` is None, these
        classes keep all samples.
    mixture
        The fit of all samples together; None if the verdict allows no cut by a fit.
    cell_likelihood
        As in `fit_mixture`.
    """
    n_classes, n_bins = groups.counts.shape
    fits: Sequence[Mixture] = ()
    cuts = np.full(n_classes, n_bins - 1 if threshold.cut is None else threshold.cut, dtype=np.int64)
    if threshold.rule == "value":
        return ClassCuts(fits, cuts, np.zeros(n_classes, dtype=np.bool_))
    min_keep = options.min_keep_class
    if options.per_class:
        min_keep = max(min_keep, options.min_keep)
        if options.threshold == "fraction" and options.fraction is not None:
            cuts = np.array([find_fraction_cut(counts, options.fraction) for counts in groups.counts])
        elif mixture is not None:
            fits = fit_groups(mixture, groups.cell_counts, cell_likelihood)
            cuts = _choose_f1_cuts(fits, groups) if options.threshold == "f1" else _choose_cuts(fits, groups, options)
    raised = np.array([apply_min_keep(int(cut), n, min_keep) for cut, n in zip(cuts, groups.counts, strict=True)])
    if threshold.cut is not None and not any(n[: cut + 1].any() for cut, n in zip(raised, groups.counts, strict=True)):
        raised = np.maximum(raised, threshold.cut)  # which keeps a sample
    return ClassCuts(fits, raised, raised > cuts)


def _choose_cuts(fits: Sequence[Mixture], groups: ClassGroups, options: SelectionOptions) -> NDArray[np.int64]:
    """Apply the threshold rule to every class separately, so that every class reaches a target."""
    return np.array([choose_cut(fit, counts, options) for fit, counts in zip(fits, groups.counts, strict=True)])


def _choose_f1_cuts(fits: Sequence[Mixture], groups: ClassGroups) -> NDArray[np.int64]:
    """Choose the cuts with the largest expected F1 score of all classes together.

    F1 is a ratio of sums over the classes, so the best cuts maximise ``2 clean - F1 * kept`` of every class (Dinkelbach
    1967). The F1 of each class alone is unsuitable: a class of mostly mislabelled samples has the largest F1 if all of
    its samples are kept.
    """
    sizes = groups.counts.sum(axis=1)
    densities = np.stack([fit.densities for fit in fits]) * sizes[:, None, None]
    clean, noisy = np.cumsum(np.concatenate((np.zeros((len(fits), 2, 1)), densities), axis=2), axis=2).swapaxes(0, 1)
    rows, best_f1 = np.arange(len(fits)), 0.0
    all_clean = clean[:, -1].sum()
    while True:  # terminates: the number of cuts is finite, and F1 grows in every step
        cuts: NDArray[np.int64] = np.argmax(2 * clean - best_f1 * (clean + noisy), axis=1)
        kept_clean, kept_noisy = clean[rows, cuts].sum(), noisy[rows, cuts].sum()
        f1 = 2 * kept_clean / max(kept_clean + kept_noisy + all_clean, 1e-300)
        if not f1 > best_f1 * (1 + 1e-12):
            break
        best_f1 = f1
    return cuts - 1


def describe_classes(
    groups: ClassGroups, class_cuts: ClassCuts, n_kept: NDArray[np.integer], verdict: Verdict, *, has_cut: bool
) -> tuple[ClassCut, ...]:
    """Return the cut and the numbers of samples of every class, by ascending label.

    Parameters
    ----------
    groups, class_cuts
        The scored samples by class, and their cuts.
    n_kept
        Shape (n_classes,), number of scored samples of every class that the cuts keep.
    verdict
        The verdict on the fit of all samples; noise rates are None unless it is ``separable``.
    has_cut
        Whether a cut was made; else the cut of every class is None.
    """
    n_classes = groups.labels.size
    n_scored = groups.counts.sum(axis=1)
    noise_rates: list[float | None] = [None] * n_classes
    if class_cuts.fits and verdict == "separable":
        noise_rates = [float(fit.weights[1]) for fit in class_cuts.fits]
    columns = (groups.labels, n_scored, n_kept, class_cuts.cuts, noise_rates, class_cuts.floored)
    return tuple(
        ClassCut(int(label), int(scored), int(n_selected), int(cut) if has_cut else None, noise_rate, bool(floored))
        for label, scored, n_selected, cut, noise_rate, floored in zip(*columns, strict=True)
    )
