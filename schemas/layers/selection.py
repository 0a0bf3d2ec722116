"""ArgMax."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.registry import Meaning, layer


@layer("ArgMax", message="argmax_param")
class ArgMax(Meaning):
    """The places of the top_k greatest values, the later of equals first (argmax_layer.cpp).

    Along `axis`, which becomes top_k long; with out_max_val the values take the places' place.
    Without `axis`, over all of a sample, giving (N, 1, top_k), or (N, 2, top_k) with out_max_val,
    the places before the values; a bottom of more axes gives as many, 1 long.
    """

    out_max_val: bool = False
    top_k: int = 1
    axis: Optional[int] = None

    @property
    def index_tops(self) -> Tuple[int, ...]:  # type: ignore[override]
        """A top that mixes places and values is not listed."""
        return () if self.out_max_val else (0,)

    def check(self) -> None:
        if self.top_k < 1:
            raise MalformedModel(f"top_k should be positive, found {self.top_k}")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        shape = list(bottoms[0])
        if self.axis is not None:
            axis = canonical(self.axis, len(shape))
            length, shape[axis] = shape[axis], self.top_k
        else:
            batch, length = shape[canonical(0, len(shape))], count(shape[1:])
            parts = 2 if self.out_max_val else 1
            shape = [batch, parts, self.top_k] + [1] * (len(shape) - 3)
        if self.top_k > length:
            raise MalformedModel(f"top_k {self.top_k} of only {length} values")
        return [tuple(shape)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottoms[0].shape], tops)
        axis = 1 if self.axis is None else self.axis
        x = bottoms[0].reshape(shape[0], -1) if self.axis is None else bottoms[0]
        # A stable ascending sort of the negated values, backwards, puts the later of equals first.
        order = np.argsort(np.flip(-x, axis), axis=axis, kind="stable")
        places = x.shape[axis] - 1 - order.take(np.arange(self.top_k), axis=axis)
        values = np.take_along_axis(x, places, axis=axis)
        places = places.astype(np.float32)
        if self.axis is not None:
            return [np.ascontiguousarray(values if self.out_max_val else places)]
        return [(np.stack([places, values], 1) if self.out_max_val else places).reshape(shape)]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 1 if self.axis is None else canonical(self.axis, len(bottoms[0]))
