import io
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mild_core.errors import MildError
from mild_service.errors import BadRecord, LimitExceeded, MalformedBody, UnsupportedMediaType
from mild_service.ingest import FORMATS, Limits, NewNames, csv_table, open_reader
from mild_service.ingest.helper import Helper
from tests.service.ingest.logs import ARROW, CARTOGRAPHY, CSV, JSON, NDJSON, PARQUET, WRITERS, Record

LIMITS = Limits(
    n_samples=100,
    n_rounds=4,
    n_epochs=50,
    n_records=10_000,
    record_bytes=1000,
    n_cells=5000,
)

HELPER = Helper(n_bytes=2**27, seconds=60)

RECORDS: list[Record] = [
    {"epoch": int(e), "sample": int(s), "correct": bool((e * s) % 3)} for e in range(7) for s in range(0, 100, 3)
]


@pytest.fixture(scope="module", autouse=True)
def _helper_ends() -> Iterator[None]:
    yield
    HELPER.close()


def pieces(body: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    yield from (body[a:b] for a, b in itertools.pairwise(edges))


def read(media_type: str, body: bytes, cuts: Sequence[int] = (), limits: Limits = LIMITS) -> list[tuple[int, ...]]:
    """Number, round, epoch, sample and correct of every record."""
    out: list[tuple[int, ...]] = []
    with closing(open_reader(media_type, limits, HELPER)) as reader:
        batches = [batch for piece in pieces(body, cuts) for batch in reader.feed(piece)]
        for batch in [*batches, *reader.end()]:
            columns = (batch.rows.numbers, batch.rounds, batch.epochs, batch.samples, batch.correct)
            out += zip(*(column.tolist() for column in columns), strict=True)
    return out


def test_every_format_has_a_writer_here() -> None:
    assert set(FORMATS) == set(WRITERS)


@pytest.mark.parametrize("media_type", WRITERS)
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 10**6), max_size=5))
def test_every_format_gives_the_same_records_however_the_body_is_cut(media_type: str, cuts: list[int]) -> None:
    first = 2 if media_type == CSV else 1
    expected = [(n, 0, r["epoch"], r["sample"], r["correct"]) for n, r in enumerate(RECORDS, first)]
    assert read(media_type, WRITERS[media_type](RECORDS), cuts) == expected


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_records_may_hold_classes_rounds_and_other_fields(media_type: str) -> None:
    records = [
        {"round": 1, "epoch": 2, "sample": 3, "correct": None, "predicted": 5, "label": 5, "note": "x"},
        {"round": None, "epoch": 2, "sample": 4, "correct": None, "predicted": 5, "label": 6, "note": "a, b"},
        {"round": 3, "epoch": 2, "sample": 5, "correct": 1, "predicted": None, "label": 6, "note": ""},
    ]
    found = read(media_type, WRITERS[media_type](records))
    assert [row[1:] for row in found] == [(1, 2, 3, 1), (0, 2, 4, 0), (3, 2, 5, 1)]


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_a_column_may_hold_nothing(media_type: str) -> None:
    records = [{"round": None, "epoch": 2, "sample": sample, "correct": True, "label": None} for sample in range(3)]
    assert [row[1:] for row in read(media_type, WRITERS[media_type](records))] == [(0, 2, s, 1) for s in range(3)]


def test_a_cartography_line_may_hold_several_epochs() -> None:
    line = {"guid": 7, "gold": 1, "logits_epoch_0": [1, 2, 3], "logits_epoch_4": [0.5, 1.5, -1], "device": "cuda"}
    assert read(CARTOGRAPHY, json.dumps(line).encode()) == [(1, 0, 0, 7, 0), (1, 0, 4, 7, 1)]


