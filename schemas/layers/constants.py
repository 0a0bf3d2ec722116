"""Layers without bottoms that are no inputs: Parameter, and DummyData where it is a constant."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.inputs import DummyData
from schemas.layers.registry import FILLER, Filler, Meaning, layer


@layer("Parameter", message="parameter_param", harmless={"blob_filler": FILLER})
class Parameter(Meaning):
    """The layer's parameter blob, of shape `shape` (parameter_layer.hpp).

    `blob_filler`, which fills it, is happynear's; BVLC's starts as 0.
    """

    shape: Tuple[int, ...] = ()

    bottom_count = (0, 0)

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        return [self.shape]

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("blob_filler")]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [self.shape]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [weights[0]]


@layer("DummyData", message="dummy_data_param", dialect="constant")
class ConstantData(DummyData):
    """DummyData beside another source, where all its fillers are constant: tops of one value each,
    0 where there is no data_filler (dummy_data_layer.cpp).

    A top with as many samples as the net's first input takes any batch with it.
    """

    data_filler: Tuple[Mapping[str, Any], ...] = ()

    role = "compute"

    def values(self, tops: int) -> List[float]:
        """The value of each top.

        Raises:
            MalformedModel: there is neither one filler nor one for each top.
        """
        found = [float(filler.get("value", 0.0)) for filler in self.data_filler] or [0.0]
        if len(found) not in (1, tops):
            raise MalformedModel(
                f"data_filler should be given once or once per top ({tops}), found {len(found)}"
            )
        return found * tops if len(found) == 1 else found

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.values(tops)
        return [tuple(shape) for shape in super().shapes(bottoms, tops)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        filled = zip(self.shapes([], tops), self.values(tops))
        return [np.full(shape, value, np.float32) for shape, value in filled]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        # As large as the net's first input up to its batch, a top has a value for each sample.
        batch = batches[0] if batches else None
        if batch is None:
            return [None] * len(tops)
        kept = tuple(bottoms[0][: batch + 1])
        return [batch if tuple(top[: batch + 1]) == kept else None for top in tops]
