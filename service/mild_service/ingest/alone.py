"""A log that belongs to no run, as evidence."""

import numpy as np

from mild_core import bitmap
from mild_core.types import RoundBits
from mild_service.errors import InvalidRequest, LimitExceeded
from mild_service.ingest.log import Log


def rounds_of(log: Log) -> list[RoundBits]:
    """All that a log says, round by round from 0 on; an epoch that it does not name is one in which nobody was seen.

    Raises
    ------
    InvalidRequest
        If a round has no records.
    LimitExceeded
        If the epochs that are not named take too much room.
    """
    if not log.places:
        raise InvalidRequest("the log has 0 records, at least 1 is needed; send one record per sample and epoch")
    return [_round(log, number) for number in range(log.places[-1][0] + 1)]


def _round(log: Log, number: int) -> RoundBits:
    epochs = [epoch for round_, epoch in log.places if round_ == number]
    if not epochs:
        raise InvalidRequest(
            f"round {number} has 0 records, and round {log.places[-1][0]} has some; number rounds from 0 on"
        )
    n_epochs = epochs[-1] + 1
    if n_epochs * log.n_samples > (most := log.limits.n_cells):
        raise LimitExceeded(
            f"round {number} has {n_epochs} epochs of {log.n_samples} samples, at most {most} of both multiplied are "
            "read at once; number epochs from 0 on without gaps, or have MILD_MAX_LOG_CELLS raised"
        )
    shape = (n_epochs, bitmap.n_bytes(log.n_samples))
    correct, observed = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    for epoch in epochs:
        bits = log.bits((number, epoch))
        assert bits.observed is not None, "a log says who was observed"
        correct[epoch], observed[epoch] = bits.correct, bits.observed
    everyone = bool((observed == bitmap.full(log.n_samples)).all())
    return RoundBits(log.n_samples, correct, None if everyone else observed)
