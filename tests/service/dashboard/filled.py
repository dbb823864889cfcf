"""A run whose ids and tags try to be scripts: a finished round with votes and labels, and an open round."""

import httpx
import numpy as np
import orjson

from tests.service.recordings import OCTETS, recording

N, E = 200, 10
RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 5, N)
TRUE = np.where(RNG.random(N) < 0.4, (LABELS + 1) % 5, LABELS)
PREDICTED = np.where(RNG.random((E, N)) < 0.8, TRUE, RNG.integers(0, 5, (E, N)))
HOSTILE = '<img src=x onerror="alert(1)">&{{7*7}}'
IDS = [f"{HOSTILE}-{index}" for index in range(N)]


def fill(service: httpx.Client) -> None:
    """Put it into a service as run `a`."""
    service.put("/runs/a", json={"num_samples": N, "num_classes": 5, "tags": {HOSTILE[:40]: HOSTILE}})
    service.put("/runs/a/labels", json={"labels": LABELS.tolist()})
    assert service.put("/runs/a/sample-ids", json=IDS).status_code == 200
    records = [
        orjson.dumps(
            {"epoch": epoch, "sample": sample, "predicted": int(PREDICTED[epoch, sample]), "label": int(LABELS[sample])}
        )
        for epoch in range(E)
        for sample in range(N)
    ]
    log = {"Content-Type": "application/x-ndjson"}
    assert service.post("/runs/a/predictions", content=b"\n".join(records), headers=log).status_code == 200
    assert service.post("/runs/a/rounds/0/finish").status_code == 200
    for epoch, body in enumerate(recording(N, 8, seed=5)):
        service.put(f"/runs/a/rounds/1/epochs/{epoch}", content=body, headers=OCTETS)
