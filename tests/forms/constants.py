"""Layers without bottoms that are no inputs."""

from __future__ import annotations

from tests import nets
from tests.forms import Form

SHAPE = (2, 3, 5, 7)


def dims(shape):
    return " ".join(f"dim: {size}" for size in shape)


def parameter(shape, operation):
    """A Parameter that is added to an input of its shape."""
    own = f"parameter_param {{ shape {{ {dims(shape)} }} }}"
    return Form(
        f"Parameter-rank-{len(shape)}",
        (
            nets.layer("Parameter", "", "own", own),
            nets.layer("Eltwise", "data own", "out", f"eltwise_param {{ operation: {operation} }}"),
        ),
        {"data": shape},
    )


def dummy(id_, parameters, shape, more=()):
    """A constant DummyData that is added to an input of its shape."""
    return Form(
        f"DummyData-{id_}",
        (
            nets.layer("DummyData", "", "own", f"dummy_data_param {{ {parameters} }}"),
            nets.layer("Eltwise", "data own", "out"),
            *more,
        ),
        {"data": shape},
    )


TWO = Form(
    "DummyData-two",
    (
        nets.layer(
            "DummyData",
            "",
            "own other",
            "dummy_data_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } shape { dim: 2 dim: 4 } "
            'data_filler { value: -1.5 } data_filler { type: "constant" value: 2 } }',
            name="dummy",
        ),
        nets.layer("Eltwise", "data own", "out", "eltwise_param { operation: PROD }"),
        nets.layer("TanH", "other", "more"),
    ),
    {"data": (2, 3, 5, 7)},
)

# The first input is written over before the constant is made: its variable must not be.
IN_PLACE = Form(
    "Parameter-after-in-place",
    (
        nets.layer("ReLU", "data", "data", name="relu"),
        nets.layer("Parameter", "", "own", "parameter_param { shape { dim: 2 dim: 6 } }"),
        nets.layer("Concat", "data own", "out"),
    ),
    {"data": (2, 3)},
)

# Time is on axis 0, the batch on axis 1: in a tensor of 4 axes, on the last.
TIME_MAJOR = Form(
    "DummyData-time-major",
    (
        nets.layer(
            "DummyData",
            "",
            "go on",
            "dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 3 dim: 6 } "
            "data_filler { value: 1 } }",
            name="dummy",
        ),
        nets.layer("LSTM", "data go", "out", "recurrent_param { num_output: 5 }"),
        nets.layer("TanH", "on", "more"),
    ),
    {"data": (4, 3, 2, 7)},
)

FORMS = [
    parameter((6,), "SUM"),
    parameter((2, 15), "PROD"),
    parameter((2, 3, 5), "SUM"),
    parameter((2, 3, 5, 7), "MAX"),
    parameter((2, 3, 5, 7, 4), "PROD"),
    dummy("no-filler", "shape { dim: 2 dim: 3 }", (2, 3)),
    dummy("old-shape", "num: 2 channels: 3 height: 5 width: 7 data_filler { value: 0.5 }",
          (2, 3, 5, 7)),
    TWO,
    TIME_MAJOR,
    IN_PLACE,
]  # fmt: skip

SAVED = [
    Form(
        "constants",
        (
            nets.layer("Parameter", "", "own", f"parameter_param {{ shape {{ {dims(SHAPE)} }} }}"),
            nets.layer(
                "DummyData",
                "",
                "half",
                f"dummy_data_param {{ shape {{ {dims(SHAPE)} }} data_filler {{ value: 0.5 }} }}",
            ),
            nets.layer("Eltwise", "data own half", "sum"),
        ),
        {"data": SHAPE},
    ),
]

FLAT = ["Constant"]
MOVED = [("Parameter", 0)]
