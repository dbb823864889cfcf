import base64
import gzip
import hashlib
import io
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
import pyarrow
import pytest
import zstandard

from mild_core import bitmap
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
DECODE: dict[str | None, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": zstandard.decompress,
    None: bytes,
}
ARROW, CSV = "application/vnd.apache.arrow.stream", "text/csv"
FORMS = ["application/json", "application/octet-stream", "application/x-npy", ARROW, CSV]


def computed(service: httpx.Client) -> float:
    """How many selections the service has computed."""
    for line in service.get("/metrics").text.splitlines():
        if line.startswith('mild_selections_total{source="computed"}'):
            return float(line.split()[-1])
    return 0.0


def test_all_forms_say_the_same(recorded: httpx.Client) -> None:
    by_form = {form: recorded.get("/selection/a", headers={"Accept": form}) for form in FORMS}
    assert [answer.headers["content-type"].partition(";")[0] for answer in by_form.values()] == FORMS
    indices = by_form["application/json"].json()["indices"]
    bits = np.frombuffer(by_form["application/octet-stream"].content, dtype=np.uint8)
    assert bitmap.to_indices(bits, N).tolist() == indices
    array = np.load(io.BytesIO(by_form["application/x-npy"].content))
    assert array.dtype == np.int64
    assert array.tolist() == indices
    assert pyarrow.ipc.open_stream(by_form[ARROW].content).read_all().to_pydict() == {"index": indices}
    assert by_form[CSV].text.splitlines() == ["index", *map(str, indices)]
    assert len({answer.headers["etag"] for answer in by_form.values()}) == 5
    assert all(answer.headers["vary"] == "Accept, Accept-Encoding" for answer in by_form.values())


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", FORMS[0]),
        ("application/*", FORMS[0]),
        ("text/html, application/x-npy", FORMS[2]),
        ("application/json;q=0.5, application/octet-stream", FORMS[1]),
        ("application/json;q=0, */*;q=0.1", FORMS[1]),
        ("text/csv;q=0.2, application/vnd.apache.arrow.stream;q=0.25", ARROW),
        ("text/*, application/json;q=0.99", "text/csv; charset=utf-8"),
        ("APPLICATION/X-NPY; version=1; q=1.0", FORMS[2]),
    ],
)
def test_the_form_follows_accept(recorded: httpx.Client, accept: str, expected: str) -> None:
    assert recorded.get("/selection/a", headers={"Accept": accept}).headers["content-type"] == expected


