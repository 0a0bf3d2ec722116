"""Recurrent layers. Steps, sequences, inputs and units all differ."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form

STEPS, BATCH, UNITS = 6, 3, 5

# Sequences that start at the first step, in the middle and at the last, and one step that is
# neither a start nor goes on whole.
CONT = np.ones((STEPS, BATCH), np.float32)
CONT[0] = CONT[3, 1] = CONT[5, 2] = 0
CONT[2, 2] = 0.5


def recurrent(id_, type_, x=(STEPS, BATCH, 4), static=None, expose=False):
    inputs = {"x": x, "cont": (STEPS, BATCH)}
    parameters, tops = f"num_output: {UNITS}", ["out"]
    if static:
        inputs["static"] = static
    if expose:
        states = ("h", "c")[: 2 if type_ == "LSTM" else 1]
        inputs |= dict.fromkeys(states, (1, BATCH, UNITS))
        tops += [f"{state}_last" for state in states]
        parameters += " expose_hidden: true"
    text = nets.layer(
        type_, " ".join(inputs), " ".join(tops), f"recurrent_param {{ {parameters} }}", name="out"
    )
    return Form(f"{type_}-{id_}", (text,), inputs, {"cont": CONT})


def junhyukoh(id_, x, clip=None, parameters="", type_="Lstm"):
    text = nets.layer(
        type_,
        "x" if clip is None else "x clip",
        "out",
        f"lstm_param {{ num_output: {UNITS} {parameters} }}",
    )
    if clip is None:
        return Form(f"{type_}-{id_}", (text,), {"x": x})
    values = np.array(clip, np.float32)[:, None]
    return Form(f"{type_}-{id_}", (text,), {"x": x, "clip": values.shape}, {"clip": values})


UNIT = Form(
    "LSTMUnit-plain",
    (nets.layer("LSTMUnit", "c gates cont", "c_now h_now", name="unit"),),
    dict(c=(1, BATCH, UNITS), gates=(1, BATCH, 4 * UNITS), cont=(1, BATCH)),
    {"cont": np.array([[1, 0, 0.5]], np.float32)},
)

FORMS = [
    *(
        recurrent(id_, type_, **more)
        for type_ in ("LSTM", "RNN")
        for id_, more in {
            "plain": {},
            "x-of-4-axes": {"x": (STEPS, BATCH, 2, 4)},
            "x-of-5-axes": {"x": (STEPS, BATCH, 2, 4, 1)},
            "static": {"static": (BATCH, 7)},
            "static-image": {"static": (BATCH, 2, 4, 7)},
            "exposed": {"expose": True},
            "static-exposed": {"static": (BATCH, 7), "expose": True},
        }.items()
    ),
    UNIT,
    junhyukoh("plain", (STEPS, 4)),
    junhyukoh("image", (STEPS, 2, 3, 4), parameters="clipping_threshold: 0.1"),
    junhyukoh("batch", (STEPS * 2, 4), parameters="batch_size: 2"),
    junhyukoh("clip", (STEPS, 4), [0, 1, 1, 0, 2, 1]),
    junhyukoh("clip-first-1", (STEPS, 4), [1, 1, 0, 1, 1, 0]),
    junhyukoh("clip-batch", (STEPS, 4), [0, 1, 0, 1, 1, 1], "batch_size: 3"),
]

# What goes on time-major between recurrent layers.
SEQUENCES = Form(
    "sequences",
    (
        nets.layer("TanH", "x", "tanh"),
        nets.layer(
            "LSTM",
            "tanh cont static h c",
            "lstm h_last c_last",
            f"recurrent_param {{ num_output: {UNITS} expose_hidden: true }}",
            name="lstm",
        ),
        nets.layer("RNN", "lstm cont", "rnn", "recurrent_param { num_output: 8 }"),
        nets.layer("Slice", "rnn", "a b", "slice_param { axis: 2 slice_point: 5 }", name="slice"),
        nets.layer("Eltwise", "a lstm", "sum"),
        nets.layer("Concat", "sum b", "concat", "concat_param { axis: -1 }"),
        nets.layer("Scale", "concat", "scale", "scale_param { axis: 2 bias_term: true }"),
        nets.layer("Scale", "scale cont", "masked", "scale_param { axis: 0 }"),
        nets.layer(
            "Reshape", "masked", "grid", "reshape_param { shape { dim: 0 dim: 0 dim: 2 dim: -1 } }"
        ),
        nets.layer("ReLU", "grid", "relu"),
        nets.layer("InnerProduct", "relu", "ip", "inner_product_param { num_output: 7 axis: 2 }"),
        nets.layer("Reshape", "ip", "rows", "reshape_param { shape { dim: 7 dim: 1 } axis: 2 }"),
        nets.layer("Flatten", "rows", "flat", "flatten_param { axis: 2 }"),
        nets.layer("Dropout", "flat", "drop"),
        nets.layer("Softmax", "drop", "prob", "softmax_param { axis: -1 }"),
        nets.layer("LSTMUnit", "h gates cont0", "c_now h_now", name="unit"),
    ),
    {
        "x": (STEPS, BATCH, 4),
        "cont": (STEPS, BATCH),
        "static": (BATCH, 2, 4, 7),
        "h": (1, BATCH, UNITS),
        "c": (1, BATCH, UNITS),
        "gates": (1, BATCH, 4 * UNITS),
        "cont0": (1, BATCH),
    },
    {"cont": CONT},
)

SAVED = [
    SEQUENCES,
    Form(
        "rows",
        (
            nets.layer("Lstm", "x", "lstm", "lstm_param { num_output: 5 batch_size: 2 }"),
            nets.layer("Reshape", "lstm", "out", "reshape_param { shape { dim: -1 dim: 10 } }"),
        ),
        {"x": (8, 2, 3, 4)},
    ),
]