@pytest.mark.parametrize(
    ("media_type", "body", "numbers"),
    [
        (NDJSON, b'\n{"epoch":0,"sample":1,"correct":true}\r\n \n\n{"epoch":0,"sample":2,"correct":0}', [2, 5]),
        (CARTOGRAPHY, b'\n{"guid":1,"gold":0,"logits_epoch_0":[1]}\n\n', [2]),
        (CSV, b'\n\xef\xbb\xbfsample,epoch,correct\r\n1,0,TRUE\r\n\r\n2,0,"0"\r\n', [3, 5]),
        (CSV, b"sample,epoch,correct\n1,0, 1\n002,0,false", [2, 3]),
        (
            JSON,
            b' [ {"epoch":0,"sample":1,"correct":true} ,\n{"epoch":0,"sample":2,"correct":false,"x":{"y":[]}} ] \n',
            [1, 2],
        ),
    ],
)
def test_blank_lines_and_other_spellings_leave_the_numbers_true(
    media_type: str, body: bytes, numbers: list[int]
) -> None:
    assert [row[0] for row in read(media_type, body)] == numbers


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_a_log_without_records_is_one(media_type: str) -> None:
    empty = pyarrow.table({"epoch": pyarrow.array([], "int64"), "sample": pyarrow.array([], "int64")})
    bodies = {JSON: b"[]", NDJSON: b"", CSV: b"epoch,sample,correct\n"}
    body = bodies.get(media_type) or (b"" if media_type == NDJSON else _written(media_type, empty))
    assert read(media_type, body) == []


def _written(media_type: str, table: pyarrow.Table) -> bytes:
    out = pyarrow.BufferOutputStream()
    if media_type == PARQUET:
        pyarrow.parquet.write_table(table, out)
    else:
        with pyarrow.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return bytes(out.getvalue())


FAULTS: list[tuple[str, Record, str, str]] = [
    ("no sample", {"epoch": 0, "sample": None, "correct": True}, "sample", "missing"),
    ("no epoch", {"epoch": None, "sample": 0, "correct": True}, "epoch", "missing"),
    ("nothing said", {"epoch": 0, "sample": 0, "correct": None}, "correct", "missing"),
    ("half a class", {"epoch": 0, "sample": 0, "predicted": 1}, "label", "missing"),
    ("said twice", {"epoch": 0, "sample": 0, "correct": True, "predicted": 1, "label": 1}, "correct", "both"),
    ("a sample past the end", {"epoch": 0, "sample": 100, "correct": True}, "sample", "0..99"),
    ("a negative sample", {"epoch": 0, "sample": -1, "correct": True}, "sample", "got -1"),
    ("an epoch past the limit", {"epoch": 50, "sample": 0, "correct": True}, "epoch", "0..49"),
    ("a round past the limit", {"round": 4, "epoch": 0, "sample": 0, "correct": True}, "round", "0..3"),
    ("a negative class", {"epoch": 0, "sample": 0, "predicted": -1, "label": 1}, "predicted", "got -1"),
]


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, ARROW, PARQUET])
@pytest.mark.parametrize(("name", "fault", "column", "says"), FAULTS, ids=[fault[0] for fault in FAULTS])
@pytest.mark.parametrize("cuts", [(), range(7, 10_000, 997)], ids=["whole", "cut"])
def test_a_bad_record_is_named(
    media_type: str, name: str, fault: Record, column: str, says: str, cuts: Sequence[int]
) -> None:
    body = WRITERS[media_type]([*RECORDS[:150], fault, *RECORDS[150:]])
    with pytest.raises(BadRecord, match=says) as refused:
        read(media_type, body, cuts)
    assert refused.value.line == (152 if media_type == CSV else 151)
    unit = "line" if media_type in (CSV, NDJSON) else "row"
    assert str(refused.value).startswith(f"{unit} {refused.value.line}, column {column}: ")


