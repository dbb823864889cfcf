"""Where the bytes of images lie: all of them on the device, or on the host, from where they are sent in time."""

from collections.abc import Iterator, Sequence
from math import inf
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mild_core.errors import ParameterError
from mild_trainer.settings import DataOn
from mild_trainer.staging import sent_ahead

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
