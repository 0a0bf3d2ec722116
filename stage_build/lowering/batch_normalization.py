"""BatchNorm, as BVLC and the forks have it."""

from __future__ import annotations

from typing import Any

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("BatchNorm", any_size=True)
@lowering("BatchNorm", dialect="nvidia", any_size=True)
@lowering("BatchNorm", dialect="nvidia15", any_size=True)
@lowering("BatchNorm", "MKLBatchNorm", dialect="intel", any_size=True)
def batch_norm(site: Site) -> Call:
    made, shape = site.meaning, site.bottoms[0].shape
    arguments: dict[str, Any] = {
        "axis": layout.tensor_axis(1, len(shape)),
        "eps": made.epsilon,
        "scale": made.affines > 0,
        "bias": made.affines > 1,
        "relu": made.rectified,
    }

    def weights() -> list[np.ndarray]:
        stored = [site.arrays[i] for i in range(len(made.weight_shapes([shape])))]
        statistics = made.statistics(stored) if made.stored else ()
        return [*made.affine(stored), *statistics]

    if made.stored:
        written = site.layer.fields.get("batch_norm_param", {})
        arguments["momentum"] = momentum(written.get("moving_average_fraction", 0.999))
        arguments["use_global_stats"] = written.get("use_global_stats") is True
        return Call("batch_norm", arguments, weights)
    for switch in ("disable_mean", "disable_variance"):
        arguments[switch] = getattr(made, switch, False)
    return Call("batch_statistics_norm", arguments, weights)


def momentum(kept: float) -> float:
    """How much of a running average a training step keeps, in the bounds that Keras has."""
    return min(max(float(kept), 0.0), 1.0)
