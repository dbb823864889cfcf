"""One prediction log in every format that the service reads, and as bitmaps: all of them give one and the same set."""

import httpx
import numpy as np

from benchmarks.ingest import make_bodies
from benchmarks.serving import start_service
from mild_core import bitmap

BITMAP = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
N_SAMPLES, N_EPOCHS = 2000, 20


def test_a_log_of_40_000_records_gives_one_set_in_every_format(store_url: str) -> None:
    rng = np.random.default_rng(0)
    is_noisy = rng.random(N_SAMPLES) < 0.4
    p_learnt = np.minimum(0.95, 0.3 + 0.1 * np.arange(N_EPOCHS))[:, None]
    correct = rng.random((N_EPOCHS, N_SAMPLES)) < np.where(is_noisy, 0.05, p_learnt)
    logs = make_bodies(correct)
    sets: dict[str, bytes] = {}
    environment = {"MILD_STORE_NAMESPACE": "log-formats"}
    with start_service(store_url, environment) as service, httpx.Client(base_url=service.url, timeout=120) as client:
        for name in ("bitmaps", *range(len(logs))):
            client.put(f"/runs/{name}", json={"num_samples": N_SAMPLES}).raise_for_status()
        for epoch, row in enumerate(correct):
            url = f"/runs/bitmaps/rounds/0/epochs/{epoch}"
            client.put(url, content=bitmap.pack(row).tobytes(), headers=BITMAP).raise_for_status()
        expected = client.get("/selection/bitmaps", headers=BITMAP).raise_for_status().content
        for number, (media_type, body) in enumerate(logs.items()):
            headers = {**BITMAP, "Content-Type": media_type}
            answer = client.post(f"/runs/{number}/predictions", content=body, headers={"Content-Type": media_type})
            assert answer.raise_for_status().json()["records"] == correct.size
            sets[media_type] = client.get(f"/selection/{number}", headers=BITMAP).raise_for_status().content
            stateless = client.post("/selection", content=body, headers=headers).raise_for_status()
            sets[f"{media_type}, without a run"] = stateless.content
    assert len(sets) == 12
    assert [name for name, content in sets.items() if content != expected] == []
    assert 0 < bitmap.popcount(np.frombuffer(expected, dtype=np.uint8)) < N_SAMPLES  # else there is nothing to differ
