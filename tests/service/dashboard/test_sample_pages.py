"""Pages about samples: data map, classes, samples, one sample with its marks, comparison."""

import re
from html import unescape
from typing import Any

import httpx
import numpy as np
import pytest

from mild_core.audit import Audit
from mild_service.dashboard.sample_pages import SampleQuery
from tests.core.inspect.test_sample_table import rounds_of, table_of
from tests.service.dashboard.filled import IDS, LABELS, N, fill
from tests.service.recordings import OCTETS

PICTURES = "https://images.example/of/{id}.png"


@pytest.fixture
def run(service: httpx.Client) -> httpx.Client:
    """The service with the run of `filled`."""
    fill(service)
    return service


def page(service: httpx.Client, path: str, **query: Any) -> str:
    answer = service.get(f"/ui/runs/a{path}", params=query, headers={"Accept": "text/html"}, follow_redirects=True)
    assert answer.status_code == 200, answer.text
    assert "<img src=x" not in answer.text
    assert "{{7*7}}" in unescape(answer.text)
    return answer.text


def listed(text: str) -> list[int]:
    """The samples that a page links to, in its order."""
    return [int(index) for index in re.findall(r'sample-name" href="[^"]*/samples/(\d+)', text)]


def test_the_map_counts_everyone_and_leads_to_them(run: httpx.Client) -> None:
    text = page(run, "/map", round=0)
    found = re.findall(r'<a href="([^"]*)"[^>]*><title>(.*?)</title>', text)
    counts = [[int(n) for n in re.findall(r"(\d+) (?:samples?|kept|dropped)", says)] for _, says in found]
    assert all(n == kept + dropped for n, kept, dropped in counts)
    assert sum(n for n, _, _ in counts) == N
    fullest = max(range(len(found)), key=lambda at: counts[at][0])
    of_cell = run.get(unescape(found[fullest][0])).text
    assert f"of {counts[fullest][0]} samples" in of_cell


def test_pages_of_samples_follow_each_other_both_ways(run: httpx.Client) -> None:
    text = page(run, "/samples", round=0)
    seen, pages = [], []
    while True:
        pages.append(listed(text))
        seen += pages[-1]
        following = re.search(r'rel="next" href="([^"]+)"', text)
        if following is None:
            break
        text = run.get(unescape(following[1])).text
    assert sorted(seen) == list(range(N))
    scores = run.get("/runs/a/scores", params={"round": 0}).json()["scores"]
    ordered = [scores[index] for index in seen]
    assert ordered == sorted(ordered, reverse=True)
    back = re.search(r'rel="prev" href="([^"]+)"', text)
    assert back is not None
    assert listed(run.get(unescape(back[1])).text) == pages[-2]


def test_samples_are_filtered(run: httpx.Client) -> None:
    kept = set(run.get("/selection/a", params={"round": 0}).json()["indices"])
    run.put("/runs/a/audit", json={"indices": [3, 4], "clean": [True, False]})
    for query, wanted in [
        ({"state": "kept", "label": "2"}, [i for i in range(N) if i in kept and LABELS[i] == 2]),
        ({"state": "dropped", "label": "1"}, [i for i in range(N) if i not in kept and LABELS[i] == 1]),
        ({"mark": "any"}, [3, 4]),
        ({"mark": "clean"}, [3]),
        ({"mark": "wrong"}, [4]),
        ({"low": "10.5"}, []),
    ]:
        assert listed(page(run, "/samples", round=0, sort="index", **query)) == wanted, query
    assert listed(page(run, "/samples", round=0, mark="drawn")) == []
    drawn = run.post("/runs/a/audit/draw", json={"n": 12}).json()["draw"]["indices"]
    run.put("/runs/a/audit", json={"indices": drawn[:5], "clean": [True] * 5})
    assert listed(page(run, "/samples", round=0, sort="index", mark="drawn")) == drawn
    unanswered = [index for index in drawn[5:] if index not in (3, 4)]
    assert listed(page(run, "/samples", round=0, sort="index", mark="unanswered")) == unanswered
    assert run.get("/ui/runs/a/samples?state=odd").status_code == 422
    assert run.get("/ui/runs/a/samples?misclassified=3..5").status_code == 422


def test_a_sample_is_found_by_its_id_and_by_its_index(run: httpx.Client) -> None:
    for text in (IDS[17], "17"):
        answer = run.get("/ui/runs/a/samples", params={"find": text, "round": 0})
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/runs/a/samples/17?round=0")
    assert "No such sample" in page(run, "/samples", find="<b>nobody</b>")


def test_a_sample_says_what_the_api_says(run: httpx.Client) -> None:
    told = run.get("/runs/a/samples/9", params={"round": 0}).json()
    text = unescape(page(run, "/samples/9", round=0))
    assert told["why"][1:] in text
    assert f"misclassified in {told['misclassified']} of {told['observed']} epochs" in text
    assert told["suggested"] is not None
    assert IDS[9] in text
    assert run.get(f"/ui/runs/a/samples/{N}").status_code == 422


