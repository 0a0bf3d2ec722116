"""Images made larger: by the positions of a pooling, by repetition, by ParseNet's UnPooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import count, need_axes, taps
from schemas.layers.registry import Meaning, layer

Pair = Tuple[int, int]


@layer("Upsample", message="upsample_param", dialect="segnet")
class Unpool(Meaning):
    """Each value of bottom 0 at the position of its plane that bottom 1 names, zeros elsewhere; of
    several values for one position, the last (alexgkendall/caffe-segnet, upsample_layer.cpp).

    The size is `upsample_h` and `upsample_w`, else `scale` (2) or `scale_h` and `scale_w` times the
    bottom's, less one where `pad_out_h` or `pad_out_w`. Positions count in rows of the top's width.
    """

    scale: Optional[int] = None
    scale_h: Optional[int] = None
    scale_w: Optional[int] = None
    pad_out_h: bool = False
    pad_out_w: bool = False
    upsample_h: Optional[int] = None
    upsample_w: Optional[int] = None

    bottom_count = (2, 2)

    def check(self) -> None:
        if self.upsample_h is not None and self.upsample_w is not None:
            if min(self.upsample_h, self.upsample_w) < 2:
                raise MalformedModel(
                    f"upsample_h and upsample_w should be over 1, found {self.upsample_h} and "
                    f"{self.upsample_w}"
                )
            return
        if (self.scale_h is None) != (self.scale_w is None) or (
            self.scale is not None and self.scale_h is not None
        ):
            raise MalformedModel("scale should be given once, or as scale_h and scale_w")
        for side, scale, less in zip("hw", self._scales(), (self.pad_out_h, self.pad_out_w)):
            if scale < 2 or (less and scale != 2):
                raise MalformedModel(
                    f"the scale should be over 1, and 2 with pad_out_{side}, found {scale}"
                )

    def _scales(self) -> Pair:
        if self.scale_h is not None and self.scale_w is not None:
            return self.scale_h, self.scale_w
        both = 2 if self.scale is None else self.scale
        return both, both

    def size(self, bottom: Pair) -> Pair:
        """The (h, w) of the top, for a bottom of this (h, w)."""
        if self.upsample_h is not None and self.upsample_w is not None:
            return self.upsample_h, self.upsample_w
        scales = self._scales()
        return bottom[0] * scales[0] - self.pad_out_h, bottom[1] * scales[1] - self.pad_out_w

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        if tuple(bottoms[1]) != tuple(bottoms[0]):
            raise MalformedModel(
                f"the positions should have bottom 0's shape {list(bottoms[0])}, "
                f"found {list(bottoms[1])}"
            )
        batch, channels, height, width = bottoms[0]
        return [(batch, channels) + self.size((height, width))]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottom.shape for bottom in bottoms], tops)
        planes, places = count(shape[:2]), count(shape[2:])
        at = bottoms[1].reshape(planes, -1).astype(np.int64)
        if at.min() < 0 or at.max() >= places:
            raise MalformedModel(
                f"positions from 0 to {places - 1} expected, found {at.min()} to {at.max()}",
                hint="the size of the top should be that of the pooling's bottom",
            )
        top = np.zeros((planes, places), np.float32)
        # NumPy assigns in order where an index is repeated, which leaves the last value.
        top[np.arange(planes)[:, None], at] = bottoms[0].reshape(planes, -1)
        return [top.reshape(shape)]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 2


@layer("Upsample", message="upsample_param", dialect="yolo")
class Repeat(Meaning):
    """Each pixel as a square of `scale` x `scale` (eric612/MobileNet-YOLO, upsample_layer.cpp)."""

    scale: int = 1

    copies = True

    def check(self) -> None:
        if self.scale < 1:
            raise MalformedModel(f"scale should be positive, found {self.scale}")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        batch, channels, height, width = bottoms[0]
        return [(batch, channels, height * self.scale, width * self.scale)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [bottoms[0].repeat(self.scale, axis=2).repeat(self.scale, axis=3)]


@dataclass(frozen=True)
class Spread:
    """How one axis is unpooled: each pixel to the window of `kernel` that starts at
    pixel * stride - pad."""

    size: int
    kernel: int
    stride: int
    pad: int

    @property
    def out(self) -> int:
        """The size of the top."""
        return (self.size - 1) * self.stride - 2 * self.pad + self.kernel

    def apply(self, images: np.ndarray, method: str) -> np.ndarray:
        """The last axis of images (..., size) unpooled to (..., out)."""
        start = np.arange(self.size) * self.stride - self.pad
        if method == "FIXED":
            top = np.zeros(images.shape[:-1] + (self.out,), np.float32)
            middle = np.clip((2 * start + self.kernel - 1) // 2, 0, self.out - 1)
            last = np.append(middle[1:] != middle[:-1], True)  # of those that fall on one place
            top[..., middle[last]] = images[..., last]
            return top
        if method == "DIV":
            images = images / (np.minimum(start + self.kernel, self.out + self.pad) - start)
        overlap = self._summed(np.ones(self.size, np.float32))
        return self._summed(images.astype(np.float32)) / np.maximum(overlap, 1)

    def _summed(self, images: np.ndarray) -> np.ndarray:
        top = np.zeros(images.shape[:-1] + (self.out,), np.float32)
        for _, given, reached in taps(self.out, self.size, self.kernel, self.stride, self.pad):
            top[..., reached] += images[..., given]
        return top


@layer("UnPooling", message="unpooling_param", dialect="parsenet")
class UnPooling(Meaning):
    """Each pixel put in the middle of a window (FIXED), divided among its places (DIV) or repeated
    in all (REP); where windows overlap, FIXED keeps the last and the others take the mean
    (ParseNet, weiliu89/caffe fcn, unpooling_layer.cpp).

    A second bottom takes the place of `out_kernel_size` and the rest: the windows are as large as
    is needed to reach its size.
    """

    unpool: str = "FIXED"
    out_kernel_size: Optional[int] = None
    out_stride: Optional[int] = None
    out_pad: Optional[int] = None
    out_kernel_h: Optional[int] = None
    out_kernel_w: Optional[int] = None
    out_stride_h: Optional[int] = None
    out_stride_w: Optional[int] = None
    out_pad_h: Optional[int] = None
    out_pad_w: Optional[int] = None

    choices = {"unpool": ("FIXED", "DIV", "REP")}
    bottom_count = (1, 2)

    def check(self) -> None:
        kernel, stride, pad = self._window()
        if min(kernel) < 1 or min(stride) < 1 or min(pad) < 0:
            raise MalformedModel(
                f"out_kernel and out_stride should be positive, found {kernel} and {stride}"
            )

    def _window(self) -> Tuple[Pair, Pair, Pair]:
        kernel = _pair("out_kernel", self.out_kernel_size, self.out_kernel_h, self.out_kernel_w)
        stride = _pair("out_stride", self.out_stride, self.out_stride_h, self.out_stride_w)
        pad = _pair("out_pad", self.out_pad, self.out_pad_h, self.out_pad_w)
        if kernel is None:
            raise MalformedModel("out_kernel_size, or out_kernel_h and out_kernel_w, is missing")
        return kernel, stride or (1, 1), pad or (0, 0)

    def spreads(self, bottoms: Sequence[Shape]) -> Tuple[Spread, Spread]:
        """How the rows and the columns are unpooled.

        Raises:
            MalformedModel: a window would lie in its padding.
        """
        sizes = bottoms[0][2:]
        if len(bottoms) == 2:
            windows = [_reaching(n, wanted) for n, wanted in zip(sizes, bottoms[1][2:])]
        else:
            windows = list(zip(*self._window()))
        spreads = [Spread(n, *window) for n, window in zip(sizes, windows)]
        if any(spread.pad >= spread.kernel for spread in spreads):
            raise MalformedModel("out_pad should be smaller than out_kernel")
        return spreads[0], spreads[1]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        for bottom in bottoms:
            need_axes(bottom, 4)
        rows, columns = self.spreads(bottoms)
        return [tuple(bottoms[0][:2]) + (rows.out, columns.out)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        rows, columns = self.spreads([bottom.shape for bottom in bottoms])
        wide = columns.apply(bottoms[0], self.unpool)
        return [np.ascontiguousarray(rows.apply(wide.swapaxes(2, 3), self.unpool).swapaxes(2, 3))]


def _pair(name: str, both: Optional[int], h: Optional[int], w: Optional[int]) -> Optional[Pair]:
    if (h is None) != (w is None) or (both is not None and h is not None):
        raise MalformedModel(f"{name} should be given once, or as {name}_h and {name}_w")
    if h is not None and w is not None:
        return h, w
    return None if both is None else (both, both)


def _reaching(size: int, wanted: int) -> Tuple[int, int, int]:
    """Kernel, stride and pad of the windows with which `size` pixels reach `wanted`."""
    kernel = -(-wanted // size)
    stride = 1 if kernel == wanted else kernel
    return kernel, stride, ((size - 1) * stride + kernel - wanted) // 2
