"""Many ranks of many runs at once: everything that is posted counts once, and changes no set."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.selection import select
from mild_core.types import EpochBits, RoundBits, SelectionOptions
from tests.integration.conftest import Start

N_EPOCHS, N_SHARDS, N_CLIENTS, N_SAMPLES = 5, 8, 64, 500


def test_shards_of_many_runs_at_once_give_the_sets_that_they_give_in_sequence(
    start: Start, tmp_path: Path, effort: int
) -> None:
    asyncio.run(_put_shards(start(tmp_path).url, 6 * effort))


async def _put_shards(url: str, n_runs: int) -> None:
    """Put all shards of all epochs of all runs, shuffled over everything, a tenth of them twice; then compare."""
    rng = np.random.default_rng(0)
    puts = [(run, epoch, shard) for run in range(n_runs) for epoch in range(N_EPOCHS) for shard in range(N_SHARDS)]
    n_stored = len(puts)
    puts += [puts[i] for i in rng.integers(0, len(puts), len(puts) // 10)]
    order = iter(rng.permutation(len(puts)).tolist())
    bits = [_draw_bits(run) for run in range(n_runs)]
    limits = httpx.Limits(max_connections=N_CLIENTS, keepalive_expiry=2)  # uvicorn closes what is idle for 5 s
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:
        for run in range(n_runs):
            (await http.put(f"/runs/load-{run}", json={"num_samples": N_SAMPLES})).raise_for_status()

        async def put_in_turn() -> None:
            for position in order:
                run, epoch, shard = puts[position]
                path = f"/runs/load-{run}/rounds/0/epochs/{epoch}/shards/{shard}?of={N_SHARDS}"
                body = _make_shard(bits[run][epoch], shard)
                try:
                    answer = await http.put(path, content=body)
                except httpx.TransportError:  # closed just now: whoever got no answer sends again
                    outcomes["sent again"] += 1
                    answer = await http.put(path, content=body)
                outcomes[answer.raise_for_status().json()["outcome"]] += 1

        await asyncio.gather(*(put_in_turn() for _ in range(N_CLIENTS)))
        n_unanswered = n_stored - outcomes["stored"]  # stored, but the answer did not come
        assert 0 <= n_unanswered <= outcomes["sent again"], outcomes
        assert outcomes["stored"] + outcomes["same"] == len(puts), outcomes
        metrics = (await http.get("/metrics")).text
        committed = re.search(r'^mild_epochs_total\{outcome="committed"\} (\S+)$', metrics, re.MULTILINE)
        assert committed is not None
        assert float(committed[1]) == n_runs * N_EPOCHS
        for run in range(n_runs):
            state = (await http.get(f"/runs/load-{run}")).json()["rounds"][0]
            assert state["epochs"] == list(range(N_EPOCHS))
            assert not state["partial"]
            answer = await http.get(f"/selection/load-{run}?round=0", headers={"Accept": "application/octet-stream"})
            assert answer.content == _select_in_sequence(bits[run]).tobytes()


def _draw_bits(run: int) -> NDArray[np.bool_]:
    """Correct bits of one run, shape (n_epochs, n_samples): clean samples are learned early, the others late."""
    rng = np.random.default_rng(run)
    noisy = rng.random(N_SAMPLES) < 0.4
    late = np.arange(N_EPOCHS)[:, None] / N_EPOCHS
    bits: NDArray[np.bool_] = rng.random((N_EPOCHS, N_SAMPLES)) < np.where(
        noisy, 0.3 * late, np.minimum(0.95, 0.4 + late)
    )
    return bits


def _make_shard(correct: NDArray[np.bool_], shard: int) -> bytes:
    """The body of one rank: every n-th sample, and the first one too, as samplers pad.

    Only the rank whose sample that is has it right, so a union that overwrites instead of adding up is noticed.
    """
    mine = np.arange(correct.size) % N_SHARDS == shard
    observed = mine.copy()
    observed[0] = True
    return EpochBits(correct.size, bitmap.pack(correct & mine), bitmap.pack(observed)).to_body()


def _select_in_sequence(correct: NDArray[np.bool_]) -> Bitmap:
    rows = bitmap.pack(correct)
    observed = np.broadcast_to(bitmap.full(N_SAMPLES), rows.shape)
    return select([RoundBits(N_SAMPLES, rows, observed)], SelectionOptions()).bitmap
