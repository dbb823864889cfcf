"""The client against the real application, in the process."""

from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from mild_client import (
    HttpBackend,
    LocalSelector,
    MildClient,
    Position,
    ResumeError,
    RunExists,
    RunSpec,
    SelectionBackend,
)
from mild_client.errors import BadRequest, Conflict, LocalStateError, NotFound, StaleAttempt
from mild_core import bitmap
from mild_core.types import EpochBits, Observe, SelectionOptions

SPEC = RunSpec(
    "run",
    num_samples=600,
    num_classes=10,
    selection=SelectionOptions(cost_ratio=2.0),
    expected_epochs=12,
    expected_rounds=2,
    tags={"dataset": "digits"},
)


@pytest.fixture
def client(service: httpx.Client) -> MildClient:
    return MildClient("http://service", http=service)


def train(backend: SelectionBackend, epochs: list[EpochBits], round: int, first: int = 0) -> None:
    for number in range(first, len(epochs)):
        backend.put_epoch(round, number, epochs[number])
        backend.put_metrics(round, number, {"train_loss": 1.0 / (number + 1)})


NUMBERINGS: dict[str, list[int]] = {
    "from 0": list(range(12)),
    "one again": [0, 1, 1, 2],
    "every fifth": list(range(0, 60, 5)),
    "every fifth, at its end": list(range(4, 60, 5)),
    "from 100": list(range(100, 112)),
    "from 1": list(range(1, 13)),
    "one left out": [0, 1, 3],
    "backwards": [1, 0],
}


@pytest.mark.parametrize("numbers", NUMBERINGS.values(), ids=NUMBERINGS.keys())
def test_epochs_are_taken_or_refused_as_by_the_local_selector(
    numbers: list[int], client: MildClient, epochs: list[EpochBits]
) -> None:
    """What is refused is refused at its first put, and what was never put counts against no sample."""
    outcomes = []
    for backend in (HttpBackend(client), LocalSelector()):
        backend.open(SPEC)
        outcome: list[object] = []
        for number in numbers:
            try:
                backend.put_epoch(0, number, epochs[number % len(epochs)])
                outcome.append("stored")
            except LocalStateError as error:
                outcome.append(str(error))
        if "stored" in outcome:
            result = backend.finish(0)
            outcome += [result.selected.tolist(), result.summary["verdict"]]
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]


def test_what_was_never_recorded_cannot_be_resumed(client: MildClient, tmp_path: Path) -> None:
    for backend in (HttpBackend(client), LocalSelector(tmp_path)):
        with pytest.raises(ResumeError):
            backend.open(SPEC, Position(0, 100))


@pytest.mark.parametrize("observe", ["all", "mixed", "members"])
def test_two_rounds_give_what_the_local_selector_gives(
    observe: Observe, client: MildClient, epochs: list[EpochBits]
) -> None:
    remote, local = HttpBackend(client), LocalSelector()
    for backend in (remote, local):
        assert backend.open(replace(SPEC, observe=observe)).round == 0
    seen = members = bitmap.full(600)
    for round in (0, 1):
        if observe == "members":
            seen = members
        partly = seen & bitmap.pack(np.arange(600) % 7 > 0)
        bits = [EpochBits(600, epoch.correct & seen) for epoch in epochs]
        bits[3] = EpochBits(600, epochs[3].correct & partly, partly)
        for backend in (remote, local):
            train(backend, bits, round)
        here, there = local.finish(round), remote.finish(round)
        assert (here.selected == there.selected).all()
        assert here.summary.items() <= there.summary.items()
        assert here.fit is not None
        assert there.fit is not None
        assert there.fit.counts == pytest.approx(here.fit.counts)
        assert np.asarray(there.fit.densities) == pytest.approx(np.asarray(here.fit.densities))
        assert (there.round, there.n_samples) == (round, 600)
        members = here.selected


def test_the_run_is_opened_with_everything_in_its_spec(client: MildClient) -> None:
    HttpBackend(client).open(SPEC)
    run = client.get_run("run")
    assert (run["num_samples"], run["num_classes"], run["observe"], run["pass"]) == (600, 10, "all", "eval")
    assert run["selection"]["cost_ratio"] == 2.0
    assert (run["expected_epochs"], run["expected_rounds"], run["tags"]) == (12, 2, {"dataset": "digits"})


def test_members_can_be_named(client: MildClient) -> None:
    backend = HttpBackend(client)
    backend.open(SPEC)
    backend.put_members(0, bitmap.pack(np.arange(600) < 100))
    assert client.get_run("run")["rounds"][0]["num_members"] == 100


