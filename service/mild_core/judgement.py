"""Judgement of the samples of a selection: their statistics, the fit to them, and the verdict on the fit."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mild_core.class_cuts import ClassGroups, group_by_class
from mild_core.forgetting import Forgetting
from mild_core.guarantee import DrawCounts
from mild_core.learning import MIN_LEARNING_EPOCHS, find_unfinished_training
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.mixture.weibull import Floats
from mild_core.partial_observation import PartialObservation, choose_levels
from mild_core.scores import Grid
from mild_core.sources import SampleSource
from mild_core.statistics import COLUMNS, Query, Statistics, count_part, join_counts
from mild_core.types import Fit, SelectionOptions, Verdict
from mild_core.verdict import (
    SEPARABLE_DISTANCE,
    SEPARABLE_MEMORISATION,
    SINGLE_WEIGHT,
    check_sufficiency,
    judge_fit,
    measure_component_distance,
)


@dataclass(frozen=True, slots=True, eq=False)
class FitData:
    """Data of a fit.

    Attributes
    ----------
    query
        What was asked of the samples.
    n_epochs
        Epochs of the rounds that count.
    grid
        The bins of the scores.
    statistics
        The sums over all samples.
    bins
        `Selection.bins`.
    by_bin
        Shape (n_columns, n_bins), `statistics.COLUMNS` by bin.
    observation
        The cells; None where they are the bins, since every scored sample was observed in every epoch.
    by_cell
        Shape (n_columns, n_cells), `statistics.COLUMNS` by cell.
    groups
        The scored samples by given label; None unless the options ask for classes.
    """

    query: Query
    n_epochs: int
    grid: Grid
    statistics: Statistics
    bins: NDArray[np.unsignedinteger]
    by_bin: Floats
    observation: PartialObservation | None
    by_cell: Floats
    groups: ClassGroups | None

    @property
    def counts(self) -> Floats:
        """Histogram of the scored samples, shape (n_bins,)."""
        counts: Floats = self.by_bin[0]
        return counts

    @property
    def n_scored(self) -> int:
        """Number of scored samples."""
        return int(self.counts.sum())

    @property
    def cell_likelihood(self) -> Floats | None:
        """`PartialObservation.likelihood`; None where the cells are the bins."""
        return None if self.observation is None else self.observation.likelihood

    @property
    def draw_counts(self) -> DrawCounts:
        """The scored samples, the drawn ones and those of them found mislabelled, up to each cut."""
        drawn = self.by_bin[[0, COLUMNS.index("drawn"), COLUMNS.index("wrong_drawn")]]
        return DrawCounts(*np.cumsum(drawn, axis=1).astype(np.int64))

    def fit(self, kind: Fit) -> Mixture:
        """Fit one kind of mixture."""
        checked = self.by_cell[[COLUMNS.index("clean"), COLUMNS.index("wrong")]]
        is_used = self.query.options.audit == "fit"
        return fit_mixture(self.by_cell[0], kind, self.cell_likelihood, checked if is_used else None)

    def sum_forgetting(self, cells: NDArray[np.bool_]) -> Forgetting:
        """Sum the forgetting of the samples in some cells, a mask of shape (n_cells,)."""
        memorised, forgotten = self.by_cell[1:3, cells].sum(axis=1)
        return Forgetting(int(memorised), int(forgotten))


@dataclass(frozen=True, slots=True, eq=False)
class JudgedFit:
    """A fit with its data and its verdict.

    Attributes
    ----------
    data
        The data.
    mixture
        The fit; None if the data are insufficient for a fit.
    verdict, reasons
        The verdict on the fit, and its reasons.
    memorisation
        Late memorisation of the samples that were misclassified in most epochs, 1 if there are none; None if it is
        unknown.
    anchored
        The fit ``anchored`` of the same data, where it was made too.
    """

    data: FitData
    mixture: Mixture | None
    verdict: Verdict
    reasons: tuple[str, ...]
    memorisation: float | None = None
    anchored: Mixture | None = None

    @property
    def trusted_mixture(self) -> Mixture | None:
        """The fit if the verdict allows a cut by the fit, else None."""
        return self.mixture if self.verdict in ("separable", "weak") else None

    @property
    def distance(self) -> float:
        """Distance of the components in standard deviations; minus infinity if the verdict allows no cut."""
        return -np.inf if self.trusted_mixture is None else measure_component_distance(self.trusted_mixture)


def judge_samples(source: SampleSource, options: SelectionOptions, executor: Executor | None = None) -> JudgedFit:
    """Fit and judge the samples of a source, unless the network was still learning when training ended.

    Parameters
    ----------
    source
        The samples.
    options
        The options of the selection.
    executor
        Where the parts of the source are counted; None counts one after the other.
    """
    data = collect_fit_data(source, Query(options, 0, source.planted_round), executor)
    judged = _judge_epochs(source, data, executor)
    if judged.trusted_mixture is None:
        return judged
    unfinished = find_unfinished_training(data.statistics.learning)
    if unfinished is not None:
        return replace(judged, verdict="learning", reasons=(unfinished, *judged.reasons))
    n_epochs = source.round_lengths[-1]
    if judged.verdict == "separable" and n_epochs < MIN_LEARNING_EPOCHS:
        reason = (
            f"a round of {n_epochs} epochs does not show whether the network was still learning (separable from "
            f"{MIN_LEARNING_EPOCHS})"
        )
        return replace(judged, verdict="weak", reasons=(reason, *judged.reasons))
    return judged


def _judge_epochs(source: SampleSource, data: FitData, executor: Executor | None) -> JudgedFit:
    """Fit and judge all epochs, or only the first ones if mislabelled samples are memorised late.

    As long as the samples that were misclassified in most epochs are known in the last quarter of them, the first
    quarter of every round is judged too. In the first epochs right labels are still being learnt, so a fit of these
    needs components that are far apart. Of the fits that allow a cut, the one with the largest distance decides.
    """
    best = last = _judge_data(data)
    while last.memorisation is not None and last.memorisation > SEPARABLE_MEMORISATION:
        query = replace(last.data.query, early=last.data.query.early + 1, levels=None)
        if query.shorten(source.round_lengths) == last.data.query.shorten(source.round_lengths):
            break
        reason = (
            f"{last.memorisation:.0%} of the samples that were misclassified in most epochs are known in the last "
            f"quarter (memorised late above {SEPARABLE_MEMORISATION:.0%}), so the first quarter judges"
        )
        early = _judge_data(collect_fit_data(source, query, executor))
        last = replace(early, reasons=(reason, *early.reasons))
        if last.distance >= SEPARABLE_DISTANCE and last.distance > best.distance:
            best = last
    return best


def collect_fit_data(source: SampleSource, query: Query, executor: Executor | None = None) -> FitData:
    """Count the samples of a source part by part, and collect the data of a fit."""
    statistics, bins = _count_samples(source, query, executor)
    lengths = query.take_lengths(source.round_lengths)
    n_bins = Grid.for_metric(query.options.metric, sum(lengths)).n_bins
    if query.options.metric == "mild-simple" and (len(lengths) > 1 or n_bins <= lengths[0]):
        # Where a cell holds one pair of counts, it is rounded afterwards; here a sample has another cell when rounded.
        levels = choose_levels(statistics.by_cell.keys // n_bins)
        if levels is not None:
            query = replace(query, levels=levels)
            statistics, bins = _count_samples(source, query, executor)
    return _make_fit_data(query, source.round_lengths, statistics, bins)


def _count_samples(
    source: SampleSource, query: Query, executor: Executor | None
) -> tuple[Statistics, NDArray[np.unsignedinteger]]:
    """Count the samples of all parts of a source; `count_part` describes the result."""
    map_parts = map if executor is None else executor.map
    return join_counts(map_parts(partial(count_part, query), source.split()))


def _make_fit_data(
    query: Query, round_lengths: Sequence[int], statistics: Statistics, bins: NDArray[np.unsignedinteger]
) -> FitData:
    """Derive the data of a fit from the sums over all samples."""
    options = query.options
    n_epochs = sum(query.take_lengths(round_lengths))
    grid = Grid.for_metric(options.metric, n_epochs)
    by_bin = statistics.by_bin.expand(grid.n_bins)
    observation, by_cell = None, by_bin
    if statistics.n_partial and options.metric == "mild-simple":
        cells = statistics.by_cell
        observation = PartialObservation.from_cells(cells.keys, grid.n_bins)
        n_cells = len(observation.likelihood)
        by_cell = np.stack([np.bincount(observation.positions, column, n_cells) for column in cells.sums])
    groups = None
    if statistics.classes is not None:
        groups = group_by_class(statistics.classes, grid.n_bins, observation)
    return FitData(query, n_epochs, grid, statistics, bins, by_bin, observation, by_cell, groups)


def _judge_data(data: FitData) -> JudgedFit:
    """Fit the mixture of the options to the histogram, and judge the fit."""
    is_sufficient, reasons = check_sufficiency(data.counts)
    if not is_sufficient:
        return JudgedFit(data, None, "insufficient", reasons)
    kind = data.query.options.fit
    if kind != "tailed":
        return _judge_mixture(data, kind)
    anchored = _judge_mixture(data, "anchored")
    if anchored.verdict != "separable":
        return anchored
    tailed = _judge_mixture(data, "tailed")
    # Structured noise fits the tail too: a fit with tails that finds noise but separates nothing decides nothing.
    finds_noise = tailed.mixture is not None and tailed.mixture.weights[1] >= SINGLE_WEIGHT
    chosen = anchored if finds_noise and tailed.verdict != "separable" else tailed
    return replace(chosen, anchored=anchored.mixture)


def _judge_mixture(data: FitData, kind: Fit) -> JudgedFit:
    """Fit one kind of mixture, and judge the fit."""
    statistics, mixture = data.statistics, data.fit(kind)
    memorisation: float | None = 1.0
    if statistics.n_hard:
        memorisation = statistics.late_memorised / statistics.late_observed if statistics.late_observed else None
    forgetting = data.sum_forgetting(mixture.compute_noisy_posterior(data.cell_likelihood) <= 0.5)
    planted_counts = None if data.query.planted_round is None else statistics.planted_counts
    verdict, reasons = judge_fit(mixture, forgetting, memorisation, planted_counts)
    return JudgedFit(data, mixture, verdict, reasons, memorisation)
