import gzip
import json
import tempfile
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mild_core import bitmap
from mild_core.types import EpochBits
from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.service.conftest import Dump
from tests.service.ingest.logs import ARROW, CARTOGRAPHY, CSV, JSON, NDJSON, PARQUET, WRITERS, Record, aborting, log_of
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
BODIES = recording(N, 10)
URL = "/runs/a/predictions"


def post(
    service: httpx.Client, records: Sequence[Record], media_type: str = NDJSON, url: str = URL, **params: str
) -> httpx.Response:
    """Send a log."""
    return service.post(url, content=WRITERS[media_type](records), headers={"Content-Type": media_type}, params=params)


def round_0(service: httpx.Client) -> dict[str, object]:
    found: dict[str, object] = service.get("/runs/a").json()["rounds"][0]
    return found


@pytest.mark.parametrize("media_type", WRITERS)
def test_a_log_in_any_format_gives_the_set_that_bitmaps_give(opened: httpx.Client, media_type: str) -> None:
    put_epochs_of_other_run(opened)
    answer = post(opened, log_of(BODIES, N), media_type)
    assert answer.status_code == 200, answer.text
    assert answer.json()["records"] == 10 * N
    assert [epoch["state"] for epoch in answer.json()["epochs"]] == ["committed"] * 10
    assert round_0(opened)["epochs"] == list(range(10))
    assert indices(opened.get("/selection/a")) == indices(opened.get("/selection/b"))
    alone = post(opened, log_of(BODIES, N), media_type, "/selection")
    assert indices(alone) == indices(opened.get("/selection/b"))
    assert opened.post("/runs/a/rounds/0/finish").json()["epochs"] == 10


def put_epochs_of_other_run(service: httpx.Client) -> None:
    service.put("/runs/b", json={"num_samples": N})
    put_epochs(service, "b", BODIES)


def indices(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["indices"]
    return found


def test_an_epoch_is_partial_until_everyone_is_in(opened: httpx.Client) -> None:
    first = post(opened, log_of(BODIES[:1], N, range(0, N, 2))).json()["epochs"]
    n_correct = sum(record["correct"] for record in log_of(BODIES[:1], N, range(0, N, 2)))
    assert first == [
        {
            "round": 0,
            "epoch": 0,
            "outcome": "merged",
            "state": "partial",
            "num_correct": n_correct,
            "num_observed": 50,
            "num_expected": N,
            "num_missing": 50,
            "missing": list(range(1, N, 2)),
            "num_contradictory": 0,
        }
    ]
    state = round_0(opened)
    assert (state["epochs"], state["partial"]) == ([], {"0": 50})
    assert opened.get("/selection/a").json()["type"] == "/problems/no-epochs"
    second = post(opened, log_of(BODIES[:1], N, range(1, N, 2))).json()["epochs"][0]
    assert (second["state"], second["num_missing"], second["missing"]) == ("committed", 0, [])
    state = round_0(opened)
    assert (state["epochs"], state["partial"]) == ([0], {})


def test_the_first_hundred_who_are_missing_are_named(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": 1000})
    epoch = post(service, [{"epoch": 0, "sample": 5, "correct": True}]).json()["epochs"][0]
    assert (epoch["num_missing"], epoch["missing"]) == (999, [n for n in range(101) if n != 5])


def test_the_same_records_again_change_nothing(opened: httpx.Client, dump: Dump) -> None:
    log = log_of(BODIES[:2], N, range(70))
    for complete in ("false", "true"):
        post(opened, log, complete=complete)
        before = dump()
        again = post(opened, [*log, *log[:20]], complete=complete).json()["epochs"]
        assert [epoch["outcome"] for epoch in again] == ["same", "same"]
        assert dump() == before


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data())
def test_logs_in_any_order_and_overlap_give_the_same_epochs(opened: httpx.Client, data: st.DataObject) -> None:
    opened.delete("/runs/a")
    opened.put("/runs/a", json={"num_samples": N})
    log = log_of(BODIES[:3], N)
    order = data.draw(st.permutations(range(len(log))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=4)))
    for begin, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        part = [log[position] for position in order[max(0, begin - 20) : end]]
        media_type = data.draw(st.sampled_from([JSON, NDJSON, ARROW]))
        if part:
            assert post(opened, part, media_type).status_code == 200
    state = round_0(opened)
    assert (state["epochs"], state["partial"]) == ([0, 1, 2], {})
    put_epochs_of_other_run(opened)
    params = {"until_epoch": "2", "threshold": "fraction", "fraction": "0.5"}
    expected = indices(opened.get("/selection/b", params=params))
    assert indices(opened.get("/selection/a", params=params)) == expected
    opened.delete("/runs/b")


