"""Scale and Bias: an operand, a blob or the second bottom, is spread over the first bottom.

Beside them the forks' layers that scale or shift: ChannelScale, Mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.registry import BIAS, FILLER, Filler, Meaning, layer


@dataclass(frozen=True, eq=False)
class Spread(Meaning):
    """The operand's axes lie along those of the first bottom from `axis` on.

    `num_axes` says how many axes a blob has: -1 for all that remain, 0 for a scalar. A second
    bottom brings its own.
    """

    axis: int = 1
    num_axes: int = 1

    bottom_count = (1, 2)

    def check(self) -> None:
        if self.num_axes < -1:
            raise MalformedModel(f"num_axes should be -1 or more, found {self.num_axes}")

    def start(self, rank: int, operand_rank: int) -> int:
        """The axis of the first bottom where the operand starts; 0 for a scalar."""
        return canonical(self.axis, rank) if operand_rank else 0

    def operand(self, bottoms: Sequence[Shape]) -> Shape:
        """The operand's shape.

        Raises:
            MalformedModel: it does not fit the first bottom's.
        """
        rank = len(bottoms[0])
        if len(bottoms) == 2:
            axes = len(bottoms[1])
        else:
            axes = rank - canonical(self.axis, rank) if self.num_axes == -1 else self.num_axes
        start = self.start(rank, axes)
        covered = tuple(bottoms[0][start : start + axes])
        if len(covered) < axes or (len(bottoms) == 2 and covered != tuple(bottoms[1])):
            found = f"bottom 1 of shape {list(bottoms[1])}" if len(bottoms) == 2 else f"{axes} axes"
            raise MalformedModel(
                f"{found} should fit bottom 0 of shape {list(bottoms[0])} from axis {start} on"
            )
        return covered

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.operand(bottoms)
        return [tuple(bottoms[0])]

    def is_per_channel(self, bottoms: Sequence[Shape]) -> bool:
        """Whether the operand is a blob with a number for each channel, axis 1."""
        if len(bottoms) != 1 or len(bottoms[0]) < 2:
            return False
        return self.operand(bottoms) == bottoms[0][1:2] and self.start(len(bottoms[0]), 1) == 1

    def spread(self, operand: np.ndarray, bottom: np.ndarray, axes: int) -> np.ndarray:
        """The operand, of so many axes, in the shape in which it broadcasts against the bottom."""
        start = self.start(bottom.ndim, axes)
        return operand.reshape(
            bottom.shape[start : start + axes] + (1,) * (bottom.ndim - start - axes)
        )

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        batch, axes = batches[0], len(self.operand(bottoms))
        start = self.start(len(bottoms[0]), axes)
        if batch is None or (axes and start <= batch and self.weight_shapes(bottoms)):
            return [None]
        if len(bottoms) == 2 and (batches[1] is None or start + batches[1] != batch):
            return [None]
        return [batch]


@layer("Scale", message="scale_param", harmless={"filler": FILLER, "bias_filler": FILLER})
class Scale(Spread):
    """x * operand, plus a bias blob of the operand's shape with bias_term (scale_layer.cpp)."""

    bias_term: bool = False

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        return [self.operand(bottoms)] * ((len(bottoms) == 1) + self.bias_term)

    def fillers(self, blobs: int) -> List[Filler]:
        # With a second bottom there is the bias alone.
        return [Filler("filler", 1.0)] * (blobs - self.bias_term) + [BIAS] * self.bias_term

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        axes = len(self.operand([bottom.shape for bottom in bottoms]))
        operands = list(bottoms[1:]) + list(weights)
        top = bottoms[0] * self.spread(operands[0], bottoms[0], axes)
        if self.bias_term:
            top += self.spread(operands[1], bottoms[0], axes)
        return [np.asarray(top, np.float32)]

    def per_channel(
        self, bottoms: Sequence[Shape], weights: Sequence[np.ndarray]
    ) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        if not self.is_per_channel(bottoms):
            return None
        factor = weights[0].astype(np.float64)
        return factor, weights[1].astype(np.float64) if self.bias_term else np.zeros_like(factor)


