"""Convolution with weights of its own for each place (happynear/caffe-windows)."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import count, need_axes, same_shapes
from schemas.layers.registry import BIAS, FILLER, WEIGHT, Filler, Meaning, layer
from schemas.layers.windows import Geometry, Sizes


@layer(
    "Local",
    message="local_param",
    harmless={"weight_filler": FILLER, "bias_filler": FILLER},
    dialect="happynear",
)
class Local(Meaning):
    """Each output's own weights (num_output, 1, C * k * k, places) times its window, plus bias
    (1, 1, num_output, places) (happynear/caffe-windows, local_layer.cpp)."""

    num_output: int = 0
    bias_term: bool = True
    pad: int = 0
    kernel_size: int = 0
    stride: int = 1

    def check(self) -> None:
        if min(self.num_output, self.kernel_size, self.stride) < 1 or self.pad < 0:
            raise MalformedModel(
                f"num_output, kernel_size and stride should be positive, found {self.num_output}, "
                f"{self.kernel_size} and {self.stride}"
            )

    def geometry(self) -> Geometry:
        """The window."""
        return Geometry((self.kernel_size,) * 2, (self.stride,) * 2, (self.pad,) * 2, (1, 1))

    def _out(self, bottom: Shape) -> Sizes:
        need_axes(bottom, 4)
        return self.geometry().convolved(tuple(bottom[2:]))

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        places = count(self._out(bottoms[0]))
        weight = (self.num_output, 1, bottoms[0][1] * self.kernel_size**2, places)
        return [weight, (1, 1, self.num_output, places)] if self.bias_term else [weight]

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT, BIAS][:blobs]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        same_shapes(bottoms)
        return [(bottoms[0][0], self.num_output) + self._out(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottoms[0].shape], tops)
        geometry, out = self.geometry(), tuple(shape[2:])
        top = np.empty(shape, np.float32)
        for image, result in zip(bottoms[0], top):
            columns = geometry.unfold(image, out).reshape(-1, count(out))
            result[...] = np.einsum("okp,kp->op", weights[0][:, 0], columns).reshape(result.shape)
        if self.bias_term:
            top += weights[1].reshape(shape[1:])
        return [top]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return count(tops[0]) * bottoms[0][1] * self.kernel_size**2
