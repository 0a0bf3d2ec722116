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


@lowering("Sqrt", dialect="cambricon", any_size=True)
@lowering("Square", dialect="other", any_size=True)
@lowering("Cos", "Cosine", "Arccos", dialect="happynear", any_size=True)
@lowering("Sin", "Atan", dialect="synopsys", any_size=True)
def unary(site: Site) -> Call:
    function = _FUNCTIONS[site.layer.type]
    missing = function in ("acos", "atan")
    unheld = {"tflite": "TensorFlow Lite has no such function"} if missing else {}
    return Call("unary", {0: function}, unheld=unheld)


@lowering("Ceil", "Floor", "Round", dialect="synopsys", any_size=True)
def rounded(site: Site) -> Call:
    return Call("rounded", {0: site.layer.type.lower()})


@lowering("Softplus", dialect="synopsys", any_size=True)
def overflowing_softplus(site: Site) -> Call:
    return Call("overflowing_softplus")


@lowering("Softsign", dialect="synopsys", any_size=True)
def softsign(site: Site) -> Call:
    return Call("softsign")


@lowering("HardTanh", "HardTanH", dialect="synopsys", any_size=True)
def hard_tanh(site: Site) -> Call:
    return Call("hard_tanh")


@lowering("ScaledTanH", dialect="synopsys", any_size=True)
def scaled_tanh(site: Site) -> Call:
    return Call("scaled_tanh", {"scale": site.meaning.alpha, "slope": site.meaning.beta})
