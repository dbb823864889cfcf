"""Trainings that were killed, replaced, or begun in the middle."""

from pathlib import Path

import httpx
import pytest

from mild_client import BackgroundBackend, MildClient, Position
from mild_client.errors import ResumeError, StaleAttempt
from mild_core.types import EpochBits
from tests.client.background.trainings import SPEC, Gate, local_set, training


def test_a_trainer_that_was_killed_goes_on_behind_what_it_had_spooled(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    backend = BackgroundBackend("http://service", spools, drain=0.1, http=http)
    backend.open(SPEC)
    assert backend.flush(30)
    gate.is_shut = True
    for number, bits in enumerate(epochs[:5]):
        backend.put_epoch(0, number, bits)
    backend.close()  # all that a killed process leaves to its successor is its folder
    gate.is_shut = False
    with training(http, spools) as backend:
        backend.open(SPEC, Position(0, 3))
        for number in range(3, 12):
            backend.put_epoch(0, number, epochs[number])
        result = backend.finish(0)
    assert result.summary["basis"] == "stored"
    assert result.selected.tobytes() == local_set(epochs)
    with training(http, spools) as backend:  # killed again, between the end of the round and its checkpoint
        backend.open(SPEC, Position(0, 12))
        assert backend.finish(0).selected.tobytes() == local_set(epochs)


def test_a_trainer_that_is_replaced_ends(gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]) -> None:
    with training(http, spools) as backend:
        backend.open(SPEC)
        backend.put_epoch(0, 0, epochs[0])
        assert backend.flush(30)
        with MildClient("http://service", http) as client:
            client.open_run(SPEC, Position(0, 1))
        backend.put_epoch(0, 1, epochs[1])
        backend.flush(30)
        with pytest.raises(StaleAttempt):
            backend.put_epoch(0, 2, epochs[2])
        with pytest.raises(StaleAttempt):
            backend.finish(0)


def test_unsent_records_of_an_attempt_that_was_replaced_end_no_later_one(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools, drain=0) as backend:
        backend.open(SPEC)
        backend.put_epoch(0, 0, epochs[0])
        assert backend.flush(30)
        gate.is_shut = True
        backend.put_epoch(0, 1, epochs[1])
    gate.is_shut = False
    with MildClient("http://service", http) as client:
        client.open_run(SPEC, Position(0, 1))
    with training(http, spools) as backend:
        backend.open(SPEC, Position(0, 1))
        backend.put_epoch(0, 1, epochs[1])
        assert backend.flush(30)


def test_an_interrupted_training_needs_its_bits(http: httpx.Client, spools: Path) -> None:
    with training(http, spools) as backend, pytest.raises(ResumeError, match="cannot resume at round 0, epoch 3"):
        backend.open(SPEC, Position(0, 3))
