"""The draw of a random audit: which samples are to be checked, and the choice that is recorded before they are."""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions

DRAW_SIZE = 100
"""Samples that calls, pages and messages propose to draw and check."""
_ORDER_OPTIONS = frozenset({"metric", "fit", "evidence"})
"""Options that can change the order of the samples; the others only choose a cut of one order."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How a selection differs from the choice that was recorded with a draw.

    Attributes
    ----------
    difference
        What differs, as a clause.
    reorders
        Whether the scores may be others. The answers may then have chosen them, and say nothing of the set.
    """

    difference: str
    reorders: bool


@dataclass(frozen=True, slots=True)
class DrawChoice:
    """The selection that a draw was made for: a choice made before the first answer cannot depend on the answers.

    Attributes
    ----------
    round
        Number of the round, which is finished, so that its bits do not change.
    options
        Options of the selection.
    seed
        Seed of the draw, which another choice of the same run takes over: draws cannot be repeated until one pleases.
    is_answered
        Whether a drawn sample was ever marked; it stays so if the mark is taken back.
    """

    round: int
    options: SelectionOptions
    seed: int | None = field(default=None, compare=False)
    is_answered: bool = field(default=False, compare=False)

    def find_deviation(
        self, options: SelectionOptions, round_: int, until_epoch: int | None = None
    ) -> Deviation | None:
        """Return how a selection differs from the choice; None if it is the recorded one.

        Parameters
        ----------
        options, round_
            Options and round of the selection.
        until_epoch
            Last epoch of the round that the selection uses; None if it uses all.
        """
        if round_ != self.round:
            return Deviation(f"round {round_} is selected, round {self.round} was recorded with the draw", True)
        if until_epoch is not None:
            return Deviation(f"only the epochs 0..{until_epoch} count, all were recorded with the draw", True)
        differing = [
            field.name
            for field in fields(SelectionOptions)
            if getattr(options, field.name) != getattr(self.options, field.name)
        ]
        if not differing:
            return None
        name = min(differing, key=lambda name: name not in _ORDER_OPTIONS)
        difference = f"{name} is {getattr(options, name)}, {getattr(self.options, name)} was recorded with the draw"
        return Deviation(difference, name in _ORDER_OPTIONS)


def draw_samples(
    candidates: NDArray[np.bool_], n_drawn: int, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Draw samples uniformly, without replacement.

    Parameters
    ----------
    candidates
        Shape (n_samples,), samples that can be drawn.
    n_drawn
        Number of samples to draw.
    rng
        Source of randomness; None seeds one from the system, so that the draw is unpredictable. With the same seed, a
        smaller draw is part of a larger one, and draws from other candidates have the samples that both may draw.

    Returns
    -------
    NDArray[np.int64]
        Shape (n_drawn,), the indices, ascending.
    """
    n_candidates = int(np.count_nonzero(candidates))
    if not n_candidates:
        raise ParameterError(
            f"0 of {candidates.size} samples can be drawn, at least 1 is needed: a sample must be observed in half of "
            "its epochs and not be planted; record more epochs, or draw for another round"
        )
    if not 1 <= n_drawn <= n_candidates:
        raise ParameterError(f"n is {n_drawn}; give a number in 1..{n_candidates}, the samples that can be drawn")
    order = (rng or np.random.default_rng()).permutation(np.arange(candidates.size, dtype=np.int32))
    return np.sort(order[candidates[order]][:n_drawn]).astype(np.int64)
