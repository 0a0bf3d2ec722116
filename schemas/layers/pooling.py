"""Pooling of images and volumes (pooling_layer.cpp), and its pyramid (spp_layer.cpp)."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import count, need_axes
from schemas.layers.registry import ENGINE, Meaning, layer
from schemas.layers.windows import LOWEST, Windows

__all__ = ("LOWEST", "SPP", "Pooling", "Pooling3D", "Windows")

Pair = Tuple[int, int]

_METHODS = ("MAX", "AVE", "STOCHASTIC")
# Two names of one number in Synopsys' caffe.proto.
_WITHOUT_PADDING = ("AVE_EXC_PAD", "AVE_TF")


def _refuse_stochastic(pool: str) -> None:
    if pool == "STOCHASTIC":
        raise UnsupportedModel(
            "pool: STOCHASTIC is random in training, and Caffe has its TEST pass for GPUs only, "
            "with a rule that differs between versions"
        )


def pooled(windows: Windows, pool: str, images: np.ndarray, padding: bool = True) -> np.ndarray:
    """The maximum or average of each window, where pads may count as pixels of an average."""
    return windows.maxima(images) if pool == "MAX" else windows.averages(images, padding)


@layer("Pooling", message="pooling_param", harmless={"engine": ENGINE})
class Pooling(Meaning):
    """The maximum or average of each window; the size rounds up unless round_mode is FLOOR.

    A second top of MAX holds where each greatest pixel stands in its plane (h * W + w), the first
    of equal ones.

    Forks' fields: ``ceil_mode: false`` (makefile/frcnn, soeaver, Synopsys) and ``torch_pooling:
    true`` (NVIDIA) mean FLOOR; AVE_EXC_PAD, AVE_TF, `pad_type`, `pad_l`, `pad_r`, `pad_t` and
    `pad_b` are Synopsys' (pooling_layer.cpp there); ``avg_include_pad: false`` is Intel's
    AVE_EXC_PAD (mkldnn_pooling_layer.cpp).
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
    avg_include_pad: bool = True
    pad_type: Optional[int] = None
    pad_l: int = 0
    pad_r: int = 0
    pad_t: int = 0
    pad_b: int = 0

    choices = {"pool": (*_METHODS, *_WITHOUT_PADDING), "round_mode": ("CEIL", "FLOOR")}
    top_count = (1, 2)
    index_tops = (1,)

    def check(self) -> None:
        _refuse_stochastic(self.pool)
        kernel, stride, pad = self._kernel(), self._stride(), self._pad()
        self.rounds_up()
        self._check_own_padding()
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

    def _check_own_padding(self) -> None:
        if self.pad_type not in (None, 0, 1):
            raise MalformedModel(f"pad_type should be 0 or 1, found {self.pad_type}")
        sides, pads = any(self._sides()), (self.pad, self.pad_h, self.pad_w)
        if (self.pad_type is not None or sides) and pads != (None, None, None):
            raise MalformedModel("pad is given twice: as such and as pad_type or pad_l, ... pad_b")
        if self.pad_type is not None and sides:
            raise MalformedModel("pad_type and pad_l, pad_r, pad_t, pad_b are both given")
        if self.global_pooling and (self.pad_type or sides):
            raise UnsupportedModel("global_pooling with padding is not known exactly")

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

    def _sides(self) -> Tuple[int, int, int, int]:
        return self.pad_t, self.pad_b, self.pad_l, self.pad_r

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

    def counts_padding(self) -> bool:
        """Whether an average takes padding for pixels."""
        return self.avg_include_pad and self.pool not in _WITHOUT_PADDING

    def geometry(self, height: int, width: int) -> Windows:
        """The windows over images of this size.

        Raises:
            MalformedModel: the last window would start past the image and its padding.
        """
        size = (height, width)
        if self.global_pooling:
            return Windows(size, kernel=size, stride=(1, 1), pad=(0, 0), out=(1, 1))
        kernel, stride = self._kernel() or size, self._stride()
        if self.pad_type:
            return self._same(size, kernel, stride)
        before, after = self._pad(), self._pad()
        if any(self._sides()):
            before, after = (self.pad_t, self.pad_l), (self.pad_b, self.pad_r)
        out = []
        for n, k, s, p, q in zip(size, kernel, stride, before, after):
            steps = n + p + q - k
            last = -(-steps // s) if self.rounds_up() else steps // s
            # With padding on any side, the last window starts inside the image or its near padding.
            if max(before + after) > 0 and last * s >= n + p:
                last -= 1
                if last * s >= n + p:
                    raise MalformedModel(f"stride {s} leaves a window outside of {n} pixels")
            out.append(last + 1)
        return Windows(size, kernel, stride, before, (out[0], out[1]), after)

    @staticmethod
    def _same(size: Pair, kernel: Pair, stride: Pair) -> Windows:
        """Synopsys' ``pad_type: 1``, TensorFlow's SAME."""
        out = tuple(-(-n // s) for n, s in zip(size, stride))
        lacking = [max(k - (n % s or s), 0) for n, k, s in zip(size, kernel, stride)]
        before = tuple(zeros // 2 for zeros in lacking)
        after = tuple(zeros - zeros // 2 for zeros in lacking)
        return Windows(size, kernel, stride, before, out, after)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        if tops == 2 and self.pool != "MAX":
            raise MalformedModel("only MAX pooling has a second top")
        batch, channels, height, width = bottoms[0]
        return [(batch, channels) + self.geometry(height, width).out] * tops

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        windows = self.geometry(*bottoms[0].shape[2:])
        top = pooled(windows, self.pool, bottoms[0], self.counts_padding())
        return [top] if tops == 1 else [top, windows.positions(bottoms[0])]


@layer("SPP", message="spp_param", harmless={"engine": ENGINE})
class SPP(Meaning):
    """The bottom pooled into 1, 4, 16, ... windows, one level after the other as a row.

    A pyramid of one level is a pooling: its top has 4 axes (spp_layer.cpp).
    """

    pyramid_height: int = 0
    pool: str = "MAX"

    choices = {"pool": _METHODS}

    def check(self) -> None:
        _refuse_stochastic(self.pool)
        if self.pyramid_height < 1:
            raise MalformedModel(f"pyramid_height should be positive, found {self.pyramid_height}")

    def levels(self, size: Sequence[int]) -> List[Windows]:
        """The windows of each level over images of `size` (GetPoolingParam).

        Raises:
            MalformedModel: a level has more windows than an axis has pixels.
        """
        found = []
        for level in range(self.pyramid_height):
            kernel = [-(-n // 2**level) for n in size]
            pad = [(k * 2**level - n + 1) // 2 for n, k in zip(size, kernel)]
            window = {"kernel": kernel, "stride": kernel, "pad": pad}
            fields: Dict[str, Any] = {"pool": self.pool}
            for name, (h, w) in window.items():
                fields.update({f"{name}_h": h, f"{name}_w": w})
            pooling = Pooling(**fields)
            pooling.check()
            found.append(pooling.geometry(size[0], size[1]))
        return found

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        batch, channels = bottoms[0][:2]
        levels = self.levels(bottoms[0][2:])
        if len(levels) == 1:
            return [(batch, channels) + levels[0].out]
        return [(batch, channels * sum(count(windows.out) for windows in levels))]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        levels = [
            pooled(windows, self.pool, bottoms[0]) for windows in self.levels(bottoms[0].shape[2:])
        ]
        if len(levels) == 1:
            return levels
        return [np.concatenate([level.reshape(len(level), -1) for level in levels], axis=1)]


@layer("Pooling3D", message="pooling3d_param", dialect="c3d")
class Pooling3D(Meaning):
    """The maximum or average of windows over time, height and width; sizes round up, and no window
    is dropped (facebookarchive/C3D v1.1, pool3d_layer.cpp)."""

    pool: str = "MAX"
    kernel_size: int = 0
    kernel_depth: int = 0
    stride: int = 1
    temporal_stride: int = 1
    pad: int = 0

    choices = {"pool": _METHODS}

    def check(self) -> None:
        if self.pool == "STOCHASTIC":
            raise UnsupportedModel("pool: STOCHASTIC has no CPU code in the fork")
        if min(self.kernel_size, self.kernel_depth, self.stride, self.temporal_stride) < 1:
            raise MalformedModel(
                "kernel_size, kernel_depth, stride and temporal_stride should be positive, found "
                f"{self.kernel_size}, {self.kernel_depth}, {self.stride}, {self.temporal_stride}"
            )
        if self.pad < 0 or (self.pad and self.pool != "AVE"):
            raise MalformedModel(f"pad is for average pooling alone, found {self.pad}")

    def windows(self, size: Sequence[int]) -> Windows:
        """The windows over volumes of `size` (length, height, width)."""
        kernel = (self.kernel_depth, self.kernel_size, self.kernel_size)
        stride = (self.temporal_stride, self.stride, self.stride)
        pad = (0, self.pad, self.pad)
        out = tuple(-(-(n + 2 * p - k) // s) + 1 for n, k, s, p in zip(size, kernel, stride, pad))
        return Windows(tuple(size), kernel, stride, pad, out)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 5)
        return [tuple(bottoms[0][:2]) + self.windows(bottoms[0][2:]).out]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [pooled(self.windows(bottoms[0].shape[2:]), self.pool, bottoms[0])]
