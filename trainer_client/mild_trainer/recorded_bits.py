"""`FileSource`, a file of recorded predictions, and `RecordedBits`, what it says of the samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_client.logs import SamplesBy
from mild_core.audit import Audit
from mild_core.results import Selection
from mild_core.types import RoundBits
from mild_trainer.clean_set import CleanSet, name_classes

COLUMNS_HINT = (
    "; a log has epoch, sample, and correct, or predicted and label: name the log's own columns with --columns, such "
    "as --columns sample=id,label=target"
)
LABELS_HINT = "; add it, or give the labels in a file with --labels"
"""What helps where a log lacks a column, by an option that fills a `FileSource`."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of recorded predictions, and how to read it.

    Attributes
    ----------
    path
        The file, or the folder of a prediction log.
    columns
        Column of each field of a prediction log that has another name in it.
    labels
        File of the given labels, where `path` has predictions only.
    samples_by
        Whether a prediction log names samples by ``ids`` or by ``indices``; None decides by the first name.
    samples_first
        Whether arrays have the shape (n_samples, n_epochs). None refuses an array of more epochs than samples.
    """

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Path | None = None
    samples_by: SamplesBy | None = None
    samples_first: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RecordedBits:
    """Recorded predictions of all samples; what is None is unknown.

    Attributes
    ----------
    rounds
        Bits of each round.
    labels, suggested
        Shape (n_samples,), the given labels, and the classes that were predicted more often; -1 where unknown.
    class_names
        Name of each class.
    ids
        External id of each sample.
    audit
        The checked labels.
    clean
        Booleans of shape (n_samples,): whether each label is right.
    description
        What was read, and what was left out, in one line; empty for a file without anything to tell.
    """

    rounds: Sequence[RoundBits]
    labels: NDArray[np.integer] | None = None
    suggested: NDArray[np.integer] | None = None
    class_names: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    audit: Audit | None = None
    clean: NDArray[np.bool_] | None = None
    description: str = ""

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return self.rounds[0].n_samples

    def make_clean_set(self, selection: Selection) -> CleanSet:
        """Return the clean set of a selection from these bits."""
        labels, suggested = (
            None if classes is None else name_classes(classes, self.class_names)
            for classes in (self.labels, self.suggested)
        )
        return CleanSet.from_selection(selection, ids=self.ids, labels=labels, suggested=suggested, audit=self.audit)