def test_completing_commits_with_those_who_are_in(opened: httpx.Client) -> None:
    records = log_of(BODIES, N, range(60))
    answer = post(opened, records, complete="true").json()["epochs"]
    assert {(epoch["state"], epoch["num_observed"]) for epoch in answer} == {("committed", 60)}
    observed = bitmap.pack(np.arange(N) < 60)
    opened.put("/runs/b", json={"num_samples": N})
    bodies = [EpochBits(N, np.frombuffer(body, np.uint8) & observed, observed).to_body() for body in BODIES]
    put_epochs(opened, "b", bodies)
    assert indices(opened.get("/selection/a")) == indices(opened.get("/selection/b"))
    late = post(opened, log_of(BODIES[:1], N, [61])).json()
    assert (late["type"], late["line"]) == ("/problems/epoch-conflict", 1)
    assert "sample 61 is not in epoch 0" in late["detail"]


def test_finishing_commits_what_is_partial(opened: httpx.Client) -> None:
    post(opened, log_of(BODIES, N, range(60)))
    finished = opened.post("/runs/a/rounds/0/finish")
    assert finished.status_code == 200, finished.text
    assert finished.json()["epochs"] == 10
    state = round_0(opened)
    assert (state["state"], state["epochs"], state["partial"]) == ("finished", list(range(10)), {})
    late = post(opened, log_of(BODIES[:1], N, [3])).json()
    assert (late["type"], late["line"]) == ("/problems/round-finished", 1)
    second = [{**record, "round": 1} for record in log_of(BODIES, N)]
    assert post(opened, second).json()["epochs"][0]["round"] == 1
    early = post(opened, [{"round": 2, "epoch": 0, "sample": 0, "correct": True}]).json()
    assert (early["type"], early["line"]) == ("/problems/round-not-open", 1)


def test_a_gap_beside_partial_epochs_is_still_a_gap(opened: httpx.Client, dump: Dump) -> None:
    post(opened, [record for record in log_of(BODIES, N, range(60)) if record["epoch"] != 4])
    before = dump()
    assert "9 of the epochs 0..9" in opened.post("/runs/a/rounds/0/finish").json()["detail"]
    assert dump() == before


def test_resuming_drops_partial_epochs_too(opened: httpx.Client) -> None:
    post(opened, log_of(BODIES[:4], N, range(60)))
    opened.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 2}})
    assert round_0(opened)["partial"] == {"0": 60, "1": 60}
    other = [{**record, "correct": not record["correct"]} for record in log_of(BODIES[:4], N)]
    later = [record for record in other if record["epoch"] >= 2]
    stale = opened.post(URL, content=WRITERS[NDJSON](later), headers={"Content-Type": NDJSON, "Mild-Attempt": "1"})
    assert stale.json()["type"] == "/problems/stale-attempt"
    current = opened.post(URL, content=WRITERS[NDJSON](later), headers={"Content-Type": NDJSON, "Mild-Attempt": "2"})
    assert [epoch["state"] for epoch in current.json()["epochs"]] == ["committed"] * 2


