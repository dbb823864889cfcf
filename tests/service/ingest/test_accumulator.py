from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mild_core import bitmap
from mild_service.errors import EpochConflict, EpochKindConflict, LimitExceeded
from mild_service.ingest.accumulator import EpochPart, LogAccumulator
from mild_service.ingest.columns import Batch, LogLimits, RowNumbers

N = 20
LIMITS = LogLimits(
    n_samples=N,
    n_rounds=3,
    n_epochs=100_000,
    n_records=1000,
    record_bytes=1000,
    n_cells=40 * N,
)

Said = tuple[int, int, int, bool]
"""Round, epoch, sample, correct."""


def batch(said: list[Said], first: int = 1) -> Batch:
    rounds, epochs, samples, correct = (np.array(column) for column in zip(*said, strict=True))
    numbers = np.arange(first, first + len(said))
    return Batch(RowNumbers("line", numbers), rounds, epochs, samples, correct.astype(bool))


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 99_999]), st.integers(0, N - 1)))))
def test_a_log_says_what_its_records_say(blocks: list[list[tuple[int, int, int]]]) -> None:
    log = LogAccumulator(LIMITS)
    seen: dict[tuple[int, int], dict[int, bool]] = {}
    for block in blocks:
        said = [(r, e, s, (r + e + s) % 2 == 0) for r, e, s in block]
        if said:
            log.add_batch(batch(said))
        for r, e, s, correct in said:
            seen.setdefault((r, e), {})[s] = correct
    assert log.epoch_keys == sorted(seen)
    assert log.n_records == sum(map(len, blocks))
    for place, values in seen.items():
        bits = log.get_bits(place)
        assert bitmap.to_indices(bits.observed, N).tolist() == sorted(values)
        assert bitmap.to_indices(bits.correct, N).tolist() == sorted(s for s, correct in values.items() if correct)


@pytest.mark.parametrize("apart", [True, False])
def test_a_sample_that_is_seen_several_times_is_correct_if_any_record_is(apart: bool) -> None:
    log = LogAccumulator(LIMITS)
    said = [(0, 0, 5, True), (0, 1, 5, False), (0, 0, 7, True), (0, 0, 5, True)]
    later = [(0, 0, 7, True), (0, 0, 5, False)]
    if apart:
        log.add_batch(batch(said))
    last = batch(later, first=5) if apart else batch([*said, *later])
    log.add_batch(last)
    log.add_batch(batch([(0, 1, 5, True), (0, 1, 5, False), (0, 1, 6, False), (0, 1, 6, False)], first=7))
    assert [bitmap.to_indices(log.get_bits((0, epoch)).correct, N).tolist() for epoch in (0, 1)] == [[5, 7], [5]]
    assert [log.count_contradictory((0, epoch)) for epoch in (0, 1)] == [1, 1]


def test_what_is_stored_counts_too_but_is_not_said_by_the_log() -> None:
    stored = EpochPart(bitmap.from_indices([1, 2], N), bitmap.from_indices([1], N))
    log = LogAccumulator(LIMITS, load_epoch=lambda place: stored if place == (0, 0) else None)
    log.add_batch(batch([(0, 0, 1, True), (0, 0, 3, True), (0, 1, 2, True)]))
    bits = log.get_bits((0, 0))
    assert bitmap.to_indices(bits.observed, N).tolist() == bitmap.to_indices(bits.correct, N).tolist() == [1, 3]
    log.add_batch(batch([(0, 0, 2, True), (0, 0, 1, False)], first=8))
    assert bitmap.to_indices(log.get_bits((0, 0)).correct, N).tolist() == [1, 2, 3]
    assert log.count_contradictory((0, 0)) == 2


def test_a_committed_epoch_takes_the_same_records_and_no_others() -> None:
    stored = EpochPart(bitmap.from_indices([1, 2], N), bitmap.from_indices([1], N), is_committed=True)
    log = LogAccumulator(LIMITS, load_epoch=lambda place: stored)
    log.add_batch(batch([(0, 0, 1, True), (0, 0, 2, False), (0, 0, 1, True)]))
    with pytest.raises(EpochConflict, match=r"line 5: sample 3 is not in epoch 0 .*committed") as clash:
        log.add_batch(batch([(0, 0, 1, True), (0, 0, 3, False)], first=4))
    assert clash.value.line == 5


def test_an_epoch_that_takes_no_records_says_at_which_line() -> None:
    def held(place: tuple[int, int]) -> None:
        if place == (0, 4):
            raise EpochKindConflict("epoch 4 is whole")

    log = LogAccumulator(LIMITS, held)
    with pytest.raises(EpochKindConflict, match="line 2: epoch 4 is whole") as kind:
        log.add_batch(batch([(0, 0, 1, True), (0, 4, 1, True), (0, 4, 2, True)]))
    assert kind.value.line == 2


def test_a_log_that_stands_alone_has_as_many_samples_as_it_names() -> None:
    log = LogAccumulator(replace(LIMITS, n_samples=1000), infer_samples=True)
    log.add_batch(batch([(0, 0, 3, True)]))
    log.add_batch(batch([(0, 1, 9, True), (0, 0, 12, True)]))
    assert log.n_samples == 13
    bits = log.get_bits((0, 0))
    assert bitmap.to_indices(bits.correct, 13).tolist() == [3, 12]


def test_records_and_room_are_bounded() -> None:
    with pytest.raises(LimitExceeded, match="1001 records or more, at most 1000"):
        LogAccumulator(LIMITS).add_batch(batch([(0, 0, 0, True)] * 1001))
    with pytest.raises(LimitExceeded, match="41 epochs or more of 20 samples, at most 800"):
        LogAccumulator(LIMITS).add_batch(batch([(0, epoch, 0, True) for epoch in range(41)]))
    wide = LogAccumulator(replace(LIMITS, n_samples=10**6), infer_samples=True)
    with pytest.raises(LimitExceeded, match="999999 samples"):
        wide.add_batch(batch([(0, 0, 999_998, True)]))
