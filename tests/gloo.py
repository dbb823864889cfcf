"""Two processes of torch.distributed on this machine, for tests of what ranks do together."""

from collections.abc import Callable
from pathlib import Path

from torch import distributed

from benchmarks.killing import FORKS
from tests.waiting import PATIENCE

WORLD = 2


def run_ranks(work: Callable[[int, Path], None], folder: Path, exits: tuple[int, int] = (0, 0)) -> None:
    """Call ``work(rank, folder)`` in two processes that are one gloo group, and compare how they end with `exits`.

    `work` must be a module's function.
    """
    started = [FORKS.Process(target=_rank, args=(work, rank, folder)) for rank in range(WORLD)]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
        process.kill()
    assert tuple(process.exitcode for process in started) == exits


def _rank(work: Callable[[int, Path], None], rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=WORLD)
    try:
        work(rank, folder)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
