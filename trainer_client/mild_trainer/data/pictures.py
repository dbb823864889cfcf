"""Reading of picture files as RGB bytes of one size: any mode, depth, orientation and number of frames."""

import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import get_reason
from mild_trainer.data.pixels import ByteScale
from mild_trainer.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

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
class PictureFiles:
    """Pictures of one part of a data set, which are read when they are asked for.

    Attributes
    ----------
    paths
        Their paths.
    size
        Width and height that they are brought to.
    scale
        Scale of grey pictures of more than 8 bits.
    n_transparent
        How many of those read so far were transparent.
    """

    paths: Sequence[Path]
    size: tuple[int, int]
    scale: ByteScale
    n_transparent: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """Return the pictures at `positions` in `paths` as RGB, shape (n, height, width, 3)."""
        images = np.empty((len(positions), self.size[1], self.size[0], 3), dtype=np.uint8)
        read = partial(_read_rgb, size=self.size, scale=self.scale)
        for i, (pixels, is_transparent) in enumerate(_iter_readable([self.paths[p] for p in positions], read)):
            images[i] = pixels
            self.n_transparent += is_transparent
        return images


@dataclass(frozen=True, slots=True)
class OpenedPictures:
    """The pictures of all parts of a data set, of which the headers are read.

    Attributes
    ----------
    parts
        The pictures of each part.
    headers
        Those of all parts.
    size_note
        What size they are brought to, in a sentence for people; empty if they keep theirs.
    """

    parts: tuple[PictureFiles, ...]
    headers: Sequence[_Header]
    size_note: str

    def describe_conversions(self) -> list[str]:
        """Return what was converted in the pictures read so far, in sentences for people."""
        headers, scale = self.headers, self.parts[0].scale
        counts = (
            (
                sum(_is_deep_mode(header.mode) for header in headers),
                f"grey of more than 8 bits: {scale.text or '0..255 is kept'}",
            ),
            (sum(header.has_deep_colours for header in headers), "of 16-bit colours: the upper 8 bits are read"),
            (sum(header.mode == "CMYK" for header in headers), "CMYK, and converted to RGB"),
            (sum(part.n_transparent for part in self.parts), "transparent, and laid on white"),
            (sum(header.is_animated for header in headers), "of several frames: the first is read"),
        )
        notes = [f"{count:,} of {len(headers):,} pictures are {what}" for count, what in counts if count]
        return ([self.size_note] if self.size_note else []) + notes


def open_pictures(parts: Sequence[Sequence[Path]], side: int) -> OpenedPictures:
    """Read the headers of the pictures of several parts of a data set, and choose the size that all are brought to.

    When they are read, grey pictures of more than 8 bits are scaled alike (`ByteScale`), transparent ones are laid on
    white, turned ones are brought upright, and of several frames the first is taken.

    Parameters
    ----------
    parts
        Paths of the pictures of each part.
    side
        Height and width that they are brought to; 0 keeps their size if all are alike and no side is longer than
        `DEFAULT_SIDE`, and else brings them to their median proportions within that.
    """
    paths = [path for part in parts for path in part]
    headers = list(_iter_readable(paths, _read_header))
    size, size_note = _choose_size([header.size for header in headers], side)
    scale = _find_scale([path for path, header in zip(paths, headers, strict=True) if _is_deep_mode(header.mode)])
    return OpenedPictures(tuple(PictureFiles(part, size, scale) for part in parts), headers, size_note)


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
    from PIL import Image, UnidentifiedImageError

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
    from PIL import Image

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
    from PIL import Image

    with Image.open(path) as image:
        values = np.asarray(image)
        return values.dtype.kind, float(values.min()), float(values.max())


def _read_rgb(path: Path, size: tuple[int, int], scale: ByteScale) -> tuple[NDArray[np.uint8], bool]:
    """Return a picture as RGB, shape (height, width, 3), of `size` (width, height), and whether it was transparent."""
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened) if opened.format in _ORIENTED_FORMATS else opened
        if _is_deep_mode(image.mode):
            image = Image.fromarray(scale.apply(np.asarray(image)))
        rgb, is_transparent = _flatten(image)
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(rgb), is_transparent


def _flatten(image: "Image.Image") -> tuple["Image.Image", bool]:
    """Return a picture as RGB, laid on white where it is transparent, and whether it was."""
    from PIL import Image

    if not (image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info):
        return image.convert("RGB"), False
    rgba = image.convert("RGBA")
    extremes: Any = rgba.getchannel("A").getextrema()
    if extremes[0] == 255:
        return rgba.convert("RGB"), False
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB"), True
