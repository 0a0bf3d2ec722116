"""Optical flow."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form

SHAPE = (2, 3, 8, 11)
FLOW = (2, 2, 8, 11)


def correlation(id_, parameters):
    text = nets.layer("Correlation", "a b", "out", f"correlation_param {{ {parameters} }}")
    return Form(f"Correlation-{id_}", (text,), dict(a=SHAPE, b=SHAPE))


def flow_warp(id_, parameters, flow):
    text = nets.layer("FlowWarp", "image flow", "out", parameters)
    return Form(f"FlowWarp-{id_}", (text,), dict(image=SHAPE, flow=FLOW), {"flow": flow})


BOTH_WAYS = np.random.default_rng(5).uniform(-12, 12, FLOW).astype(np.float32)

FORMS = [
    flow_warp("far", "", BOTH_WAYS),
    flow_warp("nan", "flow_warp_param { fill_value: NOT_A_NUMBER }", BOTH_WAYS),
    flow_warp("onto-pixels", "", np.round(BOTH_WAYS)),
    correlation("no-displacement", "kernel_size: 3 max_displacement: 0"),
    correlation("all", "kernel_size: 3 max_displacement: 3 pad: 4 stride_1: 3 stride_2: 2"),
    correlation(
        "differences",
        "kernel_size: 1 max_displacement: 2 pad: 1 stride_1: 2 correlation_type: SUBTRACT",
    ),
]

SAVED = [
    Form(
        "flow",
        (
            nets.layer("FlowWarp", "image flow", "warp"),
            nets.layer(
                "Correlation",
                "image warp",
                "correlation",
                "correlation_param { kernel_size: 3 max_displacement: 4 pad: 5 stride_2: 2 }",
            ),
        ),
        dict(image=SHAPE, flow=FLOW),
    )
]
