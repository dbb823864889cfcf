import io
import json
import threading
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import pyarrow
import pytest
from fastapi import FastAPI
from pyarrow import parquet

from mild_service.store import PIECE_SAMPLES
from tests.inprocess import running
from tests.service.conftest import Dump
from tests.service.ingest.logs import ARROW, CSV, JSON, NDJSON, PARQUET, WRITERS, Record, log_of
from tests.service.recordings import put_epochs, recording

N = 100
BODIES = recording(N, 10)
IDS = [f"train/ä {number:03}.png" for number in range(N)]
URL = "/runs/a/sample-ids"
TEXT = {"Content-Type": "text/plain"}
FORMS: dict[str, Callable[[list[str]], bytes]] = {
    JSON: lambda ids: json.dumps(ids).encode(),
    NDJSON: lambda ids: "\n".join(map(json.dumps, ids)).encode(),
    "text/plain": lambda ids: "".join(f"{name}\r\n" for name in ids).encode(),
}


def named(records: list[Record], ids: list[str]) -> list[Record]:
    """A log that names its samples by ids."""
    return [{**record, "sample": ids[record["sample"]]} for record in records]


@pytest.mark.parametrize("media_type", FORMS)
def test_ids_are_put_and_shown(opened: httpx.Client, dump: Dump, media_type: str) -> None:
    assert opened.get(URL).json()["type"] == "/problems/no-sample-ids"
    body, headers = FORMS[media_type](IDS), {"Content-Type": media_type}
    first = opened.put(URL, content=body, headers=headers)
    assert first.json() == {"run_id": "a", "outcome": "set", "num_samples": N}
    before = dump()
    assert opened.put(URL, content=body, headers=headers).json()["outcome"] == "same"
    assert dump() == before
    shown = opened.get(URL)
    assert shown.json() == {"run_id": "a", "num_samples": N, "offset": 0, "sample_ids": IDS}
    assert opened.get(URL, headers={"If-None-Match": shown.headers["etag"]}).status_code == 304
    page = opened.get(URL, params={"offset": 98, "limit": 5}, headers={"Accept": "text/plain"})
    assert page.text == f"{IDS[98]}\n{IDS[99]}\n"
    assert opened.get(URL, params={"offset": 5000}).json()["sample_ids"] == []


def test_a_sample_is_looked_up_by_its_id(opened: httpx.Client) -> None:
    opened.put(URL, json=IDS)
    found = opened.get(URL, params={"id": IDS[42]}).json()
    assert (found["offset"], found["sample_ids"]) == (42, [IDS[42]])
    lost = opened.get(URL, params={"id": "nobody"})
    assert (lost.status_code, lost.json()["type"]) == (404, "/problems/sample-not-found")


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "line", "says"),
    [
        (FORMS["text/plain"](IDS[:-1]), TEXT, 422, "invalid-input", None, "has 100 samples, got 99 ids"),
        (FORMS["text/plain"]([*IDS, "x"]), TEXT, 422, "invalid-input", None, "got 101 or more ids"),
        (FORMS["text/plain"]([*IDS[:-1], IDS[3]]), TEXT, 422, "sample-id", 100, "same id as line 4"),
        (FORMS["text/plain"]([*IDS[:50], "", *IDS[51:]]), TEXT, 422, "sample-id", 51, "empty"),
        (b"a\nb\xff\n", TEXT, 422, "sample-id", 2, "UTF-8"),
        (b'"a"\n17.5\n', {"Content-Type": NDJSON}, 422, "sample-id", 2, "got 17.5, a string is needed"),
        (b"a\n\xef\xbb\xbfb\n", TEXT, 422, "sample-id", 2, "byte order mark"),
        ("a\nb\n".encode("utf-16"), TEXT, 422, "bad-record", 1, "UTF-16"),
        (b'"a"\nb\n', {"Content-Type": NDJSON}, 422, "sample-id", 2, "not JSON"),
        (b'["a", "' + b"x" * 513 + b'"]', {"Content-Type": JSON}, 422, "sample-id", 2, "513 bytes"),
        (b'["a", null]', {"Content-Type": JSON}, 422, "sample-id", 2, "a string is needed"),
        (b'{"ids": []}', {"Content-Type": JSON}, 400, "malformed-body", None, "array"),
        (b"[", {"Content-Type": JSON}, 400, "malformed-body", None, "no JSON array"),
        (b'["a",]', {"Content-Type": JSON}, 400, "malformed-body", None, "not JSON"),
        (b'["a" "b"]', {"Content-Type": JSON}, 400, "malformed-body", None, "not JSON"),
        (b"a", {"Content-Type": "text/csv"}, 415, "unsupported-media-type", None, "text/plain"),
        (b"x" * 2**20 + b"y", TEXT, 422, "bad-record", 1, "MILD_MAX_RECORD_BYTES"),
    ],
)
def test_ids_that_cannot_be_used_are_refused_and_leave_nothing(
    opened: httpx.Client,
    dump: Dump,
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    line: int | None,
    says: str,
) -> None:
    before = dump()
    answer = opened.put(URL, content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"], answer.json().get("line")) == (
        status, f"/problems/{code}", line
    )  # fmt: skip
    assert says in answer.json()["detail"]
    assert dump() == before


