"""Layers that pick rows by number: Embed, BatchReindex and Filter."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import need_axes
from schemas.layers.registry import BIAS, FILLER, WEIGHT, Filler, Meaning, layer


def row_numbers(values: np.ndarray, rows: int) -> np.ndarray:
    """The values as row numbers, cut off towards zero as C++ does.

    Raises:
        MalformedModel: one is out of range.
    """
    outside = ~((values > -1) & (values < rows))
    if outside.any():
        raise MalformedModel(
            f"row numbers below {rows} expected, found {values[outside].reshape(-1)[0]:g}"
        )
    return values.astype(np.int64)


@layer("Embed", message="embed_param", harmless={"weight_filler": FILLER, "bias_filler": FILLER})
class Embed(Meaning):
    """The row of a table (input_dim, num_output) that each value names, plus a bias, along a new
    last axis (embed_layer.cpp)."""

    num_output: int = 0
    input_dim: int = 0
    bias_term: bool = True

    def check(self) -> None:
        if min(self.num_output, self.input_dim) < 1:
            raise MalformedModel(
                f"num_output and input_dim should be positive, "
                f"found {self.num_output} and {self.input_dim}"
            )

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        table = (self.input_dim, self.num_output)
        return [table, (self.num_output,)] if self.bias_term else [table]

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT, BIAS][:blobs]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [(*bottoms[0], self.num_output)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        top = weights[0][row_numbers(bottoms[0], self.input_dim)]
        return [top + weights[1] if self.bias_term else top]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [batches[0]]

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {0: self.input_dim}


@layer("BatchReindex")
class BatchReindex(Meaning):
    """The rows of bottom 0 that the values of bottom 1 name, in that order
    (batch_reindex_layer.cpp)."""

    bottom_count = (2, 2)
    copies = True

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[1], 1)
        if not bottoms[0]:
            raise MalformedModel("bottom 0 should have rows, found a single value")
        return [tuple(bottoms[1]) + tuple(bottoms[0][1:])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [bottoms[0][row_numbers(bottoms[1], len(bottoms[0]))]]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0

    def varying(
        self, bottoms: Sequence[Shape], axes: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        # Of the rows of bottom 0, however many, there are as many as bottom 1 has values.
        return [axes[1]] if not axes[0] else super().varying(bottoms, axes, tops)

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {1: bottoms[0][0]}


@layer("Filter")
class Filter(Meaning):
    """The rows of each bottom but the last for which the last, the selector, is not 0
    (filter_layer.cpp)."""

    bottom_count = (2, None)
    top_count = (1, None)
    copies = True

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        *rows, selector = map(tuple, bottoms)
        if tops != len(rows):
            raise MalformedModel(f"one top per bottom but the last expected, found {tops}")
        if any(size != 1 for size in selector[1:]):
            raise MalformedModel(f"the selector should have 1 value a row, found {list(selector)}")
        for index, shape in enumerate(rows):
            if shape[:1] != selector[:1] or not shape:
                raise MalformedModel(
                    f"bottom {index} of shape {list(shape)} and the selector of shape "
                    f"{list(selector)} should have as many rows"
                )
        return rows

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        kept = bottoms[-1].reshape(-1) != 0
        return [bottom[kept] for bottom in bottoms[:-1]]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0

    def varying(
        self, bottoms: Sequence[Shape], axes: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        if any(axes):
            super().varying(bottoms, axes, tops)
        return [0] * len(tops)

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {len(bottoms) - 1: 2}
