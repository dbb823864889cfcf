import pytest

from mild_service.web import request_limits
from mild_service.web.request_limits import Buckets


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_through_and_then_the_rate_holds() -> None:
    ticks = Ticks()
    held = Buckets(rate=2.0, burst=3, ticks=ticks)
    assert [held.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    ticks.now = 0.5
    assert [held.take("a") for _ in range(2)] == [0, 0.5]
    ticks.now = 100.0
    assert [held.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert held.take("b") == 0


def test_a_rate_of_0_counts_nothing() -> None:
    held = Buckets(rate=0.0, burst=1)
    assert {held.take("a") for _ in range(100)} == {0}


def test_full_buckets_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "_SWEEP", 10)
    ticks = Ticks()
    held = Buckets(rate=1.0, burst=2, ticks=ticks)
    for number in range(10):
        held.take(str(number))
        held.take(str(number))
    ticks.now = 2.0
    held.take("0")
    held.take("0")
    assert len(held._levels) == 1
    assert held.take("0") == 1.0
