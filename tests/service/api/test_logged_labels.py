"""Labels that are put with a run, and labels in its logs: two statements about one fact."""

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.service.conftest import Dump
from tests.service.ingest.logs import CARTOGRAPHY, NDJSON, WRITERS, Record

N = 40
LABELS = np.arange(N) * 7 % 10


@pytest.fixture
def opened(service: httpx.Client) -> httpx.Client:
    service.put("/runs/a", json={"num_samples": N, "num_classes": 11})
    return service


def put_labels(service: httpx.Client, labels: NDArray[np.int64] = LABELS) -> httpx.Response:
    return service.put("/runs/a/labels", json={"labels": labels.tolist()})


def log(labels: NDArray[np.int64], epoch: int = 0) -> list[Record]:
    """All of it predicted as it is labelled, so that no wrong prediction is stored."""
    return [
        {"epoch": epoch, "sample": sample, "predicted": label, "label": label}
        for sample, label in enumerate(labels.tolist())
    ]


def post(service: httpx.Client, records: list[Record], media_type: str = NDJSON) -> httpx.Response:
    headers = {"Content-Type": media_type}
    return service.post("/runs/a/predictions", content=WRITERS[media_type](records), headers=headers)


RNG = np.random.default_rng(0)
DIFFERENCES = [
    ("from 1", LABELS + 1, "40 of 40 labels", "all by +1: number the classes alike, from 0 on"),
    ("one sample late", np.roll(LABELS, 1), "0 and 3 of sample 0", "the label of sample i at sample i+1"),
    ("one sample early", np.roll(LABELS, -1), "0 and 7 of sample 0", "the label of sample i at sample i-1"),
    ("other encoding", 9 - LABELS, "0 and 9 of sample 0", "each class has another number: encode the classes alike"),
    ("other order", RNG.permutation(LABELS), "of sample", "the same labels in another order"),
    ("one other", np.where(np.arange(N) == 5, 10, LABELS), "1 of 40 labels", "5 and 10 of sample 5; give the labels"),
]


@pytest.mark.parametrize(("name", "logged", "count", "cause"), DIFFERENCES, ids=[entry[0] for entry in DIFFERENCES])
def test_a_log_with_other_labels_is_refused_in_both_orders(
    opened: httpx.Client, dump: Dump, name: str, logged: NDArray[np.int64], count: str, cause: str
) -> None:
    assert put_labels(opened).status_code == 200
    before = dump()
    refused = post(opened, log(logged))
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/labels-conflict")
    assert count in refused.json()["detail"]
    assert cause in refused.json()["detail"]
    assert dump() == before
    assert post(opened, log(LABELS)).status_code == 200


@pytest.mark.parametrize("media_type", sorted(set(WRITERS) - {CARTOGRAPHY}))
def test_labels_that_a_log_contradicts_are_refused(opened: httpx.Client, dump: Dump, media_type: str) -> None:
    assert post(opened, log(np.roll(LABELS, 1)), media_type).status_code == 200
    before = dump()
    refused = put_labels(opened)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/labels-conflict")
    assert "the samples alike" in refused.json()["detail"]
    assert dump() == before
    assert put_labels(opened, np.roll(LABELS, 1)).status_code == 200


def test_cartography_states_labels_too(opened: httpx.Client) -> None:
    assert put_labels(opened).status_code == 200
    lines = b'{"guid": 1, "gold": 1, "logits_epoch_0": [0.5, 1.5]}'
    refused = opened.post("/runs/a/predictions", content=lines, headers={"Content-Type": CARTOGRAPHY})
    assert "1 of 1 labels in the logs differ from those of run 'a': 7 and 1 of sample 1" in refused.json()["detail"]


def test_labels_next_to_correct_are_compared_and_so_are_two_logs(opened: httpx.Client) -> None:
    stated: list[Record] = [{"epoch": 0, "sample": 3, "correct": True, "label": 4}]
    assert post(opened, stated).status_code == 200
    assert post(opened, [{**stated[0], "epoch": 1}]).status_code == 200
    other = post(opened, [{**stated[0], "epoch": 1, "label": 5}])
    assert (other.status_code, other.json()["type"]) == (409, "/problems/labels-conflict")
    assert put_labels(opened).json()["type"] == "/problems/labels-conflict"
    assert put_labels(opened, np.full(N, 4)).status_code == 200


def test_logs_whose_epochs_were_dropped_state_nothing(opened: httpx.Client) -> None:
    assert post(opened, log(LABELS + 1)).status_code == 200
    opened.put("/runs/a", json={"num_samples": N, "num_classes": 11, "resume_from": {"round": 0, "epoch": 0}})
    assert post(opened, log(LABELS)).status_code == 200
    assert put_labels(opened).status_code == 200


@pytest.mark.parametrize("field", ["predicted", "label"])
def test_classes_that_the_run_has_not_are_refused(opened: httpx.Client, field: str) -> None:
    refused = post(opened, [{"epoch": 0, "sample": 0, "predicted": 3, "label": 3, field: 11}])
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bad-record")
    assert f"line 1, column {field}: got 11, a class number in 0..10 is needed" in refused.json()["detail"]
    assert "the run has 11 classes, among others 11 of sample 0; " in refused.json()["detail"]


@pytest.mark.parametrize("media_type", [*sorted(set(WRITERS) - {CARTOGRAPHY}), None])
def test_classes_from_1_are_named_with_their_samples_at_every_entrance(
    opened: httpx.Client, media_type: str | None
) -> None:
    labels = np.arange(N) % 11 + 1
    refused = put_labels(opened, labels) if media_type is None else post(opened, log(labels), media_type)
    assert refused.status_code == 422
    assert "11 of sample 10, 11 of sample 21, 11 of sample 32; they run from 1 to 11" in refused.json()["detail"]
    assert opened.get("/runs/a").json()["rounds"][0]["partial"] == {}


def test_the_labels_of_planted_samples_may_differ_in_round_0(opened: httpx.Client) -> None:
    """A training that broke labels on purpose logs what it trained on, and its own labels in the next round."""
    assert put_labels(opened).status_code == 200
    assert opened.put("/runs/a/planted", json={"indices": [5]}).status_code == 200
    trained_on = np.where(np.arange(N) == 5, 10, LABELS)
    assert post(opened, log(trained_on)).status_code == 200
    assert post(opened, log(LABELS, epoch=1)).status_code == 200
    assert post(opened, log(np.roll(LABELS, 1), epoch=2)).json()["type"] == "/problems/labels-conflict"


def test_planted_samples_are_left_out_of_labels_that_come_from_logs(opened: httpx.Client) -> None:
    assert opened.put("/runs/a/planted", json={"indices": [5]}).status_code == 200
    assert post(opened, log(np.where(np.arange(N) == 5, 10, LABELS))).status_code == 200
    assert put_labels(opened).status_code == 200
