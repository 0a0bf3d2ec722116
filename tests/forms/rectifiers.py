"""ReLU's relatives in Caffe's forks."""

from __future__ import annotations

from tests import nets
from tests.forms import SHAPES, Form, form
from tests.forms.activations import HUGE, X

FORMS = [
    form("default", "ReLU6", x=X),
    form("slope", "ReLU6", "relu6_param { negative_slope: 0.1 }", x=X),
    form("negative-slope", "ReLU6", "relu6_param { negative_slope: -3 }", x=X),
    form("rank-3", "ReLU6", shape=SHAPES[3]),
    form("default", "ReLUX", x=X),
    form("all", "ReLUX", "relux_param { negative_slope: 0.2 maximal_value: 1.5 }", x=X),
    form("negative-slope", "ReLUX", "relux_param { negative_slope: -3 maximal_value: 2 }", x=X),
    form("negative-maximum", "ReLUX", "relux_param { maximal_value: -2 }", x=X),
    form("default", "NegReLU"),
    form("slope", "NegReLU", "relu_param { negative_slope: 0.3 }", SHAPES[2]),
    *(form(f"rank-{rank}", "CReLU", shape=SHAPES[rank]) for rank in (2, 3, 4, 5)),
    *(
        form(f"axis-{axis}", "CReLU", f"crelu_param {{ concat_axis: {axis} negative_slope: 0.2 }}")
        for axis in (-4, 0, 1, 2, -1)
    ),
    *(form("far", type_, x=HUGE) for type_ in ("SeLu", "HardSigmoid", "HardSwish", "Mish")),
    *(form("signs", type_, x=X) for type_ in ("SELU", "SeLU", "HardSigmoid", "HardSwish", "Mish")),
    form("parameters", "SeLu", "selu_param { lambda: 2 alpha: 0.3 }"),
    form("parameters", "HardSigmoid", "hard_sigmoid_param { alpha: 0.4 beta: 0.1 }"),
    # Shang et al.'s CReLU as prototxts before the type was there have it.
    Form(
        "CReLU-idiom",
        (
            nets.layer("Power", "data", "negative", "power_param { scale: -1 }"),
            nets.layer("Concat", "data negative", "both"),
            nets.layer("ReLU", "both", "both", name="relu"),
        ),
        dict(data=SHAPES[4]),
    ),
]

SAVED = [
    Form(
        "rectifiers",
        (
            nets.layer(
                "ReLUX", "data", "capped", "relux_param { negative_slope: -0.5 maximal_value: 1 }"
            ),
            nets.layer("NegReLU", "capped", "negative", "relu_param { negative_slope: 0.3 }"),
            nets.layer("CReLU", "negative", "crelu", "crelu_param { negative_slope: 0.1 }"),
            nets.layer("SeLu", "crelu", "selu"),
            nets.layer("HardSigmoid", "selu", "hard"),
        ),
        dict(data=SHAPES[4]),
    )
]
