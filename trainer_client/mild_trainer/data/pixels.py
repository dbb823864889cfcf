"""Conversion of pixel values of any type to bytes, with one linear scale for a whole data set."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mild_trainer.errors import DataError

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits per pixel that cameras, scanners and file formats use."""
_REMEDY = "save bytes 0..255, integers of up to 16 bits, or floats in 0..1"


@dataclass(frozen=True, slots=True)
class ByteScale:
    """Linear map of pixel values to bytes: ``(value - low) * factor``.

    Attributes
    ----------
    low, factor
        Value that becomes 0, and bytes per unit.
    text
        What is done, for people; empty if the values are bytes already.
    """

    low: float = 0.0
    factor: float = 1.0
    text: str = ""

    @classmethod
    def from_range(cls, source: str, dtype: np.dtype[Any], low: float, high: float) -> Self:
        """Return the scale for values of type `dtype` from `low` to `high`, the extremes of a whole data set.

        Integers are scaled by the number of bits that the greatest one takes (8, 10, 12, 14 or 16), floats in 0..1 by
        255, floats in -1..1 from -1, and floats in 0..255 are rounded.

        Parameters
        ----------
        source
            Where the values are from, for messages.
        """
        if dtype.kind == "b":
            return cls(factor=255.0, text="true and false become 255 and 0")
        if dtype.kind not in "iuf":
            raise DataError(f"{source}: pixels are {dtype}; {_REMEDY}")
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"{source}: some pixels are NaN or infinite; replace them, and {_REMEDY}")
        if dtype.kind == "f" and high <= 1:
            if low >= 0:
                return cls(factor=255.0, text="0..1 is scaled to 0..255")
            if low >= -1:
                return cls(low=-1.0, factor=127.5, text="-1..1 is scaled to 0..255")
        if low < 0:
            raise DataError(
                f"{source}: pixels run from {low:g} to {high:g}, as after standardising; "
                f"save the pictures as they were before: {_REMEDY}"
            )
        if high > 65535:
            raise DataError(f"{source}: pixels run up to {high:g}, more than 16 bits hold; {_REMEDY}")
        depth = next(bits for bits in _DEPTHS if high < 1 << bits)
        if depth == 8:
            return cls(text="" if dtype == np.uint8 else "0..255 is kept")
        return cls(
            factor=255 / ((1 << depth) - 1),
            text=f"values up to {high:g} are read as {depth} bits, and scaled to 0..255",
        )

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return `values` as bytes, of the same shape."""
        if values.dtype == np.uint8 and not self.low and self.factor == 1:
            return np.asarray(values, dtype=np.uint8)
        scaled = (values.astype(np.float32) - np.float32(self.low)) * np.float32(self.factor)
        result: NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
        return result


def scale_arrays(source: str, arrays: Iterable[NDArray[Any]]) -> tuple[list[NDArray[np.uint8]], str]:
    """Return arrays of pixels as bytes, all in the scale of their common extremes, and what was done, for people."""
    filled = [array for array in arrays if array.size]
    dtypes = {array.dtype for array in filled}
    if len(dtypes) > 1:
        kinds = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise DataError(f"{source}: the pictures are {kinds}; save all of them in one type")
    dtype = next(iter(dtypes), np.dtype(np.uint8))
    if dtype.kind not in "iuf" or dtype == np.uint8:
        low = high = 0.0
    else:
        low, high = min(float(array.min()) for array in filled), max(float(array.max()) for array in filled)
    scale = ByteScale.from_range(source, dtype, low, high)
    return [scale.apply(array) for array in arrays], scale.text
