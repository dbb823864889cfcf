"""Labels, audits and what is measured by them, through the client and the real application."""

import httpx
import numpy as np
import pytest

from mild_client import IntermediaryError, MildClient, RunSpec
from mild_client import api_results as module
from mild_client.errors import BadRequest, Conflict
from mild_core import bitmap
from mild_core.audit import Audit, evaluate_selection
from mild_core.selection import select
from mild_core.types import EpochBits, RoundBits
from tests.client.wire import Reply, serving

N = 600
CLEAN = np.arange(N) < 400


@pytest.fixture
def client(service: httpx.Client, epochs: list[EpochBits]) -> MildClient:
    """A client whose run ``run`` has labels and twelve epochs."""
    client = MildClient("http://service", http=service)
    client.open_run(RunSpec("run", N, num_classes=10))
    client.put_labels("run", np.arange(N) % 10)
    for number, bits in enumerate(epochs):
        client.put_epoch("run", 0, number, bits)
    return client


def test_an_audit_measures_what_the_core_measures(client: MildClient, epochs: list[EpochBits]) -> None:
    with pytest.raises(Conflict) as caught:
        client.evaluation("run", 0)
    assert caught.value.code == "no-audit"
    marked = range(0, N, 7)
    assert client.put_audit("run", marked, CLEAN[marked].tolist())["num_added"] == len(marked)
    audit = Audit.from_marks(marked, CLEAN[marked].tolist(), N)
    assert client.audit("run", N).to_body() == audit.to_body()
    selection = select([RoundBits(N, np.stack([bits.correct for bits in epochs]))])
    measured = evaluate_selection(selection.bitmap, selection.scores, audit).summary()
    assert measured.items() <= client.evaluation("run", 0).items()
    assert client.selection("run")["measured"] == measured


def test_a_draw_is_made_read_and_answered(client: MildClient) -> None:
    assert client.get_draw("run") is None
    with pytest.raises(Conflict) as caught:
        client.draw_audit("run", 150)
    assert caught.value.code == "round-open"
    client.finish("run", 0)
    answer = client.draw_audit("run", 150, changes={"alpha": 0.2})
    drawn = answer["draw"]["indices"]
    assert (answer["outcome"], len(drawn)) == ("drawn", 150)
    assert client.draw_audit("run", 150, 0, {"alpha": 0.2})["outcome"] == "same"
    assert client.get_draw("run") == answer["draw"]
    audit = client.audit("run", N)
    assert (audit.n_checked, audit.n_drawn, audit.n_unanswered) == (0, 150, 150)
    client.put_audit("run", drawn, CLEAN[drawn].tolist())
    audit = client.audit("run", N)
    assert audit.is_complete_draw
    assert audit.random is not None
    assert bitmap.to_indices(audit.random, N).tolist() == drawn
    guarantee = client.selection("run", changes={"threshold": "fdr", "alpha": 0.2})["guarantee"]
    assert (guarantee["holds"], guarantee["drawn"]) == (True, 150)
    assert all(cut["bounds"] is not None for cut in client.sweep("run", 0)["cuts"])
    with pytest.raises(Conflict) as caught:
        client.draw_audit("run", 150)
    assert caught.value.code == "draw-answered"


def test_scores_come_whole_however_many_pages_they_take(
    client: MildClient, epochs: list[EpochBits], monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = select([RoundBits(N, np.stack([bits.correct for bits in epochs]))])
    expected = np.stack((selection.scores, selection.noisy_posterior))
    for page in (1_000_000, N, 150, 7):
        monkeypatch.setattr(module, "_SCORES_PER_PAGE", page)
        np.testing.assert_array_equal(client.scores("run"), expected)


def test_a_sample_is_explained(client: MildClient) -> None:
    told = client.sample("run", 599)
    assert (told["label"], told["kept"]) == (9, False)
    assert "above the cut" in told["why"]


def test_labels_that_bits_were_recorded_with_stay(client: MildClient) -> None:
    client.put_labels("run", (np.arange(N) % 10).astype(np.uint8))
    with pytest.raises(Conflict, match="recorded with other labels"):
        client.put_labels("run", np.zeros(N, dtype=np.int32))
    with pytest.raises(BadRequest, match="600 samples"):
        client.put_labels("run", np.zeros(3, dtype=np.int64))


def test_an_answer_that_is_no_array_is_noticed() -> None:
    with serving(Reply(body=b"<html>")) as server, MildClient(server.url) as client, pytest.raises(IntermediaryError):
        client.scores("run")


def test_an_empty_audit_is_one(client: MildClient) -> None:
    assert not client.audit("run", N).checked.any()
    assert bitmap.popcount(client.audit("run", N).clean) == 0
