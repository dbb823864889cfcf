"""Epochs as a training would record them: clean samples are learned early, mislabelled ones late or never."""

from collections.abc import Sequence

import httpx
import numpy as np

from mild_core import bitmap

OCTETS = {"Content-Type": "application/octet-stream"}


def recording(n_samples: int, n_epochs: int, noise: float = 0.4, seed: int = 0) -> list[bytes]:
    """Bodies of `n_epochs` epochs, one bitmap each."""
    rng = np.random.default_rng(seed)
    noisy = rng.random(n_samples) < noise
    bodies = []
    for epoch in range(n_epochs):
        p_correct = np.where(noisy, 0.05, min(0.98, 0.3 + 0.1 * epoch))
        bodies.append(bitmap.pack(rng.random(n_samples) < p_correct).tobytes())
    return bodies


def put_epochs(service: httpx.Client, run_id: str, bodies: Sequence[bytes], round_: int = 0) -> None:
    """Commit bodies as epochs 0.. of a round."""
    for epoch, body in enumerate(bodies):
        answer = service.put(f"/runs/{run_id}/rounds/{round_}/epochs/{epoch}", content=body, headers=OCTETS)
        assert answer.status_code == 201, answer.text