def test_ids_can_be_replaced_until_an_epoch_is_in(opened: httpx.Client, dump: Dump) -> None:
    opened.put(URL, json=IDS)
    assert opened.put(URL, json=IDS[::-1]).json()["outcome"] == "replaced"
    fields = [key for key in dump() if b":ids:" in key]
    assert len(fields) == 1
    put_epochs(opened, "a", BODIES[:1])
    before = dump()
    late = opened.put(URL, json=IDS)
    assert (late.status_code, late.json()["type"]) == (409, "/problems/sample-ids-frozen")
    assert dump() == before
    assert opened.put(URL, json=IDS[::-1]).json()["outcome"] == "same"
    opened.delete("/runs/a")
    assert dump() == {}


def test_ids_that_were_never_put_may_come_late(recorded: httpx.Client) -> None:
    assert recorded.put(URL, json=IDS).json()["outcome"] == "set"
    assert recorded.get("/runs/a/samples/7").json()["id"] == IDS[7]


def test_ids_of_many_pieces_and_chunks(service: httpx.Client) -> None:
    n_samples = 2**20 + PIECE_SAMPLES + 5
    service.put("/runs/a", json={"num_samples": n_samples})
    body = "\n".join(f"s{number}" for number in range(n_samples)).encode()
    assert service.put(URL, content=body, headers=TEXT).json()["outcome"] == "set"
    for index in (0, PIECE_SAMPLES - 1, PIECE_SAMPLES, 2**20 - 1, 2**20, n_samples - 1):
        assert service.get(URL, params={"id": f"s{index}"}).json()["offset"] == index
        assert service.get(URL, params={"offset": index, "limit": 1}).json()["sample_ids"] == [f"s{index}"]
    across = service.get(URL, params={"offset": 2**20 - 3, "limit": 6}).json()["sample_ids"]
    assert across == [f"s{number}" for number in range(2**20 - 3, 2**20 + 3)]
    log = [{"epoch": 0, "sample": f"s{number}", "correct": True} for number in (5, 2**20 + 5)]
    answer = service.post("/runs/a/predictions?complete=true", content=WRITERS[NDJSON](log))
    assert answer.json()["epochs"][0]["num_observed"] == 2


