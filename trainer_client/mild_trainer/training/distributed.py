"""Processes that train one network together, under ``torchrun``: who this one is, and what all of them must agree on.

Every rank holds all images and runs the same code; each trains on its own share of every epoch, and of every batch of a
finish. Gradients are averaged (DistributedDataParallel), bits are merged by the tracker, and rank 0 alone speaks to the
backend and writes files.

One backend for all ranks: rank 0 asks it, and all hear the answer.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mild_client import Position, RoundResult, RunSpec, RunState, SelectionBackend
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits
from mild_trainer.settings import DeviceName

if distributed.is_available():
    # DistributedDataParallel imports this, and its functions keep the group that there is then as a default. Imported
    # once there is one, they hold it for ever: its threads still run while the interpreter is taken down, where one
    # that is left with a tensor aborts the process.
    import torch.distributed.nn.functional

T = TypeVar("T")

_SMALLEST = 2
"""Samples in a rank's share, since batch statistics need two."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among those that train together.

    Attributes
    ----------
    rank, world
        Its number, from 0, and how many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Ranks":
        """As torch.distributed has it; alone where that was not set up."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return ALONE
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of that name that is this process' own."""
        if name != "cuda" or self.world == 1:
            return torch.device(name)
        device = torch.device(name, distributed.get_node_local_rank(self.rank))
        torch.cuda.set_device(device)
        return device

    def wrapped(self, model: nn.Module) -> nn.Module:
        """What to train `model` through: it averages the gradients of all ranks."""
        return model if self.world == 1 else DistributedDataParallel(model)

    def padded_share(self, order: Tensor) -> Tensor:
        """Part of an order that all ranks know, repeated from its start so that all parts are of one length."""
        if self.world == 1:
            return order
        n_each = max(_SMALLEST, -(-len(order) // self.world))
        n_all = n_each * self.world
        return order.repeat(-(-n_all // len(order)))[:n_all][self.rank :: self.world]

    def share(self, indices: Tensor) -> Tensor:
        """Part of some indices, each of which is some rank's; parts may differ by one in length."""
        return indices if self.world == 1 else indices[self.rank :: self.world]

    def through(self, network: nn.Module, batch: Tensor) -> Tensor:
        """What `network` makes of a batch that all ranks hold: each computes its share, and all hear of all.

        A loss of the whole batch can be made from it as in one process. Gradients flow back into a rank's own share,
        and where `network` is `wrapped` their average over the ranks is the gradient of that loss.

        Parameters
        ----------
        network
            Maps (n, …) to (n, n_values), each sample's by itself but for batch statistics, which are of a share.
        batch
            Shape (n_batch, …), the same on all ranks.

        Returns
        -------
        values
            Shape (n_batch, n_values), the same on all ranks.
        """
        if self.world == 1:
            whole: Tensor = network(batch)
            return whole
        own = network(batch[self.padded_share(torch.arange(len(batch), device=batch.device))])
        if own.requires_grad:
            own.register_hook(lambda gradient: gradient * self.world)  # what an average divides by
        shares = [torch.empty_like(own) for _ in range(self.world)]
        distributed.all_gather(shares, own.detach())
        padded = torch.stack(shares, 1).flatten(0, 1)
        padded[self.rank :: self.world] = own
        return padded[: len(batch)]

    def own(self, generator: torch.Generator) -> torch.Generator:
        """Draws of this rank alone, which follow from those that all share."""
        if self.world == 1:
            return generator
        mixed = (generator.initial_seed() ^ (self.rank * 0x9E3779B97F4A7C15)) % 2**63
        return torch.Generator(generator.device).manual_seed(mixed)

    def add(self, sums: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world > 1:
            distributed.all_reduce(sums)
        return sums

    def align(self, model: nn.Module) -> None:
        """Give all ranks the running statistics of rank 0; parameters are the same already."""
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)

    def agree(self, value: T) -> T:
        """Rank 0's value, everywhere."""
        if self.world == 1:
            return value
        shared: list[Any] = [value]
        distributed.broadcast_object_list(shared, src=0)
        agreed: T = shared[0]
        return agreed

    def ask(self, answer: Callable[[], T]) -> T:
        """What rank 0 is answered, everywhere; an error there is raised everywhere.

        Raises
        ------
        Exception
            Whatever `answer` raises on rank 0.
        """
        if self.world == 1:
            return answer()
        outcome: _Outcome[T] = _Outcome()
        if self.is_first:
            try:
                outcome = _Outcome(answer())
            except Exception as error:
                outcome = _Outcome(error=error)
        told = self.agree(outcome)
        if told.error is not None:
            raise told.error
        value: T = told.value  # type: ignore[assignment]  # None is an answer, too
        return value


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    value: T | None = None
    error: Exception | None = None


ALONE = Ranks()
"""The only process there is."""


@contextlib.contextmanager
def joined(device: DeviceName) -> Iterator[Ranks]:
    """Be one of the processes that ``torchrun`` has started, for as long as the block runs.

    Parameters
    ----------
    device
        Where to train.
    """
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        ranks = Ranks.current()
        if on_cuda:
            ranks.device("cuda")  # this rank's own, before anything is sent
        yield ranks
        distributed.barrier()  # whoever is done early stays: others may still be hearing the last answer
    finally:
        distributed.destroy_process_group()


class RankBackend:
    """`SelectionBackend` that every rank calls, and rank 0's backend answers.

    Parameters
    ----------
    ranks
        This process among the others.
    backend
        Called on rank 0 alone.
    """

    def __init__(self, ranks: Ranks, backend: SelectionBackend) -> None:
        self._ranks, self._backend = ranks, backend

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open the run."""
        return self._ranks.ask(lambda: self._backend.open(spec, resume_from))

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Say the given labels."""
        self._ranks.ask(lambda: self._backend.put_labels(labels))

    def put_planted(self, planted: Bitmap) -> None:
        """Say who is mislabelled on purpose in round 0."""
        self._ranks.ask(lambda: self._backend.put_planted(planted))

    def put_members(self, round: int, members: Bitmap) -> None:
        """Say whom the model is trained on."""
        self._ranks.ask(lambda: self._backend.put_members(round, members))

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Commit one epoch's bits, which are the same on all ranks."""
        self._ranks.ask(lambda: self._backend.put_epoch(round, epoch, bits))

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Attach an epoch's scalars."""
        self._ranks.ask(lambda: self._backend.put_metrics(round, epoch, metrics))

    def finish(self, round: int) -> RoundResult:
        """Freeze the round and return its clean set."""
        return self._ranks.ask(lambda: self._backend.finish(round))

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """How likely each sample's label is right after a finished round, shape (n_samples,)."""
        return self._ranks.ask(lambda: self._backend.weights(result))
