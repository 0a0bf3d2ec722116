"""The forks' layers that put values into another order."""

from __future__ import annotations

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("Permute", dialect="ssd", any_size=True)
@lowering("Transpose", dialect="makefile-frcnn", any_size=True)
def permute(site: Site) -> Call:
    axes = site.meaning.axes(len(site.bottoms[0].shape))
    return Call("permute", {0: layout.tensor_permutation(axes)})


@lowering("Reverse", dialect="makefile-frcnn", any_size=True)
@lowering("Flip", dialect="happynear", any_size=True)
def flip(site: Site) -> Call:
    rank = len(site.bottoms[0].shape)
    axes = sorted(layout.tensor_axis(axis, rank) % rank for axis in site.meaning.mirrored(rank))
    return Call("flip", {0: axes})


@lowering("ShuffleChannel", "ChannelShuffle", dialect="shufflenet", any_size=True)
def shuffle_channels(site: Site) -> Call:
    return Call("shuffle_channels", {0: site.meaning.group})


@lowering("ChannelShuffle", dialect="holmesshuan")
def pixels_first(site: Site) -> Call:
    return Call("pixels_first")


@lowering("Reorg", dialect="yolo", any_size=True)
def reorg(site: Site) -> Call:
    return Call("reorg", {0: site.meaning.stride, "reverse": site.meaning.reverse})
