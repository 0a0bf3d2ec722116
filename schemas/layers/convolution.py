"""Convolution and Deconvolution over two spatial axes (base_conv_layer.cpp)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, same_shapes, taps
from schemas.layers.registry import ENGINE, FILLER, Meaning, layer

Pair = Tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """The window of a convolution; every pair is (h, w)."""

    kernel: Pair
    stride: Pair
    pad: Pair
    dilation: Pair

    @property
    def extent(self) -> Pair:
        """The pixels from a window's first tap to its last, both included."""
        height, width = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel))
        return height, width

    @property
    def pointwise(self) -> bool:
        """Whether each output reads the one input at its own place."""
        return self.kernel == self.stride == (1, 1) and self.pad == (0, 0)

    def convolved(self, size: Pair) -> Pair:
        """What a convolution makes of `size`: (in + 2p - extent) / s + 1 (conv_layer.cpp).

        C++ rounds that quotient towards zero: a window that passes the far padding by less than a
        stride still gives one output, and reads zeros there.
        """
        height, width = (
            int((n + 2 * p - e) / s) + 1
            for n, p, e, s in zip(size, self.pad, self.extent, self.stride)
        )
        return height, width

    def deconvolved(self, size: Pair) -> Pair:
        """What a deconvolution makes of `size`: s * (in - 1) + extent - 2p (deconv_layer.cpp)."""
        height, width = (
            s * (n - 1) + e - 2 * p for n, p, e, s in zip(size, self.pad, self.extent, self.stride)
        )
        return height, width

    def padding(self, size: Pair) -> Tuple[Pair, Pair]:
        """Zeros (before, after) the rows and the columns, with which every window is whole."""
        rows, columns = (
            (p, max(p, s * (out - 1) + e - n - p))
            for n, out, p, e, s in zip(
                size, self.convolved(size), self.pad, self.extent, self.stride
            )
        )
        return rows, columns

    def unfold(self, image: np.ndarray, columns: np.ndarray) -> None:
        """Copies the windows of image (..., H, W) to columns (..., kh, kw, out_h, out_w).

        As in im2col.cpp, but that padding is not written: `columns` must hold zeros there.
        """
        for column, pixel in self._places(image.shape[-2:], columns.shape[-2:]):
            columns[column] = image[pixel]

    def fold(self, columns: np.ndarray, image: np.ndarray) -> None:
        """Adds columns (..., kh, kw, out_h, out_w) to the pixels they stand for (col2im)."""
        for column, pixel in self._places(image.shape[-2:], columns.shape[-2:]):
            image[pixel] += columns[column]

    def _places(self, size: Shape, out: Shape) -> Iterator[Tuple[Tuple, Tuple]]:
        windows = list(zip(size, out, self.kernel, self.stride, self.pad, self.dilation))
        for i, out_h, in_h in taps(*windows[0]):
            for j, out_w, in_w in taps(*windows[1]):
                yield (..., i, j, out_h, out_w), (..., in_h, in_w)