def test_the_first_writer_decides_how_an_epoch_is_written(opened: httpx.Client, dump: Dump) -> None:
    epoch = "/runs/a/rounds/0/epochs/{}"
    opened.put(epoch.format(0), content=BODIES[0], headers=OCTETS)
    post(opened, log_of(BODIES[:1], N, range(60)) and [{"epoch": 1, "sample": 0, "correct": True}])
    before = dump()
    log = post(opened, [{"epoch": 2, "sample": 0, "correct": True}, {"epoch": 0, "sample": 0, "correct": True}])
    assert (log.status_code, log.json()["type"], log.json()["line"]) == (409, "/problems/epoch-kind", 2)
    whole = opened.put(epoch.format(1), content=BODIES[1], headers=OCTETS)
    assert (whole.status_code, whole.json()["type"]) == (409, "/problems/epoch-kind")
    assert dump() == before
    replaced = opened.put(epoch.format(1), content=BODIES[1], headers=OCTETS, params={"replace": "true"})
    assert (replaced.status_code, replaced.json()["outcome"]) == (200, "replaced")
    assert round_0(opened)["epochs"] == [0, 1]


def test_where_members_are_observed_they_alone_are_waited_for(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N, "observe": "members"})
    service.put("/runs/a/rounds/0/members", json={"indices": list(range(30))})
    epoch = post(service, log_of(BODIES[:1], N, range(29))).json()["epochs"][0]
    assert (epoch["state"], epoch["num_expected"], epoch["missing"]) == ("partial", 30, [29])
    assert post(service, log_of(BODIES[:1], N, [29, 50])).json()["epochs"][0]["state"] == "committed"


@pytest.mark.parametrize("media_type", WRITERS)
def test_a_bad_record_names_its_line_and_changes_nothing(opened: httpx.Client, dump: Dump, media_type: str) -> None:
    records = log_of(BODIES[:2], N)
    post(opened, records[:50], media_type)
    before = dump()
    bad = post(opened, [*records[100:], {"epoch": 1, "sample": N, "correct": True}], media_type)
    assert (bad.status_code, bad.json()["type"]) == (422, "/problems/bad-record")
    assert bad.json()["line"] == 101 + (media_type == CSV)
    assert "column sample" in bad.json()["detail"]
    assert dump() == before


@pytest.mark.parametrize("media_type", WRITERS)
@pytest.mark.parametrize("values", [(True, False), (False, True), (False, False), (True, True)])
def test_a_sample_seen_twice_is_merged_alike_by_logs_and_shards(
    opened: httpx.Client, media_type: str, values: tuple[bool, bool]
) -> None:
    """As by the tracker: a sampler pads the last batch, and another rank sees the sample, too."""
    opened.put("/runs/b", json={"num_samples": N})
    opened.put("/runs/c", json={"num_samples": N})
    records: list[Record] = [{"epoch": 0, "sample": 7, "correct": value} for value in values]
    n_contradictory = int(values[0] != values[1])
    epoch = post(opened, [*records, *log_of(BODIES[:1], N, range(8, N))], media_type).json()["epochs"][0]
    assert epoch["num_contradictory"] == n_contradictory
    for number, record in enumerate(records):
        answer = post(opened, [record], media_type, "/runs/b/predictions").json()["epochs"][0]
        assert answer["num_contradictory"] == (n_contradictory if number else 0)
        shard = EpochBits(N, bitmap.from_indices([7] * record["correct"], N), bitmap.from_indices([7], N)).to_body()
        opened.put(f"/runs/c/rounds/0/epochs/0/shards/{number}", params={"of": "2"}, content=shard, headers=OCTETS)
    for run_id in "abc":
        opened.post(f"/runs/{run_id}/rounds/0/finish", json={"allow_gaps": True})
        assert opened.get(f"/runs/{run_id}/samples/7").json()["rounds"][0]["history"] == str(int(any(values)))
    alone = post(opened, records, media_type, "/selection", num_samples=str(N))
    assert alone.status_code == 200


