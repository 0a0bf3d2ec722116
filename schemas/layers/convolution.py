"""Convolution and Deconvolution over any number of spatial axes, and the forks' convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count, need_axes
from schemas.layers.base_convolution import TRAINING, BaseConvolution, rectified, sizes
from schemas.layers.registry import BIAS, ENGINE, FILLER, WEIGHT, Filler, Meaning, layer
from schemas.layers.windows import Geometry, Sizes

__all__ = ("BaseConvolution", "Convolution", "Geometry")

_HARMLESS = {
    "weight_filler": FILLER,
    "bias_filler": FILLER,
    "engine": ENGINE,
    "force_nd_im2col": ENGINE,
    "cudnn_convolution_algo_seeker": ENGINE,
    "conv_algos_override": ENGINE,
    "conv_algorithm": ENGINE,
    "weight_fixed": TRAINING,
    "dis_mode": TRAINING,
    "gen_mode": TRAINING,
}


@layer("Convolution", message="convolution_param", harmless=_HARMLESS)
class Convolution(BaseConvolution):
    """Cross-correlation with weights (num_output, C/group, *kernel), plus bias (conv_layer.cpp).

    Forks' fields: `tf_pad` (chuanqi305/ssd, base_conv_layer.cpp); `filter_stride`, ParseNet's
    dilation (im2col.cpp there); `relu` and `negative_slope`, a ReLU that Intel's layer does itself
    (mkldnn_convolution_layer.cpp); `pad_type`, `pad_l`, `pad_r`, `pad_t`, `pad_b` of Synopsys
    (im2col.cpp there).
    """

    tf_pad: Optional[str] = None
    filter_stride: Optional[int] = None
    filter_stride_h: Optional[int] = None
    filter_stride_w: Optional[int] = None
    relu: bool = False
    negative_slope: float = 0.0
    fusion_type: str = "NONE_FUSION"
    submanifold_sparse: bool = False
    pad_type: Optional[int] = None
    pad_l: int = 0
    pad_r: int = 0
    pad_t: int = 0
    pad_b: int = 0

    choices = {"tf_pad": ("SAME", "VALID"), "fusion_type": ("NONE_FUSION",)}

    def check(self) -> None:
        super().check()
        if self.submanifold_sparse:
            raise UnsupportedModel("submanifold_sparse skips pixels by their values")
        if self.relu and self.negative_slope < 0:
            raise UnsupportedModel(f"negative_slope is {self.negative_slope}; 0 or more expected")
        if self.pad_type not in (None, 0, 1):
            raise MalformedModel(f"pad_type should be 0 or 1, found {self.pad_type}")
        own = [self.tf_pad is not None, bool(self.pad_type), any(self._sides())]
        if sum(own) > 1:
            raise UnsupportedModel("only one of tf_pad, pad_type and pad_l, ... pad_b may be given")
        if (self.pad_type is not None or own[2]) and (self.pad or self.pad_h or self.pad_w):
            raise MalformedModel("pad is given twice: as such and as pad_type or pad_l, ... pad_b")

    def geometry(self, axes: int = 2) -> Geometry:
        strides = self.filter_stride, self.filter_stride_h, self.filter_stride_w
        if strides == (None, None, None):
            return super().geometry(axes)
        if self.dilation or self.dilation_h is not None or self.dilation_w is not None:
            raise UnsupportedModel("filter_stride and dilation are two names of one thing")
        given = () if self.filter_stride is None else (self.filter_stride,)
        named = sizes("filter_stride", axes, given, 1, *strides[1:])
        return replace(super().geometry(axes), dilation=named)

    def _sides(self) -> Tuple[Tuple[int, int], ...]:
        """Synopsys' zeros (before, after) the rows and the columns."""
        sides = (self.pad_t, self.pad_b), (self.pad_l, self.pad_r)
        return sides if any(map(any, sides)) else ()

    def placed(self, size: Sizes) -> Tuple[Geometry, Sizes]:
        geometry = self.geometry(len(size))
        out = geometry.convolved(size)
        sides = self._sides()
        if (self.tf_pad or self.pad_type or sides) and len(size) != 2:
            raise MalformedModel(f"this padding is for 2 spatial axes, found {len(size)}")
        if self.tf_pad:
            return replace(geometry, pad=self._tensorflow_pad(geometry, size, out)), out
        if (self.pad_type or sides) and geometry.pointwise:
            raise UnsupportedModel("the fork takes a padded 1x1 convolution for an unpadded one")
        if self.pad_type:
            out = tuple(-(-n // s) for n, s in zip(size, geometry.stride))
            pad = tuple(
                max(k - (n % s or s), 0) // 2
                for n, k, s in zip(size, geometry.kernel, geometry.stride)
            )
            return replace(geometry, pad=pad), out
        if sides:
            out = tuple(
                int((n + before + after - e) / s) + 1
                for n, (before, after), e, s in zip(size, sides, geometry.extent, geometry.stride)
            )
            return replace(geometry, pad=tuple(before for before, _ in sides)), out
        return geometry, out

    def _tensorflow_pad(self, geometry: Geometry, size: Sizes, out: Sizes) -> Sizes:
        """The zeros before each axis: with SAME, as many as after, or none if one half is none."""
        if self.tf_pad == "VALID":
            return (0,) * len(size)
        if max(geometry.dilation) > 1:
            raise UnsupportedModel("tf_pad: SAME beside a dilation is not known exactly")
        pad = []
        for n, windows, k, s in zip(size, out, geometry.kernel, geometry.stride):
            lacking = (windows - 1) * s + k - n
            if lacking < 0:
                raise UnsupportedModel("tf_pad: SAME with windows that leave pixels out")
            pad.append(lacking - lacking // 2 if lacking > 1 else 0)
        return tuple(pad)

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        channels = self.channels(bottoms)
        outputs = self.outputs(channels)
        kernel = self.geometry(len(self.spatial(bottoms[0]))).kernel
        weight = (outputs, channels // self.groups(channels)) + kernel
        return [weight, (outputs,)] if self.bias_term else [weight]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        results = super().forward(bottoms, weights, tops)
        return [rectified(top, self.negative_slope) for top in results] if self.relu else results

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return sum(map(count, tops)) * count(self.weight_shapes(bottoms)[0][1:])

    def absorbing(
        self,
        bottoms: Sequence[Shape],
        weights: Sequence[np.ndarray],
        factor: np.ndarray,
        offset: np.ndarray,
    ) -> Optional[Tuple[Dict[str, Any], List[np.ndarray]]]:
        return None if self.relu else super().absorbing(bottoms, weights, factor, offset)

    def scaled(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1))

    def with_reversed_channels(
        self, bottoms: Sequence[Shape], weights: Sequence[np.ndarray]
    ) -> Optional[List[np.ndarray]]:
        channels = self.channels(bottoms)
        if self.groups(channels) > 1 or canonical(self.axis, len(bottoms[0])) != 1:
            return None
        return [np.ascontiguousarray(weights[0][:, ::-1]), *weights[1:]]

    def pixels(
        self, images: np.ndarray, weight: np.ndarray, geometry: Geometry, out: Sizes
    ) -> np.ndarray:
        batch, group, channels = images.shape[:3]
        kernels = weight.reshape(group, len(weight) // group, -1)
        if geometry.pointwise:
            return np.matmul(kernels, images.reshape(batch, group, channels, -1))
        tops = np.empty((batch,) + kernels.shape[:2] + (count(out),), np.float32)
        for image, top in zip(images, tops):
            for places, columns in geometry.blocks(image, out):
                flat = columns.reshape(group, kernels.shape[2], -1)
                np.matmul(kernels, flat, out=top[..., places])
        return tops


@layer("Deconvolution", message="convolution_param", harmless=_HARMLESS)
class Deconvolution(BaseConvolution):
    """Convolution's transpose with weights (C, num_output/group, *kernel), plus bias
    (deconv_layer.cpp)."""

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        kernel = self.geometry(len(self.spatial(bottoms[0]))).kernel
        weight = (self.channels(bottoms), self.num_output // self.group) + kernel
        return [weight, (self.num_output,)] if self.bias_term else [weight]

    def placed(self, size: Sizes) -> Tuple[Geometry, Sizes]:
        geometry = self.geometry(len(size))
        return geometry, geometry.deconvolved(size)

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return sum(map(count, bottoms)) * count(self.weight_shapes(bottoms)[0][1:])

    def scaled(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
        grouped = weight.reshape((self.group, -1) + weight.shape[1:])
        each = factor.reshape((self.group, 1, -1) + (1,) * (weight.ndim - 2))
        return (grouped * each).reshape(weight.shape)

    def pixels(
        self, images: np.ndarray, weight: np.ndarray, geometry: Geometry, out: Sizes
    ) -> np.ndarray:
        batch, group, channels = images.shape[:3]
        outputs = self.num_output // group
        kernels = weight.reshape(group, channels, -1).swapaxes(1, 2)
        tops = np.zeros((batch, group, outputs) + out, np.float32)
        for image, top in zip(images, tops):
            columns = np.matmul(kernels, image.reshape(group, channels, -1))
            geometry.fold(
                columns.reshape((group, outputs) + geometry.kernel + image.shape[2:]), top
            )
        return tops


@layer("DepthwiseConvolution", message="convolution_param", harmless=_HARMLESS, dialect="depthwise")
class DepthwiseConvolution(Convolution):
    """Convolution with the `group` that is written (yonghenglh6/DepthwiseConvolution,
    depthwise_conv_layer.cpp: its CPU pass); without one it is dense."""


@layer("ConvolutionDepthwise", message="convolution_param", harmless=_HARMLESS, dialect="depthwise")
class ConvolutionDepthwise(Convolution):
    """One filter for each channel, whatever `num_output` and `group` say (suzhenghang/MobileNetv2,
    conv_dw_layer.cpp). The fork reads `stride` and `pad` where none is written: taken as 1 and 0.
    """

    bottom_count = (1, 1)  # type: ignore[assignment]
    top_count = (1, 1)  # type: ignore[assignment]

    def check(self) -> None:
        if self.axis != 1:
            raise UnsupportedModel(f"axis is {self.axis}; the fork reads none")
        for name in (*Convolution.__annotations__, "dilation_h", "dilation_w"):
            if getattr(self, name) != getattr(type(self), name):
                raise UnsupportedModel(f"{name} is given, which the fork does not read")
        super().check()

    def _check_filters(self) -> None:
        """Neither number is read."""

    def groups(self, channels: int) -> int:
        return channels

    def outputs(self, channels: int) -> int:
        return channels

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        return super().shapes(bottoms, tops)


@layer(
    "Convolution3D",
    message="convolution3d_param",
    harmless={
        "weight_filler": FILLER,
        "bias_filler": FILLER,
        "group": "no code of the fork reads it",
    },
    dialect="c3d",
)
class Convolution3D(Meaning):
    """Cross-correlation over time, height and width with weights (num_output, C, kernel_depth,
    kernel_size, kernel_size) and bias (1, 1, 1, 1, num_output) (facebookarchive/C3D v1.1,
    convolution3d_layer.cpp).

    `filter_group` divides the filters alone: each group of them reads all channels.
    """

    num_output: int = 0
    bias_term: bool = True
    pad: int = 0
    kernel_size: int = 0
    kernel_depth: int = 0
    stride: int = 1
    temporal_stride: int = 1
    temporal_pad: int = 0
    filter_group: int = 1

    def check(self) -> None:
        if self.filter_group < 1 or self.num_output % self.filter_group:
            raise MalformedModel(
                f"filter_group {self.filter_group} should divide num_output {self.num_output}"
            )
        if min(self.kernel_size, self.kernel_depth) < 1:
            raise MalformedModel(
                f"kernel_size and kernel_depth should be positive, found {self.kernel_size} and "
                f"{self.kernel_depth}"
            )
        self.plain().check()

    def plain(self) -> Convolution:
        """The convolution over three axes that this is."""
        return Convolution(
            num_output=self.num_output,
            bias_term=self.bias_term,
            kernel_size=(self.kernel_depth, self.kernel_size, self.kernel_size),
            stride=(self.temporal_stride, self.stride, self.stride),
            pad=(self.temporal_pad, self.pad, self.pad),
        )

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        need_axes(bottoms[0], 5)
        weight, *bias = self.plain().weight_shapes(bottoms)
        return [weight, *((1, 1, 1, 1) + tuple(shape) for shape in bias)]

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT, BIAS][:blobs]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 5)
        return self.plain().shapes(bottoms, tops)

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return self.plain().forward(bottoms, weights, tops)

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return self.plain().macs(bottoms, tops)


@layer("DeformableConvolution", dialect="deformable")
class DeformableConvolution(Meaning):
    """A convolution whose taps are moved by a second bottom (msracver/Deformable-ConvNets)."""

    bottom_count = (1, None)

    def check(self) -> None:
        raise UnsupportedModel(
            "the forks have it for GPUs only, so that there are no numbers to hold it to; "
            "--outputs cuts the net before it"
        )
