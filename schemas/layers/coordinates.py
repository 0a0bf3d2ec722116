"""Layers that tell each place where it is."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from schemas.errors import UnsupportedModel
from schemas.graph import Shape
from schemas.layers.registry import Meaning, layer


@layer("Slope", dialect="happynear")
class Slope(Meaning):
    """Two more channels, h / H and w / W (happynear's slope_layer.cpp)."""

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        if len(bottoms[0]) != 4:
            raise UnsupportedModel(f"a bottom of 4 axes is supported, found {list(bottoms[0])}")
        batch, channels, height, width = bottoms[0]
        return [(batch, channels + 2, height, width)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        x = bottoms[0]
        batch, channels, height, width = x.shape
        places = np.indices((height, width), np.float32)
        places /= np.array([height, width], np.float32)[:, None, None]
        top = np.empty((batch, channels + 2, height, width), np.float32)
        top[:, :channels], top[:, channels:] = x, places
        return [top]
