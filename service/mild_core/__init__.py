"""Sample selection for training on noisy labels: from correctness bits per epoch to the indices of clean samples.

::

    from mild_core import select

    selection = select(correct)  # booleans, shape (n_epochs, n_samples)
    selection.indices
"""

from typing import TYPE_CHECKING, Any

from mild_core.audit import Audit
from mild_core.bitmap import pack, unpack
from mild_core.results import Selection
from mild_core.types import RoundBits, SelectionOptions

if TYPE_CHECKING:
    from mild_core.selection import select

__all__ = ["Audit", "RoundBits", "Selection", "SelectionOptions", "pack", "select", "unpack"]


def __getattr__(name: str) -> Any:
    """Import `select` on first use, since it needs scipy, which a training job that only records does not load."""
    if name == "select":
        from mild_core.selection import select

        return select
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
