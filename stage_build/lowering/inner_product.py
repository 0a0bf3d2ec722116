"""InnerProduct and InnerDistance."""

from __future__ import annotations

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("InnerProduct")
def inner_product(site: Site) -> Call:
    made, shape = site.meaning, site.bottoms[0].shape
    axis = made.axis % len(shape)

    def weights() -> list[np.ndarray]:
        kernel = _kernel(site, made.matrix(site.arrays[0]))
        return [kernel, site.arrays[1]] if made.bias_term else [kernel]

    arguments = {"axis": axis, "bias": made.bias_term}
    if made.relu:
        arguments["relu"] = made.negative_slope
    return Call("inner_product", {0: made.num_output, **arguments}, weights)


@lowering("InnerDistance", dialect="happynear")
def inner_distance(site: Site) -> Call:
    made, axis = site.meaning, site.meaning.axis % len(site.bottoms[0].shape)
    arguments = {"axis": axis, "absolute": made.distance_type == "L1"}
    if len(site.bottoms) == 2:
        return Call("distance", arguments)
    return Call(
        "inner_distance",
        {0: made.num_output, **arguments},
        lambda: [_kernel(site, made.centres(site.arrays[0])).T],
    )


def _kernel(site: Site, weight: np.ndarray) -> np.ndarray:
    """(num_output, K) -> (K, num_output) in the order in which the runtime flattens the bottom."""
    shape = site.bottoms[0].shape
    # Only a whole NHWC image is flattened as it stands; everything else comes in Caffe's order.
    whole = len(shape) == 4 and site.meaning.axis % 4 == 1
    return layout.inner_product_kernel(weight, shape[1:] if whole else ())
