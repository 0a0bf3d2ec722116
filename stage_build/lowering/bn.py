"""BN, which is a type of many forks."""

from __future__ import annotations

import numpy as np

from stage_build import layout
from stage_build.lowering.batch_normalization import momentum
from stage_build.lowering.registry import Call, Site, lowering


@lowering("BN", dialect="pspnet", any_size=True)
@lowering("BN", dialect="tsn", any_size=True)
@lowering("BN", dialect="happynear", any_size=True)
def bn(site: Site) -> Call:
    made, axis = site.meaning, layout.tensor_axis(1, len(site.bottoms[0].shape))
    kept = site.layer.fields.get("bn_param", {}).get("momentum", 0.9)

    def weights() -> list[np.ndarray]:
        stored = [site.arrays[i] for i in range(4)]
        return [*made.affine(stored), *made.statistics(stored)]

    arguments = {
        "axis": axis,
        "eps": made.epsilon,
        "momentum": momentum(kept),
        "use_global_stats": made.frozen,
    }
    return Call("bn", arguments, weights)


@lowering("BN", dialect="segnet", any_size=True)
@lowering("BN", dialect="parsenet", any_size=True)
def bn_of_batch(site: Site) -> Call:
    made = site.meaning
    across_spatial = 3 in made.over()

    def weights() -> list[np.ndarray]:
        tensors = [layout.to_tensor(site.arrays[i])[0] for i in range(2)]
        return [tensor.reshape(-1) if across_spatial else tensor for tensor in tensors]

    if not made.batch_statistics:
        return Call("bn_inference", {}, weights)
    arguments = {"eps": made.epsilon, "across_spatial": across_spatial, "tops": len(site.tops)}
    return Call("bn_of_batch", arguments, weights)
