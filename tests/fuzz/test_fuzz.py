import numpy as np
import pytest

from tests.fuzz.fuzzer import Answers, fuzz
from tests.fuzz.mutations import Request, mutated
from tests.fuzz.valid_bodies import LOGS

PARQUET = "application/vnd.apache.parquet"


def test_broken_requests_fail_nothing_change_nothing_and_leave_no_memory_behind(store_url: str, effort: int) -> None:
    n_requests = 300 * effort
    answers = fuzz(n_requests, seed=effort, store_url=store_url)
    assert answers.failures == []
    assert answers.changes == []
    assert sum(n for status, n in answers.statuses.items() if status >= 400) > n_requests / 2  # they are broken indeed
    assert any(200 <= status < 300 for status in answers.statuses)  # and some of it changes something
    if n_requests >= 10_000:  # beyond the warm-up, in which every route meets everything that can be wrong
        assert answers.slope() < 0.05


def test_memory_that_is_lost_bit_by_bit_is_growth_and_one_large_body_is_none() -> None:
    level, n_readings = 200_000, 200
    lost = [level + 200 * number for number in range(n_readings)]
    assert Answers(kib=lost).slope() == pytest.approx(99 * 200 / lost[n_readings // 2], rel=1e-6)
    warm = [level // 2 + level // 2 * min(number, 60) // 60 for number in range(n_readings)]
    assert Answers(kib=warm).slope() == 0
    warm[-3] += level
    assert Answers(kib=warm).slope() == 0


def test_a_parquet_file_is_most_often_broken_in_its_footer() -> None:
    rng = np.random.default_rng(0)
    body = LOGS[PARQUET](rng)
    start = len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    bodies = [mutated(rng, Request("POST", "/", "", (("Content-Type", PARQUET),), body)).body for _ in range(500)]
    assert sum(other[:start] == body[:start] and other[start:] != body[start:] for other in bodies) > 150
