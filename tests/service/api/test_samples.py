"""What a set was made of: scores, samples, cuts and the audit's verdict, all of them the core's own numbers."""

import base64
import io
from dataclasses import asdict
from typing import Any

import httpx
import numpy as np
import pytest

from mild_core import bitmap
from mild_core.audit import Audit, evaluate_selection
from mild_core.inspect.explain import explain_sample
from mild_core.inspect.sweep import evaluate_cuts, sweep_cuts
from mild_core.results import serialize_fit
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from tests.service.recordings import OCTETS, put_epochs, recording

N = 400
BODIES = recording(N, 20)
LATER = recording(N, 12, seed=3)
NOISY = np.random.default_rng(0).random(N) < 0.4
MARKS = np.arange(0, N, 3)
AUDIT = Audit.from_marks(MARKS.tolist(), (~NOISY[MARKS]).tolist(), N)


def bits(bodies: list[bytes]) -> RoundBits:
    return RoundBits(N, np.stack([np.frombuffer(body, dtype=np.uint8) for body in bodies]))


ROUND = bits(BODIES)


@pytest.fixture
def run(service: httpx.Client) -> httpx.Client:
    """The service with run `a` of 400 samples and 20 epochs in its open round 0."""
    service.put("/runs/a", json={"num_samples": N, "num_classes": 7})
    service.put("/runs/a/labels", json={"labels": [i % 7 for i in range(N)]})
    put_epochs(service, "a", BODIES)
    return service


def put_audit(service: httpx.Client, audit: Audit = AUDIT) -> None:
    assert service.put("/runs/a/audit", content=audit.to_body(), headers=OCTETS).status_code == 200


def get(service: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    answer = service.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_scores_come_as_json_and_as_an_array(run: httpx.Client) -> None:
    selection = select([ROUND])
    found = get(run, "/runs/a/scores")
    assert (found["round"], found["provisional"], found["metric"]) == (0, True, "mild-simple")
    assert found["scores"] == selection.scores.tolist()
    assert np.array(found["noisy_posterior"], dtype=np.float32) == pytest.approx(selection.noisy_posterior)
    packed = run.get("/runs/a/scores", headers={"Accept": "application/x-npy"})
    rows = np.load(io.BytesIO(packed.content))
    assert (rows.dtype, rows.shape) == (np.float32, (2, N))
    np.testing.assert_array_equal(rows, [selection.scores, selection.noisy_posterior])


def test_scores_come_in_pages_and_for_other_choices(run: httpx.Client) -> None:
    selection = select([ROUND], SelectionOptions(metric="mild"))
    found = get(run, "/runs/a/scores", metric="mild", offset=10, limit=5)
    assert found["scores"] == selection.scores[10:15].tolist()
    assert (found["offset"], found["num_samples"]) == (10, N)
    assert get(run, "/runs/a/scores", offset=N)["scores"] == []
    early = get(run, "/runs/a/scores", until_epoch=9, threshold="fraction", fraction=0.5)
    assert early["scores"] == select([bits(BODIES[:10])]).scores.tolist()


def test_what_has_no_score_is_null(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N})
    observed = bitmap.pack(np.arange(N) > 0).tobytes()
    service.put("/runs/a/rounds/0/epochs/0", content=observed + bytes(50), headers=OCTETS)
    found = get(service, "/runs/a/scores", limit=2)
    assert (found["scores"], found["noisy_posterior"]) == ([None, 1.0], [None, None])
    told = get(service, "/runs/a/samples/0")
    assert (told["score"], told["rounds"][0]["history"], told["label"]) == (None, ".", None)


@pytest.mark.parametrize("evidence", ["pooled", "latest"])
def test_a_sample_is_shown_over_all_rounds_and_explained(run: httpx.Client, evidence: Any) -> None:
    run.post("/runs/a/rounds/0/finish")
    put_epochs(run, "a", LATER, round_=1)
    put_audit(run)
    first = select([ROUND])
    rounds = [ROUND, RoundBits(N, bits(LATER).correct, members=first.bitmap)]
    options = SelectionOptions(evidence=evidence)
    selection = select(rounds, options)
    for index in (0, 1, 2, 3, N - 1):
        told = get(run, f"/runs/a/samples/{index}", round=1, evidence=evidence)
        expected = explain_sample(rounds, selection, index)
        assert [r["history"] for r in told["rounds"]] == [each.history for each in expected.rounds]
        assert [r["member"] for r in told["rounds"]] == [history.member for history in expected.rounds]
        assert (told["why"], told["kept"], told["score"]) == (expected.why, expected.kept, expected.score)
        assert (told["observed"], told["epochs"]) == (expected.observed, expected.epochs)
        assert told["label"] == index % 7
        assert told["audited"] == (None if index % 3 else not NOISY[index])


def test_a_sample_of_a_set_that_a_client_brought_says_so(run: httpx.Client) -> None:
    nobody_else = bitmap.from_indices([0], N)
    run.post("/runs/a/rounds/0/finish", json={"selected": base64.b64encode(nobody_else.tobytes()).decode()})
    selection = select([ROUND])
    for index in (0, 1, 2, 3, 4, 5):
        told = get(run, f"/runs/a/samples/{index}")
        assert told["kept"] == (index == 0)
        assert ("against this cut" in told["why"]) == (told["kept"] != bool(index in selection.indices))


