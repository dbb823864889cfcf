"""Prediction logs through the client and the real application: arrays, records, files, in parts where they are long."""

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mild_client import AsyncMildClient, MildClient, RunSpec
from mild_client.errors import BadRequest, Conflict, NotFound, TooLarge
from mild_client.logs import CARTOGRAPHY, MEDIA_TYPES, SamplesBy, detect_format, split_file
from mild_client.requests import FileSlice
from mild_core.errors import ParameterError
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.ingest import FORMATS
from tests.client.wire import VERSION, Reply, serving
from tests.inprocess import running
from tests.service.ingest.logs import ARROW, ARROW_FILE, WRITERS

N = 500
SAMPLES = np.arange(N)
LABELS = SAMPLES % 10
PREDICTED = np.where(SAMPLES % 3 > 0, LABELS, 9 - LABELS)
Open = Callable[..., MildClient]


@pytest.fixture
def opened(settings: Settings) -> Iterator[Open]:
    """Opens clients of services with the given limits, with a run ``a`` of `n` samples."""
    with contextlib.ExitStack() as stack:

        def opened(n: int = N, **limits: int) -> MildClient:
            transport = stack.enter_context(running(create_app(settings.model_copy(update=limits))))
            http = stack.enter_context(httpx.Client(transport=transport))
            client = MildClient("http://service", http=http)
            client.open_run(RunSpec("a", n, num_classes=10))
            return client

        yield opened


def rows(n_epochs: int) -> str:
    return "".join(f"{epoch},{sample},{sample % 3 > 0}\n" for epoch in range(n_epochs) for sample in range(N))


def states(answer: dict[str, Any]) -> list[tuple[int, str, int]]:
    return [(epoch["epoch"], epoch["state"], epoch["num_observed"]) for epoch in answer["epochs"]]


