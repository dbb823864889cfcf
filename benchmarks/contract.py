"""Every answer is one that the OpenAPI describes: schemathesis over all routes, configured by ``schemathesis.toml``.

usage: python -m benchmarks.contract [--examples 100]

A service in a process of its own with a real store; first one that is open to everyone, then one that asks for a key,
with it and without. No 5xx, no undocumented status, no answer that violates its schema. Exits with 1 if there is one.
"""

import argparse
import secrets
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx
import numpy as np

from benchmarks.serving import service, store
from mild_core import bitmap

ROOT = Path(__file__).parents[1]
N_SAMPLES = 100
PHASES = ("examples", "coverage", "fuzzing", "stateful")

ENVIRONMENT = {
    "MILD_MAX_WAIT_SECONDS": "0.2",  # long-polls and streams end soon: their answers are looked at, not their patience
    "MILD_STREAM_SECONDS": "0.5",
    "MILD_HEARTBEAT_SECONDS": "0.1",
    "MILD_RATE_PER_KEY": "0",
}


def seed(client: httpx.Client) -> None:
    """The runs that ``schemathesis.toml`` names: one with epochs, one without, one with a finished round."""
    rng = np.random.default_rng(0)
    noisy = rng.random(N_SAMPLES) < 0.4
    for run_id in ("recorded", "empty", "finished"):
        client.put(f"/runs/{run_id}", json={"num_samples": N_SAMPLES}).raise_for_status()
    for run_id in ("recorded", "finished"):
        for epoch in range(10):
            body = bitmap.pack(rng.random(N_SAMPLES) < np.where(noisy, 0.1, 0.4 + 0.05 * epoch)).tobytes()
            client.put(
                f"/runs/{run_id}/rounds/0/epochs/{epoch}",
                content=body,
                headers={"Content-Type": "application/octet-stream"},
            ).raise_for_status()
    client.post("/runs/finished/rounds/0/finish").raise_for_status()


def run(
    url: str, key: str | None, examples: int, phases: Iterable[str] = PHASES, closed: bool = True
) -> subprocess.CompletedProcess[str]:
    """Send schemathesis to a service; its exit status is 0 where it found nothing.

    Parameters
    ----------
    key
        API key to send; None sends none.
    examples
        Of each route and phase.
    closed
        Whether the service asks for a key.
    """
    words = ["schemathesis.cli", "--config-file", "schemathesis.toml", "run", f"{url}/openapi.json"]
    words += ["--max-examples", str(examples), "--phases", ",".join(phases)]
    if key is not None:
        words += ["--header", f"Authorization: Bearer {key}"]
    if not closed:
        words += ["--exclude-checks", "ignored_auth"]  # that is what being open means
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100)
    arguments = parser.parse_args(argv)
    key, failed = secrets.token_urlsafe(32), False
    with store() as server:
        for closed, used in ((False, None), (True, key), (True, None)):
            environment = {**ENVIRONMENT, "MILD_STORE_NAMESPACE": f"contract-{secrets.token_hex(4)}"}
            environment |= {"MILD_API_KEYS": key} if closed else {}
            with service(server.url, environment) as served:
                with httpx.Client(
                    base_url=served.url, headers={"Authorization": f"Bearer {key}"} if closed else {}
                ) as client:
                    seed(client)
                found = run(served.url, used, arguments.examples, closed=closed)
            failed |= found.returncode != 0
            print(f"== {'closed' if closed else 'open'} service, {'with' if used else 'without'} key")
            print(
                found.stdout[found.stdout.find("= FAILURES") if found.returncode else found.stdout.find("= SUMMARY") :]
            )
            print(found.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
