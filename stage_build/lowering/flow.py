"""Optical flow."""

from __future__ import annotations

from stage_build.lowering.registry import Call, Site, lowering, unheld_loop


@lowering("FlowWarp", dialect="flownet2")
def flow_warp(site: Site) -> Call:
    return Call("flow_warp", {"outside": None if site.meaning.fill_value == "ZERO" else "nan"})


@lowering("Correlation", dialect="flownet2")
def correlation(site: Site) -> Call:
    made = site.meaning
    return Call(
        "correlation",
        {
            "displacement": made.max_displacement,
            "kernel": made.kernel_size,
            "pad": made.pad,
            "stride": made.stride_1,
            "step": made.stride_2,
            "differences": made.correlation_type == "SUBTRACT",
        },
        unheld=unheld_loop(site),
    )
