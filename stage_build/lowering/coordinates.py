"""Layers that tell each place where it is."""

from __future__ import annotations

from stage_build.lowering.registry import Call, Site, lowering


@lowering("Slope", dialect="happynear")
def slope(site: Site) -> Call:
    return Call("append_places")
