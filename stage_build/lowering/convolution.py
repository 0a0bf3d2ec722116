"""Convolution and Deconvolution, over images and over any other number of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


def single(sizes: Sequence[Any]) -> Any:
    """One number for equal ones."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def single_pads(pads: Sequence[tuple[int, int]]) -> Any:
    """One number for equal ones, one for each axis where both sides have as many, else pairs."""
    even = all(before == after for before, after in pads)
    return single([before for before, _ in pads]) if even else tuple(pads)


def _unheld(axes: int, dilation: Sequence[int] = (1,)) -> dict[str, str]:
    """`Call.unheld` over so many spatial axes."""
    if axes < 3 or (axes == 3 and max(dilation) == 1):
        return {}
    return {"tflite": "TensorFlow Lite convolves over three axes at most, then without dilation"}


@lowering("Convolution", any_size=True)
def convolution(site: Site) -> Call:
    made, shape = site.meaning, site.bottoms[0].shape
    size = made.spatial(shape)
    geometry, out = made.placed(size)
    pads = geometry.padding(size, None if geometry.convolved(size) == out else out)
    channels = shape[len(shape) - len(size) - 1]
    group, outputs = made.groups(channels), made.outputs(channels)
    arguments: dict[Any, Any] = {
        "kernel": single(geometry.kernel),
        "stride": single(geometry.stride),
        "pad": single_pads(pads),
        "dilation": single(geometry.dilation),
        "bias": made.bias_term,
        "relu": made.negative_slope if made.relu else None,
    }
    if len(shape) != 4 or len(size) != 2:
        arguments |= {0: outputs, "group": group, "axis": len(shape) - len(size) - 1}
        return Call(
            "convolution_nd",
            arguments,
            lambda: _weights(site),
            unheld=_unheld(len(size), geometry.dilation),
        )
    # Keras's depthwise layer takes one stride for both sides, and none beside a dilation.
    square = geometry.stride[0] == geometry.stride[1]
    if (
        group == channels > 1
        and square
        and (max(geometry.stride) == 1 or max(geometry.dilation) == 1)
    ):
        arguments["multiplier"] = outputs // channels
        return Call(
            "depthwise_convolution",
            arguments,
            lambda: [layout.depthwise_kernel(site.arrays[0], channels), *_rest(site)],
        )
    arguments |= {0: outputs, "group": group}
    return Call("convolution", arguments, lambda: _weights(site))


lowering("DepthwiseConvolution", "ConvolutionDepthwise", dialect="depthwise", any_size=True)(
    convolution
)


@lowering("Convolution3D", dialect="c3d")
def convolution_3d(site: Site) -> Call:
    plain, size = site.meaning.plain(), site.bottoms[0].shape[2:]
    geometry, _ = plain.placed(size)
    arguments = {
        0: plain.num_output,
        "kernel": single(geometry.kernel),
        "stride": single(geometry.stride),
        "pad": single_pads(geometry.padding(size)),
        "bias": plain.bias_term,
    }
    return Call("convolution_nd", arguments, lambda: _weights(site))


@lowering("Deconvolution", any_size=True)
def deconvolution(site: Site) -> Call:
    made, shape = site.meaning, site.bottoms[0].shape
    size = made.spatial(shape)
    window = made.geometry(len(size))
    arguments = {
        0: made.num_output,
        "kernel": single(window.kernel),
        "stride": single(window.stride),
        "pad": single(window.pad),
        "dilation": single(window.dilation),
        "group": made.group,
        "bias": made.bias_term,
    }

    def turned() -> list[np.ndarray]:
        return [layout.grouped_deconvolution_kernel(site.arrays[0], made.group), *_rest(site)]

    if len(shape) != 4 or len(size) != 2:
        arguments["axis"] = len(shape) - len(size) - 1
        return Call("deconvolution_nd", arguments, turned, unheld=_unheld(len(size)))
    if made.group > 1 or max(window.dilation) > 1:
        return Call("deconvolution", arguments, turned)
    return Call(
        "deconvolution",
        arguments,
        lambda: [layout.deconvolution_kernel(site.arrays[0]), *_rest(site)],
    )


def _weights(site: Site) -> list[np.ndarray]:
    return [layout.convolution_kernel(site.arrays[0]), *_rest(site)]


def _rest(site: Site) -> list[np.ndarray]:
    return [site.arrays[i].reshape(-1) for i in range(1, len(site.arrays))]
