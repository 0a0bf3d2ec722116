"""Functions of one number, and softmax."""

from __future__ import annotations

from typing import Any

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("ReLU", any_size=True)
def relu(site: Site) -> Call:
    made = site.meaning
    if made.limits is None:
        return Call("relu", {"slope": made.negative_slope})
    least, greatest = made.limits
    return Call(
        "limited_relu", {"slope": made.negative_slope, "least": least, "greatest": greatest}
    )


@lowering("PReLU", any_size=True)
def prelu(site: Site) -> Call:
    rank = len(site.bottoms[0].shape)
    channels = layout.tensor_axis(1, rank) % rank
    shared = [a for a in range(1, rank) if site.meaning.channel_shared or a != channels]
    shape = [1 if axis in shared else -1 for axis in range(1, rank)]
    return Call("prelu", {"shared_axes": shared or None}, lambda: [site.arrays[0].reshape(shape)])


@lowering("ELU", any_size=True)
def elu(site: Site) -> Call:
    return Call("elu", {"alpha": site.meaning.alpha})


@lowering("Sigmoid", "TanH", any_size=True)
def activation(site: Site) -> Call:
    return Call("activation", {0: site.layer.type.lower()})


@lowering("BNLL", any_size=True)
def bnll(site: Site) -> Call:
    unheld = {"tflite": "values above 88 would become infinite"}
    return Call("activation", {0: "softplus"}, unheld=unheld)


@lowering("Swish", any_size=True)
def swish(site: Site) -> Call:
    return Call("swish", {"beta": site.meaning.beta})


@lowering("Clip", any_size=True)
def clip(site: Site) -> Call:
    return Call("clip", {0: site.meaning.min, 1: site.meaning.max})


@lowering("Threshold", any_size=True)
def threshold(site: Site) -> Call:
    return Call("threshold", {"threshold": site.meaning.threshold})


@lowering("AbsVal", any_size=True)
def abs_val(site: Site) -> Call:
    return Call("abs_val")


@lowering("Power", any_size=True)
def power(site: Site) -> Call:
    made = site.meaning
    return Call("power", {"power": made.power, "scale": made.scale, "shift": made.shift})


def _exponent(site: Site) -> dict[str, Any]:
    made = site.meaning
    base = None if made.base == -1 else made.base
    return {"base": base, "scale": made.scale, "shift": made.shift}


@lowering("Exp", any_size=True)
def exp(site: Site) -> Call:
    return Call("exp", _exponent(site))


@lowering("Log", any_size=True)
def log(site: Site) -> Call:
    return Call("log", _exponent(site))


@lowering("Softmax", any_size=True)
def softmax(site: Site) -> Call:
    rank = len(site.bottoms[0].shape)
    return Call("softmax", {"axis": layout.tensor_axis(site.meaning.axis % rank, rank)})


@lowering("Dropout", any_size=True)
def dropout(site: Site) -> Call:
    made = site.meaning
    return Call("dropout", {0: made.dropout_ratio, "scale_train": made.scale_train})
