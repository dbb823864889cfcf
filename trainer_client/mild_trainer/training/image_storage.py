"""Storage of image bytes: all of them on the device, or on the host, from where parts are prefetched by a thread."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from math import inf
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mild_core.errors import ParameterError
from mild_trainer.data import files
from mild_trainer.settings import DataOn

N_BUFFERS = 3
"""Number of parts in memory: one in use, one ready on the device, and one being gathered or copied."""
THREAD_PREFIX = "mild-images"
"""Beginning of the prefetching thread's name."""


def prefetch_images(images: Tensor, indices: Tensor, sizes: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    """Yield the images of `indices` on the device, part by part; each part is valid until the next one is requested.

    A thread gathers the next parts ahead of time. The thread ends with the last part, when the iterator is closed or
    deleted, and on an error, which the iterator raises.

    Parameters
    ----------
    images
        Shape (n_samples, height, width, n_channels), uint8, on the host.
    indices
        Shape (n,), the samples, on the device.
    sizes
        Number of samples in each part, ``sum(sizes) == n``.
    device
        Device of the parts. On CUDA, the parts are copied from pinned memory, on a separate stream.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # as torch has it
    shape = (max(sizes, default=0), *images.shape[1:])
    buffers = [
        _Buffer(shape, device) if stream is None else _CudaBuffer(shape, device, stream) for _ in sizes[:N_BUFFERS]
    ]
    # A new thread uses GPU 0, whichever GPU its process trains on.
    executor = ThreadPoolExecutor(
        1, THREAD_PREFIX, *(() if stream is None else (torch.cuda.set_device, (stream.device,)))
    )
    pending: deque[Future[_Buffer]] = deque()
    try:
        order = indices.to("cpu", non_blocking=stream is not None)
        if stream is not None:
            order_copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # as torch has it
            order_copied.record()
            executor.submit(order_copied.synchronize)  # only the thread waits for the order
        parts = iter(torch.split(order, list(sizes)))
        for buffer, part in zip(buffers, islice(parts, len(buffers)), strict=True):
            pending.append(executor.submit(buffer.fill, images, part))
        while pending:
            buffer = pending.popleft().result()
            yield buffer.to_device()
            buffer.release()
            pending.extend(executor.submit(buffer.fill, images, part) for part in islice(parts, 1))
    finally:
        executor.shutdown(cancel_futures=True)
        if stream is not None:  # no copy may write to the buffers' memory once it is reused
            torch.cuda.current_stream(device).wait_stream(stream)


class _Buffer:
    """Host memory for one part of the images, which is copied to the device when the part is used."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, pinned: bool = False) -> None:
        self._device = device
        self._host_bytes = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self._n = 0

    @torch.inference_mode()  # the buffer may be an inference tensor, and the mode is per thread
    def fill(self, images: Tensor, indices: Tensor) -> Self:
        """Copy the images of `indices` into the buffer, and return the buffer; called in the prefetching thread."""
        self._n = len(indices)
        torch.index_select(images, 0, indices, out=self._host_bytes[: self._n])
        return self

    def to_device(self) -> Tensor:
        """Return the buffer's images on the device."""
        return self._host_bytes[: self._n].to(self._device)

    def release(self) -> None:
        """Allow the buffer to be filled again; called after all work that reads the images was launched."""


class _CudaBuffer(_Buffer):
    """Pinned host memory and device memory for one part, which the prefetching thread copies ahead of use."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, stream: torch.cuda.Stream) -> None:
        super().__init__(shape, device, pinned=True)
        self._stream = stream
        self._device_bytes = torch.empty(shape, dtype=torch.uint8, device=device)
        self._copy_event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # as torch has it
        self._read_event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # as torch has it
        self.release()  # earlier contents of this memory may still be read

    @torch.inference_mode()
    def fill(self, images: Tensor, indices: Tensor) -> Self:
        self._copy_event.synchronize()  # of the previous part
        super().fill(images, indices)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._read_event)
            self._device_bytes[: self._n].copy_(self._host_bytes[: self._n], non_blocking=True)
            self._copy_event.record()
        return self

    def to_device(self) -> Tensor:
        torch.cuda.current_stream(self._device).wait_event(self._copy_event)
        return self._device_bytes[: self._n]

    def release(self) -> None:
        self._read_event.record()


_MAX_MEMORY_SHARE = 0.5
"""Largest share of the device's free memory that images may take; the network needs the rest."""


class DeviceImageStorage:
    """Stores all images on the device."""

    def __init__(self, images: NDArray[np.uint8], pad: int, device: torch.device) -> None:
        self._padded = _pad_images(torch.from_numpy(images).to(device), pad)

    def iter_parts(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (part, padded, rows) on the device for every part of `indices`.

        ``padded[rows]`` are the images of the samples `part`, in this order. They are valid until the next part is
        requested.

        Parameters
        ----------
        indices
            Shape (n,), the samples, on the device.
        sizes
            Number of samples in each part, ``sum(sizes) == n``.

        Yields
        ------
        part
            Shape (n_part,), the part of `indices`.
        padded
            Shape (n_stored, height + 2 pad, width + 2 pad, n_channels), uint8, images with their borders.
        rows
            Shape (n_part,), positions of the part's images in `padded`.
        """
        for part in torch.split(indices, list(sizes)):
            yield part, self._padded, part  # all images are there


class HostImageStorage:
    """Stores all images on the host, and prefetches parts of them to the device."""

    def __init__(self, images: NDArray[np.uint8], pad: int, device: torch.device) -> None:
        self._images, self._pad_size, self._device = torch.from_numpy(images).contiguous(), pad, device

    def iter_parts(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (part, padded, rows) for every part; `padded` has only the images of the part."""
        device_parts = prefetch_images(self._images, indices, sizes, self._device)
        for part, images in zip(torch.split(indices, list(sizes)), device_parts, strict=True):
            yield part, _pad_images(images, self._pad_size), torch.arange(len(part), device=self._device)


ImageStorage: TypeAlias = DeviceImageStorage | HostImageStorage
"""Stored images, which are read part by part, each image with a border of zeros."""


def store_images(images: NDArray[np.uint8], pad: int, device: torch.device, data_on: DataOn) -> ImageStorage:
    """Store images on the device or on the host.

    Parameters
    ----------
    images
        Shape (n_samples, height, width, n_channels), uint8.
    pad
        Width of the border of zeros around every image, in pixels.
    device
        Device of the training.
    data_on
        ``device``, ``host``, or ``auto``: the device if that leaves enough memory for the training, else the host.
    """
    n_samples, height, width, n_channels = images.shape
    n_bytes = images.nbytes + n_samples * (height + 2 * pad) * (width + 2 * pad) * n_channels  # both, while it pads
    free = measure_free_bytes(device)
    if data_on == "device" and n_bytes > free:
        raise ParameterError(
            f"data_on is device, and {n_samples:,} images take {n_bytes:,} bytes of the {free:,.0f} that are free "
            "there; give auto or host"
        )
    on_device = data_on == "device" or (data_on == "auto" and n_bytes <= _MAX_MEMORY_SHARE * free)
    return DeviceImageStorage(images, pad, device) if on_device else HostImageStorage(images, pad, device)


def measure_free_bytes(device: torch.device) -> float:
    """Return the free bytes of a device, on a GPU including those that torch has reserved; infinity if not known."""
    if device.type == "cpu":
        return files.measure_free_bytes()
    if device.type != "cuda":
        return inf
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _pad_images(images: Tensor, pad: int) -> Tensor:
    """Add a border of `pad` pixels of zeros to every image."""
    return functional.pad(images, (0, 0, pad, pad, pad, pad))
