"""Regions of interest."""

from __future__ import annotations

from stage_build.lowering.convolution import single
from stage_build.lowering.registry import Call, Site, lowering


@lowering("ROIPooling", dialect="faster-rcnn")
def roi_pooling(site: Site) -> Call:
    made = site.meaning
    return Call("roi_pooling", {0: single(made.grid()), "scale": made.spatial_scale})


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
    )


@lowering("PSROIPooling", dialect="r-fcn")
def psroi_pooling(site: Site) -> Call:
    made = site.meaning
    return Call("psroi_pooling", {0: made.group_size, "scale": made.spatial_scale})


@lowering("PSROIAlign", dialect="makefile-frcnn")
def psroi_align(site: Site) -> Call:
    made = site.meaning
    return Call(
        "psroi_align",
        {0: made.group_size, "scale": made.spatial_scale, "samples": made.sample_num},
    )
