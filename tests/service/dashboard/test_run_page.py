"""Pages of one run as the server writes them: the numbers are the API's own."""

import io
import json
import re
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from mild_core.alarms import find_alarms
from mild_core.types import RunSpec
from mild_service.api_keys import ANONYMOUS, generate_key
from mild_service.dashboard import runs_page
from mild_service.dashboard.code_snippets import (
    make_download_snippet,
    make_first_epoch_snippets,
    make_selection_snippets,
)
from mild_service.dashboard.progress import build_learning_curve, find_run_alarms
from mild_service.models import Epoch, Round, Run, SetRef
from tests.service.recordings import put_epochs, recording

N = 400
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def run(service: httpx.Client) -> httpx.Client:
    """The service with run `a`: a finished round of 12 epochs, and 9 of the next."""
    service.put("/runs/a", json={"num_samples": N, "num_classes": 1, "tags": {HOSTILE[:60]: HOSTILE}})
    put_epochs(service, "a", recording(N, 12))
    service.post("/runs/a/rounds/0/finish")
    put_epochs(service, "a", recording(N, 9, seed=1), round_=1)
    return service


def data(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_overview_of_a_finished_round_draws_the_apis_sweep(run: httpx.Client) -> None:
    page = run.get("/ui/runs/a?round=0").text
    drawn, sweep = data(page, "cut-data"), run.get("/runs/a/rounds/0/sweep").json()
    assert drawn["value"] == [cut["value"] for cut in sweep["cuts"]]
    assert drawn["kept"] == [cut["num_kept"] for cut in sweep["cuts"]]
    for name in ("precision", "precision_low", "recall_high"):
        assert drawn["fitted"][name] == [cut["fitted"][name] for cut in sweep["cuts"]]
    assert drawn["measured"] is None
    assert drawn["densities"] == run.get("/runs/a/rounds/0/fit").json()["densities"]
    told = run.get("/selection/a?round=0").json()
    assert f"<b>{told['num_selected']:,}</b>" in page
    assert "Overlap with its members" not in page
    lead = f"How many of the {told['num_selected']:,} kept labels are wrong is not known: no label was checked."
    assert page.index(lead) < page.index('class="known known-fitted"')
    assert drawn["bounds"] is None


def test_what_has_to_be_computed_is_left_for_the_page_to_ask_for(run: httpx.Client) -> None:
    page = run.get("/ui/runs/a").text
    assert 'data-panel="/ui/runs/a/rounds/1/selection" data-round="1" data-wanted' in page
    assert "cut-data" not in page
    part = run.get("/ui/runs/a/rounds/1/selection").text
    assert "Set so far" in part
    assert "Overlap with its members" in part
    assert data(part, "cut-data")["kept"][-1] == N
    run.put("/runs/a/audit", json={"indices": [0, 1], "clean": [True, False]})
    assert "data-wanted" in run.get("/ui/runs/a?round=0").text
    part = run.get("/ui/runs/a/rounds/0/selection").text
    assert "On 2 audited samples that somebody chose: " in part
    assert "Measured on 2 checked" in part
    assert data(part, "cut-data")["measured"] is not None
    assert run.get("/ui/runs/a/rounds/2/selection").status_code == 409
    assert run.get("/ui/runs/a?round=2").status_code == 409


def test_a_run_without_epochs_says_so(service: httpx.Client) -> None:
    service.put("/runs/b", json={"num_samples": 8})
    assert "has no epochs yet" in service.get("/ui/runs/b").text
    assert "Nothing to download yet" in service.get("/ui/runs/b/downloads").text


def test_no_text_of_a_caller_becomes_markup(run: httpx.Client) -> None:
    for path in ("/ui/", "/ui/?q=%3Cscript%3E", "/ui/runs/a", "/ui/runs/a/downloads"):
        page = run.get(path).text
        assert "<script>" not in page
        assert "alert(1)<" not in page


def test_runs_are_found_by_id_tag_and_status(service: httpx.Client) -> None:
    for number in range(30):
        service.put(f"/runs/r-{number:02}", json={"num_samples": 8, "tags": {"kind": "odd" if number % 2 else "even"}})
    service.patch("/runs/r-07", json={"status": "failed"})

    def listed(query: str) -> list[str]:
        return re.findall(r'<a href="/ui/runs/(r-\d\d)">', service.get(f"/ui/?{query}").text)

    everybody = [f"r-{number:02}" for number in reversed(range(30))]
    assert listed("") == everybody[:25]
    following = re.search(r'rel="next" href="/ui/\?([^"]+)"', service.get("/ui/").text)
    assert following is not None
    assert listed(following[1]) == everybody[25:]
    assert listed("q=R-1") == [f"r-{number}" for number in reversed(range(10, 20))]
    assert len(listed("q=odd")) == len(listed("tag=kind%3Deven")) == 15
    assert len(listed("tag=kind&q=r-2")) == 10
    assert listed("status=failed") == ["r-07"]
    assert listed("tag=other") == []
    assert "No run matches" in service.get("/ui/?tag=other").text
    found = service.get("/ui/?tag=kind&status=").text
    following = re.search(r'rel="next" href="/ui/\?([^"]+)"', found)
    assert following is not None
    assert listed(following[1].replace("&amp;", "&")) == everybody[25:]


def test_a_search_through_very_many_runs_stops_and_goes_on(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_page, "_BATCH_SIZE", 2)
    monkeypatch.setattr(runs_page, "_MAX_BATCHES", 2)
    for number in range(6):
        service.put(f"/runs/r-{number}", json={"num_samples": 8})
    page = service.get("/ui/?q=r-0").text
    assert "older runs have not been searched yet" in page
    following = re.search(r'rel="next" href="([^"]+)"', page)
    assert following is not None
    assert "/ui/runs/r-0" in service.get(following[1].replace("&amp;", "&")).text


def a_round(number: int, accuracy: float | None = None, **more: Any) -> Round:
    epochs = {0: Epoch(0, 1, "d", 1, 4, None), 1: Epoch(1, 1, "d", 2, 3, 6)}
    metrics = {} if accuracy is None else {1: {"test_accuracy": accuracy, "train_loss": 2.0}}
    fixed: dict[str, Any] = {"finished": True, "version": 1, "members": None, "epochs": epochs, "partial_epochs": {}}
    return Round(number, **{**fixed, "metrics": metrics, "opened_at": 0.0, **more})


def a_run(status: Any = "running", observe: Any = "all") -> Run:
    return Run(RunSpec("a", 8, observe=observe, ttl_seconds=60), "u", status, 1, 1, 0.0, 100.0, 1e12)


def test_the_course_needs_no_bits() -> None:
    course = build_learning_curve(a_run(), [a_round(0, 0.5), a_round(1)])
    assert course.accuracies == ["test_accuracy"]
    assert course.rows == [[0, 0, 0.5, None], [0, 1, 0.5, 0.5], [1, 0, 0.5, None], [1, 1, 0.5, None]]
    assert course.chart_data()["columns"][2] == [0.5] * 4
    members = build_learning_curve(a_run(observe="members"), [a_round(0, members=SetRef(0, "d", 4))])
    assert members.rows[0][2] == 1.0
    assert build_learning_curve(a_run(), []).chart_data() == {"columns": [[], [], []], "accuracies": []}


def test_a_run_that_is_silent_failed_or_at_a_plateau_is_worth_a_look() -> None:
    rounds = [a_round(number, 0.9) for number in range(3)]
    assert find_run_alarms(a_run("finished"), rounds[:2], 1e6) == []
    assert "plateau" in find_run_alarms(a_run("finished"), rounds, 1e6)[0]
    named = {"validation_accuracy": 0.5, "test_accuracy": 0.5}
    held = [a_round(number, metrics={0: {"validation_accuracy": 0.9}, 1: named}) for number in range(3)]
    assert [sentence.split(" is ")[0] for sentence in find_run_alarms(a_run("finished"), held, 1e6)] == [
        "test accuracy", "validation accuracy"
    ]  # fmt: skip
    document = {"fitted": {"noise_rate": {"value": 0.3, "low": 0.25, "high": 0.4}}}
    fitted = [replace(each, selection=document) for each in held[:1]]
    assert find_run_alarms(a_run("finished"), fitted, 1e6) == []
    generalises = [replace(fitted[0], metrics={1: {"validation_accuracy": 0.9}})]
    assert "so at most 10.0% are wrong" in find_run_alarms(a_run("finished"), generalises, 1e6)[0]
    assert "hour" in find_run_alarms(a_run(), [], 1e6)[0]
    assert find_run_alarms(a_run(), [], 200.0) == []
    assert "failed" in find_run_alarms(a_run("failed"), [], 1e6)[0]
    assert find_alarms(0.5, 0.2, {}) == [
        "measured precision 0.500 is below 0.90", "measured recall 0.200 is below 0.50"
    ]  # fmt: skip


def test_what_is_copied_works(service: httpx.Client, run: httpx.Client) -> None:
    keyed = generate_key("me", "write", "me-", 0.0, None)
    for caller in (ANONYMOUS, keyed):
        for name, text in (
            *make_first_epoch_snippets("http://x", caller),
            *make_selection_snippets("http://x", "a", 0, caller),
        ):
            if name.startswith("Python"):
                compile(text.replace("{value}", "-2.0"), name, "exec")
            else:
                assert ("$MILD_API_KEY" in text) == (caller is keyed)
    assert "/runs/me-my-run" in dict(make_first_epoch_snippets("http://x", keyed))["curl"]
    assert make_download_snippet("http://x", "a", 0, ANONYMOUS, "text/csv", "f.csv") == (
        "curl -H 'Accept: text/csv' \\\n  -o f.csv 'http://x/selection/a?round=0'"
    )
    shown = run.get("/ui/runs/a/downloads?round=0").text
    assert shown.count("/selection/a?round=0") == 10
    sizes = [np.load(_file(run, "application/x-npy")).size, run.get("/selection/a?round=0").json()["num_selected"]]
    assert sizes[0] == sizes[1]


def _file(run: httpx.Client, media_type: str) -> Any:
    return io.BytesIO(run.get("/selection/a?round=0", headers={"Accept": media_type}).content)
