"""Convolution with weights of its own for each place."""

from __future__ import annotations

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("Local", dialect="happynear")
def local(site: Site) -> Call:
    made, out = site.meaning, site.tops[0].shape[2:]

    def weights() -> list[np.ndarray]:
        kernel = layout.local_kernel(site.arrays[0], site.bottoms[0].shape[1], out)
        if not made.bias_term:
            return [kernel]
        bias = site.arrays[1].reshape(1, made.num_output, *out)
        return [kernel, layout.to_tensor(bias)[0]]

    arguments = {"kernel": made.kernel_size, "stride": made.stride, "pad": made.pad}
    return Call("local", {0: made.num_output, **arguments, "bias": made.bias_term}, weights)
