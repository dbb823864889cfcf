"""Events through a real socket, with connections that break."""

import itertools
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from mild_client import AsyncMildClient, Event, MildClient, Retry, RunSpec
from mild_client.errors import NotFound
from mild_client.events import EventStream
from mild_core.types import EpochBits
from tests.client.wire import HANG_UP, Reply, serving
from tests.live import serving as live


def told(number: int, kind: str = "epoch-committed") -> bytes:
    return f'event: {kind}\ndata: {{"epoch":{number}}}\nid: uid-{number}\n\n'.encode()


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with live(app) as url:
        yield url


def test_events_come_until_the_run_goes(url: str, epochs: list[EpochBits]) -> None:
    with MildClient(url) as client, MildClient(url) as other:
        client.open_run(RunSpec("a", 600))
        client.put_epoch("a", 0, 0, epochs[0])
        events = client.events("a")
        opened, committed = itertools.islice(events, 2)
        assert (opened.kind, committed.kind, committed.data["epoch"]) == ("run-opened", "epoch-committed", 0)
        other.put_epoch("a", 0, 1, epochs[1])
        assert next(events).data["epoch"] == 1
        other.delete_run("a")
        assert [event.kind for event in events] == ["run-deleted"]
        with pytest.raises(NotFound):
            next(client.events("a"))


@pytest.mark.anyio
async def test_so_they_do_asynchronously_and_behind_an_event(url: str, epochs: list[EpochBits]) -> None:
    async with AsyncMildClient(url) as client:
        await client.open_run(RunSpec("a", 600))
        for number in range(3):
            await client.put_epoch("a", 0, number, epochs[number])
        events = client.events("a")
        seen = [await anext(events) for _ in range(2)]
        behind = client.events("a", seen[-1].id)
        assert [(await anext(behind)).data["epoch"] for _ in range(2)] == [1, 2]
        assert [(await anext(events)).data["epoch"] for _ in range(2)] == [1, 2]
        await client.delete_run("a")
        assert [event.kind async for event in behind] == ["run-deleted"]
        assert [event.kind async for event in events] == ["run-deleted"]


CUT_OFF = told(3)[:-1]  # an event is one only when the empty line behind it is there
STREAM = {"Content-Type": "text/event-stream"}
BROKEN = [
    Reply(body=told(1) + told(2) + CUT_OFF, headers=STREAM),
    HANG_UP,
    Reply(503),
    Reply(body=b"retry: 70\n\n: ping\n\n", headers=STREAM),
    Reply(body=told(3) + told(4, "run-deleted"), headers=STREAM),
]
IDS = [None, "uid-2", "uid-2", "uid-2", "uid-2"]
PAUSES = [1.5, 0.1, 0.2, 0.105]  # those of the stream are as long as asked for and up to twice that


def test_a_stream_that_breaks_goes_on_behind_the_last_event() -> None:
    pauses: list[float] = []
    retry = Retry(sleep=pauses.append, jitter=lambda: 0.5)
    with serving(*BROKEN) as server, MildClient(server.url, retry=retry) as client:
        assert [event.data["epoch"] for event in client.events("a")] == [1, 2, 3, 4]
    assert [sent.header("Last-Event-ID") for sent in server.sent] == IDS
    assert pauses == pytest.approx(PAUSES)


@pytest.mark.anyio
async def test_so_does_one_of_the_asynchronous_client() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    retry = Retry(async_sleep=sleep, jitter=lambda: 0.5)
    with serving(*BROKEN) as server:
        async with AsyncMildClient(server.url, retry=retry) as client:
            assert [event.data["epoch"] async for event in client.events("a")] == [1, 2, 3, 4]
    assert [sent.header("Last-Event-ID") for sent in server.sent] == IDS
    assert pauses == pytest.approx(PAUSES)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_may_come_in_any_pieces(size: int) -> None:
    wire = b": ping\n\nretry: 5\r\n\r\n" + told(1) + b"data:{}\n\n" + told(2).replace(b"\n", b"\r\n") + told(3)
    stream = EventStream("a", None)
    pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
    events = [event for piece in pieces for event in stream.feed(piece)]
    assert events == [
        Event("epoch-committed", {"epoch": 1}, "uid-1"),
        Event("message", {}, ""),
        Event("epoch-committed", {"epoch": 2}, "uid-2"),
        Event("epoch-committed", {"epoch": 3}, "uid-3"),
    ]
    assert stream.retry_seconds == 0.005
    assert stream.build_connect_request().headers["Last-Event-ID"] == "uid-3"
