"""Layers that move values and change none."""

from __future__ import annotations

from schemas.errors import UnsupportedModel
from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("Concat", any_size=True)
def concat(site: Site) -> Call:
    if len(site.bottoms) == 1:
        return Call("split", {0: 1}, alias=True)
    rank = len(site.tops[0].shape)
    return Call("concat", {"axis": layout.tensor_axis(site.meaning.along(rank), rank)})


@lowering("Slice", any_size=True)
def slice_(site: Site) -> Call:
    if len(site.tops) == 1:
        return Call("split", {0: 1}, alias=True)
    shape = site.bottoms[0].shape
    axis = site.meaning.along(len(shape))
    points, at = [], 0
    for top in site.tops[:-1]:
        at += top.shape[axis]
        points.append(at)
    return Call("slice", {0: points, "axis": layout.tensor_axis(axis, len(shape))})


@lowering("Split", any_size=True)
def split(site: Site) -> Call:
    return Call("split", {0: len(site.tops)}, alias=True)


@lowering("Crop", any_size=True)
@lowering("Crop", dialect="fcn-future", any_size=True)
def crop(site: Site) -> Call:
    rank, like = (len(bottom.shape) for bottom in site.bottoms)
    if rank != like:
        raise UnsupportedModel(f"bottom 0 has {rank} axes, bottom 1 has {like}; they should agree")
    offsets = site.meaning.offsets(rank)
    kept = [None if axis < site.meaning.first(rank) else o for axis, o in enumerate(offsets)]
    return Call("crop", {0: layout.tensor_order(kept)})


@lowering("Tile", any_size=True)
def tile(site: Site) -> Call:
    rank = len(site.bottoms[0].shape)
    axis = layout.tensor_axis(site.meaning.axis % rank, rank)
    return Call("tile", {0: site.meaning.tiles, "axis": axis})
