"""Eltwise, and SENet's Axpy."""

from __future__ import annotations

import functools
from typing import List, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import same_shapes
from schemas.layers.registry import ENGINE, Meaning, layer

_UNSUPPORTED = {
    "SORT": "happynear's own source of it was not to be had",
    "STOCHASTIC_SUM": "TSN's STOCHASTIC_SUM draws the bottoms at random",
}


@layer(
    "Eltwise",
    message="eltwise_param",
    harmless={"engine": ENGINE, "stable_prod_grad": "steers the backward pass"},
)
class Eltwise(Meaning):
    """The product, the sum weighted by `coeff`, or the maximum of bottoms of one shape
    (eltwise_layer.cpp); in Synopsys's fork also the minimum, and with DIV the first of two by the
    second. FlowNet2's nets scale a single bottom, which BVLC Caffe would refuse."""

    operation: str = "SUM"
    coeff: Tuple[float, ...] = ()

    bottom_count = (1, None)
    choices = {"operation": ("PROD", "SUM", "MAX", "MIN", "DIV", *_UNSUPPORTED)}

    def check(self) -> None:
        if self.operation in _UNSUPPORTED:
            raise UnsupportedModel(
                f"operation {self.operation} is not supported: {_UNSUPPORTED[self.operation]}"
            )
        if self.operation in ("PROD", "MIN", "DIV") and self.coeff:
            raise MalformedModel(
                f"operation {self.operation} takes no coeff, found {list(self.coeff)}"
            )

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        same_shapes(bottoms)
        if self.coeff and len(self.coeff) != len(bottoms):
            raise MalformedModel(
                f"one coeff per bottom expected: {len(bottoms)}, found {len(self.coeff)}"
            )
        if self.operation == "DIV" and len(bottoms) != 2:
            raise MalformedModel(f"operation DIV takes two bottoms, found {len(bottoms)}")
        return [tuple(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        terms = list(bottoms)
        if self.operation == "SUM" and self.coeff:
            terms = [np.float32(c) * x for c, x in zip(self.coeff, bottoms)]
        step = {
            "PROD": np.multiply,
            "SUM": np.add,
            "MAX": np.maximum,
            "MIN": np.minimum,
            "DIV": np.divide,
        }[self.operation]
        with np.errstate(divide="ignore", invalid="ignore"):
            return [np.asarray(functools.reduce(step, terms), np.float32)]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return len(bottoms[0])


@layer("Axpy", dialect="senet")
class Axpy(Meaning):
    """scale * x + y for bottoms scale (N, C) or (N, C, 1, 1), and x and y of one shape N, C, ...
    (SENet's axpy_layer.cpp)."""

    bottom_count = (3, 3)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        scale, x, _ = (tuple(shape) for shape in bottoms)
        same_shapes(bottoms[1:])
        if not 2 <= len(x) <= 4 or len(scale) < 2 or scale != x[:2] + (1,) * (len(scale) - 2):
            raise MalformedModel(
                f"bottom 0 of shape {list(scale)} should hold one factor for each sample and "
                f"channel of bottom 1, of shape {list(x)} and 2 to 4 axes"
            )
        return [x]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        scale, x, y = bottoms
        return [scale.reshape(x.shape[:2] + (1,) * (x.ndim - 2)) * x + y]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 2
