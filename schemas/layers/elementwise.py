"""Eltwise."""

from __future__ import annotations

import functools
from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import common_batch, same_shapes
from schemas.layers.registry import Meaning, layer


@layer(
    "Eltwise",
    message="eltwise_param",
    harmless={"stable_prod_grad": "steers the backward pass"},
)
class Eltwise(Meaning):
    """The product, the sum weighted by `coeff`, or the maximum of bottoms of one shape
    (eltwise_layer.cpp)."""

    operation: str = "SUM"
    coeff: Tuple[float, ...] = ()

    bottom_count = (2, None)
    choices = {"operation": ("PROD", "SUM", "MAX")}

    def check(self) -> None:
        if self.operation == "PROD" and self.coeff:
            raise MalformedModel(f"operation PROD takes no coeff, found {list(self.coeff)}")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        same_shapes(bottoms)
        if self.coeff and len(self.coeff) != len(bottoms):
            raise MalformedModel(
                f"one coeff per bottom expected: {len(bottoms)}, found {len(self.coeff)}"
            )
        return [tuple(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        terms = list(bottoms)
        if self.operation == "SUM" and self.coeff:
            terms = [np.float32(c) * x for c, x in zip(self.coeff, bottoms)]
        step = {"PROD": np.multiply, "SUM": np.add, "MAX": np.maximum}[self.operation]
        return [np.asarray(functools.reduce(step, terms), np.float32)]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [common_batch(batches)]
