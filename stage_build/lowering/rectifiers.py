"""ReLU's relatives in Caffe's forks."""

from __future__ import annotations

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


@lowering("ReLU6", dialect="chuanqi305", any_size=True)
def relu6(site: Site) -> Call:
    slope = site.meaning.negative_slope
    # A falling part below 0 never meets the cap.
    return Call("capped_relu", {0: 6.0, "slope": slope, "falling": slope < 0})


@lowering("ReLUX", dialect="soeaver", any_size=True)
def relux(site: Site) -> Call:
    made = site.meaning
    return Call("capped_relu", {0: made.maximal_value, "slope": made.negative_slope})


@lowering("NegReLU", dialect="flownet2", any_size=True)
def negative_relu(site: Site) -> Call:
    return Call("negative_relu", {"slope": site.meaning.negative_slope})


@lowering("CReLU", dialect="cambricon", any_size=True)
def concatenated_relu(site: Site) -> Call:
    made, rank = site.meaning, len(site.bottoms[0].shape)
    axis = layout.tensor_axis(made.axis(rank), rank)
    return Call("concatenated_relu", {"axis": axis, "slope": made.negative_slope})


@lowering("SeLu", "SeLU", "SELU", dialect="soeaver", any_size=True)
def selu(site: Site) -> Call:
    return Call("selu", {"scale": site.meaning.lambda_, "alpha": site.meaning.alpha})


@lowering("HardSigmoid", dialect="synopsys", any_size=True)
def hard_sigmoid(site: Site) -> Call:
    return Call("hard_sigmoid", {"slope": site.meaning.alpha, "shift": site.meaning.beta})


@lowering("HardSwish", "Mish", dialect="synopsys", any_size=True)
def gated(site: Site) -> Call:
    return Call("gated", {0: {"HardSwish": "hard_silu", "Mish": "mish"}[site.layer.type]})
