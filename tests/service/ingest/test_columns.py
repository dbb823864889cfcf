"""Arrow and Parquet: what their columns may be, and what a hostile body does."""

import io
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from mild_service.errors import BadRecord, LimitExceeded, MalformedBody
from mild_service.ingest.name_resolvers import NewSampleResolver
from tests.service.ingest.logs import ARROW, ARROW_FILE, PARQUET, WRITERS, written
from tests.service.ingest.reading import LIMITS, RECORDS, read


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


def _ids(kind: pyarrow.DataType, texts: list[str | None]) -> pyarrow.Table:
    n = len(texts)
    return pyarrow.table({"epoch": [0] * n, "sample": pyarrow.array(texts).cast(kind), "correct": [1] * n})


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_columns_need_the_right_types_and_names(media_type: str) -> None:
    base = {"epoch": [0], "sample": [1], "correct": [True]}
    for name, values in {"sample": ["1"], "epoch": ["0"], "correct": ["1"]}.items():
        with pytest.raises(BadRecord, match=f"row 1, column {name}: .*integers are needed"):
            read(media_type, written(media_type, pyarrow.table({**base, name: values})))
    large = pyarrow.table({**base, "sample": pyarrow.array([2**64 - 1], "uint64")})
    with pytest.raises(BadRecord, match="64 bits"):
        read(media_type, written(media_type, large))
    twice = pyarrow.Table.from_arrays([pyarrow.array([0])] * 2, ["epoch", "epoch"])
    with pytest.raises(MalformedBody, match="twice"):
        read(media_type, written(media_type, twice))


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
        read(PARQUET, out.getvalue(), limits=replace(LIMITS, resolver=NewSampleResolver(100, 100, 10_000)))


@pytest.mark.parametrize(
    "kind",
    [pyarrow.string(), pyarrow.large_string(), pyarrow.string_view(), pyarrow.dictionary(pyarrow.int8(), "string")],
    ids=str,
)
@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_ids_come_in_any_kind_of_text_and_none_is_longer_than_an_id(media_type: str, kind: pyarrow.DataType) -> None:
    def ids_of(texts: list[str | None]) -> list[str] | None:
        resolver = NewSampleResolver(100, 100, 100_000)
        read(media_type, _one_block(media_type, _ids(kind, texts)), limits=replace(LIMITS, resolver=resolver))
        return resolver.ids

    assert ids_of(["é", "a", "é", "b" * 512]) == ["é", "a", "b" * 512]
    with pytest.raises(BadRecord, match="row 3, column sample: it has more than 512 bytes"):
        ids_of(["a", "b", "x" * 513, "x" * 513])
    with pytest.raises(BadRecord, match="row 2, column sample: it is missing"):
        ids_of(["a", None, "b"])


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_samples_in_lists_are_refused_by_their_type(media_type: str) -> None:
    table = pyarrow.table({"epoch": [0], "sample": [["a"]], "correct": [1]})
    with pytest.raises(BadRecord, match="row 1, column sample: the column holds list"):
        read(
            media_type,
            _one_block(media_type, table),
            limits=replace(LIMITS, resolver=NewSampleResolver(100, 100, 10_000)),
        )


def test_arrow_texts_that_lie_outside_of_their_buffer_are_refused() -> None:
    offsets = pyarrow.py_buffer(np.array([0, 2**30, 1], dtype=np.int32))
    samples = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, pyarrow.py_buffer(b"ab")])
    table = pyarrow.table({"epoch": [0, 0], "sample": samples, "correct": [1, 1]})
    out = io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(MalformedBody, match="not a valid Arrow IPC stream"):
        read(ARROW, out.getvalue(), limits=replace(LIMITS, resolver=NewSampleResolver(100, 100, 10_000)))


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_floats_without_a_fraction_are_integers(media_type: str) -> None:
    table = pyarrow.table(
        {
            "epoch": pyarrow.array([0.0, 1.0], "float32"),
            "sample": pyarrow.array([3.0, 4.0], "float16"),
            "correct": [1.0, float("nan")],
            "predicted": [None, 2.0],
            "label": [float("nan"), 2.0],
        }
    )
    assert [row[2:] for row in read(media_type, written(media_type, table))] == [(0, 3, 1), (1, 4, 1)]
    for value in (0.5, float("inf"), 2.0**53 + 2, float("nan")):
        faulty = table.set_column(0, "epoch", pyarrow.array([0.0, value]))
        with pytest.raises(BadRecord, match="row 2, column epoch"):
            read(media_type, written(media_type, faulty))


def test_an_arrow_file_is_read_as_a_stream_and_the_reverse() -> None:
    expected = read(ARROW, WRITERS[ARROW](RECORDS))
    assert read(ARROW, WRITERS[ARROW_FILE](RECORDS)) == read(ARROW_FILE, WRITERS[ARROW](RECORDS)) == expected
    with pytest.raises(MalformedBody, match="Arrow IPC stream or file"):
        read(ARROW, WRITERS[ARROW_FILE](RECORDS)[:-30])