def test_a_committed_epoch_takes_no_other_value(opened: httpx.Client, dump: Dump) -> None:
    records = log_of(BODIES[:1], N)
    post(opened, records)
    before = dump()
    wrong = next(record for record in records if not record["correct"])
    refused = post(opened, [records[0], {**wrong, "correct": True}])
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/epoch-conflict")
    assert refused.json()["line"] == 2
    assert f"sample {wrong['sample']} is wrong in epoch 0 of round 0, which is committed" in refused.json()["detail"]
    assert dump() == before


@pytest.fixture
def small(settings: Settings) -> Iterator[httpx.Client]:
    limits = {"max_json_bytes": 1024, "max_log_bytes": 4000, "max_log_records": 90}
    with (
        running(create_app(settings.model_copy(update=limits))) as transport,
        httpx.Client(transport=transport, base_url="http://service") as client,
    ):
        client.put("/runs/a", json={"num_samples": N})
        yield client


def test_logs_have_limits_of_their_own(small: httpx.Client, dump: Dump) -> None:
    log = log_of(BODIES[:1], N)
    assert len(WRITERS[NDJSON](log[:50])) > 1024
    assert post(small, log[:50]).status_code == 200
    before = dump()
    assert "MILD_MAX_LOG_RECORDS" in post(small, log, CSV).json()["detail"]
    for url in (URL, "/selection"):
        for headers, content in (({}, WRITERS[NDJSON](log)), ({"Content-Encoding": "gzip"}, zipped(log))):
            answer = small.post(url, content=content, headers={"Content-Type": NDJSON, **headers})
            assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")
            assert "MILD_MAX_LOG_BYTES" in answer.json()["detail"]
    array = small.post("/selection", content=WRITERS[JSON](log[:50]), headers={"Content-Type": JSON})
    assert array.status_code == 413
    assert dump() == before


def zipped(log: Sequence[Record]) -> bytes:
    return gzip.compress(WRITERS[NDJSON](log))


def test_a_log_may_be_compressed_and_digested(opened: httpx.Client, dump: Dump) -> None:
    headers = {"Content-Type": NDJSON, "Content-Encoding": "gzip"}
    log = zipped(log_of(BODIES, N))
    before = dump()
    for content, more, code in (
        (log[:-5], {}, "malformed-body"),
        (log + b"x", {}, "malformed-body"),
        (log, {"Content-Digest": "sha-256=:AAAA:"}, "digest-mismatch"),
    ):
        assert opened.post(URL, content=content, headers={**headers, **more}).json()["type"] == f"/problems/{code}"
    assert dump() == before
    assert opened.post(URL, content=log, headers=headers).json()["records"] == 10 * N


