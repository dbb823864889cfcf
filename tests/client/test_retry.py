"""Retries against a real server that fails first; only the clock and the dice are injected."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import pytest

from mild_client import AsyncMildClient, MildClient, Retry, ServiceError, ServiceUnreachable
from mild_client.errors import BadRequest, Conflict, NotAllowed, NotFound, StaleAttempt, Unavailable
from mild_core.errors import ParameterError
from tests.client.wire import HANG_UP, SILENCE, Reply, serving

PROBLEM = Reply.problem
RUN = Reply(body=b'{"round": 3}')


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.plans: list[tuple[float, Callable[[], object]]] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        while self.plans and self.plans[0][0] <= self.now:
            self.plans.pop(0)[1]()

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def retry(self, deadline: float = 60.0, jitter: float = 1.0) -> Retry:
        return Retry(
            deadline=deadline,
            first_deadline=5.0,
            sleep=self.sleep,
            async_sleep=self.async_sleep,
            clock=lambda: self.now,
            jitter=lambda: jitter,
        )


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


@contextlib.contextmanager
def client_of(time: Time, *replies: Reply, deadline: float = 60.0) -> Iterator[MildClient]:
    with serving(*replies) as server, MildClient(server.url, retry=time.retry(deadline)) as client:
        yield client


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_tries_again_after_a_status_that_may_pass(status: int, time: Time) -> None:
    with client_of(time, PROBLEM(status), PROBLEM(status), RUN) as client:
        assert client.get_run("run") == {"round": 3}
    assert time.pauses == pytest.approx([0.2, 0.4])


@pytest.mark.anyio
async def test_so_does_the_asynchronous_client(time: Time) -> None:
    with serving(PROBLEM(503), HANG_UP, RUN) as server:
        async with AsyncMildClient(server.url, retry=time.retry()) as client:
            assert await client.get_run("run") == {"round": 3}
    assert time.pauses == pytest.approx([0.2, 0.4])


def test_tries_again_after_a_broken_connection(time: Time) -> None:
    with client_of(time, HANG_UP, HANG_UP, RUN) as client:
        assert client.get_run("run") == {"round": 3}
    assert time.pauses == pytest.approx([0.2, 0.4])


def test_tries_again_where_no_answer_comes_in_time(time: Time) -> None:
    with serving(SILENCE, RUN) as server, MildClient(server.url, retry=time.retry(), timeout=0.2) as client:
        assert client.get_run("run") == {"round": 3}
    assert time.pauses[0] == pytest.approx(0.2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 507])
def test_gives_up_at_once_where_repeating_is_no_use(status: int, time: Time) -> None:
    with client_of(time, PROBLEM(status), RUN) as client, pytest.raises(ServiceError):
        client.get_run("run")
    assert time.pauses == []


def test_outlasts_a_restart_of_twenty_seconds(time: Time, free_port: int) -> None:
    with (
        contextlib.ExitStack() as later,
        MildClient(f"http://127.0.0.1:{free_port}", retry=time.retry(120)) as client,
    ):
        with serving(RUN, port=free_port):
            client.get_run("run")
        again = serving(Reply(body=b'{"round": 4}'), port=free_port)
        time.plans.append((20.0, lambda: later.enter_context(again)))
        assert client.get_run("run") == {"round": 4}
    assert 20 <= time.now < 40


def test_an_address_that_never_answered_is_given_up_on_soon_and_said_once(
    time: Time, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://127.0.0.1:{free_port}"
    with (
        MildClient(url, retry=time.retry(120)) as client,
        pytest.raises(ServiceUnreachable, match=r"over \d s \(connection refused\), the deadline is 5 s") as caught,
    ):
        client.get_run("run")
    assert time.now <= 5
    assert [r.getMessage() for r in caplog.records] == [f"{url} does not answer (connection refused); trying for 5 s"]
    assert caught.value.__cause__ is caught.value.__context__ is None  # 60 lines of httpx and httpcore say no more


def test_says_what_a_busy_service_said(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    with client_of(time, PROBLEM(503), PROBLEM(503), RUN) as client:
        client.get_run("run")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{client.url} cannot serve now (limit, value, remedy")
    assert record.getMessage().endswith("trying for 60 s")


@pytest.mark.parametrize("url", ["nonsense", "localhost:8000", "ftp://host", "http://", "http://host:port", ""])
def test_an_address_without_a_web_server_is_refused_at_once(url: str) -> None:
    for kind in (MildClient, AsyncMildClient):
        with pytest.raises(ParameterError, match=rf"url is '{url}'; give one with http:// or https://"):
            kind(url)


def test_pauses_double_up_to_the_longest_and_are_drawn_from_all_of_it() -> None:
    for share in (0.0, 0.5, 1.0):
        retry = Time().retry(jitter=share)
        expected = [share * longest for longest in (0.2, 0.4, 0.8, 10, 10)]
        assert [retry.draw_pause(n, 0) for n in (1, 2, 3, 20, 10_000)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("60", 60),
        ("61", 60),
        ("9" * 400, 60),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2026 07:28:09 GMT", 9),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60),
        ("Wed, 99 Oct 2026 07:28:09 GMT", 0),
    ],
)
def test_waits_as_long_as_the_service_asks_but_no_longer_than_a_training_can(
    value: str, seconds: float, time: Time
) -> None:
    busy = PROBLEM(503)
    busy = replace(busy, headers={**busy.headers, "Retry-After": value, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    with client_of(time, busy, RUN, deadline=70) as client:
        client.get_run("run")
    assert time.pauses == pytest.approx([seconds + 0.2])


def test_does_not_wait_for_what_comes_after_the_deadline(time: Time) -> None:
    busy = PROBLEM(429)
    busy = replace(busy, headers={**busy.headers, "Retry-After": "3600"})
    with client_of(time, busy, RUN) as client, pytest.raises(Unavailable):
        client.get_run("run")
    assert time.pauses == []


def test_says_after_the_deadline_that_nobody_answers(time: Time) -> None:
    with client_of(time, RUN, HANG_UP, deadline=10.0) as client:
        client.get_run("run")
        with pytest.raises(
            ServiceUnreachable, match=r"GET http://\S+/runs/run got no answer in \d+ tries.*\(.+\).*10 s"
        ):
            client.get_run("run")
    assert 5 < time.now <= 10


def test_says_after_the_deadline_what_the_service_said_last(time: Time) -> None:
    full = PROBLEM(503, "store-unavailable", retryable=True)
    with client_of(time, full, deadline=1.0) as client, pytest.raises(Unavailable) as caught:
        client.get_run("run")
    assert caught.value.code == "store-unavailable"
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "no-key", NotAllowed),
        (403, "out-of-scope", NotAllowed),
        (404, "run-not-found", NotFound),
        (409, "epoch-conflict", Conflict),
        (409, "stale-attempt", StaleAttempt),
        (422, "bitmap-length", BadRequest),
        (507, "store-full", Unavailable),
    ],
)
def test_every_refusal_has_its_type(status: int, code: str, kind: type[ServiceError], time: Time) -> None:
    with client_of(time, PROBLEM(status, code)) as client, pytest.raises(ServiceError) as caught:
        client.get_run("run")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.status, error.detail) == (code, status, "limit, value, remedy")
    assert (error.retryable, error.request_id) == (False, "r-1")
    assert str(error) == f"limit, value, remedy ({code}, status {status}, request r-1)"


def test_a_run_that_is_not_there_is_deleted_already(time: Time) -> None:
    with client_of(time, HANG_UP, PROBLEM(404, "run-not-found"), PROBLEM(404, "not-found")) as client:
        client.delete_run("run")  # the first try has deleted it, and its answer was lost
        with pytest.raises(NotFound):
            client.delete_run("run")  # no service of ours


def test_closes_its_own_connections_and_leaves_others_open() -> None:
    with MildClient("http://service") as own:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        own.get_run("run")
    with httpx.Client() as http:
        with MildClient("http://service", http=http):
            pass
        assert not http.is_closed
