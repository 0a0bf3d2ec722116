"""Reduction: one number from many."""

from __future__ import annotations

from typing import List, Optional, Sequence

import numpy as np

from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.registry import Meaning, layer


@layer("Reduction", message="reduction_param")
class Reduction(Meaning):
    """The SUM, sum of absolute values (ASUM), sum of squares (SUMSQ) or MEAN over `axis` and all
    axes after it, times `coeff` (reduction_layer.cpp)."""

    operation: str = "SUM"
    axis: int = 0
    coeff: float = 1.0

    choices = {"operation": ("SUM", "ASUM", "SUMSQ", "MEAN")}

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0][: canonical(self.axis, len(bottoms[0]))])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottoms[0].shape], tops)
        rows = bottoms[0].reshape(count(shape), -1)
        if self.operation == "ASUM":
            rows = np.abs(rows)
        elif self.operation == "SUMSQ":
            rows = rows * rows
        top = rows.sum(axis=1, dtype=np.float32)
        coeff = self.coeff / rows.shape[1] if self.operation == "MEAN" else self.coeff
        return [np.asarray(top * np.float32(coeff), np.float32).reshape(shape)]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        kept = batches[0] is not None and batches[0] < len(tops[0])
        return [batches[0] if kept else None]
