import pytest

from benchmarks.fuzz import Found, fuzz


def test_broken_requests_fail_nothing_and_change_nothing(store_url: str) -> None:
    found = fuzz(300, seed=1, store_url=store_url)
    assert found.failures == []
    assert found.changes == []
    refused = sum(count for status, count in found.statuses.items() if status >= 400)
    assert refused > 150  # what is sent is broken indeed
    assert any(200 <= status < 300 for status in found.statuses)  # and some of it changes something


def test_memory_that_is_lost_bit_by_bit_is_growth_and_one_large_body_is_none() -> None:
    level, n_readings = 200_000, 200
    lost = [level + 200 * number for number in range(n_readings)]
    assert Found(kib=lost).slope() == pytest.approx(99 * 200 / lost[n_readings // 2], rel=1e-6)
    warm = [level // 2 + level // 2 * min(number, 60) // 60 for number in range(n_readings)]
    assert Found(kib=warm).slope() == 0
    warm[-3] += level
    assert Found(kib=warm).slope() == 0
