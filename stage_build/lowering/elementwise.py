"""Eltwise, and SENet's Axpy."""

from __future__ import annotations

from stage_build.lowering.registry import Call, Site, lowering

_OPERATIONS = {"SUM": "sum", "PROD": "product", "MAX": "max", "MIN": "min", "DIV": "quotient"}


@lowering("Eltwise", any_size=True)
def eltwise(site: Site) -> Call:
    made = site.meaning
    if made.operation == "SUM" and any(coefficient != 1 for coefficient in made.coeff):
        return Call("eltwise", {"coefficients": made.coeff})
    if len(site.bottoms) == 1:
        return Call("eltwise", alias=True)
    return Call("eltwise", {0: _OPERATIONS[made.operation]})


@lowering("Axpy", dialect="senet", any_size=True)
def axpy(site: Site) -> Call:
    return Call("axpy")
