"""A part of ``python -m benchmarks.contract``: each route is asked what its schema's edges and a few examples give."""

import secrets

import httpx
import pytest

from benchmarks.contract import ENVIRONMENT, run, seed
from benchmarks.serving import service
from tests.waiting import PATIENCE

KEY = "a-key-for-the-contract-test-that-is-long-enough"


@pytest.mark.parametrize("key", [KEY, None], ids=["with key", "without key"])
def test_every_answer_is_one_that_the_openapi_describes(store_url: str, key: str | None) -> None:
    environment = {**ENVIRONMENT, "MILD_API_KEYS": KEY, "MILD_STORE_NAMESPACE": f"test-{secrets.token_hex(8)}"}
    with service(store_url, environment) as served:
        with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE) as client:
            seed(client)
        found = run(served.url, key, examples=3, phases=("coverage", "fuzzing") if key else ("fuzzing",))
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Test cases:" in found.stdout
