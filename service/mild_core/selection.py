"""The story: rounds of bits -> metric -> fit -> cut -> clean set."""

from collections.abc import Sequence

from mild_core.types import RoundBits, Selection, SelectionOptions


def select(rounds: Sequence[RoundBits], options: SelectionOptions | None = None) -> Selection:
    """Return the clean set of the last of `rounds` (oldest first)."""
    raise NotImplementedError
