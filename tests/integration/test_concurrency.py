"""Many ranks of many runs at once; the full size is ``python -m benchmarks.concurrency``."""

import asyncio
from pathlib import Path

from benchmarks.concurrency import Load, hammer
from tests.integration.conftest import Start


def test_shards_of_many_runs_at_once_give_the_sets_that_they_give_in_sequence(start: Start, tmp_path: Path) -> None:
    load = Load(n_runs=6, n_epochs=5, n_shards=8, n_clients=64, n_samples=500)
    outcome = asyncio.run(hammer(start(tmp_path).url, load))
    assert outcome.wrong == []