def test_arrays_fill_an_epoch(opened: Open) -> None:
    client = opened()
    half = SAMPLES < N // 2
    first = client.log_predictions("a", 3, SAMPLES[half], PREDICTED[half], LABELS[half])
    assert states(first) == [(3, "partial", N // 2)]
    second = client.log_predictions("a", 3, SAMPLES[~half], PREDICTED[~half].astype(np.uint8), LABELS[~half])
    assert states(second) == [(3, "committed", N)]
    assert second["epochs"][0]["num_correct"] == np.count_nonzero(PREDICTED == LABELS)


@pytest.mark.parametrize("limit", [1024, 2000, 10_000_000])
def test_long_logs_go_in_parts_and_give_the_same_as_whole_ones(opened: Open, limit: int, tmp_path: Path) -> None:
    client = opened(max_log_bytes=limit)
    some = SAMPLES[:-10]
    posted = client.log_predictions("a", 0, some, PREDICTED[some], LABELS[some], complete=True)
    assert (posted["records"], states(posted)) == (N - 10, [(0, "committed", N - 10)])

    records = [{"epoch": e, "sample": s, "correct": bool(s % 3)} for e in (1, 2) for s in some.tolist()]
    posted = client.post_records("a", iter(records), complete=True)
    assert (posted["records"], states(posted)) == (2 * N - 20, [(1, "committed", N - 10), (2, "committed", N - 10)])

    log = tmp_path / "log.csv"
    log.write_text("epoch,sample,correct\n" + "".join(f"{e + 3},{s},{s % 3 > 0}\n" for e in (0, 1) for s in some))
    posted = client.push("a", log, complete=True)
    # what was said of an epoch last: the reminder that completes it repeats records that are counted once only
    assert (posted["records"], states(posted)) == (2 * N - 20, [(3, "committed", N - 10), (4, "committed", N - 10)])
    assert client.get_run("a")["rounds"][0]["epochs"] == [0, 1, 2, 3, 4]


def test_without_complete_an_epoch_stays_partial(opened: Open) -> None:
    client = opened(max_log_bytes=1024)
    posted = client.log_predictions("a", 0, SAMPLES[1:], PREDICTED[1:], LABELS[1:])
    assert states(posted) == [(0, "partial", N - 1)]


def test_a_record_limit_cuts_too(opened: Open) -> None:
    client = opened(max_log_records=7)
    assert states(client.log_predictions("a", 0, SAMPLES, PREDICTED, LABELS)) == [(0, "committed", N)]


def test_records_may_hold_numbers_of_numpy(opened: Open) -> None:
    records = [{"epoch": np.int64(0), "sample": s, "correct": np.bool_(s % 2)} for s in SAMPLES]
    assert states(opened().post_records("a", records)) == [(0, "committed", N)]


@pytest.mark.parametrize("record", [{"sample": 1, "correct": True}, {"epoch": 0, "sample": {1}}, {"epoch": "x"}])
def test_a_record_that_is_none_is_refused(opened: Open, record: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="give `epoch`, `sample`"):
        opened().post_records("a", [record])


@pytest.mark.parametrize("wrong", [PREDICTED[1:], PREDICTED + 0.5, PREDICTED.reshape(5, -1), PREDICTED > 3])
def test_arrays_that_do_not_belong_together_are_refused(opened: Open, wrong: Any) -> None:
    with pytest.raises(ParameterError, match=r"predicted has (shape|type) .*; give"):
        opened().log_predictions("a", 0, SAMPLES, wrong, LABELS)


def test_a_file_is_sent_by_its_extension(opened: Open, tmp_path: Path) -> None:
    client = opened(4)
    table, lines, dynamics = tmp_path / "log.CSV", tmp_path / "log.jsonl.gz", tmp_path / "dynamics.jsonl"
    table.write_text("epoch,sample,correct\n0,1,true\n0,2,false\n")
    lines.write_bytes(gzip.compress(b'{"epoch": 0, "sample": 3, "correct": 1}\n'))
    dynamics.write_text('{"guid": 0, "gold": 1, "logits_epoch_1": [0.5, 2]}\n')
    assert client.push("a", table)["records"] == 2
    assert client.push("a", lines, complete=True)["epochs"][0]["state"] == "committed"
    assert client.push("a", dynamics, media_type=CARTOGRAPHY)["epochs"][0]["num_correct"] == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", b'\xef\xbb\xbf{"epoch": 0, "sample": 1, "correct": 1}\n{"epoch": 0, "sample": 2, "correct": 0}'),
        ("array.jsonl", b' [{"epoch": 0, "sample": 1, "correct": 1}, {"epoch": 0, "sample": 2, "correct": 0}]'),
        ("packed.csv", gzip.compress(b"epoch,sample,correct\n0,1,1\n0,2,0\n", mtime=0)),
        ("plain.csv.gz", b"epoch;sample;correct\n0;1;1\n0;2;0\n"),
        ("table.feather", WRITERS[ARROW_FILE]([{"epoch": 0, "sample": s, "correct": s == 1} for s in (1, 2)])),
        ("table.arrow", WRITERS[ARROW]([{"epoch": 0, "sample": s, "correct": s == 1} for s in (1, 2)])),
    ],
)
def test_a_file_is_read_as_what_it_holds(opened: Open, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    epoch = opened(3).push("a", tmp_path / name)["epochs"][0]
    assert (epoch["num_observed"], epoch["num_correct"]) == (2, 1)


def test_a_csv_is_cut_between_records_and_not_within_quotes(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    records = [f'{number},0,1,"line\nand ""line""\n\n{number}"\n' for number in range(200)]
    log.write_text("sep=,\nsample,epoch,correct,text\n" + "".join(records))
    parts = list(split_file(log, None, {"max_log_bytes": 300}))
    texts = [b"".join(part.content.iter_chunks()).decode() for part in parts if isinstance(part.content, FileSlice)]
    assert all(text.startswith("sep=,\nsample,epoch,correct,text\n") for text in texts)
    assert "".join(text.split("\n", 2)[2] for text in texts) == "".join(records)
    assert all(text.count('"') % 2 == 0 for text in texts)


def test_numbers_may_be_said_to_be_ids_or_indices(opened: Open) -> None:
    client = opened(3)
    client.put_sample_ids("a", ["2", "1", "0"])
    zero = np.array([0])
    ways: list[tuple[SamplesBy | None, int]] = [(None, 2), ("ids", 2), ("indices", 0)]
    for number, (samples_by, index) in enumerate(ways):
        client.log_predictions("a", number, zero, zero, zero, complete=True, samples_by=samples_by)
        assert client.get_epoch("a", 0, number)["missing"] == [sample for sample in range(3) if sample != index]


def test_what_the_service_refuses_is_told_and_not_stored(opened: Open, tmp_path: Path) -> None:
    client = opened(4)
    log = tmp_path / "log.csv"
    log.write_text("epoch,sample,correct\n0,1,true\n0,7,true\n")
    with pytest.raises(BadRequest, match="line 3, column sample"):
        client.push("a", log)
    assert client.get_run("a")["rounds"][0]["partial"] == {}
    with pytest.raises(NotFound):
        client.push("none", log)
    log.rename(tmp_path / "log.txt")
    with pytest.raises(ParameterError, match="parquet"):
        client.push("a", tmp_path / "log.txt")


def test_a_committed_epoch_takes_no_other_value(opened: Open) -> None:
    client = opened()
    client.log_predictions("a", 0, SAMPLES[:9], PREDICTED[:9], LABELS[:9])
    assert states(client.log_predictions("a", 0, SAMPLES[:9], PREDICTED[:9], LABELS[:9])) == [(0, "partial", 9)]
    client.log_predictions("a", 0, SAMPLES[:9], PREDICTED[:9], LABELS[:9], complete=True)
    with pytest.raises(Conflict, match="committed already"):
        client.log_predictions("a", 0, SAMPLES[:9], LABELS[:9], LABELS[:9])


def test_what_cannot_be_cut_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    table, line = tmp_path / "log.parquet", tmp_path / "log.ndjson"
    table.write_bytes(bytes(2000))
    line.write_bytes(b'{"epoch": 0}\n' + bytes(3000))
    limited = {**VERSION, "limits": {"max_log_bytes": 1500, "max_body_bytes": 5000}}
    answer = Reply(body=b'{"records": 1, "epochs": []}')
    with serving(answer, version=limited) as server, MildClient(server.url) as client:
        with pytest.raises(TooLarge, match="2000 bytes, this service takes 1500 in one post"):
            client.push("a", table)
        with pytest.raises(TooLarge, match="a line of more than 1500 bytes from byte 13 on"):
            client.push("a", line)
        with pytest.raises(TooLarge, match="PUT /runs/a/labels takes 8128 bytes, this service takes bodies of 5000"):
            client.put_labels("a", np.arange(1000))
        assert server.sent == []


@pytest.mark.anyio
async def test_both_clients_send_the_same_parts_of_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("epoch,sample,correct\n" + rows(2))
    limited = {**VERSION, "limits": {"max_log_bytes": 1500}}
    answer = Reply(body=json.dumps({"records": 1, "epochs": [{"round": 0, "epoch": 0, "state": "partial"}]}).encode())
    with serving(answer, Reply(503), answer, version=limited) as server:
        with MildClient(server.url) as client:
            client.push("a", log, complete=True)
        sent = list(server.sent)
        server.sent.clear()
        async with AsyncMildClient(server.url) as awaited:
            await awaited.push("a", log, complete=True)
        assert sent == server.sent
    assert sent[1] == sent[2]  # a try that failed, and its repetition
    assert [s.line for s in sent].count(b"POST /runs/a/predictions?complete=true HTTP/1.1\r\n") == 2
    bodies = [s.body for s in sent[:1] + sent[2:-1]]
    assert max(map(len, bodies)) <= 1500
    assert all(body.startswith(b"epoch,sample,correct\n") and body.endswith(b"\n") for body in bodies)
    assert "".join(body.partition(b"\n")[2].decode() for body in bodies) == rows(2)
    assert sent[-1].body == bodies[-1]  # the epoch is partial still: its last part closes it


LINES = b'{"epoch": 0, "sample": 0, "correct": true}\n'


@pytest.mark.parametrize(
    ("name", "content", "detected"),
    [
        ("log.json", b'[{"epoch": 0}]', ("application/json", None)),
        ("lines.json", LINES * 2, ("application/x-ndjson", None)),
        ("marked.json", b"\xef\xbb\xbf" + LINES, ("application/x-ndjson", None)),
        ("array.jsonl", b"\n [" + LINES + b"]", ("application/json", None)),
        ("dynamics_epoch_0.jsonl", b'{"guid": 0, "logits_epoch_0": [1.0], "gold": 0}\n', (CARTOGRAPHY, None)),
        ("dynamics.jsonl.gz", gzip.compress(b'{"guid": 0, "logits_epoch_0": [1.0]}\n', mtime=0), (CARTOGRAPHY, "gzip")),
        (
            "members.ndjson",
            b"".join(gzip.compress(part, mtime=0) for part in (b"", b"[", b'{"epoch": 0}]')),
            ("application/json", "gzip"),
        ),
        ("compressed.csv", gzip.compress(b"epoch,sample,correct\n", mtime=0), ("text/csv", "gzip")),
        ("plain.csv.gz", b"epoch,sample,correct\n", ("text/csv", None)),
        ("log.csv.zst", b"\x28\xb5\x2f\xfd", ("text/csv", "zstd")),
        ("damaged.ndjson.gz", b"\x1f\x8bno more", ("application/x-ndjson", "gzip")),
        ("half.ndjson", LINES[:10], ("application/x-ndjson", None)),
        ("table.arrow", b"ARROW1\0\0", ("application/vnd.apache.arrow.stream", None)),
        ("table.csv", b"PAR1", ("application/vnd.apache.parquet", None)),
    ],
)
def test_a_format_is_detected(name: str, content: bytes, detected: tuple[str, str | None], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert detect_format(tmp_path / name) == detected


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    values = {str(row): 0 for row in range(20_000)}
    (tmp_path / "columns.json").write_text(json.dumps({"epoch": values, "sample": values}))
    (tmp_path / "lists.json").write_text('{"epoch": [0, 1], "sample": [3, 4]}')
    (tmp_path / "log.txt").touch()
    for name, message in [
        ("columns.json", r"holds a table by columns.*orient='records'"),
        ("lists.json", r"holds a table by columns.*orient='records'"),
        ("log.txt", "the extension of 'log.txt' is none of"),
        ("no.csv", r"there is no log .*no\.csv; give the path"),
        ("", "is a folder; give one of the files in it"),
    ]:
        with pytest.raises(ParameterError, match=message):
            detect_format(tmp_path / name)


def test_every_format_of_the_service_has_a_file_name_here() -> None:
    assert {*MEDIA_TYPES.values(), CARTOGRAPHY, ARROW_FILE} == set(FORMATS)
