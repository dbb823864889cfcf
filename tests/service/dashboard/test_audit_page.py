"""The page of the random audit: it draws, shows samples without what could sway a checker, and says what is bounded."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mild_core.guarantee import bound_noise_rate_by_draw
from mild_service.dashboard import audit_page
from tests.service.dashboard.filled import IDS, LABELS, TRUE, N, fill
from tests.service.recordings import put_epochs, recording

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
HERE = "/ui/runs/a/audit"


@pytest.fixture
def run(service: httpx.Client) -> httpx.Client:
    """The service with run `a`, whose round 0 is finished."""
    fill(service)
    return service


def post(service: httpx.Client, path: str, form: str) -> httpx.Response:
    return service.post(f"{HERE}/{path}", content=form, headers=FORM)


def draw(service: httpx.Client, n: int = 30) -> list[int]:
    answer = post(service, "draw", f"n={n}")
    assert (answer.status_code, answer.headers["location"]) == (303, HERE)
    return indices(service)


def indices(service: httpx.Client) -> list[int]:
    drawn: list[int] = service.get("/runs/a/audit").json()["draw"]["indices"]
    return drawn


def shown(page: str) -> list[int]:
    return [int(index) for index in re.findall(r'id="sample-(\d+)"', page)]


def answer_all(service: httpx.Client, answer: Callable[[int], str]) -> None:
    for index in indices(service):
        assert post(service, str(index), f"answer={answer(index)}").status_code == 303


def test_before_a_draw_the_page_says_what_it_would_bound_and_what_is_recorded(run: httpx.Client) -> None:
    page = run.get(HERE).text
    assert "Draw samples to check" in page
    assert "round 0, metric <code>mild-simple</code>" in page
    assert "rule <code>fdr</code> with alpha 0.1" in page
    plans = re.findall(
        r'<th scope="row" class="num">(\d+)<.*?<td data-label="Time">([^<]+)</td>.*?at most ([\d.]+)%', page
    )
    assert [(size, time) for size, time, _ in plans] == [
        ("50", "about 5 minutes at 5 seconds each"), ("100", "about 9 minutes at 5 seconds each")
    ]  # fmt: skip
    assert float(plans[0][2]) > float(plans[1][2]) > 5


def test_a_run_without_a_finished_round_has_nothing_to_draw_from(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": 8})
    page = service.get(HERE).text
    assert "Round 0 is still open" in page
    assert "<form" not in page


def test_the_drawn_samples_are_shown_without_what_could_sway_a_judgement(run: httpx.Client) -> None:
    drawn = draw(run)
    page = run.get(HERE).text
    assert shown(page) == drawn
    assert "0 of 30 answered" in page
    for index in drawn:
        card = page[page.index(f'id="sample-{index}"') :]
        assert f"Given label <b>{LABELS[index]}</b>" in card[: card.index("</li>")]
    assert IDS[drawn[0]] not in page, "ids are escaped"
    for swaying in ("core", "kept", "dropped", "redicted", "isclassified", "uggested", "osterior"):
        assert swaying not in page[page.index("drawn-title") :], swaying


def test_an_answer_leads_to_the_next_sample_and_cannot_tell_counts_as_wrong(run: httpx.Client) -> None:
    drawn = draw(run, 3)
    for index, answer, following in zip(drawn, ("clean", "unsure", "wrong"), (*drawn[1:], None), strict=True):
        answered = post(run, str(index), f"answer={answer}")
        assert answered.headers["location"] == HERE + ("" if following is None else f"#sample-{following}")
    audit = run.get("/runs/a/audit").json()
    assert (audit["indices"], audit["clean"]) == (drawn, [True, False, False])
    page = run.get(HERE).text
    assert page.count("Answered: wrong, or cannot tell.") == 2
    assert page.count("Answered: the label is right.") == 1
    assert post(run, str(drawn[0]), "answer=wrong").status_code == 303
    assert run.get("/runs/a/audit").json()["clean"] == [False, False, False]


def test_the_statement_comes_with_the_last_answer(run: httpx.Client) -> None:
    drawn = draw(run)
    is_right = {index: bool(TRUE[index] == LABELS[index]) for index in drawn}
    for index in drawn[:-1]:
        post(run, str(index), f"answer={'clean' if is_right[index] else 'wrong'}")
    assert "29 of 30 answered" in (page := run.get(HERE).text)
    assert "confidence" not in page
    assert "29 of 30 drawn samples are answered" in run.get("/ui/runs/a/rounds/0/selection").text
    post(run, str(drawn[-1]), f"answer={'clean' if is_right[drawn[-1]] else 'wrong'}")
    low, high = bound_noise_rate_by_draw(N, 30, 30 - sum(is_right.values()))
    page = run.get(HERE).text
    selection = run.get("/selection/a?round=0&threshold=fdr&alpha=0.1").json()
    assert f"{selection['num_selected']:,} of {N} samples" in page
    assert selection["guarantee"]["reason"].split("`")[0] in page
    for text in (page, run.get("/ui/runs/a/rounds/0/selection").text):
        found = re.search(r"Of all judged labels, ([\d.]+)% to ([\d.]+)% are wrong, with 90% confidence", text)
        assert found is not None
        assert -1e-6 <= 100 * low - float(found[1]) < 0.1
        assert -1e-6 <= float(found[2]) - 100 * high < 0.1


def test_no_more_samples_are_proposed_to_draw_than_a_run_has(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": 10})
    put_epochs(service, "a", recording(10, 9))
    assert service.post("/runs/a/rounds/0/finish").status_code == 200
    panel = service.get("/ui/runs/a/rounds/0/selection").text
    assert "Draw 10 samples at random and check them: about 1 minute" in panel
    assert "Draw 10 samples to check" in panel
    assert 'name="n" min="1" value="10"' in service.get(HERE).text
    refused = service.get("/selection/a?round=0&threshold=fdr")
    assert (refused.status_code, "draw all of the judged samples" in refused.json()["detail"]) == (422, True)


def test_the_run_page_draws_the_bounds_of_the_sweep(run: httpx.Client) -> None:
    assert "Draw 100 samples to check" in run.get("/ui/runs/a?round=0").text
    assert "No cut is bounded" in run.get("/ui/runs/a?round=0").text
    draw(run)
    answer_all(run, lambda index: "clean" if TRUE[index] == LABELS[index] else "wrong")
    page = run.get("/ui/runs/a/rounds/0/selection").text
    cuts = run.get("/runs/a/rounds/0/sweep").json()["cuts"]
    data: Any = re.search(r'"bounds":(\{"precision":\[.*?\],"recall":\[.*?\]\})', page)
    assert data is not None
    assert httpx.Response(200, content=data[1]).json() == {
        name: [cut["bounds"][name] for cut in cuts] for name in ("precision", "recall")
    }
    assert "No cut is bounded" not in page
    assert "at least (bounded)" in page
    lead = page.index("with 90% confidence")
    assert lead < page.index("30 audited samples drawn at random") < page.index("By the fit, ")


def test_a_draw_is_replaced_until_the_first_answer(run: httpx.Client) -> None:
    draw(run, 5)
    assert "Draw another number instead" in run.get(HERE).text
    drawn = draw(run, 6)
    assert len(drawn) == 6
    post(run, str(drawn[0]), "answer=clean")
    assert "Draw another number instead" not in run.get(HERE).text
    assert post(run, "draw", "n=7").status_code == 409


def test_many_drawn_samples_are_shown_in_pages(run: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_page, "PAGE_SIZE", 4)
    drawn = draw(run, 10)
    assert [shown(run.get(f"{HERE}?page={number}").text) for number in range(4)] == [
        drawn[:4], drawn[4:8], drawn[8:], []
    ]  # fmt: skip
    assert "5–8 of 10" in run.get(f"{HERE}?page=1").text
    assert post(run, str(drawn[3]), "answer=clean").headers["location"] == f"{HERE}?page=1#sample-{drawn[4]}"
    assert post(run, str(drawn[9]), "answer=clean").headers["location"] == f"{HERE}#sample-{drawn[0]}"


@pytest.mark.parametrize(
    ("path", "form", "status", "detail"),
    [
        ("draw", "n=none", 422, "give the number of samples to draw"),
        ("draw", "", 422, "give the number of samples to draw"),
        ("draw", f"n={N + 1}", 422, f"n is {N + 1}; give a number in 1..{N}"),
        ("0", "answer=maybe", 422, "give one of clean, wrong, unsure"),
        ("0", "answer=clean", 422, "sample 0 of run 'a' is not drawn"),
    ],
)
def test_forms_that_say_nothing_are_refused(run: httpx.Client, path: str, form: str, status: int, detail: str) -> None:
    answer = post(run, path, form)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
