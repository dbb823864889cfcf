"""docs/api.md: what it says of eight hosts is run."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fastapi import FastAPI

from tests.live import serving
from tests.waiting import PATIENCE

PAGE = Path("docs/api.md").read_text()
N = 100


def test_eight_hosts_post_an_epoch_as_the_documentation_says(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(import httpx, jax.*?)```", PAGE, re.DOTALL)
    jax = ModuleType("jax")
    monkeypatch.setitem(sys.modules, "jax", jax)
    correct = np.random.default_rng(0).random(N) < 0.5
    with serving(app) as url:
        import httpx

        httpx.put(f"{url}/runs/my-run", json={"num_samples": N}, timeout=PATIENCE).raise_for_status()
        names: dict[str, object] = {}
        exec(example.replace("http://localhost:8000", url), names)
        for rank in range(8):
            monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank, raising=False)
            monkeypatch.setattr(jax, "process_count", lambda: 8, raising=False)
            indices = np.arange(rank, N, 8)
            names["post_share"](3, indices, correct[indices], N)  # type: ignore[operator]  # as the page defines it
        state = httpx.get(f"{url}/runs/my-run/rounds/0/epochs/3", timeout=PATIENCE).json()
    assert (state["state"], state["num_correct"]) == ("committed", np.count_nonzero(correct))
