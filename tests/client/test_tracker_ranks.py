"""Two gloo processes record one training between them: the bits and the set are those of one process."""

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler

from mild_client import CorrectnessTracker, LocalSelector, MildClient, RunSpec
from mild_core.types import EpochBits
from tests.gloo import WORLD, run_ranks

N, EPOCHS, BATCH = 203, 8, 16
PRIOR = [1, 2, 3, 4, 5]
LABELS = torch.arange(N) % 5
SPEC = RunSpec("ranks", N, num_classes=5, observe="all")


def logits(epoch: int) -> Tensor:
    """What a network says of everyone: the first 150 labels are learnt, the others hardly ever."""
    draws = torch.Generator().manual_seed(epoch)
    right = torch.rand(N, generator=draws) < torch.where(torch.arange(N) < 150, 0.9, 0.1)
    said = torch.where(right, LABELS, (LABELS + 1) % 5)
    return torch.nn.functional.one_hot(said, 5).float()


def padded(rank: int, epoch: int) -> list[list[int]]:
    """A sampler's batches: 203 samples over two ranks are padded by one, and the last batch is a short one."""
    sampler: DistributedSampler[int] = DistributedSampler(list(range(N)), WORLD, rank, shuffle=True)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    return list(BatchSampler(sampler, BATCH, drop_last=False))


def uneven(rank: int, epoch: int) -> list[list[int]]:
    """One rank has most of the samples, and a few are nobody's."""
    mine = torch.arange(140) if rank == 0 else torch.arange(140, N - epoch)
    return [batch.tolist() for batch in torch.split(mine, BATCH)]


def alone(batches: list[list[int]], epoch: int, tracker: CorrectnessTracker) -> None:
    for batch in batches:
        indices = torch.tensor(batch)
        tracker.update(indices, logits(epoch)[indices], LABELS[indices])


def two_ranks(rank: int, folder: Path) -> None:
    for name, batches in (("padded", padded), ("uneven", uneven)):
        merged, shards = CorrectnessTracker(N), CorrectnessTracker(N, merge=False)
        for epoch in range(EPOCHS):
            for tracker in (merged, shards):
                alone(batches(rank, epoch), epoch, tracker)
            (folder / f"{name}-merged-{rank}-{epoch}").write_bytes(merged.take().to_body())
            (folder / f"{name}-shard-{rank}-{epoch}").write_bytes(shards.take_shard().to_body())
    for name, merge in (("merged", True), ("shards", True), ("own", False)):
        balanced = CorrectnessTracker(N, class_prior=PRIOR, merge=merge)
        for epoch in range(EPOCHS):
            alone(uneven(rank, epoch), epoch, balanced)
            bits = balanced.take() if name == "merged" else balanced.take_shard()
        assert balanced.class_bias is not None
        np.save(folder / f"bias-{name}-{rank}", balanced.class_bias)
        assert bits.observed is not None
        assert name == "merged" or np.unpackbits(bits.observed).sum() < 150, "a shard has the samples of its rank"
    twice = CorrectnessTracker(2)  # both ranks see sample 0, and one of them gets it right
    twice.update(torch.tensor([0]), torch.eye(2)[[rank]], torch.tensor([0]))
    bits = twice.end_epoch()
    assert bits.observed is not None
    assert (bits.observed.tolist(), bits.correct.tolist()) == ([0b10000000], [0b10000000])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(two_ranks, folder)
    return folder


def expected(name: str, epoch: int) -> EpochBits:
    tracker = CorrectnessTracker(N)
    for rank in range(WORLD):
        alone({"padded": padded, "uneven": uneven}[name](rank, epoch), epoch, tracker)
    return tracker.take()


def local_set(name: str) -> bytes:
    selector = LocalSelector()
    selector.open(SPEC)
    for epoch in range(EPOCHS):
        selector.put_epoch(0, epoch, expected(name, epoch))
    return selector.finish(0).selected.tobytes()


@pytest.mark.parametrize("name", ["padded", "uneven"])
def test_ranks_merge_to_the_bits_of_one_process(name: str, recorded: Path) -> None:
    for epoch in range(EPOCHS):
        for rank in range(WORLD):
            assert (recorded / f"{name}-merged-{rank}-{epoch}").read_bytes() == expected(name, epoch).to_body()
    assert (expected(name, 1).observed is None) == (name == "padded")


@pytest.mark.parametrize("name", ["padded", "uneven"])
def test_shards_of_ranks_give_the_set_of_one_process(name: str, recorded: Path, service: httpx.Client) -> None:
    with MildClient("http://service", service) as client:
        client.open_run(SPEC)
        for epoch in range(EPOCHS):
            for rank in range(WORLD):
                body = (recorded / f"{name}-shard-{rank}-{epoch}").read_bytes()
                client.put_shard("ranks", 0, epoch, rank, WORLD, EpochBits.from_body(body, N))
        client.finish("ranks", 0)
        found = client.selected("ranks", N, 0)
    assert found.tobytes() == local_set(name)
    assert 0 < np.unpackbits(found).sum() < N


@pytest.mark.parametrize("name", ["merged", "shards"])
def test_ranks_share_the_bias_of_one_process(name: str, recorded: Path) -> None:
    tracker = CorrectnessTracker(N, class_prior=PRIOR)
    for epoch in range(EPOCHS):
        for rank in range(WORLD):
            alone(uneven(rank, epoch), epoch, tracker)
        tracker.take()
    assert tracker.class_bias is not None
    assert np.ptp(tracker.class_bias) > 0.5
    for rank in range(WORLD):
        assert np.load(recorded / f"bias-{name}-{rank}.npy").tolist() == tracker.class_bias.tolist()


def test_ranks_that_do_not_merge_follow_their_own_bias(recorded: Path) -> None:
    own = [np.load(recorded / f"bias-own-{rank}.npy").tolist() for rank in range(WORLD)]
    assert own[0] != own[1]
