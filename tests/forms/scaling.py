"""The forks' layers that scale and shift: ChannelScale, Mean."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form, form


def channel_scale(id_, shape, like, parameters="", tops="out", factor=0.8):
    made = form(
        id_, "ChannelScale", f"channel_scale_param {{ {parameters} }}", shape, tops=tops, like=like
    )
    if "global_scale: true" not in parameters:
        return made
    blob = {"out/0" if tops == "out" else f"{tops.split()[0]}/0": np.array([factor], np.float32)}
    return Form(made.id, made.layers, made.inputs, weights=blob)


def mean(id_, parameters, **inputs):
    inputs = inputs or dict(data=(2, 6, 5, 7))
    tops = " ".join(f"top{i}" for i in range(len(inputs)))
    layer = nets.layer("Mean", " ".join(inputs), tops, f"mean_param {{ {parameters} }}")
    return Form(f"Mean-{id_}", (layer,), inputs)


FORMS = [
    channel_scale("rank-4", (2, 3, 5, 7), (2, 1, 5, 7)),
    channel_scale("rank-4-by-3", (2, 3, 5, 7), (2, 5, 7)),
    channel_scale("rank-4-by-2", (2, 3, 5, 7), (2, 35)),
    channel_scale("channels-last", (2, 3, 5, 7), (2, 5, 7, 1)),
    channel_scale("rank-3", (2, 3, 5), (2, 1, 5)),
    channel_scale("rank-2", (2, 3), (2, 1)),
    channel_scale("rank-2-by-1", (2, 3), (2,)),
    channel_scale("rank-2-by-4", (2, 3), (2, 1, 1, 1)),
    channel_scale("global", (2, 3, 5, 7), (2, 1, 5, 7), "global_scale: true"),
    channel_scale("global-high", (2, 3), (2, 1), "global_scale: true max_global_scale: 0.5"),
    channel_scale("global-low", (2, 3), (2,), "global_scale: true min_global_scale: 2", "a b"),
    channel_scale("global-one-sample", (1, 3), (1,), "global_scale: true", "a b"),
    channel_scale("not-forward", (2, 3, 5, 7), (2, 1, 5, 7), "do_forward: false"),
    mean("add", "operation: ADD value: [0.5, -2]"),
    mean("subtract", "operation: SUBTRACT value: 0.5 mean_scale: 3"),
    mean("scales", "operation: SUBTRACT value: [1, 2, 3] input_scale: 0.1 output_scale: -5"),
    mean("two", "operation: ADD value: [1, 2, 3]", a=(2, 3, 5, 7), b=(2, 6, 4, 3)),
]

SAVED = [
    Form(
        "scaling",
        (
            nets.layer(
                "Mean", "data", "mean", "mean_param { operation: ADD value: [0.5, 0.1, 2] }"
            ),
            nets.layer("ChannelScale", "mean like", "places"),
            nets.layer(
                "ChannelScale",
                "places like",
                "global factor",
                "channel_scale_param { global_scale: true }",
                name="global",
            ),
        ),
        dict(data=(2, 3, 5, 7), like=(2, 1, 5, 7)),
        weights={"global/0": np.array([0.8], np.float32)},
    )
]
