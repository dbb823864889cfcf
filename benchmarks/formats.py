"""One prediction log in every format that the service reads, and as bitmaps: all of them give one and the same set.

usage: python -m benchmarks.formats [--samples 10000] [--epochs 20]

A service and an embedded store in processes of their own take the log once per format over loopback, each into a run of
its own and once more without a run; the sets are compared with that of the run whose epochs were put as bitmaps. Exits
with 1 if one differs, or if there is nothing to tell them apart by: a set that keeps everyone, or nobody.
"""

import argparse
import sys
from collections.abc import Sequence

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.ingest import bodies
from benchmarks.serving import service, store
from mild_core import bitmap

BITMAP = "application/octet-stream"


def recorded(n_samples: int, n_epochs: int) -> NDArray[np.bool_]:
    """Bits of a training on labels of which 40% are wrong; shape (n_epochs, n_samples)."""
    rng = np.random.default_rng(0)
    noisy = rng.random(n_samples) < 0.4
    learned = np.minimum(0.95, 0.3 + 0.1 * np.arange(n_epochs))[:, None]
    bits: NDArray[np.bool_] = rng.random((n_epochs, n_samples)) < np.where(noisy, 0.05, learned)
    return bits


def selected(client: httpx.Client, run_id: str) -> bytes:
    """The set of a run, as a bitmap."""
    answer = client.get(f"/selection/{run_id}", headers={"Accept": BITMAP})
    return answer.raise_for_status().content


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args(argv)
    correct = recorded(arguments.samples, arguments.epochs)
    sets: dict[str, bytes] = {}
    with store() as server, service(server.url) as served, httpx.Client(base_url=served.url, timeout=120) as client:

        def opened(run_id: str) -> str:
            client.put(f"/runs/{run_id}", json={"num_samples": arguments.samples}).raise_for_status()
            return f"/runs/{run_id}"

        run = opened("bitmaps")
        for epoch, row in enumerate(correct):
            url = f"{run}/rounds/0/epochs/{epoch}"
            client.put(url, content=bitmap.pack(row).tobytes(), headers={"Content-Type": BITMAP}).raise_for_status()
        expected = selected(client, "bitmaps")
        for number, (media_type, body) in enumerate(bodies(correct).items()):
            headers = {"Content-Type": media_type}
            run = opened(f"log-{number}")
            answer = client.post(f"{run}/predictions", content=body, headers=headers).raise_for_status().json()
            assert answer["records"] == correct.size, answer
            sets[media_type] = selected(client, f"log-{number}")
            alone = client.post("/selection", content=body, headers={**headers, "Accept": BITMAP})
            sets[f"{media_type}, without a run"] = alone.raise_for_status().content
    n_kept = bitmap.popcount(np.frombuffer(expected, dtype=np.uint8))
    print(f"{correct.size:,} records; bitmaps keep {n_kept:,} of {arguments.samples:,} samples")
    for name, found in sets.items():
        print(f"{name}: {'the same set' if found == expected else 'ANOTHER SET'}")
    return 0 if set(sets.values()) == {expected} and 0 < n_kept < arguments.samples else 1


if __name__ == "__main__":
    sys.exit(main())
