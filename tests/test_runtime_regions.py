"""Where a box is cut into bins: in a graph, which TensorFlow rewrites, as anywhere else."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from stage_build.runtime import regions

SIZES = np.arange(1, 60, dtype=np.float32)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in-parts"])
@pytest.mark.parametrize("cells", [2, 3, 5, 6, 7, 9, 11])
def test_a_graph_cuts_where_float32_does(cells, whole):
    """floor(i * (size / cells)) and ceil((i + 1) * (size / cells)), each step a float32, as
    roi_pooling_layer.cpp and psroi_pooling_layer have them: 7 / 3 * 3 is 7 there, and so ends a
    bin at 7; of 7 * (1 / 3) * 3 it would end at 8."""
    start = np.zeros_like(SIZES)
    step = (SIZES / np.float32(cells))[:, None]
    index = np.arange(cells, dtype=np.float32)
    want = np.stack([np.floor(index * step), np.ceil((index + 1) * step)], -1)
    cut = tf.function(lambda start, size: regions.bins(start, size, cells, 100, whole))
    np.testing.assert_array_equal(cut(start, SIZES).numpy(), want)
