"""Pooling (pooling_layer.cpp)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import need_axes, taps
from schemas.layers.registry import ENGINE, Meaning, layer

Pair = Tuple[int, int]

# What Caffe starts a maximum from; a window without pixels keeps it.
LOWEST = np.float32(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Windows:
    """The windows over an image of `size`; every pair is (h, w)."""

    size: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    out: Pair

    def areas(self) -> np.ndarray:
        """What AVE divides by, float32 of shape `out`: padding counts, what lies past it does not.

        A window that starts past the far padding has a negative side, as in Caffe.
        """
        rows, columns = (
            np.minimum(np.arange(o) * s - p + k, n + p) - (np.arange(o) * s - p)
            for n, o, k, s, p in self._axes()
        )
        return np.outer(rows, columns).astype(np.float32)

    def maxima(self, images: np.ndarray) -> np.ndarray:
        """The greatest pixel of each window of images (..., H, W); a NaN is never greater."""
        return self._reduced(np.fmax, LOWEST, images)

    def totals(self, images: np.ndarray) -> np.ndarray:
        """The sum of each window of images (..., H, W)."""
        return self._reduced(np.add, np.float32(0), images)

    def averages(self, images: np.ndarray) -> np.ndarray:
        """`totals` by `areas`; a window of no area gives what the division by zero gives."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.totals(images) / self.areas()

    def _axes(self) -> List[Tuple[int, int, int, int, int]]:
        return list(zip(self.size, self.out, self.kernel, self.stride, self.pad))

    def _reduced(self, step: np.ufunc, start: np.float32, images: np.ndarray) -> np.ndarray:
        # In Caffe's order, row by row, so that float32 rounds the sums as there.
        height, width = self._axes()
        tops = np.full(images.shape[:-2] + self.out, start)
        for _, out_h, in_h in taps(*height):
            for _, out_w, in_w in taps(*width):
                reached = tops[..., out_h, out_w]
                step(reached, images[..., in_h, in_w], out=reached)
        return tops


@layer("Pooling", message="pooling_param", harmless={"engine": ENGINE})
class Pooling(Meaning):
    """The maximum or average of each window; the size rounds up unless round_mode is FLOOR.

    The forks' ``ceil_mode: false`` and ``torch_pooling: true`` mean FLOOR.
    """

    pool: str = "MAX"
    kernel_size: Optional[int] = None
    stride: Optional[int] = None
    pad: Optional[int] = None
    kernel_h: Optional[int] = None
    kernel_w: Optional[int] = None
    stride_h: Optional[int] = None
    stride_w: Optional[int] = None
    pad_h: Optional[int] = None
    pad_w: Optional[int] = None
    global_pooling: bool = False
    round_mode: Optional[str] = None
    ceil_mode: Optional[bool] = None
    torch_pooling: Optional[bool] = None

    choices = {"pool": ("MAX", "AVE", "STOCHASTIC"), "round_mode": ("CEIL", "FLOOR")}
    top_count = (1, 2)

    def check(self) -> None:
        if self.pool == "STOCHASTIC":
            raise UnsupportedModel(
                "pool: STOCHASTIC is random in training, and Caffe has its TEST pass for GPUs only"
            )
        kernel, stride, pad = self._kernel(), self._stride(), self._pad()
        self.rounds_up()
        if self.global_pooling:
            if kernel is not None or stride != (1, 1) or pad != (0, 0):
                raise MalformedModel(
                    "global_pooling allows no kernel_size, no pad and no stride but 1"
                )
        elif kernel is None:
            raise MalformedModel("kernel_size, or both kernel_h and kernel_w, should be given")
        elif min(kernel) < 1 or min(stride) < 1:
            raise MalformedModel(
                f"kernel and stride should be positive, found {kernel} and {stride}"
            )
        elif max(pad) > 0 and (pad[0] >= kernel[0] or pad[1] >= kernel[1]):
            raise MalformedModel(f"pad {pad} should be smaller than kernel {kernel}")

    def _kernel(self) -> Optional[Pair]:
        return self._pair("kernel", self.kernel_size, self.kernel_h, self.kernel_w)

    def _stride(self) -> Pair:
        return self._pair("stride", self.stride, self.stride_h, self.stride_w) or (1, 1)

    def _pad(self) -> Pair:
        return self._pair("pad", self.pad, self.pad_h, self.pad_w) or (0, 0)

    @staticmethod
    def _pair(name: str, both: Optional[int], h: Optional[int], w: Optional[int]) -> Optional[Pair]:
        if (h is None) != (w is None) or (both is not None and h is not None):
            raise MalformedModel(f"{name} should be given once, or as {name}_h and {name}_w")
        if h is not None and w is not None:
            return h, w
        return None if both is None else (both, both)

    def rounds_up(self) -> bool:
        """Whether a part of a step at the end still makes a window."""
        said = {
            None if self.round_mode is None else self.round_mode == "CEIL",
            self.ceil_mode,
            None if self.torch_pooling is None else not self.torch_pooling,
        } - {None}
        if len(said) > 1:
            raise UnsupportedModel("round_mode, ceil_mode and torch_pooling contradict each other")
        return said.pop() is not False if said else True

    def geometry(self, height: int, width: int) -> Windows:
        """The windows over images of this size.

        Raises:
            MalformedModel: the last window would start past the image and its padding.
        """
        size = (height, width)
        if self.global_pooling:
            return Windows(size, kernel=size, stride=(1, 1), pad=(0, 0), out=(1, 1))
        kernel, stride, pad = self._kernel() or size, self._stride(), self._pad()
        out = []
        for n, k, s, p in zip(size, kernel, stride, pad):
            steps = n + 2 * p - k
            last = -(-steps // s) if self.rounds_up() else steps // s
            # With padding on any side, the last window starts inside the image or its near padding.
            if max(pad) > 0 and last * s >= n + p:
                last -= 1
                if last * s >= n + p:
                    raise MalformedModel(f"stride {s} leaves a window outside of {n} pixels")
            out.append(last + 1)
        return Windows(size, kernel, stride, pad, (out[0], out[1]))

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        if tops == 2:
            if self.pool != "MAX":
                raise MalformedModel("only MAX pooling has a second top")
            raise UnsupportedModel("the second top of MAX pooling, the positions, is not supported")
        batch, channels, height, width = bottoms[0]
        return [(batch, channels) + self.geometry(height, width).out]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        windows = self.geometry(*bottoms[0].shape[2:])
        return [windows.maxima(bottoms[0]) if self.pool == "MAX" else windows.averages(bottoms[0])]
