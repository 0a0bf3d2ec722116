"""Layers without bottoms that are no inputs."""

from __future__ import annotations

from schemas.graph import Blob
from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("Parameter")
def parameter(site: Site) -> Call:
    shape = layout.tensor_shape(site.tops[0].shape)
    return Call("parameter", {0: shape}, lambda: [layout.to_tensor(site.arrays[0])])


@lowering("DummyData", dialect="constant")
def constant(site: Site) -> Call:
    free = [_free(top) for top in site.tops]
    shapes = [
        layout.tensor_order([None if i in axes else size for i, size in enumerate(top.shape)])
        for top, axes in zip(site.tops, free, strict=True)
    ]
    rank = len(site.bottoms[0].shape)
    read = [sorted(layout.tensor_axis(axis, rank) % rank for axis in axes) for axes in free]
    elsewhere = read != [[i for i, size in enumerate(shape) if size is None] for shape in shapes]
    values = site.meaning.values(len(shapes))
    if len(shapes) == 1:
        axes = read[0] if elsewhere else None
        return Call("constant", {0: values[0], "shape": shapes[0], "axes": axes})
    return Call("constants", {0: values, "shapes": shapes, "axes": read if elsewhere else None})


def _free(blob: Blob) -> list[int]:
    """The axes that are as large as those of the net's first input."""
    axes = ([0] if blob.sequence else []) + [blob.batch]
    return [axis for axis in axes if axis is not None]
