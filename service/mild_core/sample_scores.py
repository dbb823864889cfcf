"""Scores and posteriors of samples under a fit, computed where they are asked for."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.mixture.weibull import TINY, Floats
from mild_core.partial_observation import PartialObservation
from mild_core.score_groups import group_samples
from mild_core.scores import score_samples
from mild_core.sources import SampleBlock, SamplePart, SampleSource
from mild_core.statistics import Query
from mild_core.types import RoundBits


@dataclass(frozen=True, slots=True, eq=False)
class PosteriorTable:
    """Probability of being mislabelled of every cell.

    Attributes
    ----------
    posterior
        Shape (n_cells,), or (n_classes, n_cells) where classes have fits of their own.
    observation
        The cells; None if they are the bins.
    labels
        Shape (n_classes,), the labels of the classes, ascending; None where classes have no fits of their own.
    """

    posterior: Floats
    observation: PartialObservation | None
    labels: NDArray[np.int64] | None = None


class SampleScores:
    """Scores and posteriors of the samples of a source.

    Parameters
    ----------
    source, query
        The samples, and what was asked of them.
    table
        The posteriors; None if nothing was fitted.
    executor
        Where the parts of the source are scored; None scores one after the other.
    """

    def __init__(
        self, source: SampleSource, query: Query, table: PosteriorTable | None, executor: Executor | None = None
    ) -> None:
        self._source, self._query, self._table, self._executor = source, query, table, executor

    @property
    def values(self) -> NDArray[np.float32]:
        """The metric, shape (n_samples,); NaN where a sample was never observed."""
        values: NDArray[np.float32] = self._columns[0]
        return values

    @property
    def noisy_posterior(self) -> NDArray[np.float32]:
        """Probability of being mislabelled, shape (n_samples,); NaN where it is not known."""
        posterior: NDArray[np.float32] = self._columns[1]
        return posterior

    @property
    def levels(self) -> NDArray[np.int64] | None:
        """`PartialObservation.levels`; None where every scored sample was observed in every epoch."""
        if self._table is None or self._table.observation is None:
            return None
        return self._table.observation.levels

    def compute(self) -> None:
        """Compute the scores now, so that asking for them later reads nothing."""
        _ = self._columns

    @cached_property
    def _columns(self) -> NDArray[np.float32]:
        """Both, shape (2, n_samples)."""
        columns = np.empty((2, self._source.n_samples), dtype=np.float32)
        parts, map_parts = self._source.split(), map if self._executor is None else self._executor.map
        score = partial(score_part, self._query, self._table)
        for part, scored_part in zip(parts, map_parts(score, parts), strict=True):
            first = part.extent.start * 8
            columns[:, first : first + scored_part.shape[1]] = scored_part
        return columns


def score_part(query: Query, table: PosteriorTable | None, part: SamplePart) -> NDArray[np.float32]:
    """Compute score and posterior of the samples of one part of a source, shape (2, n_samples)."""
    return np.concatenate([_score_block(block, query, table) for block in part.read().split()], axis=1)


def keep_part(query: Query, limit: float, part: SamplePart) -> Bitmap:
    """Keep the scored samples of one part of a source whose score is at most `limit`, shape (n_bytes,)."""
    parts = []
    for block in part.read().split():
        scores = score_samples(query.take_rounds(block.rounds)[1], query.options.metric)
        parts.append(bitmap.pack(scores.scored & (scores.values <= limit)))
    return np.concatenate(parts)


def _score_block(block: SampleBlock, query: Query, table: PosteriorTable | None) -> NDArray[np.float32]:
    """Compute score and posterior of the samples of one block, shape (2, n_samples)."""
    scores = score_samples(query.take_rounds(block.rounds)[1], query.options.metric)
    columns = np.full((2, block.n_samples), np.nan, dtype=np.float32)
    columns[0] = scores.values
    if table is not None:
        rows: NDArray[np.integer] = scores.bins
        if table.observation is not None:
            grouped = group_samples(scores, query.options.metric, query.levels)
            assert grouped.groups.cells is not None, "samples that were partly observed have cells"
            rows = table.observation.find_positions(grouped.groups.cells)[grouped.indices]
        if table.labels is None:
            columns[1, scores.scored] = table.posterior[rows]
        else:
            assert block.labels is not None, "classes with fits of their own have labels"
            classes = np.searchsorted(table.labels, block.labels[scores.scored])
            columns[1, scores.scored] = table.posterior[classes, rows]
    return columns


@dataclass(frozen=True, slots=True)
class SampleScore:
    """Score of one sample.

    Attributes
    ----------
    value, noisy_posterior
        As in `Selection.scores` and `Selection.noisy_posterior`.
    is_scored
        Whether the sample was observed often enough to be judged.
    """

    value: float
    noisy_posterior: float
    is_scored: bool


def score_sample(
    rounds: Sequence[RoundBits],
    query: Query,
    densities: Floats | None,
    levels: Sequence[int] | None,
) -> SampleScore:
    """Score one sample from its own bits under a fit whose classes have no fits of their own.

    Parameters
    ----------
    rounds
        Bits of this sample alone, without epochs in which no sample was observed.
    query
        What the selection asked of its samples.
    densities
        Shape (2, n_bins), `Selection.densities`; None if nothing was fitted.
    levels
        `SampleScores.levels`.
    """
    metric = query.options.metric
    scores = score_samples(query.take_rounds(rounds)[1], metric)
    value, is_scored = float(np.float32(scores.values[0])), bool(scores.scored[0])
    if densities is None or not is_scored:
        return SampleScore(value, np.nan, is_scored)
    grouped = group_samples(scores, metric, None if levels is None else np.array(levels))
    group = grouped.indices[0]
    if levels is None or grouped.groups.cells is None:
        clean, noisy = densities[:, grouped.groups.bins[group]]
    else:
        cell = PartialObservation.from_cells(grouped.groups.cells[[group]], scores.grid.n_bins)
        clean, noisy = densities @ cell.likelihood[0]
    return SampleScore(value, float(np.float32(noisy / max(clean + noisy, TINY))), is_scored)