def test_planted_samples_are_left_out_here_as_there(client: MildClient, epochs: list[EpochBits]) -> None:
    planted = bitmap.pack(np.arange(600) % 20 == 0)
    found = []
    for backend in (HttpBackend(client), LocalSelector()):
        backend.open(SPEC)
        backend.put_planted(planted)
        for round in range(2):
            train(backend, epochs, round)
            found.append(backend.finish(round).selected)
    for there, here in zip(found[:2], found[2:], strict=True):
        np.testing.assert_array_equal(there, here)
    assert not (found[0] & planted).any()
    assert (found[1] & planted).any()


def test_the_selection_comes_as_json_and_as_a_bitmap(client: MildClient, epochs: list[EpochBits]) -> None:
    backend = HttpBackend(client)
    backend.open(SPEC)
    train(backend, epochs, 0)
    result = backend.finish(0)
    assert client.selection("run")["indices"] == bitmap.to_indices(result.selected, 600).tolist()
    assert (client.selected("run", 600) == result.selected).all()


def test_a_round_too_short_to_fit_has_no_histogram_or_a_plain_one(client: MildClient, epochs: list[EpochBits]) -> None:
    remote, local = HttpBackend(client), LocalSelector()
    for backend in (remote, local):
        backend.open(SPEC)
        backend.put_epoch(0, 0, epochs[0])
    there, here = remote.finish(0), local.finish(0)
    assert there.summary["verdict"] == "insufficient"
    assert there.fit == here.fit


def test_an_older_attempt_is_refused(client: MildClient, epochs: list[EpochBits]) -> None:
    older, newer = HttpBackend(client), HttpBackend(client)
    older.open(SPEC)
    train(older, epochs[:4], 0)
    assert newer.open(SPEC, Position(0, 2)).attempt == 2
    with pytest.raises(StaleAttempt, match="newer"):
        older.put_epoch(0, 4, epochs[4])
    train(newer, epochs, 0, first=2)
    assert newer.finish(0).summary["epochs"] == 12


def test_a_trainer_stopped_while_a_round_was_finished_goes_on(client: MildClient, epochs: list[EpochBits]) -> None:
    stopped = HttpBackend(client)
    stopped.open(SPEC)
    train(stopped, epochs, 0)
    before = stopped.finish(0)
    resumed = HttpBackend(client)
    assert resumed.open(SPEC, Position(0, 12)).round == 1
    assert (resumed.finish(0).selected == before.selected).all()
    train(resumed, epochs, 1)
    assert resumed.finish(1).round == 1


def test_a_service_that_lost_the_run_is_noticed(client: MildClient) -> None:
    with pytest.raises(ResumeError, match="round 0, epoch 5, and the service has 0 of the 5"):
        HttpBackend(client).open(SPEC, Position(0, 5))


def test_a_run_that_has_epochs_is_not_written_to_by_accident(client: MildClient, epochs: list[EpochBits]) -> None:
    HttpBackend(client).open(SPEC)
    first = HttpBackend(client)
    first.open(SPEC)  # nothing is in the way of a trainer that died before its first epoch
    train(first, epochs, 0)
    with pytest.raises(RunExists, match=r"run 'run' exists already and is at round 0, epoch 12; choose another run id"):
        HttpBackend(client).open(SPEC)
    first.finish(0)
    with pytest.raises(RunExists, match=r"is at round 1; .*, or go on where it is \(resume='allow', or --resume\)"):
        HttpBackend(client).open(SPEC)
    assert client.get_run("run")["attempt"] == 1  # the trainer that holds it was not disturbed
    assert HttpBackend(client).open(SPEC, Position(1, 0)).round == 1


def test_resuming_beyond_the_open_round_is_refused(client: MildClient) -> None:
    HttpBackend(client).open(SPEC)
    with pytest.raises(
        ResumeError, match=r"goes on at round 3, epoch 0, and the service has not finished .* start a new"
    ):
        HttpBackend(client).open(SPEC, Position(3, 0))


def test_the_services_own_words_reach_the_caller(client: MildClient, epochs: list[EpochBits]) -> None:
    with pytest.raises(NotFound) as unknown:
        client.get_run("nobody")
    assert (unknown.value.code, unknown.value.status) == ("run-not-found", 404)
    assert unknown.value.request_id
    backend = HttpBackend(client)
    backend.open(SPEC)
    with pytest.raises(BadRequest, match="75 or 150 bytes") as short:
        client.put_epoch(SPEC.run_id, 0, 0, EpochBits(8, np.zeros(1, dtype=np.uint8)))
    assert short.value.code == "bitmap-length"
    backend.put_epoch(0, 0, epochs[0])
    with pytest.raises(Conflict) as other:
        backend.put_epoch(0, 0, epochs[1])
    assert other.value.code == "epoch-conflict"
