"""What a log's wrong predictions say: the class per sample and epoch, and each sample's given label."""

import numpy as np
from numpy.typing import NDArray

from mild_core.votes import Classes, Votes
from mild_service.ingest.records import Batch, Numbers, Place, bad_record, conflict

_WIDTHS = (np.uint8, np.uint16, np.uint32)


class LogClasses:
    """Classes gathered while a log is read: one to four bytes per sample and epoch, four per sample.

    Parameters
    ----------
    n_samples
        Of the run.
    """

    def __init__(self, n_samples: int) -> None:
        self._n_samples = n_samples
        self._labels = np.zeros(n_samples, dtype=np.uint32)
        self._predicted: dict[Place, Classes] = {}

    def begin(self, place: Place, stored: Votes | None) -> None:
        """Take what is stored of an epoch, before its first record."""
        self._predicted[place] = np.zeros(self._n_samples, np.uint8) if stored is None else stored.predicted.copy()

    def add(self, batch: Batch, place: Place, records: slice | Numbers, own: NDArray[np.bool_], closed: bool) -> None:
        """Take some records of one epoch; `own` are those whose sample the log has named before.

        Raises
        ------
        BadRecord
            If one contradicts an earlier one.
        EpochConflict
            If one contradicts the store.
        """
        if batch.predicted is None or batch.labels is None:
            return
        numbers, samples, labels = batch.rows.numbers[records], batch.samples[records], batch.labels[records]
        said = np.where(batch.correct[records], 0, batch.predicted[records])
        if clash := _put(self._labels, samples, labels):
            at, before = clash
            says = f"sample {samples[at]} has the label {labels[at] - 1}, and {before - 1} in an earlier record"
            raise bad_record(batch.rows.unit, int(numbers[at]), "label", says)
        if not said.any():
            return
        held = self._predicted[place] = _widened(self._predicted[place], int(said.max()))
        known = held[samples]
        if closed and (new := (said != 0) & (known == 0)).any():
            at = int(np.argmax(new))
            raise conflict(
                batch.rows.unit,
                int(numbers[at]),
                f"{_what(place, samples[at], said[at])}, which is not in the store; drop the epoch with resume_from",
            )
        if clash := _put(held, samples, said):
            at, before = clash
            says = f"{_what(place, samples[at], said[at])}, and predicted={before - 1}"
            if known[at] and not own[at]:
                raise conflict(batch.rows.unit, int(numbers[at]), f"{says} in the store; send the same value")
            raise bad_record(batch.rows.unit, int(numbers[at]), "predicted", f"{says} in an earlier record")

    def votes(self, place: Place, wrong: NDArray[np.bool_]) -> Votes:
        """What the log itself says of an epoch; `wrong` are the samples that it calls so."""
        predicted = np.where(wrong, self._predicted[place], 0)
        return Votes(predicted, np.where(predicted != 0, self._labels, 0))


def _what(place: Place, sample: int, predicted: int) -> str:
    return f"sample {sample} of epoch {place[1]}, round {place[0]}, has predicted={predicted - 1}"


def _widened(held: Classes, most: int) -> Classes:
    return held.astype(
        next(width for width in _WIDTHS if max(most, int(held.max())) <= np.iinfo(width).max), copy=False
    )


def _put(held: Classes, samples: Numbers, said: Numbers) -> tuple[int, int] | None:
    """Write what is said, 0 apart; None, or the first position that contradicts, and what it contradicts."""
    known, telling = held[samples], said != 0
    if not (telling & (known != 0) & (known != said)).any():
        held[samples[telling]] = said[telling]
        if not (telling & (held[samples] != said)).any():
            return None
    seen: dict[int, int] = {}
    for position, (sample, value, before) in enumerate(
        zip(samples.tolist(), said.tolist(), known.tolist(), strict=True)
    ):
        if value and (earlier := seen.setdefault(sample, before or value)) != value:
            return position, earlier
    raise AssertionError("a clash has a record")
