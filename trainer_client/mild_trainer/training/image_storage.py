"""Where the bytes of images lie: all of them on the device, or on the host, from where they are sent in time.

Bytes on their way from the host to the device: a thread gathers the next parts while the training is at this one.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from math import inf
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mild_core.errors import ParameterError
from mild_trainer.settings import DataOn

N_SLOTS = 3
"""Parts under way: one that is trained on, one that is there, and one that is gathered or copied."""
THREAD = "mild-images"
"""What the thread's name begins with."""


def sent_ahead(images: Tensor, indices: Tensor, sizes: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    """Yield the images of `indices`, part by part, on the device; each part until the next one is asked for.

    The thread is there for as long as the iterator is: it ends with the last part, when the iterator is closed or
    dropped, and with an error, which is raised here.

    Parameters
    ----------
    images
        Shape (n_samples, height, width, n_channels), uint8, on the host.
    indices
        Shape (n,), on the device.
    sizes
        Samples in each part, ``sum(sizes) == n``.
    device
        Where they go. On CUDA they are copied from pinned memory, on a stream of their own.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # as torch has it
    shape = (max(sizes, default=0), *images.shape[1:])
    slots = [_Slot(shape, device) if stream is None else _CudaSlot(shape, device, stream) for _ in sizes[:N_SLOTS]]
    # A thread begins on GPU 0, whichever its process trains on.
    executor = ThreadPoolExecutor(1, THREAD, *(() if stream is None else (torch.cuda.set_device, (stream.device,))))
    coming: deque[Future[_Slot]] = deque()
    try:
        order = indices.to("cpu", non_blocking=stream is not None)
        if stream is not None:
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # as torch has it
            arrived.record()
            executor.submit(arrived.synchronize)  # the thread waits for the order, and the training does not
        parts = iter(torch.split(order, list(sizes)))
        for slot, part in zip(slots, islice(parts, len(slots)), strict=True):
            coming.append(executor.submit(slot.fill, images, part))
        while coming:
            slot = coming.popleft().result()
            yield slot.take()
            slot.release()
            coming.extend(executor.submit(slot.fill, images, part) for part in islice(parts, 1))
    finally:
        executor.shutdown(cancel_futures=True)
        if stream is not None:  # the slots' memory is the training's again, once no copy writes to it any more
            torch.cuda.current_stream(device).wait_stream(stream)


class _Slot:
    """Room for one part on the host, which goes to the device when its turn has come."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, pinned: bool = False) -> None:
        self._device = device
        self._bytes = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self._n = 0

    @torch.inference_mode()  # it may have been made in that mode, which is each thread's own
    def fill(self, images: Tensor, indices: Tensor) -> Self:
        """Gather, in the thread."""
        self._n = len(indices)
        torch.index_select(images, 0, indices, out=self._bytes[: self._n])
        return self

    def take(self) -> Tensor:
        """Return what was gathered, on the device."""
        return self._bytes[: self._n].to(self._device)

    def release(self) -> None:
        """All that reads it has been launched."""


class _CudaSlot(_Slot):
    """Pinned room, and as much on the device, to which it is copied ahead of its turn; nobody but the thread waits."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, stream: torch.cuda.Stream) -> None:
        super().__init__(shape, device, pinned=True)
        self._stream = stream
        self._there = torch.empty(shape, dtype=torch.uint8, device=device)
        self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # as torch has it
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]  # as torch has it
        self.release()  # whatever had this memory before may still be read

    @torch.inference_mode()
    def fill(self, images: Tensor, indices: Tensor) -> Self:
        self._copied.synchronize()  # of what was gathered before
        super().fill(images, indices)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._read)
            self._there[: self._n].copy_(self._bytes[: self._n], non_blocking=True)
            self._copied.record()
        return self

    def take(self) -> Tensor:
        torch.cuda.current_stream(self._device).wait_event(self._copied)
        return self._there[: self._n]

    def release(self) -> None:
        self._read.record()


_SHARE = 0.5
"""Of the device's free memory, that images may take; the rest is for the network and what it computes."""


class Pixels(Protocol):
    """Images as bytes, with `pad` pixels of zeros around each."""

    def parts(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (part, padded, places), on the device, for every part of `indices`, shape (n,), of these sizes.

        ``padded[places]`` are the part's images in its order, shape (n_part, height + 2 pad, width + 2 pad,
        n_channels), uint8; they stay until the next part is asked for.
        """


class DevicePixels:
    """All images on the device."""

    def __init__(self, images: NDArray[np.uint8], pad: int, device: torch.device) -> None:
        self._padded = _padded(torch.from_numpy(images).to(device), pad)

    def parts(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield every part with all images: its places are its indices."""
        for part in torch.split(indices, list(sizes)):
            yield part, self._padded, part


class HostPixels:
    """All images on the host, and some parts on the device."""

    def __init__(self, images: NDArray[np.uint8], pad: int, device: torch.device) -> None:
        self._images, self._pad, self._device = torch.from_numpy(images).contiguous(), pad, device

    def parts(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield every part with its own images alone, which a thread sends ahead."""
        sent = sent_ahead(self._images, indices, sizes, self._device)
        for part, images in zip(torch.split(indices, list(sizes)), sent, strict=True):
            yield part, _padded(images, self._pad), torch.arange(len(part), device=self._device)


def placed(images: NDArray[np.uint8], pad: int, device: torch.device, data_on: DataOn) -> Pixels:
    """Put images where they are to be.

    Parameters
    ----------
    images
        Shape (n_samples, height, width, n_channels).
    pad
        Pixels of zeros around each.
    device
        The training's.
    data_on
        ``auto``: on the device if that leaves it room for the training.

    Raises
    ------
    ParameterError
        If they are to be on the device and do not fit.
    """
    n_samples, height, width, n_channels = images.shape
    n_bytes = images.nbytes + n_samples * (height + 2 * pad) * (width + 2 * pad) * n_channels  # both, while it pads
    free = _free(device)
    if data_on == "device" and n_bytes > free:
        raise ParameterError(
            f"data_on is device, and {n_samples:,} images take {n_bytes:,} bytes of the {free:,.0f} that are free "
            "there; give auto or host"
        )
    on_device = data_on == "device" or (data_on == "auto" and n_bytes <= _SHARE * free)
    return DevicePixels(images, pad, device) if on_device else HostPixels(images, pad, device)


def _free(device: torch.device) -> float:
    """Bytes that a GPU has left, with those that torch keeps to hand out again; elsewhere there is no limit."""
    if device.type != "cuda":
        return inf
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _padded(images: Tensor, pad: int) -> Tensor:
    return functional.pad(images, (0, 0, pad, pad, pad, pad))
