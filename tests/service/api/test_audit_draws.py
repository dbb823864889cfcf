"""Random draws for an audit: what is drawn, when statements come and go, and what other choices get."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from mild_core import bitmap
from tests.service.conftest import Dump
from tests.service.recordings import OCTETS, put_epochs, recording

N, EPOCHS, NOISE = 600, 12, 0.3
CLEAN = np.random.default_rng(0).random(N) >= NOISE
"""Cleanness of the samples of `recording`, which draws it first."""


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


@pytest.fixture
def finished(service: httpx.Client) -> httpx.Client:
    """The service with run `a`, whose round 0 is finished."""
    assert service.put("/runs/a", json={"num_samples": N}).status_code == 201
    put_epochs(service, "a", recording(N, EPOCHS, NOISE))
    assert service.post("/runs/a/rounds/0/finish").status_code == 200
    return service


def draw(service: httpx.Client, n: int = 100, **body: Any) -> httpx.Response:
    return service.post("/runs/a/audit/draw", json={"n": n, **body})


def answer_samples(service: httpx.Client, indices: list[int], clean: bool | None = None) -> None:
    marks = [bool(CLEAN[index]) for index in indices] if clean is None else [clean] * len(indices)
    assert service.put("/runs/a/audit", json={"indices": indices, "clean": marks}).status_code == 200


def draw_and_answer(service: httpx.Client, n: int = 100, **body: Any) -> list[int]:
    drawn = draw(service, n, **body)
    assert drawn.status_code == 201, drawn.text
    indices: list[int] = drawn.json()["draw"]["indices"]
    answer_samples(service, indices)
    return indices


def select(service: httpx.Client, **params: Any) -> Any:
    answer = service.get("/selection/a", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_draw_is_stored_with_the_choice_that_it_was_made_for(finished: httpx.Client) -> None:
    assert finished.get("/runs/a/audit").json()["draw"] is None
    answer = draw(finished)
    assert answer.status_code == 201
    assert (answer.json()["run_id"], answer.json()["outcome"]) == ("a", "drawn")
    drawn = answer.json()["draw"]
    assert (drawn["n"], drawn["num_answered"], drawn["round"]) == (100, 0, 0)
    options = finished.get("/runs/a").json()["selection"]
    assert drawn["options"] == {**options, "threshold": "fdr", "alpha": 0.1}
    assert drawn["indices"] == sorted(set(drawn["indices"]))
    assert len(drawn["indices"]) == 100
    assert 0 <= drawn["indices"][0] <= drawn["indices"][-1] < N
    audit = finished.get("/runs/a/audit").json()
    assert (audit["num_known"], audit["draw"]) == (0, drawn)
    answer_samples(finished, drawn["indices"][:7])
    assert finished.get("/runs/a/audit").json()["draw"]["num_answered"] == 7
    assert len(finished.get("/runs/a/audit", headers={"Accept": "application/octet-stream"}).content) == 2 * 75


def test_the_same_request_changes_nothing_and_another_draws_again_until_the_first_answer(
    finished: httpx.Client, dump: Dump
) -> None:
    first = draw(finished).json()["draw"]
    before = dump()
    again = draw(finished, options={"alpha": 0.1, "threshold": "fdr"}, round=0)
    assert (again.status_code, again.json()) == (200, {"run_id": "a", "outcome": "same", "draw": first})
    assert dump() == before
    other = draw(finished, 100, options={"alpha": 0.2})
    assert (other.status_code, other.json()["outcome"]) == (201, "replaced")
    assert other.json()["draw"] == {**first, "options": {**first["options"], "alpha": 0.2}}
    answer_samples(finished, other.json()["draw"]["indices"][:1])
    before = dump()
    refused = draw(finished, 100)
    assert code(refused) == (409, "draw-answered")
    assert "1 of the 100 drawn samples of run 'a' are marked, 0 may ever be" in refused.json()["detail"]
    assert draw(finished, 100, options={"alpha": 0.2}).json()["outcome"] == "same"
    assert dump() == before


def test_a_draw_stays_fixed_when_its_answers_are_taken_back(finished: httpx.Client) -> None:
    indices = draw_and_answer(finished)
    finished.put("/runs/a/audit", json={"indices": indices, "clean": [None] * 100})
    assert finished.get("/runs/a/audit").json()["draw"]["num_answered"] == 0
    refused = draw(finished, 100, options={"alpha": 0.2})
    assert code(refused) == (409, "draw-answered")
    assert "0 of the 100 drawn samples of run 'a' are marked, after marks that were taken" in refused.json()["detail"]
    answer_samples(finished, indices)
    assert select(finished, threshold="fdr")["guarantee"]["holds"]


def test_marks_that_were_there_before_a_draw_fix_it_too(finished: httpx.Client) -> None:
    answer_samples(finished, list(range(N)))
    draw(finished)
    finished.put("/runs/a/audit", json={"indices": list(range(N)), "clean": [None] * N})
    assert code(draw(finished, 101)) == (409, "draw-answered")


def test_a_draw_of_everybody_keeps_its_samples_and_takes_another_choice(finished: httpx.Client) -> None:
    assert draw(finished, N).json()["draw"]["indices"] == list(range(N))
    other = draw(finished, N, options={"alpha": 0.2}).json()
    assert (other["outcome"], other["draw"]["options"]["alpha"]) == ("replaced", 0.2)
    assert finished.get("/runs/a/audit").json()["draw"] == other["draw"]


def test_marks_that_somebody_chose_stay_beside_a_draw(finished: httpx.Client) -> None:
    answer_samples(finished, [1, 2, 3])
    drawn = draw(finished).json()["draw"]
    audit = finished.get("/runs/a/audit").json()
    assert audit["indices"] == [1, 2, 3]
    answer_samples(finished, drawn["indices"])
    assert select(finished)["measured"]["basis"].startswith("100 audited samples drawn at random")
    assert select(finished)["guarantee"]["drawn"] == 100


def test_the_statement_comes_with_the_last_answer_and_goes_with_a_removed_mark(finished: httpx.Client) -> None:
    indices = draw(finished).json()["draw"]["indices"]
    answer_samples(finished, indices[:-1])
    assert (select(finished)["guarantee"], select(finished)["bounds"]) == (None, None)
    refused = finished.get("/selection/a", params={"threshold": "fdr"})
    assert code(refused) == (422, "invalid-parameter")
    assert "an answer for each of 100 drawn samples, 1 have none" in refused.json()["detail"]
    etag = finished.get("/selection/a").headers["ETag"]
    answer_samples(finished, indices[-1:])
    complete = finished.get("/selection/a", headers={"If-None-Match": etag})
    assert complete.status_code == 200
    assert complete.json()["guarantee"]["drawn"] == 100
    assert complete.json()["bounds"]["basis"].startswith("100 of 600 judged samples, drawn at random")
    assert complete.json()["measured"]["basis"] == "100 audited samples drawn at random"
    finished.put("/runs/a/audit", json={"indices": indices[:1], "clean": [None]})
    assert (select(finished)["guarantee"], select(finished)["bounds"]) == (None, None)
    assert finished.get("/selection/a", params={"threshold": "fdr"}).status_code == 422
    assert finished.get("/selection/a", headers={"If-None-Match": complete.headers["ETag"]}).status_code == 200


def test_the_recorded_choice_holds_and_its_drawn_samples_follow_their_mark(finished: httpx.Client) -> None:
    indices = draw_and_answer(finished, 200)
    selection = select(finished, threshold="fdr")
    guarantee = selection["guarantee"]
    assert (guarantee["alpha"], guarantee["drawn"], guarantee["holds"]) == (0.1, 200, True)
    assert "averaged over draws, at most 0.1" in guarantee["reason"]
    assert selection["basis"] == "computed"
    kept = np.zeros(N, dtype=bool)
    kept[selection["indices"]] = True
    assert np.array_equal(kept[indices], CLEAN[indices])
    packed = finished.get("/selection/a", params={"threshold": "fdr"}, headers={"Accept": "application/octet-stream"})
    assert np.array_equal(bitmap.unpack(np.frombuffer(packed.content, np.uint8), N), kept)


def test_an_answer_that_changes_cuts_another_set(finished: httpx.Client) -> None:
    indices = draw_and_answer(finished, 200)
    before = finished.get("/selection/a", params={"threshold": "fdr"})
    answer_samples(finished, indices[:100], clean=False)
    after = finished.get("/selection/a", params={"threshold": "fdr"}, headers={"If-None-Match": before.headers["ETag"]})
    assert after.status_code == 200
    assert after.json()["guarantee"] != before.json()["guarantee"]
    assert after.json()["num_selected"] != before.json()["num_selected"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "threshold is f1, fdr was recorded"),
        ({"threshold": "fdr", "alpha": 0.2}, "alpha is 0.2, 0.1 was recorded"),
        ({"threshold": "value", "value": -2}, "threshold is value, fdr was recorded"),
        ({"threshold": "fraction", "fraction": 0.5}, "threshold is fraction, fdr was recorded"),
        ({"threshold": "precision", "target": 0.8}, "threshold is precision, fdr was recorded"),
        ({"threshold": "f1", "until_epoch": EPOCHS - 1}, "threshold is f1, fdr was recorded"),
    ],
)
def test_another_cut_of_the_recorded_order_has_bounds_but_no_promise(
    finished: httpx.Client, changes: dict[str, Any], reason: str
) -> None:
    draw_and_answer(finished, 200)
    selection = select(finished, **changes)
    guarantee = selection["guarantee"]
    assert not guarantee["holds"]
    assert guarantee["reason"].startswith(reason)
    assert "`upper` and the bounds hold for every cut at once" in guarantee["reason"]
    sweep = finished.get("/runs/a/rounds/0/sweep", params=changes).json()
    bounds = selection["bounds"]
    own = next(cut for cut in sweep["cuts"] if cut["cut"] == sweep["threshold"]["cut"])
    assert own["bounds"] == {"precision": bounds["precision"], "recall": bounds["recall"]}
    assert own["num_kept"] == selection["num_selected"]
    every = [cut["bounds"] for cut in finished.get("/runs/a/rounds/0/sweep").json()["cuts"]]
    assert [cut["bounds"] for cut in sweep["cuts"]] == every  # one statement, whatever the cut
    assert 0 < guarantee["upper"] < 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": "forgetting"}, "metric is forgetting, mild-simple was recorded"),
        ({"threshold": "fdr", "fit": "grouped"}, "fit is grouped, tailed was recorded"),
        ({"threshold": "fdr", "evidence": "latest"}, "evidence is latest, pooled was recorded"),
        ({"threshold": "fdr", "until_epoch": 5}, "only the epochs 0..5 count, all were recorded"),
        ({"round": 1}, "round 1 is selected, round 0 was recorded"),
        ({"round": 1, "threshold": "fdr"}, "round 1 is selected, round 0 was recorded"),
    ],
)
def test_another_order_has_neither_bounds_nor_a_promise(
    finished: httpx.Client, changes: dict[str, Any], reason: str
) -> None:
    put_epochs(finished, "a", recording(N, EPOCHS, NOISE), round_=1)
    draw_and_answer(finished, 200)
    selection = select(finished, **changes)
    guarantee = selection["guarantee"]
    assert (guarantee["holds"], guarantee["upper"], selection["bounds"]) == (False, None, None)
    assert guarantee["reason"].startswith(reason)
    assert "the answers may have chosen this order" in guarantee["reason"]
    round_ = changes.get("round", 0)
    params = {name: value for name, value in changes.items() if name != "round"}
    sweep = finished.get(f"/runs/a/rounds/{round_}/sweep", params=params).json()
    assert {cut["bounds"] is None for cut in sweep["cuts"]} == {True}


def test_a_set_of_no_single_cut_has_no_bounds_unless_it_was_made_before_the_draw(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N, "selection": {"min_keep_class": 0.3}})
    labels = [int(not clean and index % 2) for index, clean in enumerate(CLEAN.tolist())]
    service.put("/runs/a/labels", json={"labels": labels})  # class 1 is all wrong
    put_epochs(service, "a", recording(N, EPOCHS, NOISE))
    service.post("/runs/a/rounds/0/finish")
    assert code(draw(service)) == (422, "invalid-parameter")
    draw_and_answer(service, 200, options={"min_keep_class": 0})
    stored, computed = select(service), select(service, min_keep_class=0.4)
    assert "for this set, which was made before the draw" in stored["guarantee"]["reason"]
    assert 0 < stored["guarantee"]["upper"] < 1
    assert stored["bounds"]["precision"] > 0
    assert (computed["guarantee"]["upper"], computed["bounds"]) == (None, None)
    assert "no single cut makes it" in computed["guarantee"]["reason"]


def test_a_recorded_rule_without_a_promise_gets_an_upper_bound(finished: httpx.Client) -> None:
    draw_and_answer(finished, 200, options={"threshold": "f1"})
    stored = select(finished)
    assert (stored["basis"], stored["guarantee"]["holds"]) == ("stored", False)
    assert "threshold 'f1' promises no share of wrong labels" in stored["guarantee"]["reason"]
    assert (
        stored["guarantee"]["upper"]
        < select(finished, threshold="value", value=stored["threshold"]["value"])["guarantee"]["upper"]
    )  # the answers may have chosen the second


def test_precision_is_cut_by_the_draw_where_a_request_asks_for_it_and_never_in_a_round(service: httpx.Client) -> None:
    rule = {"threshold": "precision", "target": 0.8}
    service.put("/runs/a", json={"num_samples": N, "selection": rule})
    put_epochs(service, "a", recording(N, EPOCHS, NOISE))
    first = service.post("/runs/a/rounds/0/finish").json()
    draw_and_answer(service, 300, options=rule)
    stored, asked = select(service), select(service, **rule)
    assert (stored["basis"], stored["indices"]) == ("stored", first["indices"])
    assert not stored["guarantee"]["holds"]
    assert (asked["basis"], asked["guarantee"]["holds"]) == ("computed", True)
    assert "with 95% confidence, at least 0.8" in asked["guarantee"]["reason"]
    assert asked["bounds"]["precision"] >= 0.8
    assert asked["indices"] != stored["indices"]
    put_epochs(service, "a", recording(N, EPOCHS, NOISE), round_=1)
    service.put("/runs/b", json={"num_samples": N, "selection": rule})
    for round_ in (0, 1):
        put_epochs(service, "b", recording(N, EPOCHS, NOISE), round_)
        undrawn = service.post(f"/runs/b/rounds/{round_}/finish").json()
    assert service.post("/runs/a/rounds/1/finish").json()["indices"] == undrawn["indices"]


def test_the_answers_of_a_draw_reach_no_later_round(finished: httpx.Client) -> None:
    draw_and_answer(finished, 200)
    put_epochs(finished, "a", recording(N, EPOCHS, NOISE), round_=1)
    finished.put("/runs/b", json={"num_samples": N})
    for round_ in (0, 1):
        put_epochs(finished, "b", recording(N, EPOCHS, NOISE), round_)
        undrawn = finished.post(f"/runs/b/rounds/{round_}/finish").json()
    assert finished.post("/runs/a/rounds/1/finish").json()["indices"] == undrawn["indices"]
    answer = finished.put("/runs/c", json={"num_samples": N, "selection": {"threshold": "fdr"}})
    assert code(answer) == (422, "invalid-parameter")


@pytest.mark.parametrize(
    ("body", "problem", "detail"),
    [
        ({"n": 0}, (422, "invalid-request"), "n"),
        ({"n": 601}, (422, "invalid-parameter"), "n is 601; give a number in 1..600"),
        ({"n": 100.5}, (422, "invalid-request"), "n"),
        ({"round": 1}, (409, "round-open"), "round 1 of run 'a' is open, a draw needs a finished one"),
        ({"round": 2}, (409, "round-not-open"), "round 2 of run 'a' has not begun"),
        ({"round": -1}, (422, "invalid-request"), "round"),
        ({"options": {"alpha": 0.9}}, (422, "invalid-parameter"), "alpha is 0.9"),
        ({"options": {"audit": "fit"}}, (422, "invalid-parameter"), "audit"),
        ({"options": {"audit": "fit", "threshold": "f1"}}, (422, "invalid-parameter"), "draw with audit 'measure'"),
        ({"options": {"threshold": "precision"}}, (422, "invalid-parameter"), "needs `target`"),
        ({"options": {"alhpa": 0.1}}, (422, "invalid-request"), "alhpa"),
        ({"size": 100}, (422, "invalid-request"), "size"),
    ],
)
def test_impossible_draws_are_refused_and_change_nothing(
    finished: httpx.Client, dump: Dump, body: dict[str, Any], problem: tuple[int, str], detail: str
) -> None:
    put_epochs(finished, "a", recording(N, 2), round_=1)
    before = dump()
    answer = finished.post("/runs/a/audit/draw", json=body)
    assert code(answer) == problem
    assert detail in answer.json()["detail"]
    assert dump() == before


def test_without_a_finished_round_or_a_judged_sample_there_is_nothing_to_draw(service: httpx.Client) -> None:
    assert code(service.post("/runs/a/audit/draw", json={})) == (404, "run-not-found")
    service.put("/runs/a", json={"num_samples": N})
    assert code(draw(service)) == (409, "no-epochs")
    nobody = bytes(2 * 75)
    service.put("/runs/a/rounds/0/epochs/0", content=nobody, headers=OCTETS)
    assert code(draw(service)) == (409, "round-open")
    assert code(service.post("/runs/a/rounds/0/finish")) == (409, "empty-set")
    assert code(draw(service)) == (409, "round-open")
    own_set = base64.b64encode(bytes([128]) + bytes(74)).decode()
    assert service.post("/runs/a/rounds/0/finish", json={"selected": own_set}).status_code == 200
    answer = draw(service)
    assert code(answer) == (422, "invalid-parameter")
    assert "0 of 600 samples can be drawn, at least 1 is needed" in answer.json()["detail"]


def test_planted_samples_are_not_drawn(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N})
    planted = list(range(0, N, 2))
    service.put("/runs/a/planted", json={"indices": planted})
    put_epochs(service, "a", recording(N, EPOCHS, NOISE))
    service.post("/runs/a/rounds/0/finish")
    assert draw(service, N // 2).json()["draw"]["indices"] == list(range(1, N, 2))
    assert "1..300" in draw(service, N // 2 + 1).json()["detail"]


def test_a_run_has_one_order_of_draws_so_none_can_be_repeated_until_it_pleases(finished: httpx.Client) -> None:
    draws = {n: draw(finished, n).json()["draw"]["indices"] for n in (100, 150, 40)}
    assert set(draws[40]) < set(draws[100]) < set(draws[150])
    put_epochs(finished, "a", recording(N, EPOCHS, NOISE, seed=1), round_=1)
    finished.post("/runs/a/rounds/1/finish")
    again = draw(finished, 100).json()["draw"]
    assert (again["round"], again["indices"]) == (1, draws[100])
    finished.delete("/runs/a")
    finished.put("/runs/a", json={"num_samples": N})
    put_epochs(finished, "a", recording(N, EPOCHS, NOISE))
    finished.post("/runs/a/rounds/0/finish")
    assert draw(finished, 100).json()["draw"]["indices"] != draws[100]


def test_a_choice_that_needs_labels_is_recorded_only_with_labels(finished: httpx.Client) -> None:
    choice = {"threshold": "f1", "per_class": True}
    refused = draw(finished, options=choice)
    assert code(refused) == (422, "invalid-parameter")
    assert "needs the given labels, and run 'a' has none; put them before the draw" in refused.json()["detail"]
    finished.put("/runs/a/labels", json={"labels": [index % 2 for index in range(N)]})
    assert draw(finished, options=choice).status_code == 201


def test_nothing_is_bounded_of_a_set_with_samples_that_could_not_be_drawn(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N})
    observed = bitmap.pack(np.arange(N) >= 200)
    for epoch, body in enumerate(recording(N, EPOCHS, NOISE)):
        correct = np.frombuffer(body, np.uint8) & observed
        service.put(f"/runs/a/rounds/0/epochs/{epoch}", content=observed.tobytes() + correct.tobytes(), headers=OCTETS)
    client_set = base64.b64encode(bitmap.pack(np.arange(N) < 250).tobytes()).decode()
    assert service.post("/runs/a/rounds/0/finish", json={"selected": client_set}).status_code == 200
    draw_and_answer(service)
    stored = select(service)
    assert (stored["basis"], stored["bounds"], stored["guarantee"]["upper"]) == ("client", None, None)
    assert stored["guarantee"]["reason"].startswith("200 kept samples are not judged")
    assert select(service, threshold="fdr")["bounds"]["precision"] > 0


def test_draws_and_answers_at_the_same_time_lose_nothing(finished: httpx.Client) -> None:
    def mark(index: int) -> int:
        return finished.put("/runs/a/audit", json={"indices": [index], "clean": [True]}).status_code

    with ThreadPoolExecutor(8) as threads:
        marks = [threads.submit(mark, index) for index in range(6)]
        draws = [threads.submit(draw, finished, 5, options={"alpha": 0.1 + repeat / 50}) for repeat in range(4)]
        marks += [threads.submit(mark, index) for index in range(6, 12)]
        assert {future.result() for future in marks} == {200}
        answers = [future.result() for future in draws]
    made = [answer.json()["draw"] for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len([answer for answer in answers if answer.json().get("outcome") == "drawn"]) == 1
    audit = finished.get("/runs/a/audit").json()
    assert audit["indices"] == list(range(12))
    assert {**audit["draw"], "num_answered": 0} in [{**each, "num_answered": 0} for each in made]
