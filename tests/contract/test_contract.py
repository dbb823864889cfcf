"""Every answer is one that the OpenAPI describes: schemathesis over all routes, configured by ``schemathesis.toml``.

No 5xx, no undocumented status, no answer that violates its schema. ``--effort 30`` tries about 100 examples of each
route and phase, and adds the slow phases.
"""

import secrets
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.serving import start_service
from mild_core import bitmap
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
KEY = "a-key-for-the-contract-test-that-is-long-enough"
N_SAMPLES = 100
ENVIRONMENT = {
    "MILD_MAX_WAIT_SECONDS": "0.2",  # long-polls and streams end soon: their answers are looked at, not their patience
    "MILD_STREAM_SECONDS": "0.5",
    "MILD_HEARTBEAT_SECONDS": "0.1",
    "MILD_RATE_PER_KEY": "0",
}


@pytest.mark.parametrize(
    ("closed", "key", "phases"),
    [(True, KEY, "coverage,fuzzing"), (True, None, "fuzzing"), (False, None, "fuzzing")],
    ids=["with key", "without key", "open"],
)
def test_every_answer_is_one_that_the_openapi_describes(
    store_url: str, effort: int, closed: bool, key: str | None, phases: str
) -> None:
    phases = phases if effort == 1 else "coverage,fuzzing,stateful"
    environment = {**ENVIRONMENT, "MILD_STORE_NAMESPACE": f"test-{secrets.token_hex(8)}"}
    environment |= {"MILD_API_KEYS": KEY} if closed else {}
    with start_service(store_url, environment) as service:
        with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE) as client:
            _record_runs(client)
        words = ["schemathesis.cli", "--config-file", "schemathesis.toml", "run", f"{service.url}/openapi.json"]
        words += ["--max-examples", str(3 * effort), "--phases", phases]
        words += [] if key is None else ["--header", f"Authorization: Bearer {key}"]
        words += [] if closed else ["--exclude-checks", "ignored_auth"]  # that is what being open means
        tried = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "Test cases:" in tried.stdout


def _record_runs(client: httpx.Client) -> None:
    """The runs that ``schemathesis.toml`` names: one with epochs, one without, one with a finished round."""
    rng = np.random.default_rng(0)
    noisy = rng.random(N_SAMPLES) < 0.4
    for run_id in ("recorded", "empty", "finished"):
        client.put(f"/runs/{run_id}", json={"num_samples": N_SAMPLES}).raise_for_status()
    for run_id in ("recorded", "finished"):
        for epoch in range(10):
            body = bitmap.pack(rng.random(N_SAMPLES) < np.where(noisy, 0.1, 0.4 + 0.05 * epoch)).tobytes()
            headers = {"Content-Type": "application/octet-stream"}
            client.put(f"/runs/{run_id}/rounds/0/epochs/{epoch}", content=body, headers=headers).raise_for_status()
    client.post("/runs/finished/rounds/0/finish").raise_for_status()
