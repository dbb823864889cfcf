from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest

from mild_service.store import values, wrong_prediction_store
from tests.service.conftest import Dump
from tests.service.ingest.logs import ARROW, CARTOGRAPHY, CSV, JSON, NDJSON, PARQUET, WRITERS, Record
from tests.service.recordings import OCTETS, recording

N, E, K = 100, 12, 5
URL = "/runs/a/predictions"
RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, K, N)
NOISY = RNG.random(N) < 0.4
TRUE = np.where(NOISY, (LABELS + 1) % K, LABELS)
PREDICTED = np.where(RNG.random((E, N)) < 0.7, TRUE, RNG.integers(0, K, (E, N)))


def records(epochs: range = range(E), samples: range = range(N)) -> list[Record]:
    return [
        {"epoch": epoch, "sample": sample, "predicted": int(PREDICTED[epoch, sample]), "label": int(LABELS[sample])}
        for epoch in epochs
        for sample in samples
    ]


def post(service: httpx.Client, log: list[Record], media_type: str = NDJSON, **params: str) -> httpx.Response:
    return service.post(URL, content=WRITERS[media_type](log), headers={"Content-Type": media_type}, params=params)


def suggestions(service: httpx.Client, **params: Any) -> dict[str, Any]:
    answer = service.get("/runs/a/suggestions", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def expected(sample: int, epochs: range = range(E)) -> tuple[int, int]:
    """The most frequent class and its votes; ties go to the label, then to the lowest."""
    counts = Counter(PREDICTED[list(epochs), sample].tolist())
    label = int(LABELS[sample])
    most = max(counts.values())
    best = label if counts[label] == most else min(c for c, votes in counts.items() if votes == most)
    return best, most


def told(document: dict[str, Any]) -> dict[int, tuple[int, int]]:
    return {row["index"]: (row["suggested"], row["votes"]) for row in document["suggestions"]}


def test_the_predictions_of_all_epochs_are_read_in_one_exchange(
    opened: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert post(opened, records()).status_code == 200
    opened.put("/runs/a/labels", json={"labels": LABELS.tolist()})
    counts = []

    async def read_values(*arguments: Any) -> Any:
        counts.append(len(arguments[-1]))
        return await values.read_values(*arguments)

    monkeypatch.setattr(wrong_prediction_store, "read_values", read_values)
    assert suggestions(opened)["suggestions"]
    assert counts == [E]


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_dropped_samples_are_suggested_their_most_frequent_class(opened: httpx.Client, media_type: str) -> None:
    assert post(opened, records(), media_type).status_code == 200
    opened.put("/runs/a/labels", json={"labels": LABELS.tolist()})
    found = suggestions(opened)
    kept = opened.get("/selection/a").json()["indices"]
    dropped = sorted(set(range(N)) - set(kept))
    assert 20 < len(dropped) < 60
    assert (found["num_dropped"], found["provisional"], found["round"]) == (len(dropped), True, 0)
    assert [row["index"] for row in found["suggestions"]] == dropped
    for row in found["suggestions"]:
        best, votes = expected(row["index"])
        assert row == {
            "index": row["index"],
            "id": None,
            "label": int(LABELS[row["index"]]),
            "suggested": best,
            "votes": votes,
            "share": votes / E,
        }
    right = [row["suggested"] == TRUE[row["index"]] for row in found["suggestions"] if NOISY[row["index"]]]
    assert np.mean(right) > 0.9


def test_cartography_votes_too(opened: httpx.Client) -> None:
    body = WRITERS[NDJSON](
        [
            {"guid": r["sample"], "gold": r["label"], f"logits_epoch_{r['epoch']}": np.eye(K)[r["predicted"]].tolist()}
            for r in records()
        ]
    )
    assert opened.post(URL, content=body, headers={"Content-Type": CARTOGRAPHY}).status_code == 200
    found = told(suggestions(opened))
    assert found == {sample: expected(sample) for sample in found}


def test_votes_add_up_over_posts_in_any_order_and_count_once(opened: httpx.Client, dump: Dump) -> None:
    for samples in (range(50, N), range(70), range(20, 80)):
        for epochs in (range(6, E), range(8)):
            assert post(opened, records(epochs, samples)).status_code == 200
    before = dump()
    again = post(opened, records()).json()["epochs"]
    assert {epoch["outcome"] for epoch in again} == {"same"}
    assert dump() == before
    found = told(suggestions(opened))
    assert found == {sample: expected(sample) for sample in found}
    assert len([key for key in before if b":votes:" in key]) == 1


def test_epochs_that_are_dropped_or_do_not_count_do_not_vote(opened: httpx.Client, dump: Dump) -> None:
    post(opened, records())
    found = told(suggestions(opened, until_epoch=7))
    assert found == {sample: expected(sample, range(8)) for sample in found}
    opened.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 8}})
    assert told(suggestions(opened)) == found
    opened.put("/runs/a/rounds/0/epochs/7", params={"replace": "true"}, content=recording(N, 1)[0], headers=OCTETS)
    found = told(suggestions(opened))
    by_label = {sample for sample, (suggested, _) in found.items() if suggested is None}
    for sample in set(found) - by_label:
        counts = Counter(PREDICTED[:7, sample].tolist())
        assert found[sample][1] == counts[found[sample][0]] or found[sample][0] == LABELS[sample]
    opened.post("/runs/a/rounds/0/finish")
    opened.delete("/runs/a")
    assert not [key for key in dump() if b":votes:" in key]


