"""Pooling."""

from __future__ import annotations

from stage_build.lowering.convolution import single
from stage_build.lowering.registry import Call, Site, lowering

_METHODS = {"MAX": "max", "AVE": "average"}


@lowering("Pooling")
def pooling(site: Site) -> Call:
    made, method = site.meaning, _METHODS[site.meaning.pool]
    if made.global_pooling:
        return Call("global_pooling", {0: method})
    window = made.geometry(*site.bottoms[0].shape[2:])
    return Call(
        "pooling",
        {
            0: method,
            "kernel": single(window.kernel),
            "stride": single(window.stride),
            "pad": single(window.pad),
            "ceil": made.rounds_up(),
        },
    )
