"""Reading of picture files as RGB bytes of one size: any mode, depth, orientation and number of frames.

Pillow takes long to import, so that this module is imported where pictures are read.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mild_core.errors import get_reason
from mild_trainer.data.dataset import Dataset
from mild_trainer.data.pixels import ByteScale
from mild_trainer.errors import DataError

Value = TypeVar("Value")

DEFAULT_SIDE = 64
"""Longest side of pictures, in pixels, where no size is asked for; larger ones are brought to it."""
_MAX_LISTED = 5
_ORIENTED_FORMATS = ("JPEG", "MPO", "WEBP", "TIFF")
_ORIENTATION = 0x0112
"""EXIF tag; from 5 on, width and height are exchanged."""


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header of a picture says: its mode, its size upright, and whether it has frames or 16-bit colours."""

    mode: str
    size: tuple[int, int]
    is_animated: bool
    has_deep_colours: bool


def _is_deep_mode(mode: str) -> bool:
    """Return whether a mode of Pillow is one channel of more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;")


@dataclass(slots=True)
class Pictures:
    """How the picture files of a data set are read, from their headers, and what was met in those read so far.

    Attributes
    ----------
    headers
        Those of all pictures.
    size, size_note
        Width and height that they are brought to, and why, in a sentence for people; empty if they keep theirs.
    scale
        Scale of grey pictures of more than 8 bits.
    n_transparent
        How many of those read so far were transparent.
    """

    headers: Sequence[_Header]
    size: tuple[int, int]
    size_note: str
    scale: ByteScale
    n_transparent: int = 0

    @classmethod
    def open(cls, paths: Sequence[Path], side: int) -> Self:
        """Read the headers of pictures, and choose the size that all are brought to.

        When they are read, grey pictures of more than 8 bits are scaled alike (`ByteScale`), transparent ones are laid
        on white, turned ones are brought upright, and of several frames the first is taken.

        Parameters
        ----------
        paths
            Paths of the pictures.
        side
            Height and width that they are brought to; 0 keeps their size if all are alike and no side is longer than
            `DEFAULT_SIDE`, and else brings them to their median proportions within that.
        """
        headers = list(_iter_readable(paths, _read_header))
        size, size_note = _choose_size([header.size for header in headers], side)
        deep = [path for path, header in zip(paths, headers, strict=True) if _is_deep_mode(header.mode)]
        return cls(headers, size, size_note, _find_scale(deep))

    def read(self, paths: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the pictures of paths, shape (n,), as RGB, shape (n, height, width, 3)."""
        images = np.empty((len(paths), self.size[1], self.size[0], 3), dtype=np.uint8)
        read = partial(_read_rgb, size=self.size, scale=self.scale)
        for i, (pixels, is_transparent) in enumerate(_iter_readable(paths.tolist(), read)):
            images[i] = pixels
            self.n_transparent += is_transparent
        return images

    def describe_conversions(self) -> list[str]:
        """Return what was converted in the pictures read so far, in sentences for people."""
        headers = self.headers
        counts = (
            (
                sum(_is_deep_mode(header.mode) for header in headers),
                f"grey of more than 8 bits: {self.scale.text or '0..255 is kept'}",
            ),
            (sum(header.has_deep_colours for header in headers), "of 16-bit colours: the upper 8 bits are read"),
            (sum(header.mode == "CMYK" for header in headers), "CMYK, and converted to RGB"),
            (self.n_transparent, "transparent, and laid on white"),
            (sum(header.is_animated for header in headers), "of several frames: the first is read"),
        )
        notes = [f"{count:,} of {len(headers):,} pictures are {what}" for count, what in counts if count]
        return ([self.size_note] if self.size_note else []) + notes


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A data set whose images are read in batches, so that large pictures need not all be in memory.

    Attributes
    ----------
    data
        The data set; in place of pictures in files it has their paths, shape (n_samples,).
    pictures
        How the files are read; None if the images are in memory.
    """

    data: Dataset
    pictures: Pictures | None = None

    def take(self, limit: int, seed: int) -> Self:
        """Return the source of at most `limit` random training images, drawn evenly from the classes; 0 takes all."""
        return replace(self, data=self.data.take_balanced(limit, seed)) if limit else self

    def describe_conversions(self) -> list[str]:
        """Return what was converted in the pictures read so far, in sentences for people."""
        return [] if self.pictures is None else self.pictures.describe_conversions()

    def read(self) -> Dataset:
        """Return the data set with all images in memory, pictures as RGB, and what was converted in its notes."""
        if self.pictures is None:
            return self.data
        x_train, x_test = map(self.pictures.read, (self.data.x_train, self.data.x_test))
        notes = (*self.data.notes, *self.describe_conversions())
        return replace(self.data, x_train=x_train, x_test=x_test, notes=notes)

    def iter_batches(self, batch_size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield the images, shape (n_batch, height, width, n_channels): ``x_train`` in their order, then ``x_test``."""
        for name, samples in (("x_train", self.data.x_train), ("x_test", self.data.x_test)):
            for first in range(0, len(samples), batch_size):
                batch = samples[first : first + batch_size]
                yield name, batch if self.pictures is None else self.pictures.read(batch)


