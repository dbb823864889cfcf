import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from mild_client import HttpBackend, LocalSelector, MildClient, RunSpec, SelectionBackend
from mild_client.backend import compute_sample_weights
from mild_client.errors import LocalStateError
from mild_core import bitmap
from mild_core.types import EpochBits

N = 200


def finished(backend: SelectionBackend, run_id: str) -> NDArray[np.float32]:
    """Weights after a round of 12 epochs in which the first 150 samples are easy."""
    rng = np.random.default_rng(0)
    easy = np.where(np.arange(N) < 150, 0.92, 0.06)
    observed = bitmap.pack(np.arange(N) > 0)  # nobody looks at the first sample
    backend.open(RunSpec(run_id, N))
    for epoch in range(12):
        correct = bitmap.pack(rng.random(N) < easy) & observed
        backend.put_epoch(0, epoch, EpochBits(N, correct, observed))
    return backend.compute_weights(backend.finish(0))


def test_the_service_and_the_process_give_the_same_weights(service: httpx.Client) -> None:
    local = finished(LocalSelector(), "weighed")
    remote = finished(HttpBackend(MildClient("http://service", http=service)), "weighed")
    assert local.dtype == remote.dtype == np.float32
    assert local.tobytes() == remote.tobytes()
    assert local[0] == 0
    assert local[1:150].mean() > 0.9
    assert local[150:].mean() < 0.1
    assert ((local >= 0) & (local <= 1)).all()


@pytest.mark.parametrize("verdict", ["unimodal", "learning", "insufficient"])
def test_a_fit_that_is_not_believed_gives_the_weights_of_the_set(verdict: str) -> None:
    kept = np.array([True, True, False])
    posterior = np.array([0.1, 0.9, np.nan], dtype=np.float32)
    assert compute_sample_weights(posterior, bitmap.pack(kept), verdict).tolist() == [1, 1, 0]
    assert compute_sample_weights(posterior, bitmap.pack(kept), "weak").tolist() == pytest.approx([0.9, 0.1, 0])


def test_a_round_that_was_not_finished_has_no_weights() -> None:
    first, second = LocalSelector(), LocalSelector()
    second.open(RunSpec("other", N))
    first.open(RunSpec("weighed", N))
    first.put_epoch(0, 0, EpochBits(N, bitmap.full(N)))
    result = first.finish(0)
    with pytest.raises(LocalStateError, match="round 0 was not finished here"):
        second.compute_weights(result)
