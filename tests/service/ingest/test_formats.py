"""What all formats of logs have in common: the same records, the same faults, however a body comes."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mild_core.errors import MildError
from mild_service.errors import BadRecord, MalformedBody, UnsupportedMediaType
from mild_service.ingest import FORMATS, csv_table, read_batches
from tests.service.ingest.logs import ARROW, CSV, JSON, NDJSON, PARQUET, WRITERS, Record, written
from tests.service.ingest.reading import LIMITS, RECORDS, SANDBOX, read


def test_every_format_has_a_writer_here() -> None:
    assert set(FORMATS) == set(WRITERS)


@pytest.mark.parametrize("media_type", WRITERS)
@given(cuts=st.lists(st.integers(0, 10**6), max_size=5))
def test_every_format_gives_the_same_records_however_the_body_is_cut(media_type: str, cuts: list[int]) -> None:
    first = 2 if media_type == CSV else 1
    expected = [(n, 0, r["epoch"], r["sample"], r["correct"]) for n, r in enumerate(RECORDS, first)]
    assert read(media_type, WRITERS[media_type](RECORDS), cuts) == expected


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_records_may_hold_classes_rounds_and_other_fields(media_type: str) -> None:
    records: list[Record] = [
        {"round": 1, "epoch": 2, "sample": 3, "correct": None, "predicted": 5, "label": 5, "note": "x"},
        {"round": None, "epoch": 2, "sample": 4, "correct": None, "predicted": 5, "label": 6, "note": "a, b"},
        {"round": 3, "epoch": 2, "sample": 5, "correct": 1, "predicted": None, "label": 6, "note": ""},
        {"round": 3, "epoch": 2, "sample": 6, "correct": 0, "predicted": 4, "label": 6, "note": "all of it"},
    ]
    found = read(media_type, WRITERS[media_type](records))
    assert [row[1:] for row in found] == [(1, 2, 3, 1), (0, 2, 4, 0), (3, 2, 5, 1), (3, 2, 6, 0)]


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_a_column_may_hold_nothing(media_type: str) -> None:
    records = [{"round": None, "epoch": 2, "sample": sample, "correct": True, "label": None} for sample in range(3)]
    assert [row[1:] for row in read(media_type, WRITERS[media_type](records))] == [(0, 2, s, 1) for s in range(3)]


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_a_log_without_records_is_one(media_type: str) -> None:
    empty = pyarrow.table({"epoch": pyarrow.array([], "int64"), "sample": pyarrow.array([], "int64")})
    bodies = {JSON: b"[]", NDJSON: b"", CSV: b"epoch,sample,correct\n"}
    body = bodies.get(media_type) or (b"" if media_type == NDJSON else written(media_type, empty))
    assert read(media_type, body) == []


FAULTS: list[tuple[str, Record, str, str]] = [
    ("no sample", {"epoch": 0, "sample": None, "correct": True}, "sample", "missing"),
    ("no epoch", {"epoch": None, "sample": 0, "correct": True}, "epoch", "missing"),
    ("nothing said", {"epoch": 0, "sample": 0, "correct": None}, "correct", "missing"),
    ("half a class", {"epoch": 0, "sample": 0, "predicted": 1}, "label", "missing"),
    (
        "said twice",
        {"epoch": 0, "sample": 0, "correct": True, "predicted": 1, "label": 2},
        "correct",
        "got 1, it contradicts",
    ),
    ("a sample past the end", {"epoch": 0, "sample": 100, "correct": True}, "sample", "0..99"),
    ("a negative sample", {"epoch": 0, "sample": -1, "correct": True}, "sample", "got -1"),
    ("an epoch past the limit", {"epoch": 50, "sample": 0, "correct": True}, "epoch", "0..49"),
    ("a round past the limit", {"round": 4, "epoch": 0, "sample": 0, "correct": True}, "round", "0..3"),
    ("half a sample", {"epoch": 0, "sample": 0.5, "correct": True}, "sample", "got '?0.5"),
    ("half an epoch", {"epoch": 0.5, "sample": 0, "correct": True}, "epoch", "got '?0.5"),
    ("half a bit", {"epoch": 0, "sample": 0, "correct": 0.5}, "correct", "got '?0.5"),
    ("a large float", {"epoch": 2.0**60, "sample": 0, "correct": True}, "epoch", "got "),
    ("a class that the run has not", {"epoch": 0, "sample": 0, "predicted": 7, "label": 10}, "label", "run has 10"),
    ("a prediction past the classes", {"epoch": 0, "sample": 0, "predicted": 10, "label": 0}, "predicted", "0..9"),
    ("a negative class", {"epoch": 0, "sample": 0, "predicted": -1, "label": 1}, "predicted", "got -1"),
]


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
@pytest.mark.parametrize(("name", "fault", "column", "says"), FAULTS, ids=[fault[0] for fault in FAULTS])
@pytest.mark.parametrize("cuts", [(), range(7, 10_000, 997)], ids=["whole", "cut"])
def test_a_bad_record_is_named(
    media_type: str, name: str, fault: Record, column: str, says: str, cuts: Sequence[int]
) -> None:
    if media_type in (ARROW, PARQUET) and name == "half a bit":
        pytest.skip("booleans and floats make no column")
    body = WRITERS[media_type]([*RECORDS[:150], fault, *RECORDS[150:]])
    with pytest.raises(BadRecord, match=says) as refused:
        read(media_type, body, cuts, replace(LIMITS, n_classes=10))
    assert refused.value.line == (152 if media_type == CSV else 151)
    unit = "line" if media_type in (CSV, NDJSON) else "row"
    assert str(refused.value).startswith(f"{unit} {refused.value.line}, column {column}: ")


@pytest.mark.parametrize(
    ("media_type", "body", "says"),
    [
        (JSON, b"", "cut off after"),
        (JSON, WRITERS[JSON](RECORDS[:1])[:-1], "cut off after 1 complete records"),
        (ARROW, b"", "not a valid Arrow IPC stream"),
        (ARROW, b"x" * 1000, "not a valid Arrow IPC stream"),
        (ARROW, WRITERS[ARROW](RECORDS)[:-300], "not a valid Arrow IPC stream"),
        (PARQUET, WRITERS[PARQUET](RECORDS)[:-3], "not a valid Parquet file"),
        (PARQUET, b"PAR1" * 10, "not a valid Parquet file"),
        (PARQUET, b"", "not a valid Parquet file"),
    ],
)
def test_a_body_that_is_broken_as_a_whole_is_malformed(media_type: str, body: bytes, says: str) -> None:
    with pytest.raises(MalformedBody, match=says):
        read(media_type, body)


def test_without_pyarrow_csv_is_read_all_the_same_and_arrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = WRITERS[CSV](RECORDS)
    fast = read(CSV, body)
    monkeypatch.setattr(csv_table, "find_spec", lambda name: None)
    assert read(CSV, body) == fast
    monkeypatch.setattr("mild_service.ingest.find_spec", lambda name: None)
    for media_type in (ARROW, PARQUET):
        with pytest.raises(UnsupportedMediaType, match=r"mild-selection\[formats\]"):
            read_batches(media_type, io.BytesIO(), LIMITS, SANDBOX)
    with pytest.raises(UnsupportedMediaType, match="text/csv"):
        read_batches("text/plain", io.BytesIO(), LIMITS, SANDBOX)


@pytest.mark.parametrize("media_type", WRITERS)
@given(st.data())
def test_a_body_with_a_few_other_bytes_is_read_or_refused(media_type: str, data: st.DataObject) -> None:
    body = bytearray(WRITERS[media_type](RECORDS[:30]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cuts = data.draw(st.lists(st.integers(0, 10**6), max_size=3))
    try:
        whole = read(media_type, bytes(body))
    except MildError as error:
        with pytest.raises(type(error)):
            read(media_type, bytes(body), cuts)
    else:
        assert read(media_type, bytes(body), cuts) == whole
