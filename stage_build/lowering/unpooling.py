"""Images made larger."""

from __future__ import annotations

from stage_build.lowering.convolution import single
from stage_build.lowering.registry import Call, Site, lowering


@lowering("Upsample", dialect="segnet")
def unpool(site: Site) -> Call:
    return Call("unpool", {0: site.tops[0].shape[2:]})


@lowering("Upsample", dialect="yolo", any_size=True)
def upsample(site: Site) -> Call:
    return Call("upsample", {0: site.meaning.scale})


@lowering("UnPooling", dialect="parsenet")
def unpooling(site: Site) -> Call:
    made = site.meaning
    spreads = made.spreads([bottom.shape for bottom in site.bottoms])
    arguments = {
        0: {"FIXED": "middle", "DIV": "divide", "REP": "repeat"}[made.unpool],
        "kernel": single([spread.kernel for spread in spreads]),
        "stride": single([spread.stride for spread in spreads]),
        "pad": single([spread.pad for spread in spreads]),
    }
    unheld = {"tflite": "TensorFlow Lite does not load its product of three matrices"}
    return Call("unpooling", arguments, unheld=unheld)