@pytest.mark.parametrize(
    ("accepted", "form", "coding"),
    [
        ("gzip", FORMS[0], "gzip"),
        ("gzip, zstd", FORMS[0], "zstd"),
        ("gzip, zstd;q=0.5", CSV, "gzip"),
        ("gzip;q=0.1", FORMS[2], "gzip"),
        ("*", ARROW, "zstd"),
        ("*;q=0.5, zstd;q=0", FORMS[0], "gzip"),
        ("identity, gzip;q=0.5", FORMS[0], None),
        ("br", FORMS[0], None),
        ("", FORMS[0], None),
        ("zstd, gzip", FORMS[1], None),
        ("zstd, identity;q=0", FORMS[1], "zstd"),
    ],
)
def test_the_coding_follows_accept_encoding(
    recorded: httpx.Client, accepted: str, form: str, coding: str | None
) -> None:
    headers = {"Accept": form, "Accept-Encoding": accepted}
    plain = recorded.get("/selection/a", headers={**headers, "Accept-Encoding": "identity"})
    with recorded.stream("GET", "/selection/a", headers=headers) as answer:
        sent = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == coding
    assert DECODE[coding](sent) == plain.content
    assert answer.headers["content-digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(sent).digest()).decode()}:"
    assert (answer.headers["etag"] == plain.headers["etag"]) == (coding is None)
    known = recorded.get("/selection/a", headers={**headers, "If-None-Match": answer.headers["etag"]})
    assert (known.status_code, known.headers["etag"]) == (304, answer.headers["etag"])


def test_an_open_round_gives_a_provisional_set_that_changes_with_its_epochs(recorded: httpx.Client) -> None:
    first = recorded.get("/selection/a")
    assert (first.json()["provisional"], first.json()["basis"]) == (True, "computed")
    recorded.put("/runs/a/rounds/0/epochs/10", content=recording(N, 11)[10], headers=OCTETS)
    second = recorded.get("/selection/a", headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert (second.json()["epochs"], second.headers["etag"] == first.headers["etag"]) == (11, False)


def test_what_the_caller_has_is_not_computed_again(recorded: httpx.Client) -> None:
    etag = recorded.get("/selection/a").headers["etag"]
    assert computed(recorded) == 1
    for known in (etag, f'"other", W/{etag}', "*"):
        answer = recorded.get("/selection/a", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert (answer.headers["etag"], answer.headers["vary"]) == (etag, "Accept, Accept-Encoding")
    assert computed(recorded) == 1
    other_form = recorded.get("/selection/a", headers={"If-None-Match": etag, "Accept": FORMS[1]})
    assert other_form.status_code == 200


def test_a_304_needs_no_computation_at_all(recorded: httpx.Client) -> None:
    query = {"threshold": "fraction", "fraction": "0.25"}
    etag = recorded.get("/selection/a", params=query).headers["etag"]
    before = computed(recorded)
    again = recorded.get("/selection/a", params=query, headers={"If-None-Match": etag})
    assert (again.status_code, computed(recorded)) == (304, before)


def test_another_choice_is_shown_and_not_stored(recorded: httpx.Client) -> None:
    stored = recorded.post("/runs/a/rounds/0/finish").json()
    choice: dict[str, str | float] = {
        "metric": "mild",
        "fit": "grouped",
        "evidence": "latest",
        "threshold": "posterior",
        "p": 0.2,
        "cost_ratio": 2.0,
        "min_keep": 0.05,
    }
    other = recorded.get("/selection/a", params=choice).json()
    assert (other["metric"], other["fit"], other["basis"]) == ("mild", "grouped", "computed")
    assert other["threshold"]["rule"] == "posterior"
    assert recorded.get("/selection/a").json() == stored
    assert recorded.get("/selection/a", params={"fit": "tailed"}).json() == stored


def test_classes_have_fits_and_floors_of_their_own_once_there_are_labels(recorded: httpx.Client) -> None:
    choice = {"per_class": "true", "min_keep_class": "0.9"}
    refused = recorded.get("/selection/a", params=choice)
    assert refused.status_code == 422
    assert "needs the given labels" in refused.json()["detail"]
    labels = [index % 4 for index in range(N)]
    recorded.put("/runs/a/labels", json={"labels": labels}).raise_for_status()
    answer = recorded.get("/selection/a", params=choice).json()
    assert [found["label"] for found in answer["classes"]] == [0, 1, 2, 3]
    assert all(found["kept"] >= 0.9 * found["scored"] for found in answer["classes"])
    assert sum(found["kept"] for found in answer["classes"]) == answer["num_selected"]
    scores = recorded.get("/runs/a/scores", params=choice)
    assert scores.status_code == 200
    assert "classes" not in recorded.get("/selection/a").json()


def test_an_audit_calibrates_where_that_is_asked_for_and_its_marks_are_followed(recorded: httpx.Client) -> None:
    stored = recorded.post("/runs/a/rounds/0/finish").json()
    wrong, right = stored["indices"][0], next(i for i in range(N) if i not in stored["indices"])
    for marks in ({wrong: False, right: True}, {wrong: True}):
        body = {"indices": [*marks], "clean": [*marks.values()]}
        recorded.put("/runs/a/audit", json=body).raise_for_status()
        answer = recorded.get("/selection/a", params={"audit": "fit"}).json()
        assert all((index in answer["indices"]) == clean for index, clean in marks.items())
        assert (answer["basis"], answer["measured"]["known"]) == ("computed", 2)
    assert recorded.get("/selection/a").json()["indices"] == stored["indices"]
    assert recorded.get("/runs/a/rounds/0/evaluation", params={"audit": "fit"}).status_code == 200


def test_a_look_at_earlier_epochs(recorded: httpx.Client) -> None:
    assert recorded.get("/selection/a", params={"until_epoch": 7}).json()["epochs"] == 8
    recorded.post("/runs/a/rounds/0/finish")
    answer = recorded.get("/selection/a", params={"until_epoch": 8}).json()
    assert (answer["epochs"], answer["basis"], answer["provisional"]) == (9, "computed", False)


def test_a_long_poll_ends_when_the_round_is_finished(recorded: httpx.Client) -> None:
    answers: list[httpx.Response] = []

    def poll() -> None:
        answers.append(recorded.get("/selection/a", params={"round": 0, "wait": 60}))

    polling = threading.Thread(target=poll)
    polling.start()
    finished = recorded.post("/runs/a/rounds/0/finish").json()
    polling.join()
    assert answers[0].json() == finished


def test_a_long_poll_that_runs_out_gives_what_there_is(recorded: httpx.Client) -> None:
    started = time.monotonic()
    answer = recorded.get("/selection/a", params={"round": 0, "wait": 0.2}).json()
    assert time.monotonic() - started >= 0.2
    assert answer["provisional"] is True
    assert recorded.get("/selection/a", params={"round": 1, "wait": 0}).json()["type"] == "/problems/round-not-open"


def test_a_long_poll_of_a_run_that_goes_ends(recorded: httpx.Client) -> None:
    answers: list[httpx.Response] = []
    polling = threading.Thread(
        target=lambda: answers.append(recorded.get("/selection/a", params={"round": 0, "wait": 60}))
    )
    polling.start()
    recorded.delete("/runs/a")
    polling.join()
    assert answers[0].status_code == 404


def test_fifty_at_once_are_computed_once(recorded: httpx.Client) -> None:
    answers: list[httpx.Response] = []
    askers = [threading.Thread(target=lambda: answers.append(recorded.get("/selection/a"))) for _ in range(50)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert computed(recorded) == 1


def test_bits_sent_along_give_what_a_run_would(recorded: httpx.Client) -> None:
    stored = recorded.post("/runs/a/rounds/0/finish").json()
    bodies = recording(N, 10)
    rows = [bitmap.unpack(np.frombuffer(body, dtype=np.uint8), N) for body in bodies]
    encoded = [base64.b64encode(body).decode() for body in bodies]
    for body in (
        {"correct": [row.astype(int).tolist() for row in rows]},
        {"correct": [row.tolist() for row in rows], "observed": [[1] * N] * 10},
        {"num_samples": N, "correct": encoded},
        {"num_samples": N, "rounds": [{"correct": encoded, "members": [1] * N}], "observe": "members"},
    ):
        answer = recorded.post("/selection", json=body)
        assert answer.status_code == 200
        assert answer.json()["indices"] == stored["indices"]
        assert (answer.json()["run_id"], answer.json()["round"]) == (None, 0)
        assert "etag" not in answer.headers


def test_stateless_rounds_and_options(service: httpx.Client) -> None:
    encoded = [base64.b64encode(body).decode() for body in recording(N, 10)]
    members = base64.b64encode(bitmap.from_indices(range(60), N).tobytes()).decode()
    answer = service.post(
        "/selection",
        json={
            "num_samples": N,
            "rounds": [{"correct": encoded}, {"correct": encoded, "members": members}],
            "options": {"threshold": "fraction", "fraction": 0.3},
        },
        headers={"Accept": FORMS[1]},
    )
    assert len(answer.content) == 13
    refused = service.post("/selection", json={"correct": [[1]], "options": {"p": 7.0}})
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-parameter")


def test_a_runs_own_options_decide(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N, "selection": {"threshold": "fraction", "fraction": 0.5}})
    put_epochs(service, "a", recording(N, 10))
    assert service.post("/runs/a/rounds/0/finish").json()["threshold"]["rule"] == "fraction"


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        (
            "GET",
            "/selection/a?treshold=scale",
            "query.treshold: unknown parameter, this route takes until_epoch",
        ),
        ("GET", "/runs/a?round=1", "query.round: unknown parameter, this route takes none"),
        ("DELETE", "/runs/a?force=1", "query.force: unknown parameter"),
    ],
)
def test_a_misspelt_query_parameter_is_refused_instead_of_ignored(
    recorded: httpx.Client, method: str, path: str, said: str
) -> None:
    refused = recorded.request(method, path)
    assert refused.status_code == 422
    assert refused.json()["type"] == "/problems/invalid-request"
    assert said in refused.json()["detail"]
    assert recorded.get("/runs/a").status_code == 200