@dataclass(frozen=True, eq=False)
class BaseConvolution(Meaning):
    """What both directions share: the parameters and their checks."""

    num_output: int = 0
    bias_term: bool = True
    pad: Tuple[int, ...] = ()
    kernel_size: Tuple[int, ...] = ()
    group: int = 1
    stride: Tuple[int, ...] = ()
    pad_h: Optional[int] = None
    pad_w: Optional[int] = None
    kernel_h: Optional[int] = None
    kernel_w: Optional[int] = None
    stride_h: Optional[int] = None
    stride_w: Optional[int] = None
    axis: int = 1
    dilation: Tuple[int, ...] = ()

    bottom_count = (1, None)
    top_count = (1, None)

    def check(self) -> None:
        if self.num_output < 1 or self.group < 1:
            raise MalformedModel(
                f"num_output and group should be positive, found {self.num_output} and {self.group}"
            )
        self.geometry()

    def geometry(self) -> Geometry:
        """The window, whichever of Caffe's forms it was written in.

        Raises:
            MalformedModel: a value is missing, not positive, or given in both forms.
            UnsupportedModel: the values are for other than two spatial axes.
        """
        return Geometry(
            kernel=self._pair("kernel_size", self.kernel_size, None, self.kernel_h, self.kernel_w),
            stride=self._pair("stride", self.stride, 1, self.stride_h, self.stride_w),
            pad=self._pair("pad", self.pad, 0, self.pad_h, self.pad_w),
            dilation=self._pair("dilation", self.dilation, 1, None, None),
        )

    @staticmethod
    def _pair(
        name: str,
        given: Tuple[int, ...],
        default: Optional[int],
        h: Optional[int],
        w: Optional[int],
    ) -> Pair:
        values = given
        if h is not None or w is not None:
            if given:
                raise MalformedModel(f"{name} is given both as such and per axis")
            values = (h or 0, w or 0)
        elif not given:
            if default is None:
                raise MalformedModel(f"{name} is missing")
            values = (default,)
        if len(values) > 2:
            raise UnsupportedModel(
                f"{name} is given for {len(values)} spatial axes; only 2 are supported"
            )
        least = 0 if name == "pad" else 1
        if min(values) < least:
            raise MalformedModel(f"{name} should be at least {least}, found {list(values)}")
        return values[0], values[-1]

    def channels(self, bottoms: Sequence[Shape]) -> int:
        """The channels of the bottoms, whose shapes it checks.

        Raises:
            MalformedModel: the shapes differ, or the groups do not divide the channels.
            UnsupportedModel: there are other than two spatial axes.
        """
        same_shapes(bottoms)
        axis = canonical(self.axis, len(bottoms[0]))
        if len(bottoms[0]) - axis != 3:
            raise UnsupportedModel(
                f"a convolution over {len(bottoms[0]) - axis - 1} spatial axes (bottom of shape "
                f"{list(bottoms[0])}, axis {self.axis}); only 2 are supported"
            )
        channels = bottoms[0][axis]
        if channels % self.group or self.num_output % self.group:
            raise MalformedModel(
                f"group {self.group} should divide the {channels} channels "
                f"and num_output {self.num_output}"
            )
        return channels

    def size(self, size: Pair) -> Pair:
        """The (h, w) of the tops."""
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.channels(bottoms)
        if tops != len(bottoms):
            raise MalformedModel(f"one top per bottom expected: {len(bottoms)}, found {tops}")
        height, width = bottoms[0][-2:]
        return [tuple(bottoms[0][:-3]) + (self.num_output,) + self.size((height, width))] * tops

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        results = []
        for bottom in bottoms:
            height, width = bottom.shape[-2:]
            channels = bottom.shape[-3] // self.group
            out = self.size((height, width))
            top = self.pixels(
                bottom.reshape(-1, self.group, channels, height, width), weights[0], out
            )
            top = top.reshape(bottom.shape[:-3] + (self.num_output,) + out)
            if self.bias_term:
                top += weights[1].reshape(-1, 1, 1)
            results.append(top)
        return results

    def pixels(self, images: np.ndarray, weight: np.ndarray, out: Pair) -> np.ndarray:
        """The top without its bias: images (N, group, C/group, H, W) -> (N, group, ..., *out)."""
        raise NotImplementedError

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        axis = canonical(self.axis, len(bottoms[0]))
        return [batch if batch is not None and batch < axis else None for batch in batches]


_HARMLESS = {
    "weight_filler": FILLER,
    "bias_filler": FILLER,
    "engine": ENGINE,
    "force_nd_im2col": ENGINE,
    "cudnn_convolution_algo_seeker": ENGINE,
    "conv_algos_override": ENGINE,
    "conv_algorithm": ENGINE,
}


@layer("Convolution", message="convolution_param", harmless=_HARMLESS)
class Convolution(BaseConvolution):
    """Cross-correlation with weights (num_output, C/group, kh, kw), plus bias (conv_layer.cpp)."""

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        channels = self.channels(bottoms) // self.group
        weight = (self.num_output, channels) + self.geometry().kernel
        return [weight, (self.num_output,)] if self.bias_term else [weight]

    def size(self, size: Pair) -> Pair:
        return self.geometry().convolved(size)

    def pixels(self, images: np.ndarray, weight: np.ndarray, out: Pair) -> np.ndarray:
        geometry = self.geometry()
        batch, group, channels = images.shape[:3]
        kernels = weight.reshape(group, self.num_output // group, -1)
        if geometry.pointwise:
            return np.matmul(kernels, images.reshape(batch, group, channels, -1))
        columns = np.zeros((group, channels) + geometry.kernel + out, np.float32)
        flat = columns.reshape(group, kernels.shape[2], -1)
        tops = np.empty((batch,) + kernels.shape[:2] + flat.shape[2:], np.float32)
        for image, top in zip(images, tops):
            geometry.unfold(image, columns)
            np.matmul(kernels, flat, out=top)
        return tops


@layer("Deconvolution", message="convolution_param", harmless=_HARMLESS)
class Deconvolution(BaseConvolution):
    """Convolution's transpose with weights (C, num_output/group, kh, kw), plus bias
    (deconv_layer.cpp)."""

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        weight = (self.channels(bottoms), self.num_output // self.group) + self.geometry().kernel
        return [weight, (self.num_output,)] if self.bias_term else [weight]

    def size(self, size: Pair) -> Pair:
        return self.geometry().deconvolved(size)

    def pixels(self, images: np.ndarray, weight: np.ndarray, out: Pair) -> np.ndarray:
        geometry = self.geometry()
        batch, group, channels, height, width = images.shape
        outputs = self.num_output // group
        kernels = weight.reshape(group, channels, -1).swapaxes(1, 2)
        tops = np.zeros((batch, group, outputs) + out, np.float32)
        for image, top in zip(images, tops):
            columns = np.matmul(kernels, image.reshape(group, channels, -1))
            geometry.fold(
                columns.reshape((group, outputs) + geometry.kernel + (height, width)), top
            )
        return tops
