"""InnerProduct."""

from __future__ import annotations

from typing import List, Optional, Sequence

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.registry import ENGINE, FILLER, Meaning, layer


@layer(
    "InnerProduct",
    message="inner_product_param",
    harmless={"weight_filler": FILLER, "bias_filler": FILLER, "engine": ENGINE},
)
class InnerProduct(Meaning):
    """x W' + b, with x flattened from `axis` on and W (num_output, K), or (K, num_output) if
    `transpose` (inner_product_layer.cpp)."""

    num_output: int = 0
    bias_term: bool = True
    axis: int = 1
    transpose: bool = False

    def check(self) -> None:
        if self.num_output < 1:
            raise MalformedModel(f"num_output should be positive, found {self.num_output}")

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        inputs = count(bottoms[0][canonical(self.axis, len(bottoms[0])) :])
        weight = (inputs, self.num_output) if self.transpose else (self.num_output, inputs)
        return [weight, (self.num_output,)] if self.bias_term else [weight]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        axis = canonical(self.axis, len(bottoms[0]))
        return [tuple(bottoms[0][:axis]) + (self.num_output,)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        shape = bottoms[0].shape
        axis = canonical(self.axis, len(shape))
        rows = bottoms[0].reshape(count(shape[:axis]), count(shape[axis:]))
        top = np.matmul(rows, weights[0] if self.transpose else weights[0].T)
        if self.bias_term:
            top += weights[1].reshape(-1)
        return [top.reshape(shape[:axis] + (self.num_output,))]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        axis = canonical(self.axis, len(bottoms[0]))
        return [batches[0] if batches[0] is not None and batches[0] < axis else None]