def _choose_size(sizes: Sequence[tuple[int, int]], side: int) -> tuple[tuple[int, int], str]:
    """Return the width and height to bring pictures of `sizes` to, and why, for people; the note may be empty."""
    distinct = sorted(set(sizes), key=lambda size: size[0] * size[1])
    (least_width, least_height), (greatest_width, greatest_height) = distinct[0], distinct[-1]
    spread = f"{least_width}x{least_height}"
    if len(distinct) > 1:
        spread = f"{len(distinct):,} sizes from {spread} to {greatest_width}x{greatest_height}"
    if side:
        return (side, side), "" if distinct == [(side, side)] else f"pictures of {spread} are brought to {side}x{side}"
    width, height = (statistics.median_high(size[axis] for size in sizes) for axis in (0, 1))
    shrink = min(1.0, DEFAULT_SIDE / max(width, height))
    target = max(1, round(width * shrink)), max(1, round(height * shrink))
    if distinct == [target]:
        return target, ""
    return target, (
        f"pictures of {spread} are brought to {target[0]}x{target[1]} (width x height); "
        f"--image-size {2 * DEFAULT_SIDE} would keep more detail and take longer"
    )


def _find_scale(paths: Sequence[Path]) -> ByteScale:
    """Return the scale of the grey pictures of more than 8 bits, from the extremes of all of them."""
    if not paths:
        return ByteScale()
    ranges = list(_iter_readable(paths, _read_range))
    low, high = min(low for _, low, _ in ranges), max(high for _, _, high in ranges)
    is_float = any(kind == "f" for kind, _, _ in ranges)
    return ByteScale.from_range(f"{paths[0].parent}", np.dtype(np.float32 if is_float else np.int64), low, high)


def _iter_readable(paths: Sequence[Path], read: Callable[[Path], Value]) -> Iterator[Value]:
    """Yield what `read` says of every picture; raise DataError after the last one if some could not be read."""
    errors: list[str] = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged metadata, and of large pictures
                value = read(path)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
            errors.append(f"{path} cannot be read as an image ({get_reason(e)})")
            continue
        if not errors:
            yield value
    if errors:
        rest = f"; and {len(errors) - _MAX_LISTED} more" if len(errors) > _MAX_LISTED else ""
        raise DataError(
            f"{len(errors)} of {len(paths)} pictures are damaged or absent: {'; '.join(errors[:_MAX_LISTED])}{rest}; "
            "replace or remove them"
        )


def _read_header(path: Path) -> _Header:
    """Read the header of a picture."""
    with Image.open(path) as image:
        turned = image.format in _ORIENTED_FORMATS and image.getexif().get(_ORIENTATION, 1) >= 5
        return _Header(
            mode=image.mode,
            size=(image.height, image.width) if turned else (image.width, image.height),
            is_animated=image.format != "MPO" and bool(getattr(image, "is_animated", False)),
            has_deep_colours=image.mode.startswith(("RGB", "LA"))
            and any("16" in str(tile[3]) for tile in getattr(image, "tile", ())),
        )


def _read_range(path: Path) -> tuple[str, float, float]:
    """Return the kind of type, the least and the greatest value of a grey picture."""
    with Image.open(path) as image:
        values = np.asarray(image)
        return values.dtype.kind, float(values.min()), float(values.max())


def _read_rgb(path: Path, size: tuple[int, int], scale: ByteScale) -> tuple[NDArray[np.uint8], bool]:
    """Return a picture as RGB, shape (height, width, 3), of `size` (width, height), and whether it was transparent."""
    with Image.open(path) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened) if opened.format in _ORIENTED_FORMATS else opened
        if _is_deep_mode(image.mode):
            image = Image.fromarray(scale.apply(np.asarray(image)))
        rgb, is_transparent = _flatten(image)
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(rgb), is_transparent


def _flatten(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return a picture as RGB, laid on white where it is transparent, and whether it was."""
    if not (image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info):
        return image.convert("RGB"), False
    rgba = image.convert("RGBA")
    extremes: Any = rgba.getchannel("A").getextrema()
    if extremes[0] == 255:
        return rgba.convert("RGB"), False
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB"), True
