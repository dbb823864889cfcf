import httpx
import pytest

from tests.service.recordings import put_epochs, recording

N = 100


@pytest.fixture
def opened(service: httpx.Client) -> httpx.Client:
    """The service with run `a` of 100 samples (13 bytes a bitmap, 4 padding bits), without epochs."""
    assert service.put("/runs/a", json={"num_samples": N}).status_code == 201
    return service


@pytest.fixture
def recorded(opened: httpx.Client) -> httpx.Client:
    """The service with run `a` of 100 samples and 10 epochs in its open round 0."""
    put_epochs(opened, "a", recording(N, 10))
    return opened