def test_a_finished_round_keeps_its_votes_and_nothing_else(opened: httpx.Client, dump: Dump) -> None:
    post(opened, records(range(E), range(60)))
    post(opened, records(range(E), range(40, N)))
    opened.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 10}})
    before = told(suggestions(opened))
    opened.post("/runs/a/rounds/0/finish")
    assert told(suggestions(opened)) == before
    (size,) = (len(value) for key, value in dump().items() if b":votes:" in key)
    opened.delete("/runs/a")
    opened.put("/runs/a", json={"num_samples": N})
    post(opened, records(range(10)))
    opened.post("/runs/a/rounds/0/finish")
    (clean,) = (len(value) for key, value in dump().items() if b":votes:" in key)
    assert abs(size - clean) < 50


def test_another_label_is_a_contradiction_and_the_lower_of_two_classes_counts(opened: httpx.Client) -> None:
    wrong: Record = {"epoch": 0, "sample": 7, "predicted": 2, "label": 3}
    answer = post(opened, [wrong, {**wrong, "epoch": 1, "label": 0}]).json()
    assert (answer["type"], answer["line"]) == ("/problems/bad-record", 2)
    assert "has the label 0, and 3 in an earlier record" in answer["detail"]
    post(opened, [{**wrong, "predicted": 5}, wrong, {**wrong, "predicted": 4}])
    assert post(opened, [{**wrong, "predicted": 4}]).json()["epochs"][0]["outcome"] == "same"
    post(opened, [{"epoch": 0, "sample": 9, "correct": False}], complete="true")
    late = post(opened, [{**wrong, "sample": 9}]).json()
    assert (late["type"], late["line"]) == ("/problems/epoch-conflict", 1)
    assert "which is not in the store" in late["detail"]
    assert post(opened, [wrong]).json()["epochs"][0]["outcome"] == "same"


def test_a_class_may_come_after_the_bit(opened: httpx.Client) -> None:
    post(opened, [{"epoch": 0, "sample": 7, "correct": False}])
    wrong: Record = {"epoch": 0, "sample": 7, "predicted": 70_000, "label": 3}
    post(opened, [{"epoch": 0, "sample": 8, "correct": True}])
    assert post(opened, [wrong], complete="true").json()["epochs"][0]["outcome"] == "merged"
    row = suggestions(opened, threshold="value", value="-1")["suggestions"][7]
    assert (row["label"], row["suggested"], row["votes"], row["share"]) == (3, 70_000, 1, 1.0)


def test_without_predicted_classes_there_is_nothing_to_suggest(recorded: httpx.Client) -> None:
    rows = suggestions(recorded)["suggestions"]
    assert rows
    assert {(row["label"], row["suggested"]) for row in rows} == {(None, None)}


def test_pages_and_csv_with_ids(opened: httpx.Client) -> None:
    ids = [f"s{number}" for number in range(N)]
    opened.put("/runs/a/sample-ids", json=ids)
    post(opened, records())
    rows = suggestions(opened)["suggestions"]
    assert suggestions(opened, offset=3, limit=4)["suggestions"] == rows[3:7]
    assert suggestions(opened, offset=5000)["suggestions"] == []
    answer = opened.get("/runs/a/suggestions", params={"limit": 2}, headers={"Accept": CSV})
    lines = answer.text.splitlines()
    assert lines[0] == "index,id,label,suggested,votes,share"
    first = rows[0]
    assert lines[1].split(",")[:5] == [str(first[k]) if first[k] is not None else "" for k in list(first)[:5]]
    assert first["id"] == f"s{first['index']}"
    assert opened.get("/runs/a/suggestions", params={"round": 3}).json()["type"] == "/problems/round-not-open"


def test_votes_of_more_than_one_chunk(service: httpx.Client) -> None:
    n_samples = 2**20 + 10
    service.put("/runs/a", json={"num_samples": n_samples})
    log: list[Record] = [
        {"epoch": epoch, "sample": sample, "predicted": 4, "label": 1}
        for epoch in range(2)
        for sample in (5, 2**20 - 1, 2**20, 2**20 + 9)
    ] + [{"epoch": epoch, "sample": 0, "correct": True} for epoch in range(2)]
    assert post(service, log, complete="true").status_code == 200
    found = suggestions(service, threshold="value", value="-2", offset=2**20 - 2, limit=100)
    assert {row["index"]: row["suggested"] for row in found["suggestions"] if row["suggested"] is not None} == {
        2**20 - 1: 4,
        2**20: 4,
        2**20 + 9: 4,
    }
    assert found["num_dropped"] == n_samples - 1