@layer("Bias", message="bias_param", harmless={"filler": FILLER})
class Bias(Spread):
    """x + operand (bias_layer.cpp)."""

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        return [self.operand(bottoms)] if len(bottoms) == 1 else []

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("filler")] * blobs

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        axes = len(self.operand([bottom.shape for bottom in bottoms]))
        operand = (list(bottoms[1:]) + list(weights))[0]
        return [np.asarray(bottoms[0] + self.spread(operand, bottoms[0], axes), np.float32)]

    def per_channel(
        self, bottoms: Sequence[Shape], weights: Sequence[np.ndarray]
    ) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        if not self.is_per_channel(bottoms):
            return None
        offset = weights[0].astype(np.float64)
        return np.ones_like(offset), offset


@layer(
    "ChannelScale",
    message="channel_scale_param",
    harmless={
        "do_backward_feature": "steers the backward pass",
        "do_backward_scale": "steers the backward pass",
        "init_global_scale": FILLER,
    },
    dialect="happynear",
)
class ChannelScale(Meaning):
    """x * scale, the second bottom having one factor for each place of x but for the channels; with
    `global_scale`, x * blob (1), the blob being kept within `min_global_scale` and
    `max_global_scale` and given as a second top (happynear's channel_scale_layer.cpp).

    Without `do_forward` the bottom is copied.
    """

    do_forward: bool = True
    global_scale: bool = False
    max_global_scale: float = 1000.0
    min_global_scale: float = 0.0

    bottom_count = (2, 2)
    top_count = (1, 2)

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        return [(1,)] if self.global_scale else []

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("init_global_scale", 1.0)] * blobs

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        x, scale = bottoms
        if not 2 <= len(x) <= 4 or x[:1] != scale[:1] or count(x) // x[1] != count(scale):
            raise MalformedModel(
                f"bottom 1 of shape {list(scale)} should hold one factor for each place of bottom "
                f"0, of shape {list(x)} and 2 to 4 axes, but for the channels"
            )
        if tops == 2 and not (self.global_scale and self.do_forward):
            raise UnsupportedModel("the second top is never written without a global scale")
        return [tuple(x), (1,)][:tops]

    def factor(self, blob: np.ndarray) -> np.ndarray:
        """The global scale within its bounds, of shape (1,)."""
        upper = np.minimum(blob, np.float32(self.max_global_scale))
        return np.maximum(upper, np.float32(self.min_global_scale))

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        x, scale = bottoms
        if not self.do_forward:
            return [x.copy()]
        if self.global_scale:
            factor = self.factor(weights[0])
            return [x * factor, factor][:tops]
        return [x * scale.reshape((len(x), 1) + x.shape[2:])]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [super().batch_axes(bottoms, batches, tops[:1])[0], None][: len(tops)]


@layer("Mean", message="mean_param", dialect="flownet2")
class Mean(Meaning):
    """output_scale * (input_scale * x +/- mean_scale * value) for each bottom; channel c takes
    value c modulo their number (flownet2's mean_layer.cpp)."""

    operation: Optional[str] = None
    file: Optional[str] = None
    value: Tuple[float, ...] = ()
    mean_scale: float = 1.0
    input_scale: float = 1.0
    output_scale: float = 1.0

    bottom_count = (1, None)
    top_count = (1, None)
    choices = {"operation": ("ADD", "SUBTRACT")}

    def check(self) -> None:
        if self.operation is None:
            raise MalformedModel("operation should be given: ADD or SUBTRACT")
        if self.file is not None:
            raise UnsupportedModel(
                f"the mean is read from a file, {self.file!r}, that is no part of the net; write "
                "its values as a Bias layer"
            )
        if not self.value:
            raise MalformedModel("value should be given")

    @property
    def signed_scale(self) -> float:
        """What the values are multiplied by before they are added."""
        return -self.mean_scale if self.operation == "SUBTRACT" else self.mean_scale

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        if tops != len(bottoms):
            raise MalformedModel(f"one top per bottom expected: {len(bottoms)}, found {tops}")
        for shape in bottoms:
            if len(shape) != 4:
                raise UnsupportedModel(f"bottoms of 4 axes are supported, found {list(shape)}")
            if shape[1] % len(self.value):
                raise MalformedModel(f"{len(self.value)} values do not divide {shape[1]} channels")
        return [tuple(shape) for shape in bottoms]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        shift = np.float32(self.signed_scale) * np.array(self.value, np.float32)
        results = []
        for x in bottoms:
            means = np.resize(shift, (x.shape[1], 1, 1))
            results.append(
                np.float32(self.output_scale) * (np.float32(self.input_scale) * x + means)
            )
        return results
