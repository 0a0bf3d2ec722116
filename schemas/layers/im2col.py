"""Im2col: the windows of a convolution as channels."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.convolution import BaseConvolution
from schemas.layers.registry import ENGINE, FILLER, layer


@layer(
    "Im2col",
    message="convolution_param",
    harmless={
        "weight_filler": FILLER,
        "bias_filler": FILLER,
        "engine": ENGINE,
        "force_nd_im2col": ENGINE,
    },
)
class Im2col(BaseConvolution):
    """The pixels under each window of a convolution over the axes after `axis`, in the order
    channel, window row, window column, as the channels of a pixel (im2col_layer.cpp).

    num_output, bias_term and group are a convolution's and change nothing here.
    """

    bottom_count = (1, 1)  # type: ignore[assignment]
    top_count = (1, 1)  # type: ignore[assignment]

    def _check_filters(self) -> None:
        """There are none."""

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        shape, size = tuple(bottoms[0]), self.spatial(bottoms[0])
        if not size:
            raise MalformedModel(f"there is no axis after axis {self.axis} of {list(shape)}")
        geometry = self.geometry(len(size))
        axis = canonical(self.axis, len(shape))
        channels = shape[axis] * count(geometry.kernel)
        return [shape[:axis] + (channels,) + geometry.convolved(size)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottoms[0].shape], tops)
        size = self.spatial(bottoms[0].shape)
        geometry = self.geometry(len(size))
        return [geometry.unfold(bottoms[0], geometry.convolved(size)).reshape(shape)]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return canonical(self.axis, len(bottoms[0]))
