"""Training one network in several processes under ``torchrun``: shards, collectives, and a backend on rank 0.

Every rank has all images and runs the same code; each trains on its own shard of every epoch, and of every batch of a
finish. Gradients are averaged (DistributedDataParallel), bits are merged by the tracker, and only rank 0 calls the
backend and writes files.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mild_client import SelectionBackend
from mild_trainer.settings import DeviceName

if distributed.is_available():
    # DistributedDataParallel imports this module, and its functions keep the process group of that time as a default.
    # Imported after a group was created, they would keep it for ever: its threads would still run when the interpreter
    # shuts down, where a thread with a tensor aborts the process.
    import torch.distributed.nn.functional

T = TypeVar("T")

_MIN_SHARD_SIZE = 2
"""Smallest number of samples in a shard: batch statistics need two."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of this process in distributed training, and the operations across all ranks.

    With one process, no operation communicates.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    world_size
        Number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "Ranks":
        """Return the rank of this process in torch.distributed; `SINGLE_PROCESS` where that is not initialised."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return SINGLE_PROCESS
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process calls the backend and writes files."""
        return self.rank == 0

    def select_device(self, name: str) -> torch.device:
        """Return this process' own device of the type `name`; with several processes, make a GPU the current device."""
        if name != "cuda" or self.world_size == 1:
            return torch.device(name)
        device = torch.device(name, distributed.get_node_local_rank(self.rank))
        torch.cuda.set_device(device)
        return device

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Return `model` wrapped so that its gradients are averaged over all ranks."""
        return model if self.world_size == 1 else DistributedDataParallel(model)

    def shard_with_padding(self, order: Tensor) -> Tensor:
        """Return this rank's shard of `order`; samples from the start of `order` make all shards equally long."""
        if self.world_size == 1:
            return order
        n_each = max(_MIN_SHARD_SIZE, -(-len(order) // self.world_size))
        n_all = n_each * self.world_size
        return order.repeat(-(-n_all // len(order)))[:n_all][self.rank :: self.world_size]

    def shard(self, indices: Tensor) -> Tensor:
        """Return this rank's shard of `indices`; shards are disjoint and may differ by one in length."""
        return indices if self.world_size == 1 else indices[self.rank :: self.world_size]

    def gathered_forward(self, network: nn.Module, batch: Tensor) -> Tensor:
        """Compute the outputs of a whole batch: each rank computes its shard, and all ranks gather all outputs.

        A loss of the whole batch can be computed from the outputs as in one process. Gradients flow back only into the
        rank's own shard. Averaged over the ranks, as `wrap_model` does, they are the gradient of that loss.

        Parameters
        ----------
        network
            Maps (n, …) to (n, n_values), sample by sample, except for batch statistics, which are those of a shard.
        batch
            Shape (n_batch, …), the same on all ranks.

        Returns
        -------
        values
            Shape (n_batch, n_values), the same on all ranks.
        """
        if self.world_size == 1:
            values: Tensor = network(batch)
            return values
        output = network(batch[self.shard_with_padding(torch.arange(len(batch), device=batch.device))])
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * self.world_size)  # undoes the division of the average
        outputs = [torch.empty_like(output) for _ in range(self.world_size)]
        distributed.all_gather(outputs, output.detach())
        padded = torch.stack(outputs, 1).flatten(0, 1)
        padded[self.rank :: self.world_size] = output
        return padded[: len(batch)]

    def derive_generator(self, generator: torch.Generator) -> torch.Generator:
        """Return a random generator of this rank alone, derived from the `generator` that all ranks share."""
        if self.world_size == 1:
            return generator
        seed = (generator.initial_seed() ^ (self.rank * 0x9E3779B97F4A7C15)) % 2**63
        return torch.Generator(generator.device).manual_seed(seed)

    def sum_over_ranks(self, sums: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place, and return it."""
        if self.world_size > 1:
            distributed.all_reduce(sums)
        return sums

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the model's buffers (running statistics) from rank 0 to all ranks; the parameters are already equal."""
        if self.world_size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)

    def broadcast_object(self, value: T) -> T:
        """Return the `value` of rank 0 on all ranks; the values of other ranks are ignored."""
        if self.world_size == 1:
            return value
        objects: list[Any] = [value]
        distributed.broadcast_object_list(objects, src=0)
        broadcast: T = objects[0]
        return broadcast

    def call_on_rank0(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0 only, and return its result, or raise its exception, on all ranks."""
        if self.world_size == 1:
            return function()
        value: T | None = None
        raised: Exception | None = None
        if self.is_first:
            try:
                value = function()
            except Exception as error:
                raised = error
        value, raised = self.broadcast_object((value, raised))
        if raised is not None:
            raise raised
        return cast("T", value)  # None is a value, too


SINGLE_PROCESS = Ranks()
"""The rank of a training in one process."""


@contextlib.contextmanager
def join_process_group(device: DeviceName) -> Iterator[Ranks]:
    """Join the process group of ``torchrun`` for the ``with`` block, with NCCL if `device` is a GPU, else with Gloo."""
    is_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    distributed.init_process_group("nccl" if is_cuda else "gloo")
    try:
        ranks = Ranks.current()
        if is_cuda:
            ranks.select_device("cuda")  # this rank's own device, before the first collective
        yield ranks
        distributed.barrier()  # ranks that are done wait for those that still receive
    finally:
        distributed.destroy_process_group()


class _Rank0Backend:
    """A `SelectionBackend` whose methods are called on all ranks, and call those of another one on rank 0 only."""

    def __init__(self, ranks: Ranks, backend: SelectionBackend) -> None:
        self._ranks, self._backend = ranks, backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._backend, name)
        return lambda *args, **kwargs: self._ranks.call_on_rank0(functools.partial(method, *args, **kwargs))


def share_backend(ranks: Ranks, backend: SelectionBackend) -> SelectionBackend:
    """Return a backend to call on all ranks, which calls `backend` on rank 0 only and has its results on all."""
    return backend if ranks.world_size == 1 else cast("SelectionBackend", _Rank0Backend(ranks, backend))
