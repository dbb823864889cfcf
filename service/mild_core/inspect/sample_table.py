"""All samples of a selection in columns: filtered, put in order, and turned page by page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.dynamics import dynamics
from mild_core.results import Selection
from mild_core.scores import about_own_labels, only_planted
from mild_core.types import RoundBits

Sort: TypeAlias = Literal["index", "score", "-score"]
Mask: TypeAlias = NDArray[np.bool_]
_BLOCK = 1 << 16
"""Places of an order that are looked at together: a page is mostly in the first of them."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """Every sample's numbers in one selection, arrays of shape (n_samples,).

    Attributes
    ----------
    scores, noisy_posterior
        As in the selection; NaN where there is none.
    scored, kept
        Who was seen often enough to be judged, and who is in the set.
    observed, misclassified, transitions
        Epochs of the rounds that count in which the sample was seen, those in which it was misclassified, and changes
        between memorised and misclassified within a round. A round that broke the sample's label does not count,
        unless there is no other.
    rising
        The samples by score and then by index; those without a score come last.
    n_epochs
        Epochs of the rounds that count.
    """

    scores: NDArray[np.float32]
    noisy_posterior: NDArray[np.float32]
    scored: Mask
    kept: Mask
    observed: NDArray[np.int32]
    misclassified: NDArray[np.int32]
    transitions: NDArray[np.int32]
    rising: NDArray[np.int32]
    n_epochs: int

    @property
    def n_samples(self) -> int:
        """Samples of the run."""
        return self.scores.size

    @property
    def n_bytes(self) -> int:
        """Memory of the columns: 26 bytes a sample."""
        columns = (self.scores, self.noisy_posterior, self.scored, self.kept)
        counts = (self.observed, self.misclassified, self.transitions, self.rising)
        return sum(column.nbytes for column in (*columns, *counts))

    def order(self, sort: Sort) -> NDArray[np.integer]:
        """The samples in an order, shape (n_samples,): by index, or by score; without a score is always last."""
        if sort == "index":
            return np.arange(self.n_samples, dtype=np.int32)
        if sort == "score":
            return self.rising
        n_with = self.n_samples - int(np.isnan(self.scores).sum())
        return np.concatenate((self.rising[:n_with][::-1], self.rising[n_with:]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples to list. Ranges include both ends; None asks for nothing.

    Attributes
    ----------
    kept
        Only kept, or only dropped ones.
    score
        Lowest and highest score.
    misclassified, transitions
        Fewest and most of them, among samples that were seen.
    """

    kept: bool | None = None
    score: tuple[float | None, float | None] = (None, None)
    misclassified: tuple[int, int] | None = None
    transitions: tuple[int, int] | None = None

    def mask(self, table: SampleTable) -> Mask:
        """Who is wanted, shape (n_samples,)."""
        mask = np.ones(table.n_samples, dtype=np.bool_) if self.kept is None else table.kept == self.kept
        low, high = self.score
        if low is not None:
            mask &= table.scores >= low
        if high is not None:
            mask &= table.scores <= high
        for wanted, counts in ((self.misclassified, table.misclassified), (self.transitions, table.transitions)):
            if wanted is not None:
                mask &= (counts >= wanted[0]) & (counts <= wanted[1]) & (table.observed > 0)
        return mask


def tabulate(rounds: Sequence[RoundBits], selection: Selection) -> SampleTable:
    """Put a selection's samples into columns.

    Parameters
    ----------
    rounds
        The rounds that the selection was computed from, oldest first.
    selection
        What was selected from them.
    """
    n_samples = selection.n_samples
    used = rounds if selection.options.evidence == "pooled" else rounds[-1:]
    observed, misclassified, transitions = (np.zeros(n_samples, dtype=np.int32) for _ in range(3))
    planted = only_planted(used)
    for bits in used:
        counts = dynamics(about_own_labels(bits, planted)[0])
        observed += counts.observed
        misclassified += counts.misclassified
        # A segment more than changes, in every round in which the sample was seen.
        transitions += counts.memorised_segments
        transitions += counts.misclassified_segments
        transitions -= counts.observed > 0
    return SampleTable(
        scores=selection.scores,
        noisy_posterior=selection.noisy_posterior,
        scored=selection.scored,
        kept=bitmap.unpack(selection.bitmap, n_samples),
        observed=observed,
        misclassified=misclassified,
        transitions=transitions,
        rising=np.argsort(selection.scores, kind="stable").astype(np.int32),  # NaN is sorted last
        n_epochs=sum(bits.n_epochs for bits in used),
    )


def forward(order: NDArray[np.integer], mask: Mask, start: int, limit: int) -> NDArray[np.int64]:
    """The first `limit` places from `start` on in an order whose samples are wanted, ascending."""
    found: list[NDArray[np.int64]] = []
    n_found = 0
    for at in range(start, order.size, _BLOCK):
        places = np.flatnonzero(mask[order[at : at + _BLOCK]]) + at
        found.append(places)
        n_found += places.size
        if n_found >= limit:
            break
    return np.concatenate([np.empty(0, dtype=np.int64), *found])[:limit]


def backward(order: NDArray[np.integer], mask: Mask, stop: int, limit: int) -> NDArray[np.int64]:
    """The last `limit` places before `stop` in an order whose samples are wanted, ascending."""
    before = order[:stop]
    return stop - 1 - forward(before[::-1], mask, 0, limit)[::-1]
