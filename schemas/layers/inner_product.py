"""InnerProduct, and distances in its place (happynear/caffe-windows)."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.base_convolution import TRAINING, rectified
from schemas.layers.registry import BIAS, ENGINE, FILLER, WEIGHT, Filler, Meaning, layer


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Each row by the root of its sum of squares and 1e-6, as happynear's layers scale weights."""
    squares = np.sum(np.square(rows), axis=1, keepdims=True) + np.float32(1e-6)
    return rows / np.sqrt(squares)


@layer(
    "InnerProduct",
    message="inner_product_param",
    harmless={
        "weight_filler": FILLER,
        "bias_filler": FILLER,
        "engine": ENGINE,
        "weight_fixed": TRAINING,
        "dis_mode": TRAINING,
        "gen_mode": TRAINING,
    },
)
class InnerProduct(Meaning):
    """x W' + b, with x flattened from `axis` on and W (num_output, K), or (K, num_output) if
    `transpose` (inner_product_layer.cpp).

    Forks' fields: `normalize` makes W's rows unit vectors first (happynear; with `transpose` it
    takes the memory of W for such rows); `relu` and `negative_slope` are a ReLU that Intel's layer
    does itself (mkldnn_inner_product_layer.cpp).
    """

    num_output: int = 0
    bias_term: bool = True
    axis: int = 1
    transpose: bool = False
    normalize: bool = False
    relu: bool = False
    negative_slope: float = 0.0

    def check(self) -> None:
        if self.num_output < 1:
            raise MalformedModel(f"num_output should be positive, found {self.num_output}")
        if self.relu and self.negative_slope < 0:
            raise UnsupportedModel(f"negative_slope is {self.negative_slope}; 0 or more expected")

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """The stored weights as (num_output, K)."""
        if self.normalize:
            weight = unit_rows(weight.reshape(self.num_output, -1)).reshape(weight.shape)
        return weight.T if self.transpose else weight

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        inputs = count(bottoms[0][canonical(self.axis, len(bottoms[0])) :])
        weight = (inputs, self.num_output) if self.transpose else (self.num_output, inputs)
        return [weight, (self.num_output,)] if self.bias_term else [weight]

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT, BIAS][:blobs]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        axis = canonical(self.axis, len(bottoms[0]))
        return [tuple(bottoms[0][:axis]) + (self.num_output,)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        shape = bottoms[0].shape
        axis = canonical(self.axis, len(shape))
        rows = bottoms[0].reshape(count(shape[:axis]), count(shape[axis:]))
        top = np.matmul(rows, self.matrix(weights[0]).T)
        if self.bias_term:
            top += weights[1].reshape(-1)
        if self.relu:
            top = rectified(top, self.negative_slope)
        return [top.reshape(shape[:axis] + (self.num_output,))]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return count(bottoms[0]) * self.num_output

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return canonical(self.axis, len(bottoms[0]))

    def absorbing(
        self,
        bottoms: Sequence[Shape],
        weights: Sequence[np.ndarray],
        factor: np.ndarray,
        offset: np.ndarray,
    ) -> Optional[Tuple[Dict[str, Any], List[np.ndarray]]]:
        if self.relu or self.normalize or canonical(self.axis, len(bottoms[0])) != 1:
            return None
        weight = weights[0] * (factor if self.transpose else factor[:, None])
        bias = weights[1].reshape(-1) * factor + offset if self.bias_term else offset
        return {"bias_term": True}, [weight, bias]

    def with_reversed_channels(
        self, bottoms: Sequence[Shape], weights: Sequence[np.ndarray]
    ) -> Optional[List[np.ndarray]]:
        if canonical(self.axis, len(bottoms[0])) != 1:
            return None
        outer = 1 if self.transpose else self.num_output
        channels = weights[0].reshape(outer, bottoms[0][1], -1)[:, ::-1]
        return [channels.reshape(weights[0].shape), *weights[1:]]


@layer(
    "InnerDistance",
    message="inner_distance_param",
    harmless={
        "weight_filler": FILLER,
        "bias_filler": FILLER,
        "bias_term": "the fork reads it and has no bias",
        "update_center_only": TRAINING,
    },
    dialect="happynear",
)
class InnerDistance(Meaning):
    """The distance of the bottom, flattened from `axis` on, to each row of the weights
    (num_output, K), or of a second bottom: the sum of squares, or of absolute values for "L1"
    (happynear/caffe-windows, inner_distance_layer.cpp).

    `normalize` makes the rows of the weights, not of a second bottom, unit vectors first.
    """

    num_output: int = 0
    axis: int = 1
    transpose: bool = False
    distance_type: str = "L2"
    normalize: bool = False

    choices = {"distance_type": ("L2", "L1")}
    bottom_count = (1, 2)

    def check(self) -> None:
        if self.transpose:
            raise UnsupportedModel(
                "transpose: the fork stores such weights and reads them untransposed"
            )

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        inputs = count(bottoms[0][canonical(self.axis, len(bottoms[0])) :])
        return [(self.num_output, inputs)] if len(bottoms) == 1 else []

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT][:blobs]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        axis = canonical(self.axis, len(bottoms[0]))
        kept, inputs = tuple(bottoms[0][:axis]), count(bottoms[0][axis:])
        if len(bottoms) == 1:
            if self.num_output < 1:
                raise MalformedModel(f"num_output should be positive, found {self.num_output}")
            return [kept + (self.num_output,)]
        if not bottoms[1] or count(bottoms[1][1:]) != inputs:
            raise MalformedModel(
                f"bottom 1 should have {inputs} values for each of axis 0, "
                f"found shape {list(bottoms[1])}"
            )
        return [kept + (bottoms[1][0],)]

    def centres(self, weight: np.ndarray) -> np.ndarray:
        """The stored weights as the rows that distances are taken to."""
        return unit_rows(weight) if self.normalize else weight

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottom.shape for bottom in bottoms], tops)
        rows = bottoms[0].reshape(count(shape[:-1]), -1)
        second = len(bottoms) == 2
        centres = bottoms[1].reshape(shape[-1], -1) if second else self.centres(weights[0])
        size = np.square if self.distance_type == "L2" else np.abs
        top = np.stack([size(rows - centre).sum(axis=1) for centre in centres], axis=1)
        return [top.reshape(shape)]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return count(bottoms[0]) * tops[0][-1] if self.distance_type == "L2" else 0

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        axis = canonical(self.axis, len(bottoms[0]))
        alone = len(bottoms) == 1 or batches[1] is None
        return [batches[0] if alone and batches[0] is not None and batches[0] < axis else None]