@pytest.mark.parametrize("media_type", WRITERS)
def test_a_log_by_ids_gives_the_set_that_indices_give(opened: httpx.Client, media_type: str) -> None:
    opened.put("/runs/b", json={"num_samples": N})
    put_epochs(opened, "b", BODIES)
    expected = opened.get("/selection/b").json()["indices"]
    opened.put(URL, json=IDS)
    log = named(log_of(BODIES, N), IDS)
    answer = opened.post("/runs/a/predictions", content=WRITERS[media_type](log), headers={"Content-Type": media_type})
    assert [epoch["state"] for epoch in answer.json()["epochs"]] == ["committed"] * 10
    found = opened.get("/selection/a", params={"ids": "true"}).json()
    assert (found["indices"], found["ids"]) == (expected, [IDS[index] for index in expected])
    alone = opened.post("/selection", content=WRITERS[media_type](log), headers={"Content-Type": media_type}).json()
    assert (alone["indices"], alone["ids"]) == (expected, found["ids"])


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())])
def test_texts_of_any_arrow_type_are_ids(opened: httpx.Client, media_type: str, kind: pyarrow.DataType) -> None:
    opened.put(URL, json=IDS)
    table = pyarrow.table({"epoch": [0] * N, "sample": pyarrow.array(IDS).cast(kind), "correct": [1] * N})
    out = io.BytesIO()
    if media_type == PARQUET:
        parquet.write_table(table, out)
    else:
        with pyarrow.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    answer = opened.post("/runs/a/predictions", content=out.getvalue(), headers={"Content-Type": media_type})
    assert answer.json()["epochs"][0]["state"] == "committed", answer.text


@pytest.mark.parametrize("media_type", WRITERS)
def test_an_unknown_id_is_named_with_its_record(opened: httpx.Client, dump: Dump, media_type: str) -> None:
    opened.put(URL, json=IDS)
    before = dump()
    log = named(log_of(BODIES[:1], N), IDS)
    log[41]["sample"] = "nobody"
    answer = opened.post("/runs/a/predictions", content=WRITERS[media_type](log), headers={"Content-Type": media_type})
    line = 43 if media_type == CSV else 42
    assert (answer.json()["type"], answer.json()["line"]) == ("/problems/bad-record", line)
    assert "'nobody', which is none of the run's 100 ids" in answer.json()["detail"]
    assert dump() == before


@pytest.mark.parametrize("media_type", WRITERS)
def test_ids_that_are_numbers_are_ids_in_every_format(opened: httpx.Client, media_type: str) -> None:
    opened.put(URL, json=[N - number for number in range(N)])
    assert opened.get(URL, params={"limit": 2}).json()["sample_ids"] == ["100", "99"]
    log: list[Record] = [{"epoch": 0, "sample": sample, "correct": True} for sample in (1, 100)]
    answer = opened.post("/runs/a/predictions?complete=true", content=WRITERS[media_type](log),
                         headers={"Content-Type": media_type})  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert [seen(opened, index) for index in (0, 1, 98, 99)] == [True, False, False, True]
    unknown: list[Record] = [{"epoch": 1, "sample": 0, "correct": True}]
    headers = {"Content-Type": media_type}
    refused = opened.post("/runs/a/predictions", content=WRITERS[media_type](unknown), headers=headers).json()
    assert "got '0', which is none of the run's 100 ids; send samples_by=indices" in refused["detail"]
    params = {"complete": "true", "samples_by": "indices"}
    body = WRITERS[media_type](unknown)
    assert opened.post("/runs/a/predictions", params=params, content=body, headers=headers).status_code == 200
    assert [seen(opened, index, epoch=1) for index in (0, 1)] == [True, False]


@pytest.mark.parametrize("media_type", WRITERS)
def test_numbers_are_indices_where_no_id_is_a_number(opened: httpx.Client, media_type: str) -> None:
    opened.put(URL, json=IDS)
    log: list[Record] = [{"epoch": 0, "sample": sample, "correct": True} for sample in (3, 5)]
    headers = {"Content-Type": media_type}
    assert opened.post(
        "/runs/a/predictions?complete=true", content=WRITERS[media_type](log), headers=headers
    ).is_success
    assert [seen(opened, index) for index in (3, 4, 5)] == [True, False, True]
    by_ids = opened.post("/runs/a/predictions?samples_by=ids", content=WRITERS[media_type](log), headers=headers)
    assert "got '3', which is none of the run's" in by_ids.json()["detail"]


