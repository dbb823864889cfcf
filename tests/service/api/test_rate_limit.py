import pytest

from mild_service.web import request_limits
from mild_service.web.request_limits import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_through_and_then_the_rate_holds() -> None:
    clock = Clock()
    limiter = RateLimiter(rate=2.0, burst=3, clock=clock)
    assert [limiter.take_token("a") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now = 0.5
    assert [limiter.take_token("a") for _ in range(2)] == [0, 0.5]
    clock.now = 100.0
    assert [limiter.take_token("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limiter.take_token("b") == 0


def test_a_rate_of_0_counts_nothing() -> None:
    limiter = RateLimiter(rate=0.0, burst=1)
    assert {limiter.take_token("a") for _ in range(100)} == {0}


def test_full_buckets_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "_MAX_BUCKETS", 10)
    clock = Clock()
    limiter = RateLimiter(rate=1.0, burst=2, clock=clock)
    for number in range(10):
        limiter.take_token(str(number))
        limiter.take_token(str(number))
    clock.now = 2.0
    limiter.take_token("0")
    limiter.take_token("0")
    assert len(limiter._buckets) == 1
    assert limiter.take_token("0") == 1.0
