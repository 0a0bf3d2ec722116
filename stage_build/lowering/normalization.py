"""Normalization of each sample alone: LRN, MVN, the forks' Normalize and their kin."""

from __future__ import annotations

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("LRN", any_size=True)
def lrn(site: Site) -> Call:
    made = site.meaning
    arguments = {"size": made.local_size, "alpha": made.alpha, "beta": made.beta}
    if made.norm_region == "WITHIN_CHANNEL":
        return Call("lrn_within_channel", arguments)
    return Call("lrn", {**arguments, "k": made.k})


@lowering("MVN", any_size=True)
def mvn(site: Site) -> Call:
    made = site.meaning
    return Call(
        "mvn",
        {
            "across_channels": made.across_channels,
            "normalize_variance": made.normalize_variance,
            "eps": made.eps,
            "add_eps_before_sqrt": made.add_eps_before_sqrt,
        },
    )


@lowering("Normalize", dialect="ssd", any_size=True)
def normalize(site: Site) -> Call:
    made = site.meaning
    return Call(
        "normalize",
        {
            "axis": layout.tensor_axis(1, len(site.bottoms[0].shape)),
            "across_spatial": made.across_spatial,
            "channel_shared": made.channel_shared,
            "eps": made.eps,
            "eps_after_root": made.eps_after_root,
        },
        lambda: [site.arrays[0]],
    )


@lowering("Normalize", dialect="happynear", any_size=True)
def normalize_channels(site: Site) -> Call:
    made = site.meaning
    return Call(
        "normalize_channels",
        {0: made.normalize_type, "eps": made.eps, "with_length": len(site.tops) == 2},
    )


@lowering("L2Normalization", any_size=True)
@lowering("L2Normalization", dialect="gy20073", any_size=True)
def l2_normalization(site: Site) -> Call:
    return Call("l2_normalization")


@lowering("L2Normalization", dialect="spongezhang", any_size=True)
def l2_normalization_of_pixels(site: Site) -> Call:
    return Call("normalize_channels", {0: "L2", "eps": 0.0})


@lowering("ChannelNorm", dialect="flownet2", any_size=True)
def channel_norm(site: Site) -> Call:
    return Call("channel_norm")
