import numpy as np

from benchmarks.mutations import Request, mutated
from benchmarks.valid import LOGS

PARQUET = "application/vnd.apache.parquet"


def test_a_parquet_file_is_most_often_broken_in_its_footer() -> None:
    rng = np.random.default_rng(0)
    body = LOGS[PARQUET](rng)
    start = len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    bodies = [mutated(rng, Request("POST", "/", "", (("Content-Type", PARQUET),), body)).body for _ in range(500)]
    assert sum(other[:start] == body[:start] and other[start:] != body[start:] for other in bodies) > 150
