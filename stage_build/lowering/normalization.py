"""LRN and BatchNorm."""

from __future__ import annotations

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("LRN")
def lrn(site: Site) -> Call:
    made = site.meaning
    arguments = {"size": made.local_size, "alpha": made.alpha, "beta": made.beta}
    if made.norm_region == "WITHIN_CHANNEL":
        return Call("lrn_within_channel", arguments)
    return Call("lrn", {**arguments, "k": made.k})


@lowering("BatchNorm")
def batch_norm(site: Site) -> Call:
    made, shape = site.meaning, site.bottoms[0].shape
    axis = layout.tensor_axis(1, len(shape)) if len(shape) > 1 else 0
    arguments = {"axis": axis, "eps": made.eps}
    if not made.stored:
        return Call("batch_statistics_norm", arguments)

    def weights() -> list[np.ndarray]:
        return list(made.statistics([site.arrays[i] for i in range(3)]))

    written = site.layer.fields.get("batch_norm_param", {})
    arguments["momentum"] = min(max(float(written.get("moving_average_fraction", 0.999)), 0.0), 1.0)
    return Call("batch_norm", arguments, weights)