def test_the_sweep_is_the_cores(run: httpx.Client) -> None:
    selection = select([ROUND])
    plain = get(run, "/runs/a/rounds/0/sweep")
    assert all(cut["measured"] is None for cut in plain["cuts"])
    put_audit(run)
    found = get(run, "/runs/a/rounds/0/sweep")
    expected = sweep_cuts(serialize_fit(selection), evaluate_cuts(selection, AUDIT))
    assert len(expected) == 21
    assert found["cuts"] == [asdict(cut) for cut in expected]
    own = found["cuts"][found["threshold"]["cut"]]
    assert own["num_kept"] == selection.n_selected


def test_a_cut_of_the_sweep_is_the_set_that_its_value_gives(run: httpx.Client) -> None:
    run.post("/runs/a/rounds/0/finish")
    for cut in get(run, "/runs/a/rounds/0/sweep")["cuts"][::4]:
        chosen = get(run, "/selection/a", round=0, threshold="value", value=cut["value"])
        assert chosen["num_selected"] == cut["num_kept"]
        for name in ("precision", "recall"):
            told = [cut["fitted"][part] for part in (name, f"{name}_low", f"{name}_high")]
            assert told == list(chosen["fitted"][name].values())


def test_an_evaluation_needs_an_audit(run: httpx.Client) -> None:
    answer = run.get("/runs/a/rounds/0/evaluation")
    assert code(answer) == (409, "no-audit")
    assert "PUT /runs/a/audit" in answer.json()["detail"]
    put_audit(run)
    found = get(run, "/runs/a/rounds/0/evaluation", threshold="value", value=0)
    selection = select([ROUND], SelectionOptions(threshold="value", value=0))
    expected = evaluate_selection(selection.bitmap, selection.scores, AUDIT)
    assert found == {
        "run_id": "a",
        "round": 0,
        "provisional": True,
        **expected.summary(),
        "clean": expected.n_clean,
        "kept": expected.n_kept,
        "kept_clean": expected.n_kept_clean,
    }
    assert found["auc"] > 0.95


@pytest.mark.parametrize("finished", [False, True])
def test_a_selection_is_measured_where_there_is_an_audit(run: httpx.Client, finished: bool) -> None:
    if finished:
        run.post("/runs/a/rounds/0/finish")
    before = run.get("/selection/a")
    assert "measured" not in before.json()
    put_audit(run)
    selection = select([ROUND])
    after = run.get("/selection/a", headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200, "an audit makes another answer of it"
    measured = evaluate_selection(selection.bitmap, selection.scores, AUDIT).summary()
    assert after.json() == {**before.json(), "measured": measured}
    same = run.get("/selection/a", headers={"If-None-Match": after.headers["etag"]})
    assert same.status_code == 304
    run.put("/runs/a/audit", json={"indices": [1], "clean": [True]})
    more = run.get("/selection/a", headers={"If-None-Match": after.headers["etag"]})
    assert more.json()["measured"]["known"] == AUDIT.n_checked + 1


def test_a_clients_set_is_measured_as_it_was_used(run: httpx.Client) -> None:
    everyone = bitmap.full(N)
    put_audit(run)
    body = {"selected": base64.b64encode(everyone.tobytes()).decode()}
    finished = run.post("/runs/a/rounds/0/finish", json=body).json()
    assert finished["measured"]["precision"] == AUDIT.n_clean / AUDIT.n_checked
    assert finished["measured"]["recall"] == 1.0
    assert get(run, "/runs/a/rounds/0/evaluation")["kept"] == AUDIT.n_checked


def test_the_bare_set_is_not_held_up_by_measuring(run: httpx.Client) -> None:
    put_audit(run)
    answer = run.get("/selection/a", headers={"Accept": "application/octet-stream"})
    assert answer.content == select([ROUND]).bitmap.tobytes()
    assert 'mild_selections_total{source="detail"}' not in run.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/runs/a/samples/400", (422, "sample-index")),
        ("/runs/a/samples/-1", (422, "invalid-request")),
        ("/runs/a/samples/99999999999999999999", (422, "invalid-request")),
        ("/runs/a/samples/0?round=first", (422, "invalid-request")),
        ("/runs/a/samples/0?round=best", (409, "rounds-not-comparable")),
        ("/runs/a/samples/0?round=1", (409, "round-not-open")),
        ("/runs/a/scores?limit=0", (422, "invalid-request")),
        ("/runs/a/scores?offset=-1", (422, "invalid-request")),
        ("/runs/a/scores?p=2", (422, "invalid-parameter")),
        ("/runs/a/rounds/0/sweep?until_epoch=-1", (422, "invalid-request")),
        ("/runs/a/rounds/1/sweep", (409, "round-not-open")),
        ("/runs/b/scores", (404, "run-not-found")),
        ("/runs/b/samples/0", (404, "run-not-found")),
        ("/runs/b/rounds/0/sweep", (404, "run-not-found")),
        ("/runs/b/rounds/0/evaluation", (404, "run-not-found")),
    ],
)
def test_what_cannot_be_answered_is_a_problem(run: httpx.Client, path: str, problem: tuple[int, str]) -> None:
    assert code(run.get(path)) == problem


def test_scores_come_in_the_forms_that_there_are(run: httpx.Client) -> None:
    assert run.get("/runs/a/scores", headers={"Accept": "text/csv"}).status_code == 406
