"""Im2col: the windows of a convolution as channels."""

from __future__ import annotations

from tests import nets
from tests.forms import SHAPES, Form, form


def im2col(id_, parameters, shape=(2, 3, 8, 11)):
    return form(id_, "Im2col", f"convolution_param {{ {parameters} }}", shape)


FORMS = [
    im2col("plain", "kernel_size: 3"),
    im2col("ignored", "kernel_size: 2 num_output: 5 group: 7 bias_term: false"),
    im2col("pad-stride", "kernel_size: 3 pad: 1 stride: 2"),
    im2col("h-w", "kernel_h: 2 kernel_w: 4 stride_h: 3 stride_w: 1 pad_h: 0 pad_w: 2"),
    im2col("dilated", "kernel_size: [3, 2] dilation: [2, 3] pad: [1, 0]"),
    im2col("leaves-rows", "kernel_size: 2 stride: 4"),
    im2col("past-the-padding", "kernel_size: 9 stride: 3 pad: 0", (2, 3, 8, 11)),
    im2col("axis-2", "kernel_size: 3 axis: 2 pad: 1"),
    im2col("axis-negative", "kernel_size: 2 axis: -3"),
    im2col("axis-0", "kernel_size: 2 axis: 0"),
    im2col("rank-3", "kernel_size: 3 stride: 2 pad: 2", SHAPES[3]),
    im2col("rank-5", "kernel_size: [2, 3, 1] stride: [1, 2, 3] pad: [0, 1, 2]", SHAPES[5]),
    im2col("rank-2", "kernel_size: 4 axis: 0 pad: 1", SHAPES[2]),
]

SAVED = [
    Form(
        "im2col",
        (nets.layer("Im2col", "data", "out", "convolution_param { kernel_size: 3 pad: 1 }"),),
        {"data": (2, 3, 5, 7)},
    ),
]
