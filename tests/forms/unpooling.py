"""Images made larger."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import SHAPES, Form, form


def unpool(id_, pooling, parameters, shape=(2, 3, 8, 11)):
    """By the positions of a pooling."""
    layers = (
        nets.layer("Pooling", "data", "pool mask", f"pooling_param {{ {pooling} }}"),
        nets.layer("Upsample", "pool mask", "up", f"upsample_param {{ {parameters} }}"),
    )
    return Form(f"Upsample-{id_}", layers, {"data": shape})


def unpooling(id_, parameters, like=None):
    text = f"unpooling_param {{ {parameters} }}"
    return [
        form(f"{kind}-{id_}", "UnPooling", f"{text[:-1]} unpool: {kind} }}", SHAPES[4], like=like)
        for kind in ("FIXED", "DIV", "REP")
    ]


# Two values for one position: the later is kept.
TWICE = Form(
    "Upsample-twice",
    (nets.layer("Upsample", "data like", "up", "upsample_param { upsample_h: 2 upsample_w: 3 }"),),
    {"data": (1, 1, 2, 2), "like": (1, 1, 2, 2)},
    {"like": np.array([[[[5, 0], [5, 2]]]], np.float32)},
)

FORMS = [
    unpool("default", "kernel_size: 2 stride: 2", "", (2, 3, 8, 10)),
    unpool("size", "kernel_size: 2 stride: 2", "upsample_h: 8 upsample_w: 11"),
    unpool("odd", "kernel_size: 2 stride: 2", "pad_out_w: true"),
    unpool(
        "scales",
        "kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 3",
        "scale_h: 2 scale_w: 3",
        (2, 3, 8, 12),
    ),
    unpool("overlap", "kernel_size: 3 stride: 1", "upsample_h: 8 upsample_w: 11"),
    TWICE,
    *(
        form(f"scale-{scale}", "Upsample", f"upsample_param {{ scale: {scale} }}")
        for scale in (1, 2, 3)
    ),
    *unpooling("plain", "out_kernel_size: 2 out_stride: 2"),
    *unpooling("overlap", "out_kernel_size: 3 out_stride: 2 out_pad: 1"),
    *unpooling("gaps", "out_kernel_h: 1 out_kernel_w: 2 out_stride_h: 3 out_stride_w: 4"),
    *unpooling("stride-one", "out_kernel_h: 4 out_kernel_w: 3 out_pad_h: 3 out_pad_w: 0"),
    *unpooling("reaching", "out_kernel_size: 9", (2, 4, 8, 12)),
]

SAVED = [
    Form(
        "unpoolings",
        (
            nets.layer(
                "Pooling", "data", "pool mask", "pooling_param { kernel_size: 2 stride: 2 }"
            ),
            nets.layer("Upsample", "pool mask", "up"),
            nets.layer("UnPooling", "up", "out", "unpooling_param { out_kernel_size: 2 }"),
        ),
        dict(data=(2, 3, 8, 10)),
    )
]

# Positions are moved by nothing.
MOVED = [("Unpool", 1)]
