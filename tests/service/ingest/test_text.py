"""Formats of text: what a line or a row may be, and how a bad one is named."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from mild_service.errors import BadRecord
from mild_service.ingest import csv_table
from mild_service.ingest.name_resolvers import NewSampleResolver
from tests.service.ingest.logs import CARTOGRAPHY, CSV, JSON, NDJSON, WRITERS
from tests.service.ingest.reading import LIMITS, RECORDS, read


def test_a_cartography_line_may_hold_several_epochs() -> None:
    line = {"guid": 7, "gold": 1, "logits_epoch_0": [1, 2, 3], "logits_epoch_4": [0.5, 1.5, -1], "device": "cuda"}
    assert read(CARTOGRAPHY, json.dumps(line).encode()) == [(1, 0, 0, 7, 0), (1, 0, 4, 7, 1)]


@pytest.mark.parametrize(
    ("media_type", "body", "numbers"),
    [
        (NDJSON, b'\n{"epoch":0,"sample":1,"correct":true}\r\n \n\n{"epoch":0,"sample":2,"correct":0}', [2, 5]),
        (CARTOGRAPHY, b'\n{"guid":1,"gold":0,"logits_epoch_0":[1]}\n\n', [2]),
        (CSV, b'\xef\xbb\xbf\nsample,epoch,correct\r\n1,0,TRUE\r\n\r\n2,0,"0"\r\n', [3, 5]),
        (CSV, b"sample,epoch,correct\n1,0, 1\n2,007,false", [2, 3]),
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


LINES = [
    (NDJSON, b'{"epoch":0,"sample":1,"correct":true', None, "not JSON"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":true}{"epoch":0,"sample":2,"correct":true}', None, "not JSON"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":true},', None, "not JSON"),
    (NDJSON, b"[1]", None, "an object such as"),
    (NDJSON, b"null", None, "an object such as"),
    (NDJSON, b"\xff", None, "not JSON"),
    (NDJSON, b'{"epoch":0,"sample":1.5,"correct":true}', "sample", "got 1.5, an integer"),
    (NDJSON, b'{"guid":1,"gold":0,"logits_epoch_0":[1]}', None, "mild push --cartography"),
    (NDJSON, b'[{"epoch":0,"sample":1,"correct":true},', None, "send a JSON array as application/json"),
    (NDJSON, b'[{"epoch":0,"sample":1,"correct":true}]', None, "send a JSON array as application/json"),
    (NDJSON, b'{"epoch":0,"sample":"1","correct":true}', "sample", "got '1'"),
    (NDJSON, b'{"epoch":0,"sample":true,"correct":true}', "sample", "got True"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":"yes"}', "correct", "true, false, 1 or 0"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":2}', "correct", "got 2"),
    (NDJSON, b'{"epoch":0,"sample":18446744073709551615,"correct":1}', "sample", "64 bits"),
    (NDJSON, b'{"epoch":0,"sample":1,"correct":1,"x":"' + b"y" * 1000 + b'"}', None, "1000 are read"),
    (CSV, b"0,1", None, "2 cells"),
    (CSV, b"0,1,true,5", None, "4 cells"),
    (CSV, b"0,1.5,true", "sample", "got '1.5'"),
    (CSV, b"0,007,true", "sample", "got '007'"),
    (CSV, b"0,1e1,true", "sample", "got '1e1'"),
    (CSV, b"0.5,1,true", "epoch", "got 0.5"),
    (CSV, b"0,1,0.5", "correct", "got 0.5"),
    (CSV, b"0,1,inf", "correct", "got 'inf'"),
    (CSV, b"0,0x10,true", "sample", "got '0x10'"),
    (CSV, b"0,1,yes", "correct", "got 'yes'"),
    (CSV, b"0,,true", "sample", "missing"),
    (CSV, b'0,1,"true', None, "not CSV"),
    (CSV, b"0,1,\xff", None, "not CSV"),
    (CSV, b"0,1,1\r0,2,1", None, "not CSV"),
    (CSV, b"0,9223372036854775808,true", "sample", "64 bits"),
    (CSV, b"0,1," + b"1" * 1000, None, "1000 are read"),
    (CARTOGRAPHY, b'{"guid":1,"gold":0}', None, "logits_epoch_"),
    (CARTOGRAPHY, b'{"guid":"a","gold":0,"logits_epoch_0":[1]}', "sample", "got 'a'"),
    (CARTOGRAPHY, b'{"gold":0,"logits_epoch_0":[1]}', "guid", "missing"),
    (CARTOGRAPHY, b'{"epoch":0,"sample":1,"correct":true}', None, "mild push without --cartography"),
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
        (b"{}", 1),
        (b"7", 1),
        (b"\xff\xfe[\0", 1),
    ],
)
def test_a_bad_row_of_a_json_array_is_named(body: bytes, row: int) -> None:
    for cuts in ((), range(1, 100)):
        with pytest.raises(BadRecord) as refused:
            read(JSON, body, cuts)
        assert refused.value.line == row


BOM = b"\xef\xbb\xbf"
ROW = [(2, 0, 0, 1, 1), (3, 0, 5, 2, 0)]


@pytest.mark.parametrize(
    "body",
    [
        b"epoch;sample;correct\n0;1;1\n5;2;0\n",
        b"epoch\tsample\tcorrect\n0\t1\t1\n5\t2\t0",
        BOM + b'"epoch";"sample";"correct"\r\n0;1;TRUE\r\n5;2;FALSE\r\n',
        b"epoch;sample;correct\n0,0;1;1,0\n5,0;2;0,0\n",
        b"epoch,sample,correct\n0.0,1.0,1.0\n5.0,2.0,0.0\n",
        b"epoch,sample,correct\n0.,1,1\n5e0,2,0\n",
        b"note;epoch;sample;correct\na,b;0;1;1\nepoch,sample;5;2;0\n",
        b"epoch,sample,correct,label\n0,1,1,NA\n5,2,0,NaN\n",
        b"epoch,sample,correct,label,predicted\n0,1,,3.0,3\n5,2,0,,\n",
        b"epoch,sample,predicted,label,correct\n0,1,3,3,1\n5,2,3,4,0\n",
        b"epoch,sample,correct\n0,1,1\n5,2,0\n,,\n",
        b'"epoch", "sample", "correct"\n"0", "1", "1"\n5, 2, 0\n',
        b"epoch,sample,correct\n0,1,1\n5,2,0\nepoch,sample,correct\n",
    ],
)
def test_csv_is_read_as_spreadsheets_and_data_frames_write_it(body: bytes) -> None:
    for cuts in ((), range(1, len(body))):
        assert read(CSV, body, cuts) == ROW


@pytest.mark.parametrize("media_type", [CSV, NDJSON, JSON])
def test_nan_is_no_outcome_in_any_text(media_type: str) -> None:
    records: list[dict[str, Any]] = [
        {"epoch": 0, "sample": 1, "correct": True, "label": math.nan},
        {"epoch": 5, "sample": 2, "correct": False, "label": 4},
    ]
    body = WRITERS[media_type](records)
    assert b"nan" in body.lower()
    assert [row[1:] for row in read(media_type, body)] == [row[1:] for row in ROW]
    with pytest.raises(BadRecord, match="column epoch: it is missing"):
        read(media_type, WRITERS[media_type]([{**records[0], "epoch": math.nan}]))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_csv_with_either_line_end_is_read_as_a_table(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_slowly(*_: object) -> None:
        raise AssertionError("record by record, it takes many times as long")

    monkeypatch.setattr(csv_table._Table, "_read_records", read_slowly)
    body = end.join([b"epoch,sample,correct,loss", b"0,1,1,0.05", b"5,2,0,1e-3"])
    for cuts in ((), range(1, len(body))):
        assert read(CSV, body, cuts) == read(CSV, body + end, cuts) == ROW


def test_a_file_in_another_encoding_is_refused_with_the_remedy() -> None:
    with pytest.raises(BadRecord, match=r"line 2: it is not CSV in UTF-8 .* save the file as UTF-8"):
        read(CSV, "epoch,sample,correct\n0,bär,1\n".encode("latin-1"))


@pytest.mark.parametrize("line", [b"", b" ", b",,", b"epoch,sample,correct"])
def test_csv_without_records_is_a_log_of_named_samples_too(line: bytes) -> None:
    limits = replace(LIMITS, resolver=NewSampleResolver(100, 100, 10_000))
    assert read(CSV, b"epoch,sample,correct\n%b\n" % line, limits=limits) == []


def test_a_spreadsheet_may_name_the_separator_first() -> None:
    assert read(CSV, b"sep=;\r\nepoch;sample;correct\r\n0;1;1\r\n") == [(3, 0, 0, 1, 1)]


def test_a_quoted_value_may_hold_line_ends_and_separators() -> None:
    body = b'text,epoch,sample,correct\r\n"one\ntwo, ""three""\r\n",0,1,1\r\n"\n\n",5,2,0\r\nplain,6,3,1\r\n"""",7,4,1'
    found = [(2, 0, 0, 1, 1), (5, 0, 5, 2, 0), (8, 0, 6, 3, 1), (9, 0, 7, 4, 1)]
    for cuts in ((), range(1, len(body)), range(0, len(body), 9)):
        assert read(CSV, body, cuts) == found
    with pytest.raises(BadRecord, match="line 2: it is not CSV: a quoted value begins here") as refused:
        read(CSV, b'text,epoch,sample,correct\n"' + b"x\n" * 3000)
    assert refused.value.line == 2


