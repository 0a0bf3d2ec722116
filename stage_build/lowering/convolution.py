"""Convolution and Deconvolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.errors import UnsupportedModel
from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


def single(pair: tuple[int, int]) -> Any:
    """One number for a pair of equal ones."""
    return pair[0] if pair[0] == pair[1] else pair


def _arguments(site: Site) -> dict[Any, Any]:
    if len(site.bottoms) > 1:
        raise UnsupportedModel("several bottoms that share the weights are not supported")
    if len(site.bottoms[0].shape) != 4:
        raise UnsupportedModel(f"only 4 axes are supported, found {list(site.bottoms[0].shape)}")
    window = site.meaning.geometry()
    return {
        "kernel": single(window.kernel),
        "stride": single(window.stride),
        "pad": single(window.pad),
        "dilation": single(window.dilation),
        "bias": site.meaning.bias_term,
    }


@lowering("Convolution")
def convolution(site: Site) -> Call:
    made, arguments = site.meaning, _arguments(site)
    window = made.geometry()
    channels = site.bottoms[0].shape[1]
    for side, pad, extent in zip(site.bottoms[0].shape[2:], window.pad, window.extent, strict=True):
        if side + 2 * pad < extent:
            raise UnsupportedModel(
                f"the window ({extent}) is larger than the padded image ({side + 2 * pad}); Caffe "
                "reads past the padding here"
            )
    # Keras's depthwise layer takes one stride for both sides, and none beside a dilation.
    square = window.stride[0] == window.stride[1]
    if (
        made.group == channels > 1
        and square
        and (max(window.stride) == 1 or max(window.dilation) == 1)
    ):
        arguments["multiplier"] = made.num_output // channels
        return Call(
            "depthwise_convolution",
            arguments,
            lambda: [layout.depthwise_kernel(site.arrays[0], channels), *_rest(site)],
        )
    arguments |= {0: made.num_output, "group": made.group}
    return Call(
        "convolution", arguments, lambda: [layout.convolution_kernel(site.arrays[0]), *_rest(site)]
    )


@lowering("Deconvolution")
def deconvolution(site: Site) -> Call:
    made, arguments = site.meaning, _arguments(site)
    arguments |= {0: made.num_output, "group": made.group}

    def weights() -> list[np.ndarray]:
        if made.group > 1 or max(made.geometry().dilation) > 1:
            return [layout.grouped_deconvolution_kernel(site.arrays[0], made.group), *_rest(site)]
        return [layout.deconvolution_kernel(site.arrays[0]), *_rest(site)]

    return Call("deconvolution", arguments, weights)


def _rest(site: Site) -> list[np.ndarray]:
    return [site.arrays[i] for i in range(1, len(site.arrays))]
