"""InnerProduct."""

from __future__ import annotations

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("InnerProduct")
def inner_product(site: Site) -> Call:
    made, shape = site.meaning, site.bottoms[0].shape
    axis = made.axis % len(shape)

    def weights() -> list[np.ndarray]:
        weight = site.arrays[0].T if made.transpose else site.arrays[0]
        # Only a whole NHWC image is flattened as it stands; everything else comes in Caffe's order.
        flat = shape[1:] if len(shape) == 4 and axis == 1 else ()
        kernel = layout.inner_product_kernel(weight, flat)
        return [kernel, site.arrays[1]] if made.bias_term else [kernel]

    return Call(
        "inner_product", {0: made.num_output, "axis": axis, "bias": made.bias_term}, weights
    )