def test_the_separators_are_named_where_the_header_has_none_of_them() -> None:
    with pytest.raises(BadRecord, match=r"'epoch\|sample\|correct'.*commas, semicolons or tabs"):
        read(CSV, b"epoch|sample|correct\n0|1|1\n")


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV, CARTOGRAPHY])
def test_a_byte_order_mark_is_no_part_of_a_log(media_type: str) -> None:
    body = WRITERS[media_type](RECORDS[:9])
    for cuts in ((), range(1, 9)):
        assert read(media_type, BOM + body, cuts) == read(media_type, body)
    with pytest.raises(BadRecord, match="UTF-8"):
        read(media_type, body.decode().encode("utf-16"))


def test_json_lines_are_read_where_an_array_is_meant() -> None:
    for cuts in ((), range(1, 200)):
        assert (
            read(JSON, b"\n " + WRITERS[NDJSON](RECORDS), cuts)[3][2:] == read(NDJSON, WRITERS[NDJSON](RECORDS))[3][2:]
        )


@pytest.mark.parametrize("header", [b"epoch,correct", b"epoch,sample,epoch,correct", b"\n\n", b'"'])
def test_a_csv_header_names_what_is_needed(header: bytes) -> None:
    with pytest.raises(BadRecord, match="line 1"):
        read(CSV, header + b"\n0,1,2,3\n" if header.strip() else header)
