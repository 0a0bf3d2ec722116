"""Pooling of images and volumes, and its pyramid."""

from __future__ import annotations

from typing import Any

from schemas.layers.windows import Windows
from stage_build.lowering.convolution import single, single_pads
from stage_build.lowering.registry import Call, Site, lowering

_METHODS = {"MAX": "max", "AVE": "average", "AVE_EXC_PAD": "average", "AVE_TF": "average"}


def _arguments(window: Windows) -> dict[Any, Any]:
    return {
        "kernel": single(window.kernel),
        "stride": single(window.stride),
        "pad": single_pads(list(zip(window.pad, window.after or window.pad, strict=True))),
    }


@lowering("Pooling", any_size=True)
def pooling(site: Site) -> Call:
    made, method = site.meaning, _METHODS[site.meaning.pool]
    positions = len(site.tops) == 2
    if made.global_pooling and not positions:
        return Call("global_pooling", {0: method})
    # TensorFlow's SAME leaves no part of a step.
    ceil = made.rounds_up() and not made.pad_type
    arguments = {**_arguments(made.geometry(*site.bottoms[0].shape[2:])), "ceil": ceil}
    if positions:
        return Call("pooling_with_positions", arguments)
    arguments |= {0: method, "count_padding": made.counts_padding()}
    return Call("pooling", arguments)


@lowering("Pooling3D", dialect="c3d")
def pooling_3d(site: Site) -> Call:
    arguments = _arguments(site.meaning.windows(site.bottoms[0].shape[2:]))
    unheld = {"tflite": "TensorFlow Lite has no pooling over three axes"}
    return Call("pooling_3d", {0: _METHODS[site.meaning.pool], **arguments}, unheld=unheld)


@lowering("SPP")
def spp(site: Site) -> Call:
    return Call("spatial_pyramid", {0: _METHODS[site.meaning.pool], 1: site.meaning.pyramid_height})