@pytest.mark.parametrize("media_type", [NDJSON, CSV])
def test_7_and_007_are_two_samples(opened: httpx.Client, media_type: str) -> None:
    opened.put("/runs/b", json={"num_samples": 10})
    opened.put("/runs/b/sample-ids", json=["007", "7", "1e5", "100000", "0x10", "16", "1.0", "1", "12ab", "x"])
    log: list[Record] = [{"epoch": 0, "sample": name, "correct": True} for name in ("7", "1e5", "0x10", "1.0", "12ab")]
    headers = {"Content-Type": media_type}
    answer = opened.post("/runs/b/predictions?complete=true", content=WRITERS[media_type](log), headers=headers)
    assert answer.status_code == 200, answer.text
    rows = [opened.get(f"/runs/b/samples/{index}").json() for index in range(10)]
    assert [row["id"] for row in rows if row["rounds"][0]["history"] == "1"] == ["7", "1e5", "0x10", "1.0", "12ab"]
    alone = opened.post("/selection", content=WRITERS[media_type](log), headers=headers, params={"samples_by": "ids"})
    assert alone.json()["num_samples"] == 5
    padded: list[Record] = [
        {"epoch": 0, "sample": "007", "correct": True},
        {"epoch": 0, "sample": "7", "correct": True},
    ]
    assert opened.post("/selection", content=WRITERS[media_type](padded), headers=headers).json()["num_samples"] == 2


def test_ids_are_named_only_where_the_run_has_some(opened: httpx.Client) -> None:
    refused = opened.post("/runs/a/predictions?samples_by=ids", content=b'{"epoch":0,"sample":"x","correct":1}')
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/no-sample-ids")


def seen(service: httpx.Client, index: int, epoch: int = 0) -> bool:
    history = service.get(f"/runs/a/samples/{index}").json()["rounds"][0]["history"]
    return bool(history[epoch] != ".")


def test_ids_that_have_no_run_are_numbered_as_they_come(service: httpx.Client) -> None:
    options = {"threshold": "fraction", "fraction": "1"}
    log: list[Record] = [
        {"epoch": epoch, "sample": name, "correct": True} for epoch in (0, 1) for name in ("z", "a", "m")
    ]
    answer = service.post("/selection", params=options, content=WRITERS[NDJSON](log), headers={"Content-Type": NDJSON})
    assert (answer.json()["num_samples"], answer.json()["ids"]) == (3, ["z", "a", "m"])
    headers = {"Content-Type": NDJSON, "Accept": "text/csv"}
    answer = service.post("/selection", params=options, content=WRITERS[NDJSON](log), headers=headers)
    assert answer.text == "index,id\n0,z\n1,a\n2,m\n"
    assert "ids" not in service.post("/selection", json=[{"epoch": 0, "sample": 0, "correct": True}]).json()


@pytest.mark.parametrize(
    ("log", "line", "says"),
    [
        (
            [(1, 1), ("a", 1)],
            2,
            "'a', while other samples are named by number; name all by index, or send samples_by=ids",
        ),
        ([(3, 1), (1, 1)], 1, "got 3, a number in 0..2 is needed, samples_by=ids for ids"),
        ([("a", 1), ("", 1)], 2, "empty"),
        ([("a", 1), ("x" * 513, 1)], 2, "513 bytes"),
        ([("a", 1), ("b", 1), ("c", 1), ("d", 1)], 4, "'d', and 3 other samples before"),
    ],
)
def test_ids_without_a_run_have_to_go_together(
    service: httpx.Client, log: list[tuple[object, int]], line: int, says: str
) -> None:
    body = "\n".join(json.dumps({"epoch": 0, "sample": sample, "correct": bit}) for sample, bit in log)
    headers = {"Content-Type": NDJSON}
    answer = service.post("/selection", params={"num_samples": 3}, content=body, headers=headers)
    assert (answer.json()["type"], answer.json()["line"]) == ("/problems/bad-record", line)
    assert says in answer.json()["detail"]


