"""ArgMax."""

from __future__ import annotations

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("ArgMax", any_size=True)
def argmax(site: Site) -> Call:
    made, rank = site.meaning, len(site.bottoms[0].shape)
    axis = None if made.axis is None else layout.tensor_axis(made.axis % rank, rank)
    return Call("argmax", {"axis": axis, "top": made.top_k, "values": made.out_max_val})
