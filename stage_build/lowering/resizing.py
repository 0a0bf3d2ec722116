"""Images at another size."""

from __future__ import annotations

from typing import Any

from stage_build.lowering.registry import Call, Site, lowering


def _size(site: Site) -> tuple[int, ...]:
    return tuple(site.tops[0].shape[2:])


@lowering("Interp", dialect="pspnet", any_size=True)
def interp(site: Site) -> Call:
    made = site.meaning
    crop = (-made.pad_beg, -made.pad_end)
    arguments: dict[Any, Any] = {"crop": crop if any(crop) else None}
    factors = (made.shrink_factor, made.zoom_factor)
    if len(site.bottoms) == 2:
        return Call("interp", arguments)
    if made.fixed() is not None:
        return Call("interp", {0: made.fixed(), **arguments})
    if factors == (None, None):
        return Call("interp", {**arguments, "scale": made.full_zoom_factor})
    return Call("interp", {**arguments, "shrink": factors[0] or 1, "zoom": factors[1] or 1})


@lowering("Resample", dialect="flownet2")
def resample(site: Site) -> Call:
    made = site.meaning
    return Call("resample", {0: _size(site), 1: made.type.lower(), "antialias": made.antialias})


@lowering("Downsample", dialect="flownet2")
def downsample(site: Site) -> Call:
    return Call("downsample", {0: _size(site)})


@lowering("Accum", dialect="flownet2")
def accum(site: Site) -> Call:
    return Call("accum", {0: _size(site), "reference": site.meaning.have_reference})


@lowering("Resize", dialect="happynear")
def resize(site: Site) -> Call:
    return Call("resize", {0: _size(site)})