LINES = [
    (NDJSON, b'{"epoch":0,"sample":1,"correct":true', None, "not JSON"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":true}{"epoch":0,"sample":2,"correct":true}', None, "not JSON"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":true},', None, "not JSON"),
    (NDJSON, b"[1]", None, "an object such as"),
    (NDJSON, b"null", None, "an object such as"),
    (NDJSON, b"\xff", None, "not JSON"),
    (NDJSON, b'{"epoch":0,"sample":1.0,"correct":true}', "sample", "got 1.0, an integer"),
    (NDJSON, b'{"epoch":0,"sample":"1","correct":true}', "sample", "got '1'"),
    (NDJSON, b'{"epoch":0,"sample":true,"correct":true}', "sample", "got True"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":"yes"}', "correct", "true, false, 1 or 0"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":2}', "correct", "got 2"),
    (NDJSON, b'{"epoch":0,"sample":18446744073709551615,"correct":1}', "sample", "64 bits"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":1,"x":"' + b"y" * 1000 + b'"}', None, "1000 are read"),
    (CSV, b"0,1", None, "2 cells"),
    (CSV, b"0,1,true,5", None, "4 cells"),
    (CSV, b"0,1.0,true", "sample", "got '1.0'"),
    (CSV, b"0,0x10,true", "sample", "got '0x10'"),
    (CSV, b"0,1,yes", "correct", "got 'yes'"),
    (CSV, b"0,,true", "sample", "missing"),
    (CSV, b'0,1,"true', None, "not CSV"),
    (CSV, b"0,1,\xff", None, "not CSV"),
    (CSV, b"0,1,1\r0,2,1", None, "not CSV"),
    (CSV, b"0,9223372036854775808,true", "sample", "64 bits"),
    (CSV, b"0,1," + b"1" * 1000, None, "1000 are read"),
    (CARTOGRAPHY, b'{"guid":1,"gold":0}', None, "logits_epoch_"),
    (CARTOGRAPHY, b'{"guid":"a","gold":0,"logits_epoch_0":[1]}', "guid", "got 'a'"),
    (CARTOGRAPHY, b'{"guid":1,"logits_epoch_0":[1]}', "gold", "got None"),
    (CARTOGRAPHY, b'{"guid":1,"gold":2,"logits_epoch_0":[1,2]}', "gold", "2 classes"),
    (CARTOGRAPHY, b'{"guid":1,"gold":0,"logits_epoch_0":[]}', "logits_epoch_0", "list of numbers"),
    (CARTOGRAPHY, b'{"guid":1,"gold":0,"logits_epoch_0":[1,"2"]}', "logits_epoch_0", "list of numbers"),
    (CARTOGRAPHY, b'{"guid":100,"gold":0,"logits_epoch_0":[1]}', "sample", "0..99"),
    (CARTOGRAPHY, b'{"guid":1,"gold":0,"logits_epoch_50":[1]}', "epoch", "0..49"),
    (CARTOGRAPHY, b"{", None, "not JSON"),
    (CARTOGRAPHY, b"7", None, "an object such as"),
]


@pytest.mark.parametrize(("media_type", "line", "column", "says"), LINES)
@pytest.mark.parametrize("last", [True, False])
def test_a_bad_line_is_named(media_type: str, line: bytes, column: str | None, says: str, last: bool) -> None:
    lines = WRITERS[media_type](RECORDS[:20]).splitlines()
    if media_type == CSV:
        lines[0] = b"epoch,sample,correct"
    place = len(lines) if last else 5
    lines[place:place] = [line]
    with pytest.raises(BadRecord, match=says) as refused:
        read(media_type, b"\n".join(lines))
    assert refused.value.line == place + 1
    where = f"line {place + 1}" + ("" if column is None else f", column {column}")
    assert str(refused.value).startswith(f"{where}: ")


GOOD = b'{"epoch":0,"sample":1,"correct":true}'


@pytest.mark.parametrize(
    ("body", "row"),
    [
        (b"[" + GOOD + b" " + GOOD + b"]", 2),
        (b"[" + GOOD + b",]", 2),
        (b"[" + GOOD + b"," + b"," + GOOD + b"]", 2),
        (b"[" + GOOD + b"," + GOOD + b",7]", 3),
        (b"[" + GOOD + b',{"epoch":oops}]', 2),
        (b"[" + GOOD + b',{"epoch":' + b"[" * 200_000, 2),
        (b"[" + GOOD + b',{"epoch":' + b"9" * 900 + b"}]", 2),
        (b"[" + GOOD + b',{"epoch":"' + b"x" * 300_000, 2),
        (b"[" + GOOD + b"]" + GOOD, 2),
        (b"[" + GOOD + b',{"x":"\xff"}]', 2),
        (b"[" + GOOD + b',{"x":"\xc3', 2),
        (GOOD, 1),
        (b"{}", 1),
    ],
)
def test_a_bad_row_of_a_json_array_is_named(body: bytes, row: int) -> None:
    for cuts in ((), range(1, 100)):
        with pytest.raises(BadRecord) as refused:
            read(JSON, body, cuts)
        assert refused.value.line == row


@pytest.mark.parametrize(
    ("media_type", "body", "says"),
    [
        (JSON, b"", "ends in the middle"),
        (JSON, b"[" + GOOD, "behind 1 whole records"),
        (ARROW, b"", "no Arrow IPC stream"),
        (ARROW, b"x" * 1000, "no Arrow IPC stream"),
        (ARROW, WRITERS[ARROW](RECORDS)[:-300], "no Arrow IPC stream"),
        (PARQUET, WRITERS[PARQUET](RECORDS)[:-3], "no Parquet file"),
        (PARQUET, b"PAR1" * 10, "no Parquet file"),
        (PARQUET, b"", "no Parquet file"),
    ],
)
def test_a_body_that_is_broken_as_a_whole_is_malformed(media_type: str, body: bytes, says: str) -> None:
    with pytest.raises(MalformedBody, match=says):
        read(media_type, body)


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_columns_need_the_right_types_and_names(media_type: str) -> None:
    base = {"epoch": [0], "sample": [1], "correct": [True]}
    for name, values in {"sample": [1.0], "epoch": ["0"], "correct": [0.5]}.items():
        with pytest.raises(BadRecord, match=f"row 1, column {name}: .*integers are needed"):
            read(media_type, _written(media_type, pyarrow.table({**base, name: values})))
    large = pyarrow.table({**base, "sample": pyarrow.array([2**64 - 1], "uint64")})
    with pytest.raises(BadRecord, match="64 bits"):
        read(media_type, _written(media_type, large))
    twice = pyarrow.Table.from_arrays([pyarrow.array([0])] * 2, ["epoch", "epoch"])
    with pytest.raises(MalformedBody, match="twice"):
        read(media_type, _written(media_type, twice))


@pytest.mark.parametrize("header", [b"epoch,correct", b"epoch,sample,epoch,correct", b"\n\n", b'"'])
def test_a_csv_header_names_what_is_needed(header: bytes) -> None:
    with pytest.raises(BadRecord, match="line 1"):
        read(CSV, header + b"\n0,1,2,3\n" if header.strip() else header)


def test_without_pyarrow_csv_is_read_all_the_same_and_arrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = WRITERS[CSV](RECORDS)
    fast = read(CSV, body)
    monkeypatch.setattr(csv_table, "find_spec", lambda name: None)
    assert read(CSV, body) == fast
    monkeypatch.setattr("mild_service.ingest.find_spec", lambda name: None)
    for media_type in (ARROW, PARQUET):
        with pytest.raises(UnsupportedMediaType, match=r"mild-selection\[formats\]"):
            open_reader(media_type, LIMITS, HELPER)
    with pytest.raises(UnsupportedMediaType, match="text/csv"):
        open_reader("text/plain", LIMITS, HELPER)


@pytest.mark.parametrize("media_type", WRITERS)
@settings(deadline=None)
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


def _zeros(n_records: int) -> pyarrow.Table:
    zeros = np.zeros(n_records, dtype=np.int64)
    return pyarrow.table({"epoch": zeros, "sample": zeros, "correct": zeros})


def _one_block(media_type: str, table: pyarrow.Table) -> bytes:
    """A table whose columns are each one compressed page, or that is one compressed batch."""
    out = io.BytesIO()
    if media_type == PARQUET:
        n = table.num_rows
        parquet.write_table(
            table, out, compression="zstd", use_dictionary=False, data_page_size=2**30, max_rows_per_page=n
        )
    else:
        options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
        with pyarrow.ipc.new_stream(out, table.schema, options=options) as writer:
            writer.write_table(table)
    return out.getvalue()


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_what_takes_too_much_memory_is_refused(media_type: str) -> None:
    bomb = _one_block(media_type, _zeros(20_000_000))  # a single column is more than may be
    assert len(bomb) < 100_000
    with pytest.raises(LimitExceeded, match=r"more than 134217728 bytes of memory.*MILD_LOG_READER_BYTES"):
        read(media_type, bomb)
    fits = replace(LIMITS, n_records=100_000)
    assert len(read(media_type, _one_block(media_type, _zeros(50_000)), limits=fits)) == 50_000


def test_parquet_texts_that_share_their_starts_are_refused() -> None:
    table = pyarrow.table({"epoch": [0] * 3, "sample": ["a" * 100, "a" * 100, "b"], "correct": [1] * 3})
    out = io.BytesIO()
    parquet.write_table(table, out, use_dictionary=False, column_encoding={"sample": "DELTA_BYTE_ARRAY"})
    with pytest.raises(MalformedBody, match="DeltaByteArray"):
        read(PARQUET, out.getvalue(), limits=replace(LIMITS, names=NewNames(100, 10_000)))


def _ids(kind: pyarrow.DataType, texts: list[str | None]) -> pyarrow.Table:
    n = len(texts)
    return pyarrow.table({"epoch": [0] * n, "sample": pyarrow.array(texts).cast(kind), "correct": [1] * n})


@pytest.mark.parametrize(
    "kind",
    [pyarrow.string(), pyarrow.large_string(), pyarrow.string_view(), pyarrow.dictionary(pyarrow.int8(), "string")],
    ids=str,
)
@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_ids_come_in_any_kind_of_text_and_none_is_longer_than_an_id(media_type: str, kind: pyarrow.DataType) -> None:
    def ids_of(texts: list[str | None]) -> list[str] | None:
        names = NewNames(100, 100_000)
        read(media_type, _one_block(media_type, _ids(kind, texts)), limits=replace(LIMITS, names=names))
        return names.ids

    assert ids_of(["é", "a", "é", "b" * 512]) == ["é", "a", "b" * 512]
    with pytest.raises(BadRecord, match="row 3, column sample: it has more than 512 bytes"):
        ids_of(["a", "b", "x" * 513, "x" * 513])
    with pytest.raises(BadRecord, match="row 2, column sample: it is missing"):
        ids_of(["a", None, "b"])


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_samples_in_lists_are_refused_by_their_type(media_type: str) -> None:
    table = pyarrow.table({"epoch": [0], "sample": [["a"]], "correct": [1]})
    with pytest.raises(BadRecord, match="row 1, column sample: the column holds list"):
        read(media_type, _one_block(media_type, table), limits=replace(LIMITS, names=NewNames(100, 10_000)))


def test_arrow_texts_that_lie_outside_of_their_buffer_are_refused() -> None:
    offsets = pyarrow.py_buffer(np.array([0, 2**30, 1], dtype=np.int32))
    samples = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, pyarrow.py_buffer(b"ab")])
    table = pyarrow.table({"epoch": [0, 0], "sample": samples, "correct": [1, 1]})
    out = io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(MalformedBody, match="no Arrow IPC stream"):
        read(ARROW, out.getvalue(), limits=replace(LIMITS, names=NewNames(100, 10_000)))
