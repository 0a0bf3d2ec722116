"""Regions of interest."""

from __future__ import annotations

from stage_build.lowering.convolution import single
from stage_build.lowering.registry import Call, Site, lowering

# Boxes are cut at places that are rounded as Caffe's are.
_UNHELD = {"tflite": "it rounds in float64, in which TensorFlow Lite does not compute"}


@lowering("ROIPooling", dialect="faster-rcnn")
def roi_pooling(site: Site) -> Call:
    made = site.meaning
    arguments = {0: single(made.grid()), "scale": made.spatial_scale}
    return Call("roi_pooling", arguments, unheld=_UNHELD)


@lowering("ROIAlign", dialect="makefile-frcnn")
def roi_align(site: Site) -> Call:
    made = site.meaning
    return Call(
        "roi_align",
        {
            0: single(made.grid()),
            "scale": made.spatial_scale,
            "pad_ratio": made.pad_ratio,
            "cubic": made.bi_type == 1,
        },
        unheld=_UNHELD,
    )


@lowering("PSROIPooling", dialect="r-fcn")
def psroi_pooling(site: Site) -> Call:
    made = site.meaning
    arguments = {0: made.group_size, "scale": made.spatial_scale}
    return Call("psroi_pooling", arguments, unheld=_UNHELD)


@lowering("PSROIAlign", dialect="makefile-frcnn")
def psroi_align(site: Site) -> Call:
    made = site.meaning
    return Call(
        "psroi_align",
        {0: made.group_size, "scale": made.spatial_scale, "samples": made.sample_num},
        unheld=_UNHELD,
    )
