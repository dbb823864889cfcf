"""Table of all samples of a selection, with sort orders and pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.dynamics import count_dynamics
from mild_core.inspect.suspicion import measure_tie_breaks, rank_by_suspicion
from mild_core.results import Selection
from mild_core.scores import exclude_planted, find_always_planted
from mild_core.types import RoundBits

Sort: TypeAlias = Literal["index", "score", "-score"]
Mask: TypeAlias = NDArray[np.bool_]
_BLOCK_SIZE = 1 << 16
"""Number of samples that a search for a page checks at once: most pages are found in the first block."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """Columns of all samples of a selection, arrays of shape (n_samples,).

    Attributes
    ----------
    selection
        The selection.
    scores, noisy_posterior
        The score, and the probability of being mislabelled as far as the fit identifies it; NaN without the value.
    scored
        Whether the sample was observed often enough to be judged.
    is_kept
        Whether the selection keeps the sample.
    observed, misclassified
        Number of epochs in which the sample was observed, and in which it was misclassified. A round in which the
        sample was planted counts only if the sample was planted in all of its rounds.
    transitions
        Number of changes between memorised and misclassified within these rounds.
    order
        Sample indices in the order of suspicion (`suspicion.rank_by_suspicion`); samples without a score come last.
    n_epochs
        Number of epochs of all rounds of the selection.
    """

    selection: Selection
    scores: NDArray[np.float32]
    noisy_posterior: NDArray[np.float32]
    scored: Mask
    is_kept: Mask
    observed: NDArray[np.int32]
    misclassified: NDArray[np.int32]
    transitions: NDArray[np.int32]
    order: NDArray[np.int32]
    n_epochs: int

    @property
    def n_samples(self) -> int:
        """Number of samples of the run."""
        return self.scores.size

    @property
    def n_bytes(self) -> int:
        """Size of the columns in memory, in bytes: 26 per sample."""
        columns = (self.scores, self.noisy_posterior, self.scored, self.is_kept)
        counts = (self.observed, self.misclassified, self.transitions, self.order)
        return sum(column.nbytes for column in (*columns, *counts))

    def sort_indices(self, key: Sort) -> NDArray[np.integer]:
        """Return all sample indices in the order of `key`, shape (n_samples,); samples without a score come last.

        The key ``-score`` is the order of suspicion, and ``score`` its reverse.
        """
        if key == "index":
            return np.arange(self.n_samples, dtype=np.int32)
        if key == "-score":
            return self.order
        n_with_score = self.n_samples - int(np.isnan(self.scores).sum())
        return np.concatenate((self.order[:n_with_score][::-1], self.order[n_with_score:]))


def build_sample_table(
    rounds: Sequence[RoundBits], selection: Selection, labels: NDArray[np.integer] | None = None
) -> SampleTable:
    """Build the table of all samples of a selection.

    Parameters
    ----------
    rounds
        The rounds that the selection was computed from, oldest first.
    selection
        The selection.
    labels
        Shape (n_samples,), the given labels, which order samples of equal score by class; None if they are unknown.
    """
    n_samples = selection.n_samples
    used_rounds = rounds if selection.options.evidence == "pooled" else rounds[-1:]
    observed, misclassified, transitions = (np.zeros(n_samples, dtype=np.int32) for _ in range(3))
    always_planted = find_always_planted(used_rounds)
    for bits in used_rounds:
        counts = count_dynamics(exclude_planted(bits, always_planted)[0])
        observed += counts.observed
        misclassified += counts.misclassified
        # In every round in which the sample was observed there is one segment more than transitions.
        transitions += counts.memorised_segments
        transitions += counts.misclassified_segments
        transitions -= counts.observed > 0
    return SampleTable(
        selection=selection,
        scores=selection.scores,
        noisy_posterior=selection.identified_posterior,
        scored=selection.scored,
        is_kept=bitmap.unpack(selection.bitmap, n_samples),
        observed=observed,
        misclassified=misclassified,
        transitions=transitions,
        order=rank_by_suspicion(selection.scores, measure_tie_breaks(rounds, selection, labels)).astype(np.int32),
        n_epochs=sum(bits.drop_empty_epochs().n_epochs for bits in used_rounds),
    )


def find_next_positions(order: NDArray[np.integer], mask: Mask, start: int, limit: int) -> NDArray[np.int64]:
    """Find the next positions in a sort order whose samples are in a mask.

    Parameters
    ----------
    order
        Sample indices in a sort order, shape (n_samples,).
    mask
        Samples to find, shape (n_samples,).
    start
        First position to check.
    limit
        Largest number of positions to return.

    Returns
    -------
    positions
        The first `limit` matching positions in `order` from `start` on, ascending.
    """
    blocks = [np.empty(0, dtype=np.int64)]
    n_found = 0
    for block_start in range(start, order.size, _BLOCK_SIZE):
        positions = np.flatnonzero(mask[order[block_start : block_start + _BLOCK_SIZE]]) + block_start
        blocks.append(positions)
        n_found += positions.size
        if n_found >= limit:
            break
    return np.concatenate(blocks)[:limit]


def find_previous_positions(order: NDArray[np.integer], mask: Mask, stop: int, limit: int) -> NDArray[np.int64]:
    """Find the previous positions in a sort order whose samples are in a mask.

    Parameters
    ----------
    order
        Sample indices in a sort order, shape (n_samples,).
    mask
        Samples to find, shape (n_samples,).
    stop
        Position before which to search.
    limit
        Largest number of positions to return.

    Returns
    -------
    positions
        The last `limit` matching positions in `order` before `stop`, ascending.
    """
    reversed_order = order[:stop][::-1]
    return stop - 1 - find_next_positions(reversed_order, mask, 0, limit)[::-1]
