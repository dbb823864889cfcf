"""What is known of a run's samples beside their bits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """What is known beside the bits; a selection uses the part of it that its options ask for.

    Attributes
    ----------
    labels
        The given ones, shape (n_samples,).
    audit
        Labels that somebody has checked.
    """

    labels: NDArray[np.integer] | None = None
    audit: Audit | None = None

    def checked(self, n_samples: int, options: SelectionOptions) -> "Beside":
        """Return the part of it that `options` ask for.

        Raises
        ------
        ParameterError
            If labels are asked for and missing, or what is there belongs to another number of samples.
        """
        labels = self.labels if options.by_class else None
        audit = self.audit if options.audit == "fit" else None
        if options.by_class and labels is None:
            name = "per_class" if options.per_class else "min_keep_class"
            raise ParameterError(f"{name} needs the given labels, and there are none; give one label per sample")
        if labels is not None and labels.shape != (n_samples,):
            raise ParameterError(f"labels have the shape {labels.shape}; give one for each of {n_samples} samples")
        if audit is not None and audit.n_samples != n_samples:
            raise ParameterError(f"the audit is of {audit.n_samples} samples; give one of {n_samples}")
        return Beside(labels, audit)
