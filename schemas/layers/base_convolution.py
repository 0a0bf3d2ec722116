"""What the layers that convolve share (base_conv_layer.cpp)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, same_shapes
from schemas.layers.registry import BIAS, WEIGHT, Filler, Meaning
from schemas.layers.windows import Geometry, Sizes

TRAINING = "steers training"


def rectified(top: np.ndarray, slope: float) -> np.ndarray:
    """A ReLU that a layer does itself: max(x, 0) + slope * min(x, 0)."""
    return np.maximum(top, 0) + np.float32(slope) * np.minimum(top, 0)


@dataclass(frozen=True, eq=False)
class BaseConvolution(Meaning):
    """What both directions share: the parameters and their checks.

    `dilation_h` and `dilation_w` are TSN's spelling.
    """

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
    dilation_h: Optional[int] = None
    dilation_w: Optional[int] = None

    bottom_count = (1, None)
    top_count = (1, None)

    def check(self) -> None:
        self._check_filters()
        # Over as many axes as the values are given for: how many there are, the bottoms tell.
        given = map(len, (self.kernel_size, self.stride, self.pad, self.dilation))
        sides = [field.name for field in fields(self) if field.name.endswith(("_h", "_w"))]
        named = any(getattr(self, name) is not None for name in sides)
        self.geometry(2 if named else max(given))

    def _check_filters(self) -> None:
        if self.num_output < 1 or self.group < 1:
            raise MalformedModel(
                f"num_output and group should be positive, found {self.num_output} and {self.group}"
            )

    def geometry(self, axes: int = 2) -> Geometry:
        """The window over `axes` spatial axes, whichever of Caffe's forms it was written in.

        Raises:
            MalformedModel: a value is missing, not positive, given in both forms, or given for
                another number of axes.
        """
        return Geometry(
            kernel=sizes("kernel_size", axes, self.kernel_size, None, self.kernel_h, self.kernel_w),
            stride=sizes("stride", axes, self.stride, 1, self.stride_h, self.stride_w),
            pad=sizes("pad", axes, self.pad, 0, self.pad_h, self.pad_w),
            dilation=sizes("dilation", axes, self.dilation, 1, self.dilation_h, self.dilation_w),
        )

    def groups(self, channels: int) -> int:
        """Into how many groups the channels are divided."""
        return self.group

    def outputs(self, channels: int) -> int:
        """The channels of the tops."""
        return self.num_output

    def channels(self, bottoms: Sequence[Shape]) -> int:
        """The channels of the bottoms, whose shapes it checks.

        Raises:
            MalformedModel: the shapes differ, or the groups do not divide the channels.
        """
        same_shapes(bottoms)
        channels = bottoms[0][canonical(self.axis, len(bottoms[0]))]
        group, outputs = self.groups(channels), self.outputs(channels)
        if channels % group or outputs % group:
            raise MalformedModel(
                f"group {group} should divide the {channels} channels and num_output {outputs}"
            )
        return channels

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT, BIAS][:blobs]

    def spatial(self, shape: Shape) -> Sizes:
        """The sizes of a bottom's spatial axes."""
        return tuple(shape[canonical(self.axis, len(shape)) + 1 :])

    def placed(self, size: Sizes) -> Tuple[Geometry, Sizes]:
        """The window over a bottom of `size`, and the size of the tops."""
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        outputs = self.outputs(self.channels(bottoms))
        if tops != len(bottoms):
            raise MalformedModel(f"one top per bottom expected: {len(bottoms)}, found {tops}")
        shape = tuple(bottoms[0])
        _, out = self.placed(self.spatial(shape))
        return [shape[: len(shape) - len(out) - 1] + (outputs,) + out] * tops

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        shape = bottoms[0].shape
        size = self.spatial(shape)
        channels = shape[len(shape) - len(size) - 1]
        group = self.groups(channels)
        geometry, out = self.placed(size)
        results = []
        for bottom, top_shape in zip(bottoms, self.shapes([b.shape for b in bottoms], tops)):
            images = bottom.reshape((-1, group, channels // group) + size)
            top = self.pixels(images, weights[0], geometry, out).reshape(top_shape)
            if self.bias_term:
                top += weights[1].reshape((-1,) + (1,) * len(size))
            results.append(top)
        return results

    def pixels(
        self, images: np.ndarray, weight: np.ndarray, geometry: Geometry, out: Sizes
    ) -> np.ndarray:
        """The top without its bias: images (N, group, C/group, *in) -> (N, group, ..., *out)."""
        raise NotImplementedError

    def absorbing(
        self,
        bottoms: Sequence[Shape],
        weights: Sequence[np.ndarray],
        factor: np.ndarray,
        offset: np.ndarray,
    ) -> Optional[Tuple[Dict[str, Any], List[np.ndarray]]]:
        if canonical(self.axis, len(bottoms[0])) != 1:
            return None
        bias = weights[1].reshape(-1) * factor + offset if self.bias_term else offset
        return {"bias_term": True}, [self.scaled(weights[0], factor), bias]

    def scaled(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """The weights with which every output channel is multiplied by its factor (C)."""
        raise NotImplementedError

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return canonical(self.axis, len(bottoms[0]))


def sizes(
    name: str,
    axes: int,
    given: Tuple[int, ...],
    default: Optional[int],
    h: Optional[int],
    w: Optional[int],
) -> Sizes:
    """A value for each spatial axis, from one for all, from one each, or from _h and _w."""
    values = given
    if h is not None or w is not None:
        if given:
            raise MalformedModel(f"{name} is given both as such and per axis")
        if axes != 2:
            raise MalformedModel(f"{name} is given as _h and _w; there are {axes} spatial axes")
        values = (h or 0, w or 0)
    elif not given:
        if default is None and axes:
            raise MalformedModel(f"{name} is missing")
        return (default or 0,) * axes
    elif len(given) not in (1, axes):
        raise MalformedModel(
            f"{name} should be given once or for each of {axes} spatial axes, found {list(given)}"
        )
    least = 0 if name == "pad" else 1
    if min(values) < least:
        raise MalformedModel(f"{name} should be at least {least}, found {list(values)}")
    return values * axes if len(values) == 1 else values