def test_ids_come_beside_indices_in_every_form_that_has_room(recorded: httpx.Client) -> None:
    ask = {"ids": "true"}
    assert recorded.get("/selection/a", params=ask).json()["type"] == "/problems/no-sample-ids"
    recorded.put(URL, json=IDS)
    plain = recorded.get("/selection/a")
    told = recorded.get("/selection/a", params=ask)
    assert told.headers["etag"] != plain.headers["etag"]
    assert recorded.get("/selection/a", params=ask, headers={"If-None-Match": told.headers["etag"]}).status_code == 304
    indices, ids = told.json()["indices"], told.json()["ids"]
    assert (indices, ids) == (plain.json()["indices"], [IDS[index] for index in indices])
    arrow = recorded.get("/selection/a", params=ask, headers={"Accept": ARROW}).content
    assert pyarrow.ipc.open_stream(arrow).read_all().to_pydict() == {"index": indices, "id": ids}
    csv = recorded.get("/selection/a", params=ask, headers={"Accept": CSV}).text
    assert csv.splitlines() == ["index,id", *(f"{i},{name}" for i, name in zip(indices, ids, strict=True))]
    no_room = recorded.get("/selection/a", params=ask, headers={"Accept": "application/x-npy"})
    assert (no_room.status_code, no_room.json()["type"]) == (406, "/problems/not-acceptable")


def test_replicas_that_put_ids_together_leave_one_upload(app: FastAPI, dump: Dump) -> None:
    orders = [np.random.default_rng(seed).permutation(IDS).tolist() for seed in range(4)]
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": N})
        putting = [threading.Thread(target=service.put, args=(URL,), kwargs={"json": order}) for order in orders]
        for thread in putting:
            thread.start()
        for thread in putting:
            thread.join()
        assert service.get(URL).json()["sample_ids"] in orders
    (key,) = (key for key in dump() if b":ids:" in key)
    assert key.endswith(b":ids:0")


def test_ids_that_are_replaced_while_a_log_is_read_do_not_mix(app: FastAPI) -> None:
    """The log waits in the middle until the ids are others: then the samples that it has found are the wrong ones."""
    log = named(log_of(BODIES[:1], N), IDS)
    statuses: list[int] = []
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": N})
        service.put(URL, json=IDS)

        async def replaced() -> None:
            inner = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=inner, base_url="http://service") as client:

                async def body() -> AsyncIterator[bytes]:
                    yield WRITERS[NDJSON](log) + b"\n" * 2**21  # more than a block, so that it is read before the rest
                    assert (await client.put(URL, json=IDS[::-1])).json()["outcome"] == "replaced"
                    yield b"\n"

                answer = await client.post("/runs/a/predictions", content=body())
                statuses.append(answer.status_code)
                assert answer.json()["type"] == "/problems/epoch-conflict"
                assert "send the log again" in answer.json()["detail"]

        transport.portal.call(replaced)
        assert service.get("/runs/a").json()["rounds"][0]["partial"] == {}
        assert service.post("/runs/a/predictions", content=WRITERS[NDJSON](log)).json()["records"] == N
    assert statuses == [409]


@pytest.mark.parametrize("media_type", WRITERS)
def test_numbers_too_large_for_an_index_are_ids(service: httpx.Client, media_type: str) -> None:
    guids = [4734000000000 + 1009 * number for number in range(20)]
    log: list[Record] = [{"epoch": epoch, "sample": guid, "correct": True} for epoch in (0, 1) for guid in guids]
    headers = {"Content-Type": media_type}
    params = {"threshold": "fraction", "fraction": "1"}
    answer = service.post("/selection", content=WRITERS[media_type](log), headers=headers, params=params)
    assert (answer.json()["num_samples"], answer.json()["ids"]) == (20, list(map(str, guids)))
    body = WRITERS[media_type]([{**record, "sample": record["sample"] % 10**6} for record in log])
    refused = service.post("/selection", content=body, headers=headers).json()
    assert (
        "names 20 samples by numbers up to 19171, which may be ids or indices; send samples_by=ids" in refused["detail"]
    )
    for samples_by, n_samples in (("ids", 20), ("indices", 19172)):
        answer = service.post("/selection", content=body, headers=headers, params={**params, "samples_by": samples_by})
        assert answer.json()["num_samples"] == n_samples


@pytest.mark.parametrize("media_type", FORMS)
def test_a_byte_order_mark_is_no_part_of_an_id(opened: httpx.Client, media_type: str) -> None:
    body = b"\xef\xbb\xbf" + FORMS[media_type](IDS)
    assert opened.put(URL, content=body, headers={"Content-Type": media_type}).status_code == 200
    assert opened.get(URL, params={"limit": 1}).json()["sample_ids"] == IDS[:1]
