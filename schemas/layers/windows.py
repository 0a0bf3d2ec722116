"""Windows that slide over the last axes of arrays: those of pooling and those of convolution."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Iterator, List, Optional, Tuple

import numpy as np

from schemas.graph import Shape
from schemas.layers.axes import taps

Sizes = Tuple[int, ...]

# What Caffe starts a maximum from; a window without pixels keeps it.
LOWEST = np.float32(np.finfo(np.float32).min)

# Values of a block of columns: 16 MiB, where multiplying is as fast as in one piece.
BLOCK = 2**22


@dataclass(frozen=True)
class Windows:
    """Pooling's windows over arrays of `size`; every tuple has an entry for each axis.

    Attributes:
        pad: places before the first pixel.
        out: how many windows there are.
        after: places past the last pixel; None where there are as many as before the first.
    """

    size: Sizes
    kernel: Sizes
    stride: Sizes
    pad: Sizes
    out: Sizes
    after: Optional[Sizes] = None

    def areas(self, padding: bool = True) -> np.ndarray:
        """What an average divides by, float32 of shape `out`.

        Padding counts (unless told otherwise), what lies past it does not. A window that starts
        past the far padding has a negative side, as in Caffe.
        """
        sides = []
        for n, out, k, s, before, after in zip(
            self.size, self.out, self.kernel, self.stride, self.pad, self.after or self.pad
        ):
            start = np.arange(out) * s - before
            end = np.minimum(start + k, n + after)
            sides.append(end - start if padding else np.minimum(end, n) - np.maximum(start, 0))
        return reduce(np.multiply.outer, sides).astype(np.float32)

    def maxima(self, images: np.ndarray) -> np.ndarray:
        """The greatest pixel of each window; a NaN is never greater."""
        return self._reduced(np.fmax, LOWEST, images)

    def positions(self, images: np.ndarray) -> np.ndarray:
        """Where in its image each window's greatest pixel stands: the first of equal ones, or -1
        for a window whose pixels are all no greater than the lowest number."""
        places = np.arange(np.prod(self.size)).reshape(self.size)
        tops = np.full(images.shape[: -len(self.size)] + self.out, LOWEST)
        found = np.full(tops.shape, np.float32(-1))
        for served, read in self._places():
            pixels, reached = images[read], tops[served]
            greater = pixels > reached
            np.copyto(reached, pixels, where=greater)
            np.copyto(found[served], places[read].astype(np.float32), where=greater)
        return found

    def totals(self, images: np.ndarray) -> np.ndarray:
        """The sum of each window."""
        return self._reduced(np.add, np.float32(0), images)

    def averages(self, images: np.ndarray, padding: bool = True) -> np.ndarray:
        """`totals` by `areas`; a window of no area gives what the division by zero gives."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.totals(images) / self.areas(padding)

    def _places(self) -> Iterator[Tuple[Tuple, Tuple]]:
        # In Caffe's order, row by row, so that float32 rounds the sums as there.
        axes = [list(taps(*axis)) for axis in zip(self.size, self.out, *self._window())]
        for combined in itertools.product(*axes):
            _, served, read = zip(*combined)
            yield (..., *served), (..., *read)

    def _window(self) -> List[Sizes]:
        return [self.kernel, self.stride, self.pad]

    def _reduced(self, step: np.ufunc, start: np.float32, images: np.ndarray) -> np.ndarray:
        tops = np.full(images.shape[: -len(self.size)] + self.out, start)
        for served, read in self._places():
            reached = tops[served]
            step(reached, images[read], out=reached)
        return tops


@dataclass(frozen=True)
class Geometry:
    """The window of a convolution; every tuple has an entry for each spatial axis.

    Attributes:
        pad: zeros before the first pixel; unless told otherwise, also past the last.
    """

    kernel: Sizes
    stride: Sizes
    pad: Sizes
    dilation: Sizes

    @property
    def extent(self) -> Sizes:
        """The pixels from a window's first tap to its last, both included."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel))

    @property
    def pointwise(self) -> bool:
        """Whether each output reads the one input at its own place."""
        return set(self.kernel + self.stride) <= {1} and not any(self.pad)

    def convolved(self, size: Sizes) -> Sizes:
        """What a convolution makes of `size`: (in + 2p - extent) / s + 1 (conv_layer.cpp).

        C++ rounds that quotient towards zero: a window that passes the far padding by less than a
        stride still gives one output, and reads zeros there.
        """
        return tuple(
            int((n + 2 * p - e) / s) + 1
            for n, p, e, s in zip(size, self.pad, self.extent, self.stride)
        )

    def deconvolved(self, size: Sizes) -> Sizes:
        """What a deconvolution makes of `size`: s * (in - 1) + extent - 2p (deconv_layer.cpp)."""
        return tuple(
            s * (n - 1) + e - 2 * p for n, p, e, s in zip(size, self.pad, self.extent, self.stride)
        )

    def padding(self, size: Sizes, out: Optional[Sizes] = None) -> Tuple[Tuple[int, int], ...]:
        """Zeros (before, after) each axis, with which every window is whole.

        Args:
            out: the windows of each axis; None for `convolved`, with at least as many zeros after
                as before.
        """
        return tuple(
            (p, max(0 if out else p, s * (windows - 1) + e - n - p))
            for n, windows, p, e, s in zip(
                size, out or self.convolved(size), self.pad, self.extent, self.stride
            )
        )

    def unfold(self, image: np.ndarray, out: Sizes) -> np.ndarray:
        """The first `out` windows of image (..., *in): columns (..., *kernel, *out) (im2col.cpp).

        `pad` may be below 0 here: the windows then start at a later pixel.
        """
        leading = image.shape[: image.ndim - len(out)]
        columns = np.zeros(leading + self.kernel + out, np.float32)
        for column, pixel in self._places(image.shape, columns.shape):
            columns[column] = image[pixel]
        return columns

    def blocks(self, image: np.ndarray, out: Sizes) -> Iterator[Tuple[slice, np.ndarray]]:
        """What `unfold` gives, in blocks of whole rows: the whole may be a hundred times the image.

        Each block is the windows that it holds, counted row by row, and their columns.
        """
        channels, row = math.prod(image.shape[: image.ndim - len(out)]), math.prod(out[1:])
        step = max(1, BLOCK // max(1, channels * math.prod(self.kernel) * row))
        for first in range(0, out[0], step):
            rows = min(step, out[0] - first)
            lower = replace(self, pad=(self.pad[0] - first * self.stride[0],) + self.pad[1:])
            yield (
                slice(first * row, (first + rows) * row),
                lower.unfold(image, (rows,) + out[1:]),
            )

    def fold(self, columns: np.ndarray, image: np.ndarray) -> None:
        """Adds columns (..., *kernel, *out) to the pixels they stand for (col2im)."""
        for column, pixel in self._places(image.shape, columns.shape):
            image[pixel] += columns[column]

    def _places(self, image: Shape, columns: Shape) -> Iterator[Tuple[Tuple, Tuple]]:
        count = len(self.kernel)
        size, out = image[len(image) - count :], columns[len(columns) - count :]
        axes = [
            list(taps(*axis))
            for axis in zip(size, out, self.kernel, self.stride, self.pad, self.dilation)
        ]
        for combined in itertools.product(*axes):
            tap, served, read = zip(*combined) if combined else ((), (), ())
            yield (..., *tap, *served), (..., *read)
