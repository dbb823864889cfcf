import socket
import struct
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from mild_core.sample_ids import MAX_ID_BYTES
from mild_service.errors import BadRecord
from mild_service.ingest.column_ipc import (
    BATCH_ROWS,
    ChannelError,
    TextColumn,
    receive_block,
    send_block,
    send_error,
    send_header,
)
from mild_service.ingest.columns import NO_VALUE

Ends = tuple[IO[bytes], socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as reader:
        yield reader, theirs


@pytest.mark.parametrize("kind", ["int8", "uint16", "int64", "bool"])
def test_what_is_sent_comes(ends: Ends, kind: str) -> None:
    values = np.array([1, 0, 1]).astype(kind)
    columns: dict[str, NDArray[Any] | TextColumn] = {
        "epoch": values,
        "correct": np.array([1, NO_VALUE, 0]),
        "sample": TextColumn(["a", '"é\0', None]),
    }
    send_block(ends[1], 3, columns)
    send_block(ends[1], 3, {"sample": TextColumn(["b"], np.array([0, -1, 0]))})
    send_block(ends[1], 0, {"epoch": values[:0]})
    send_header(ends[1], {})
    first, second, third, last = (receive_block(ends[0]) for _ in range(4))
    assert first is not None
    epoch, correct, sample = (first.fields[name] for name in columns)
    assert isinstance(epoch, np.ndarray)
    assert isinstance(correct, np.ndarray)
    assert epoch.dtype == np.int64
    assert (epoch.tolist(), correct.tolist()) == ([1, 0, 1], [1, NO_VALUE, 0])
    assert sample == ["a", '"é\0', None]
    assert second is not None
    assert second.fields["sample"] == ["b", None, "b"]
    assert third is not None
    assert (third.n_rows, last) == (0, None)


def test_a_refusal_comes_with_its_line(ends: Ends) -> None:
    error = BadRecord("row 7: no")
    error.line = 7
    send_error(ends[1], error)
    with pytest.raises(BadRecord, match="row 7: no") as refused:
        receive_block(ends[0])
    assert refused.value.line == 7


def head(value: object) -> bytes:
    content = orjson.dumps(value)
    return struct.pack("<I", len(content)) + content


TEXTS = b'["a","b"]'


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x01",
        struct.pack("<I", 2**32 - 1) + b"{}",
        struct.pack("<I", 2) + b"{x",
        head([]),
        head({"refused": "internal-error", "detail": "", "line": None}),
        head({"refused": "bad-record", "detail": "", "line": "1"}),
        head({"rows": BATCH_ROWS + 1, "columns": []}),
        head({"rows": -1, "columns": []}),
        head({"rows": True, "columns": []}),
        head({"rows": 1, "columns": {}}),
        head({"rows": 1, "columns": [["epoch", "int64"]]}),
        head({"rows": 1, "columns": [["other", "int64", False]]}) + bytes(8),
        head({"rows": 1, "columns": [["epoch", "int64", False]] * 2}) + bytes(16),
        head({"rows": 1, "columns": [["epoch", "object", False]]}) + bytes(8),
        head({"rows": 1, "columns": [["epoch", None, False]]}) + bytes(8),
        head({"rows": 1, "columns": [["epoch", "int64", False]]}) + bytes(7),
        head({"rows": 1, "columns": [["sample", 5, True]]}) + b'["a"]' + bytes(7),
        head({"rows": 1, "columns": [["sample", -1, False]]}),
        head({"rows": 1, "columns": [["sample", 6 * MAX_ID_BYTES + 100, False]]}),
        head({"rows": 1, "columns": [["sample", 2, False]]}) + b"[x",
        head({"rows": 1, "columns": [["sample", 2, False]]}) + b"{}",
        head({"rows": 1, "columns": [["sample", 3, False]]}) + b"[1]",
        head({"rows": 1, "columns": [["sample", 9, False]]}) + TEXTS,
        head({"rows": 1, "columns": [["sample", 9, True]]}) + TEXTS + struct.pack("<q", 2),
        head({"rows": 1, "columns": [["sample", 9, True]]}) + TEXTS + struct.pack("<q", -2),
    ],
)
def test_what_makes_no_sense_is_noticed(ends: Ends, sent: bytes) -> None:
    ends[1].sendall(sent)
    ends[1].close()
    with pytest.raises(ChannelError):
        receive_block(ends[0])
