"""Scale and Bias: an operand, a blob or the second bottom, is spread over the first bottom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical
from schemas.layers.registry import FILLER, Meaning, layer


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
        if batch is None or (start <= batch < start + axes and self.weight_shapes(bottoms)):
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

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        axes = len(self.operand([bottom.shape for bottom in bottoms]))
        operands = list(bottoms[1:]) + list(weights)
        top = bottoms[0] * self.spread(operands[0], bottoms[0], axes)
        if self.bias_term:
            top += self.spread(operands[1], bottoms[0], axes)
        return [np.asarray(top, np.float32)]


@layer("Bias", message="bias_param", harmless={"filler": FILLER})
class Bias(Spread):
    """x + operand (bias_layer.cpp)."""

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        return [self.operand(bottoms)] if len(bottoms) == 1 else []

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        axes = len(self.operand([bottom.shape for bottom in bottoms]))
        operand = (list(bottoms[1:]) + list(weights))[0]
        return [np.asarray(bottoms[0] + self.spread(operand, bottoms[0], axes), np.float32)]
