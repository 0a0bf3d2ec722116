"""Reduction: one number from many."""

from __future__ import annotations

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering

_METHODS = {"SUM": "sum", "ASUM": "sum of magnitudes", "SUMSQ": "sum of squares", "MEAN": "mean"}


@lowering("Reduction", any_size=True)
def reduction(site: Site) -> Call:
    rank, kept = len(site.bottoms[0].shape), len(site.tops[0].shape)
    axes = sorted(layout.tensor_axis(axis, rank) % rank for axis in range(kept, rank))
    left = [axis for axis in layout.tensor_order(range(rank)) if axis < kept]
    order = [left.index(axis) for axis in layout.tensor_order(range(kept))]
    return Call(
        "reduction",
        {
            0: _METHODS[site.meaning.operation],
            "axes": axes,
            "coeff": site.meaning.coeff,
            "order": None if order == sorted(order) else order,
        },
    )
