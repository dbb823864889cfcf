"""Calls that no trainer makes, against the real application: shards, external ids, other choices, and none stored."""

import httpx
import numpy as np
import pytest

from mild_client import MildClient, RunSpec, api_results
from mild_client import api as module
from mild_client.errors import BadRequest, Conflict
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits, SelectionOptions

N = 600


@pytest.fixture
def client(service: httpx.Client) -> MildClient:
    client = MildClient("http://service", http=service)
    client.ready()
    client.open_run(RunSpec("a", N, num_classes=10))
    return client


def put(client: MildClient, epochs: list[EpochBits]) -> None:
    for number, bits in enumerate(epochs):
        client.put_epoch("a", 0, number, bits)


def test_members_come_back_as_they_were_put(client: MildClient) -> None:
    np.testing.assert_array_equal(client.members("a", N, 0), bitmap.full(N))
    members = bitmap.pack(np.arange(N) % 7 == 0)
    client.put_members("a", 0, members)
    np.testing.assert_array_equal(client.members("a", N, 0), members)


def test_planted_samples_come_back_as_they_were_put(client: MildClient, epochs: list[EpochBits]) -> None:
    assert not client.planted("a", N).any()
    planted = bitmap.pack(np.arange(N) % 50 == 0)
    client.put_planted("a", planted, attempt=1)
    put(client, epochs[:1])
    client.put_planted("a", planted)
    np.testing.assert_array_equal(client.planted("a", N), planted)
    with pytest.raises(Conflict) as caught:
        client.put_planted("a", bitmap.full(N))
    assert caught.value.code == "planted-frozen"


def test_ranks_share_an_epoch(client: MildClient, epochs: list[EpochBits]) -> None:
    ranks = [bitmap.pack(np.arange(N) % 3 == rank) for rank in range(3)]
    for rank in (2, 0):
        told = client.put_shard("a", 0, 0, rank, 3, EpochBits(N, epochs[0].correct & ranks[rank], ranks[rank]))
    assert (told["state"], told["num_missing_shards"]) == ("partial", 1)
    assert client.get_epoch("a", 0, 0)["missing_shards"] == [1]
    with pytest.raises(ParameterError, match="shard 1 of 3 does not say which samples it observed"):
        client.put_shard("a", 0, 0, 1, 3, epochs[0])
    last = EpochBits(N, epochs[0].correct & ranks[1], ranks[1])
    assert client.put_shard("a", 0, 0, 1, 3, last, attempt=1)["state"] == "committed"
    assert client.put_shard("a", 0, 0, 1, 3, last)["outcome"] == "same"
    assert client.get_round("a", 0)["epochs"][0]["num_correct"] == bitmap.popcount(epochs[0].correct)


def test_samples_have_names(client: MildClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Conflict) as caught:
        client.sample_ids("a")
    assert caught.value.code == "no-sample-ids"
    names = [f'katze "{index}", é.png' for index in range(N)]
    client.put_sample_ids("a", names)
    for page in (100_000, N, 7):
        monkeypatch.setattr(module, "_IDS_PER_PAGE", page)
        assert client.sample_ids("a") == names
    labels = np.arange(N) % 10
    by_index = client.log_predictions("a", 0, np.arange(5), labels[:5], labels[:5])
    by_name = client.log_predictions("a", 0, np.array(names[5:]), labels[5:], labels[5:])
    assert [posted["epochs"][0]["num_observed"] for posted in (by_index, by_name)] == [5, N]
    selection = client.selection("a", ids=True)
    assert selection["ids"] == [names[index] for index in selection["indices"]]
    with pytest.raises(BadRequest, match="line 2"):
        client.put_sample_ids("a", ["a", "b\n"])


def test_another_choice_is_looked_at_and_not_stored(client: MildClient, epochs: list[EpochBits]) -> None:
    put(client, epochs)
    half = {"threshold": "fraction", "fraction": 0.5}
    looked = client.selection("a", 0, until_epoch=9, changes=half)
    assert (looked["epochs"], looked["threshold"]["rule"]) == (10, "fraction")
    assert bitmap.popcount(client.selected("a", N, 0, 9, half)) == looked["num_selected"] <= N // 2
    assert client.sample("a", 0, changes={"metric": "forgetting"})["score"] != client.sample("a", 0)["score"]
    assert not np.array_equal(client.scores("a", until_epoch=7), client.scores("a"), equal_nan=True)
    assert client.fit("a", 0, until_epoch=7) != client.fit("a", 0)
    assert client.sweep("a", 0)["cuts"]
    assert client.selection("a", 0)["threshold"]["rule"] == "f1"
    with pytest.raises(BadRequest, match="fraction"):
        client.selection("a", changes={"fraction": 7})


def test_a_round_is_waited_for(client: MildClient, epochs: list[EpochBits]) -> None:
    put(client, epochs)
    assert client.selection("a", 0, wait=0.01)["provisional"]
    client.finish("a", 0)
    assert not client.selection("a", 0, wait=60)["provisional"]


def test_bits_may_be_selected_from_without_a_run(client: MildClient, epochs: list[EpochBits]) -> None:
    put(client, epochs)
    correct = bitmap.unpack(np.stack([bits.correct for bits in epochs]), N)
    alone, stored = client.select(correct), client.selection("a")
    assert (alone["run_id"], alone["indices"]) == (None, stored["indices"])
    observed = np.ones_like(correct)
    observed[:, :100] = False
    assert client.select(correct & observed, observed, SelectionOptions(cost_ratio=2.0))["unobserved"] == 100


def test_dropped_samples_get_suggestions(client: MildClient, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    samples, true = np.arange(N), np.arange(N) % 10
    labels = np.where(samples < 400, true, (true + 1) % 10)
    for epoch in range(12):
        predicted = np.where(rng.random(N) < 0.95, true, 7)
        client.log_predictions("a", epoch, samples, predicted, labels)
    dropped = np.setdiff1d(samples, client.selection("a")["indices"])
    for page in (100_000, dropped.size, 7):
        monkeypatch.setattr(api_results, "_SUGGESTIONS_PER_PAGE", page)
        suggestions = client.suggestions("a")
        assert [row["index"] for row in suggestions] == dropped.tolist()
        assert [row["suggested"] for row in suggestions] == true[dropped].tolist()


def test_runs_are_listed_changed_and_deleted(client: MildClient, caplog: pytest.LogCaptureFixture) -> None:
    client.open_run(RunSpec("b", N))
    first = client.list_runs(limit=1)
    rest = client.list_runs(cursor=first["next_cursor"])
    assert [run["run_id"] for run in first["runs"] + rest["runs"]] == ["b", "a"]
    assert client.patch_run("a", {"data": "digits"}, "failed", 3600)["tags"] == {"data": "digits"}
    assert client.patch_run("a", ttl_seconds=60)["status"] == "failed"
    assert client.patch_run("a", tags={})["tags"] == {}
    client.delete_run("a")
    client.delete_run("a")
    assert "cannot serve now" not in caplog.text, "an answer without a body is whole"
    assert [run["run_id"] for run in client.list_runs()["runs"]] == ["b"]
