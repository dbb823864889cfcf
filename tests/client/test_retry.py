from collections.abc import Callable, Iterator

import httpx
import pytest

from mild_client import MildClient, Retry, ServiceError, ServiceUnreachable
from mild_client.errors import BadRequest, Conflict, NotAllowed, NotFound, StaleAttempt, Unavailable
from mild_core.errors import ParameterError

Answer = Callable[[httpx.Request], httpx.Response]


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def retry(self, deadline: float = 60.0, jitter: float = 1.0) -> Retry:
        return Retry(
            deadline=deadline, first_deadline=5.0, sleep=self.sleep, clock=lambda: self.now, jitter=lambda: jitter
        )


def client_of(answer: Answer, time: Time, **retry: float) -> MildClient:
    http = httpx.Client(transport=httpx.MockTransport(answer))
    return MildClient("http://service/", http=http, retry=time.retry(**retry))


def problem(status: int, code: str = "some-code", **more: object) -> httpx.Response:
    body = {"type": f"/problems/{code}", "detail": "limit, value, remedy", "request_id": "r-1", **more}
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json"})


def sequence(*answers: httpx.Response | Exception) -> Answer:
    left: Iterator[httpx.Response | Exception] = iter(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return answer


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_tries_again_after_a_status_that_may_pass(status: int) -> None:
    time = Time()
    client = client_of(sequence(problem(status), problem(status), httpx.Response(200, json={"round": 0})), time)
    assert client.get_run("run") == {"round": 0}
    assert time.pauses == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ReadTimeout("late"), httpx.RemoteProtocolError("")]
)
def test_tries_again_after_a_broken_connection(error: Exception) -> None:
    time = Time()
    client = client_of(sequence(error, httpx.Response(200, json={"round": 3})), time)
    assert client.get_run("run") == {"round": 3}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 507])
def test_gives_up_at_once_where_repeating_is_no_use(status: int) -> None:
    time = Time()
    client = client_of(sequence(problem(status)), time)
    with pytest.raises(ServiceError):
        client.get_run("run")
    assert time.pauses == []


def test_outlasts_a_restart_of_twenty_seconds() -> None:
    time = Time()
    answers = iter([httpx.Response(200, json={})])

    def answer(_: httpx.Request) -> httpx.Response:
        if found := next(answers, None):
            return found
        if time.now < 20:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"round": 1})

    client = MildClient(
        "http://service", http=httpx.Client(transport=httpx.MockTransport(answer)), retry=time.retry(120)
    )
    client.get_run("run")
    assert client.get_run("run") == {"round": 1}
    assert 20 <= time.now < 30


def refuse(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("[Errno 111] Connection refused")


def test_an_address_that_never_answered_is_given_up_on_soon_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    with pytest.raises(ServiceUnreachable, match=r"over \d s \(connection refused\), the deadline is 5 s") as caught:
        client_of(refuse, time, deadline=120).get_run("run")
    assert time.now <= 5
    assert [r.getMessage() for r in caplog.records] == [
        "http://service does not answer (connection refused); trying for 5 s"
    ]
    assert caught.value.__cause__ is caught.value.__context__ is None  # 60 lines of httpx and httpcore say no more


def test_says_what_a_busy_service_said(caplog: pytest.LogCaptureFixture) -> None:
    client_of(sequence(problem(503), problem(503), httpx.Response(200, json={})), Time(), deadline=60).get_run("run")
    (record,) = caplog.records
    assert record.getMessage().startswith("http://service cannot serve now (limit, value, remedy")
    assert record.getMessage().endswith("trying for 60 s")


@pytest.mark.parametrize("url", ["nonsense", "localhost:8000", "ftp://host", "http://", "http://host:port", ""])
def test_an_address_without_a_web_server_is_refused_at_once(url: str) -> None:
    with pytest.raises(ParameterError, match=rf"url is '{url}'; give one with http:// or https://"):
        MildClient(url)


def test_pauses_double_up_to_the_longest_and_are_drawn() -> None:
    for share in (0.0, 0.5, 1.0):
        retry = Time().retry(jitter=share)
        expected = [share * longest for longest in (0.2, 0.4, 0.8, 10, 10)]
        assert [retry.pause(n, 0) for n in (1, 2, 3, 20, 10_000)] == pytest.approx(expected)


def test_waits_as_long_as_the_service_asks() -> None:
    time = Time()
    busy = httpx.Response(503, headers={"Retry-After": "7"})
    dated = httpx.Response(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    client_of(sequence(busy, dated, httpx.Response(200, json={})), time).get_run("run")
    assert time.pauses == pytest.approx([7.2, 0.4])


def test_says_after_the_deadline_that_nobody_answers() -> None:
    time = Time()
    answers = sequence(httpx.Response(200, json={}), *[httpx.ReadTimeout("") for _ in range(99)])
    client = client_of(answers, time, deadline=10.0)
    client.get_run("run")
    with pytest.raises(
        ServiceUnreachable, match=r"GET http://service/runs/run got no answer in \d+ tries.*\(ReadTimeout\).*10 s"
    ):
        client.get_run("run")
    assert 5 < time.now <= 10


def test_says_after_the_deadline_what_the_service_said_last() -> None:
    time = Time()
    client = client_of(lambda _: problem(503, "store-unavailable", retryable=True), time, deadline=1.0)
    with pytest.raises(Unavailable) as caught:
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
def test_every_refusal_has_its_type(status: int, code: str, kind: type[ServiceError]) -> None:
    with pytest.raises(ServiceError) as caught:
        client_of(sequence(problem(status, code)), Time()).get_run("run")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.status, error.detail) == (code, status, "limit, value, remedy")
    assert (error.retryable, error.request_id) == (False, "r-1")
    assert str(error) == f"limit, value, remedy ({code}, status {status}, request r-1)"


@pytest.mark.parametrize("body", ["<html>no such page</html>", '["a list"]'])
def test_a_refusal_that_somebody_in_between_wrote_is_quoted(body: str) -> None:
    with pytest.raises(NotFound, match="answered 404") as caught:
        client_of(sequence(httpx.Response(404, text=body)), Time()).get_run("run")
    assert caught.value.code == "status-404"
    assert caught.value.request_id is None


@pytest.mark.parametrize("body", ["<html>a portal</html>", "[1, 2]"])
def test_an_answer_that_is_not_the_services_is_an_error(body: str) -> None:
    with pytest.raises(BadRequest, match="no JSON object") as caught:
        client_of(sequence(httpx.Response(200, text=body)), Time()).get_run("run")
    assert caught.value.code == "unexpected-answer"


def test_closes_its_own_connections_and_leaves_others_open() -> None:
    with MildClient("http://service") as own:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        own.get_run("run")
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={})))
    with MildClient("http://service", http=http):
        pass
    assert not http.is_closed