def test_a_mark_goes_into_the_audit_and_is_undone(run: httpx.Client) -> None:
    run.put("/runs/a/audit", json={"indices": [3], "clean": [True]})
    form = {"Origin": "http://service", "Content-Type": "application/x-www-form-urlencoded"}

    def mark(value: str, index: int = 9) -> httpx.Response:
        return run.post(f"/ui/runs/a/samples/{index}/mark", content=f"mark={value}", headers=form)

    answer = mark("wrong")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/runs/a/samples/9?was=none")
    assert run.get("/runs/a/audit").json()["indices"] == [3, 9]
    shown = run.get(answer.headers["location"]).text
    assert "Marked wrong" in shown
    assert "Undo" in shown
    assert mark("none").headers["location"] == "/ui/runs/a/samples/9?was=wrong"
    assert run.get("/runs/a/audit").json()["indices"] == [3]
    assert mark("maybe").json()["type"] == "/problems/invalid-request"
    assert mark("wrong", N).json()["type"] == "/problems/sample-index"
    assert run.get("/runs/a/audit").json()["num_known"] == 1


def test_no_other_site_marks(run: httpx.Client) -> None:
    for said in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        headers = {"Content-Type": "application/x-www-form-urlencoded", **said}
        answer = run.post("/ui/runs/a/samples/9/mark", content="mark=wrong", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/cross-site")
    assert run.get("/runs/a/audit").json()["num_known"] == 0


def test_classes_add_up_and_say_what_dropped_ones_were_taken_for(run: httpx.Client) -> None:
    text = page(run, "/classes", round=0)
    rows = re.findall(r'label=(\d)">\d</a></th>\s*<td class="num" data-label="Samples">(\d+)', text)
    assert {int(label): int(n) for label, n in rows} == dict(enumerate(np.bincount(LABELS).tolist()))
    assert "What dropped samples were predicted as" in text
    assert "known where prediction logs are posted" not in text


def test_two_rounds_are_compared(run: httpx.Client) -> None:
    text = page(run, "/compare", round=1)
    first, second = (set(run.get("/selection/a", params={"round": r}).json()["indices"]) for r in (0, 1))
    figures = [float(figure) for figure in re.findall(r'class="figure">([\d.]+)<', text)]
    both = len(first & second)
    shown = [len(first), len(second), both, round(both / len(first | second), 3)]
    assert figures == [*shown, len(second - first), len(first - second)]
    assert "Nothing to compare with" in page(run, "/compare", round=0)


def test_only_runs_of_the_same_samples_are_compared(run: httpx.Client) -> None:
    run.put("/runs/b", json={"num_samples": 8})
    run.put("/runs/b/rounds/0/epochs/0", content=b"\x0f", headers=OCTETS)
    answer = run.get("/ui/runs/a/compare", params={"other": "b"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-input")
    assert run.get("/ui/runs/a/compare", params={"other": "c"}).json()["type"] == "/problems/run-not-found"


def test_pictures_come_from_where_the_run_says_and_nowhere_else(run: httpx.Client) -> None:
    assert run.patch("/runs/a", json={"picture_url": PICTURES}).json()["picture_url"] == PICTURES
    answer = run.get("/ui/runs/a/samples/9")
    assert "img-src 'self' data: https://images.example;" in answer.headers["content-security-policy"]
    assert "https://images.example/of/%3Cimg%20src%3Dx" in answer.text
    assert "images.example" not in run.get("/ui/runs/a/map").headers["content-security-policy"]
    assert run.patch("/runs/a", json={"picture_url": ""}).json()["picture_url"] is None
    assert "images.example" not in run.get("/ui/runs/a/samples").text


@pytest.mark.parametrize("path", ["/map", "/classes", "/samples", "/samples/3", "/compare"])
def test_a_run_without_epochs_says_so(service: httpx.Client, path: str) -> None:
    service.put("/runs/a", json={"num_samples": 8})
    answer = service.get(f"/ui/runs/a{path}")
    assert answer.status_code == 200
    assert "No epochs yet" in answer.text


@pytest.mark.parametrize(
    ("fields", "indices"),
    [
        ({}, [0, 1, 2, 3]),
        ({"state": "kept"}, [0, 1, 3]),
        ({"state": "dropped"}, [2]),
        ({"low": "0"}, [0, 1]),
        ({"high": "0"}, [1, 3]),
        ({"low": "-1", "high": "1"}, [1]),
        ({"misclassified": "0"}, [3]),
        ({"misclassified": "1-2", "transitions": "1"}, [1]),
        ({"transitions": "0-0"}, [0, 3]),
        ({"label": "2"}, [2]),
        ({"mark": "any"}, [0, 3]),
        ({"mark": "clean"}, [3]),
        ({"mark": "wrong", "misclassified": "2"}, [0]),
        ({"mark": "unanswered"}, []),
    ],
)
def test_samples_match_all_fields_of_the_form(fields: dict[str, Any], indices: list[int]) -> None:
    table, audit = table_of(rounds_of(["01.1", "00.1"])), Audit.from_marks([0, 3], [False, True], 4)
    matches = SampleQuery.model_validate(fields).find_matches(table, np.arange(4, dtype=np.int32), audit)
    assert np.flatnonzero(matches).tolist() == indices
