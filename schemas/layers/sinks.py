"""Layers that write files and have no tops: dropped. What they would write becomes an output."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import UnsupportedModel
from schemas.graph import Shape
from schemas.layers.registry import Meaning, layer


class Writer(Meaning):
    """Writes its bottoms to a file."""

    bottom_count: Tuple[int, Optional[int]] = (1, None)
    top_count = (0, 0)
    role = "sink"

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return []

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        raise UnsupportedModel("a layer that writes files is dropped, not computed")


@layer("HDF5Output")
class HDF5Output(Writer):
    """Writes its bottoms, data and label, to an HDF5 file (hdf5_output_layer.cpp)."""

    bottom_count = (2, 2)


@layer("MatWrite", dialect="pspnet")
class MatWrite(Writer):
    """Writes each bottom to a .mat file (mat_write_layer.cpp of DeepLab)."""


@layer("FLOWriter", "FloatWriter", "ImgWriter", "PFMWriter", dialect="flownet2")
class FlowWriter(Writer):
    """FlowNet2's writers of flow fields and images (lmb-freiburg/flownet2)."""
