"""Functions of one number without a place in BVLC Caffe."""

from __future__ import annotations

from stage_build.lowering.registry import Call, Site, lowering

_FUNCTIONS = {
    "Sqrt": "sqrt",
    "Square": "square",
    "Sin": "sin",
    "Cos": "cos",
    "Cosine": "cos",
    "Atan": "atan",
    "Arccos": "acos",
}


@lowering("Sqrt", dialect="cambricon")
@lowering("Square", dialect="other")
@lowering("Cos", "Cosine", "Arccos", dialect="happynear")
@lowering("Sin", "Atan", dialect="synopsys")
def unary(site: Site) -> Call:
    return Call("unary", {0: _FUNCTIONS[site.layer.type]})


@lowering("Ceil", "Floor", "Round", dialect="synopsys")
def rounded(site: Site) -> Call:
    return Call("rounded", {0: site.layer.type.lower()})


@lowering("Softplus", dialect="synopsys")
def overflowing_softplus(site: Site) -> Call:
    return Call("overflowing_softplus")


@lowering("Softsign", dialect="synopsys")
def softsign(site: Site) -> Call:
    return Call("softsign")


@lowering("HardTanh", "HardTanH", dialect="synopsys")
def hard_tanh(site: Site) -> Call:
    return Call("hard_tanh")


@lowering("ScaledTanH", dialect="synopsys")
def scaled_tanh(site: Site) -> Call:
    return Call("scaled_tanh", {"scale": site.meaning.alpha, "slope": site.meaning.beta})