def test_a_log_of_another_type_is_refused(opened: httpx.Client) -> None:
    answer = opened.post(URL, content=b"x", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")
    assert CARTOGRAPHY in answer.json()["detail"]
    assert PARQUET in answer.json()["detail"]
    assert post(opened, [], NDJSON, "/runs/none/predictions").status_code == 404


@pytest.mark.parametrize("media_type", WRITERS)
@pytest.mark.parametrize("url", [URL, "/selection"])
def test_a_compressed_log_needs_no_header(opened: httpx.Client, media_type: str, url: str) -> None:
    body = WRITERS[media_type](log_of(BODIES, N))
    headers = {"Content-Type": media_type}
    plain = opened.post("/selection", content=body, headers=headers).json()
    for compressed in (gzip.compress(body), zstandard.compress(body)):
        answer = opened.post(url, content=compressed, headers=headers)
        assert answer.status_code == 200, answer.text
        if url == "/selection":
            assert answer.json()["indices"] == plain["indices"]
    damaged = opened.post(url, content=gzip.compress(body)[:-9], headers=headers)
    assert (damaged.status_code, damaged.json()["type"]) == (400, "/problems/malformed-body")


@pytest.mark.parametrize("bits", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"])
def test_bits_that_look_compressed_are_bits(opened: httpx.Client, bits: bytes) -> None:
    body = bits + bytes(len(BODIES[0]) - len(bits))
    opened.put("/runs/a/rounds/0/epochs/0", content=body, headers=OCTETS)
    assert opened.get("/runs/a/rounds/0/epochs/0").json()["num_correct"] == bitmap.popcount(
        np.frombuffer(bits, np.uint8)
    )


def test_json_lines_are_read_where_an_array_is_meant(opened: httpx.Client) -> None:
    lines = WRITERS[NDJSON](log_of(BODIES, N))
    expected = opened.post("/selection", content=lines, headers={"Content-Type": NDJSON}).json()
    assert opened.post(URL, content=lines, headers={"Content-Type": JSON}).json()["records"] == 10 * N
    for start in (b"", b"\xef\xbb\xbf"):
        answer = opened.post("/selection", content=start + lines, headers={"Content-Type": JSON})
        assert answer.json()["indices"] == expected["indices"]


def test_an_empty_log_does_nothing(opened: httpx.Client, dump: Dump) -> None:
    before = dump()
    assert post(opened, []).json() == {"run_id": "a", "records": 0, "epochs": []}
    assert dump() == before


def test_a_log_alone_may_hold_rounds_and_gaps_and_take_options(service: httpx.Client) -> None:
    second = [{**record, "round": 1} for record in log_of(recording(N, 4, seed=1), N)]
    log = [record for record in [*log_of(BODIES, N), *second] if record["epoch"] != 2]
    params = {"num_samples": "120", "threshold": "fraction", "fraction": "0.25"}
    answer = post(service, log, NDJSON, "/selection", **params)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["round"], answer.json()["num_samples"]) == (1, 120)
    assert answer.json()["threshold"]["rule"] == "fraction"


@pytest.mark.parametrize(("first", "step"), [(0, 5), (100, 1), (1, 1), (3990, 1)])
def test_epochs_may_be_numbered_in_steps_and_from_anywhere(opened: httpx.Client, first: int, step: int) -> None:
    put_epochs_of_other_run(opened)
    expected = opened.get("/selection/b").json()
    log = [{**record, "epoch": first + step * record["epoch"]} for record in log_of(BODIES, N)]
    alone = post(opened, log, url="/selection").json()
    assert post(opened, log).status_code == 200
    by_log = opened.post("/runs/a/rounds/0/finish", params={"allow_gaps": "true"}).json()
    for answer in (alone, by_log, opened.get("/selection/a").json()):
        assert (answer["indices"], answer["epochs"], answer["unobserved"]) == (expected["indices"], 10, 0)
    story = opened.get("/runs/a/samples/3").json()
    assert story["rounds"][0]["history"] == opened.get("/runs/b/samples/3").json()["rounds"][0]["history"]


@pytest.mark.parametrize(
    ("records", "params", "code", "says"),
    [
        ([], {}, "invalid-request", "0 records"),
        ([{"round": 1, "epoch": 0, "sample": 0, "correct": True}], {}, "invalid-request", "round 0 has 0 records"),
        ([{"epoch": 0, "sample": 9, "correct": True}], {"num_samples": "9"}, "bad-record", "0..8"),
        ([{"epoch": 0, "sample": 9, "correct": True}], {"num_samples": "0"}, "limit-exceeded", "num_samples"),
    ],
)
def test_a_log_alone_needs_rounds_from_0_on(
    service: httpx.Client, records: list[Record], params: dict[str, str], code: str, says: str
) -> None:
    answer = post(service, records, NDJSON, "/selection", **params)
    assert (answer.status_code, answer.json()["type"]) == (422, f"/problems/{code}")
    assert says in answer.json()["detail"]


def test_bits_take_their_number_of_samples_from_the_body(service: httpx.Client) -> None:
    body = json.dumps({"correct": [[1, 0, 1], [1, 1, 1]]})
    headers = {"Content-Type": JSON}
    answer = service.post("/selection", content=body, headers=headers, params={"num_samples": "3"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    chosen = service.post("/selection", content=body, headers=headers, params={"threshold": "value", "value": "0"})
    assert chosen.json()["threshold"]["rule"] == "value"


@pytest.mark.parametrize("url", [URL, "/selection"])
def test_a_body_that_ended_the_service_is_refused(opened: httpx.Client, dump: Dump, url: str) -> None:
    before = dump()
    answer = opened.post(url, content=aborting(), headers={"Content-Type": PARQUET})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-body")
    assert dump() == before
    assert post(opened, log_of(BODIES, N), PARQUET).status_code == 200


def test_without_room_for_a_body_it_is_to_be_sent_again(opened: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    answer = post(opened, log_of(BODIES, N), PARQUET)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/overloaded")
    assert answer.headers["Retry-After"] == "1"


NAMES = ["cat", "dog", "tench, tinca tinca"]
NAMED = [
    {"step": 4, "id": sample, "predicted": NAMES[sample % 2], "target": NAMES[sample % 3], "sample": 0}
    for sample in range(N)
]
CLASS_NAMES = 'cat,dog,"tench, tinca tinca"'
COLUMNS = "sample=id,epoch=step,label=target"


@pytest.mark.parametrize("media_type", sorted(set(WRITERS) - {CARTOGRAPHY}))
def test_columns_and_classes_of_a_log_may_have_names(opened: httpx.Client, media_type: str) -> None:
    headers, content = {"Content-Type": media_type}, WRITERS[media_type](NAMED)
    params = {"columns": COLUMNS, "class_names": CLASS_NAMES}
    answer = opened.post(URL, content=content, headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    assert [(epoch["epoch"], epoch["state"]) for epoch in answer.json()["epochs"]] == [(4, "committed")]
    status = opened.get("/runs/a/rounds/0/epochs/4").json()
    assert status["num_correct"] == sum(sample % 2 == sample % 3 for sample in range(N))
    labels = [sample % 3 for sample in range(N)]
    conflict = opened.put("/runs/a/labels", json={"labels": labels[::-1]})
    assert conflict.json()["type"] == "/problems/labels-conflict"
    assert opened.put("/runs/a/labels", json={"labels": labels}).status_code == 200
    alone = opened.post("/selection", content=content, headers=headers, params={"columns": COLUMNS})
    assert alone.status_code == 200, alone.text
    assert alone.json()["num_samples"] == N


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({"columns": COLUMNS}, "column predicted: got 'cat', an integer is needed, or with class_names the name of a"),
        (
            {"columns": COLUMNS, "class_names": "cat,dog"},
            "got 'tench, tinca tinca', which is none of the 2 class_names",
        ),
        ({"columns": COLUMNS, "class_names": "a,a"}, "class_names has 'a' twice; give each of the 2 classes"),
        ({"columns": COLUMNS, "class_names": ","}, "class_names: it is empty, 1 to 512 bytes are needed"),
        ({"columns": "id"}, "columns has 'id'; give FIELD=COLUMN with one of round, epoch, sample"),
        ({"class_names": CLASS_NAMES}, "column epoch: it is missing"),
    ],
)
def test_names_that_do_not_fit_are_refused(opened: httpx.Client, params: dict[str, str], detail: str) -> None:
    refused = opened.post(URL, content=WRITERS[NDJSON](NAMED), headers={"Content-Type": NDJSON}, params=params)
    assert (refused.status_code, detail in refused.json()["detail"]) == (422, True), refused.text
    assert round_0(opened)["epochs"] == []


def test_every_class_of_a_run_needs_a_name(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N, "num_classes": 4})
    refused = service.post(URL, content=WRITERS[NDJSON](NAMED), params={"class_names": CLASS_NAMES})
    assert "class_names has 3 names, the run has num_classes 4; name each class" in refused.json()["detail"]
    long = service.post(URL, content=WRITERS[NDJSON](NAMED), params={"class_names": "c" * 4097})
    assert (long.status_code, "4096" in long.json()["detail"]) == (422, True)
