"""Convolution and Deconvolution over other than two axes, with several bottoms, and the forks'."""

from __future__ import annotations

from tests import nets
from tests.forms import Form, form

IMAGE = (2, 6, 9, 11)


def convolution(id_, parameters, shape=IMAGE, type_="Convolution"):
    return form(id_, type_, f"convolution_param {{ num_output: 4 {parameters} }}", shape)


def deconvolution(id_, parameters, shape):
    return convolution(id_, parameters, shape, "Deconvolution")


def volume(id_, parameters):
    text = f"convolution3d_param {{ num_output: 4 {parameters} }}"
    return form(id_, "Convolution3D", text, (2, 3, 5, 8, 7))


def shared(id_, type_, parameters, shape=IMAGE):
    """One layer on two bottoms."""
    text = nets.layer(
        type_, "data like", "a b", f"convolution_param {{ num_output: 4 {parameters} }}", id_
    )
    return Form(f"{type_}-shared-{id_}", (text,), {"data": shape, "like": shape})


FORMS = [
    convolution("1d", "kernel_size: 3", (2, 6, 13)),
    convolution("1d-all", "kernel_size: 3 stride: 2 pad: 4 group: 2 bias_term: false", (2, 6, 13)),
    convolution("1d-stride-and-dilation", "kernel_size: 2 stride: 3 dilation: 2", (2, 6, 13)),
    convolution("3d", "kernel_size: 3 pad: 1", (2, 6, 5, 7, 4)),
    convolution(
        "3d-all", "kernel_size: [2, 3, 1] stride: [1, 2, 3] pad: [1, 0, 2]", (2, 6, 5, 7, 4)
    ),
    convolution("3d-group", "kernel_size: 2 group: 2 stride: 2", (2, 6, 5, 7, 4)),
    convolution("3d-dilated", "kernel_size: 2 dilation: [2, 1, 3]", (2, 6, 5, 7, 4)),
    convolution(
        "3d-stride-and-dilation", "kernel_size: 2 dilation: 2 stride: [1, 2, 1]", (2, 6, 5, 7, 4)
    ),
    convolution("3d-relu", "kernel_size: 2 relu: true negative_slope: 0.1", (2, 6, 5, 7, 4)),
    convolution("4d", "kernel_size: [2, 1, 3, 2] pad: [0, 1, 0, 0]", (2, 6, 4, 3, 5, 7)),
    convolution("axis-0", "axis: 0 kernel_size: [2, 1, 3] group: 2", (2, 6, 5, 7)),
    convolution("axis-2", "axis: 2 kernel_size: 3 stride: 2 relu: true", (2, 3, 6, 9)),
    convolution("axis-2-of-5", "axis: 2 kernel_size: [2, 3] dilation: [1, 2]", (2, 3, 6, 8, 9)),
    convolution("axis-last-of-3", "axis: -1 kernel_size: 1 group: 2", (2, 3, 6)),
    convolution("axis-last-of-4", "axis: 3", (2, 3, 5, 6)),
    convolution("rank-2", "kernel_size: 3", (2, 6)),
    convolution("window-over-image", "kernel_size: 12 stride: 9 pad: 1", (2, 6, 7, 11)),
    deconvolution("1d", "kernel_size: 3 stride: 2 pad: 1", (2, 6, 5)),
    deconvolution("1d-pad-over-extent", "kernel_size: 2 stride: 3 pad: 3", (2, 6, 5)),
    deconvolution(
        "3d", "kernel_size: [2, 3, 1] stride: [1, 2, 3] dilation: [2, 1, 1]", (2, 6, 3, 4, 2)
    ),
    deconvolution(
        "3d-group", "kernel_size: 2 stride: 2 group: 2 bias_term: false", (2, 6, 3, 4, 2)
    ),
    deconvolution("axis-2", "axis: 2 kernel_size: 3 stride: 2", (2, 3, 6, 4)),
    deconvolution("axis-2-of-5", "axis: 2 kernel_size: [2, 3]", (2, 3, 6, 4, 5)),
    shared("plain", "Convolution", "kernel_size: 3"),
    shared("padded-thin", "Convolution", "kernel_size: 3 pad: 2 stride: 2 dilation: 2"),
    shared("depthwise", "Convolution", "kernel_size: 3 group: 2", (2, 2, 9, 11)),
    shared("1d", "Convolution", "kernel_size: 3", (2, 6, 9)),
    shared("up", "Deconvolution", "kernel_size: 2 stride: 3 pad: 1"),
    shared("up-group", "Deconvolution", "kernel_size: 2 stride: 3 group: 2"),
    shared("up-1d", "Deconvolution", "kernel_size: 2 stride: 3", (2, 6, 9)),
    convolution("relu", "kernel_size: 3 stride: 2 dilation: 2 relu: true"),
    convolution("relu-slope", "kernel_size: 3 pad: 1 relu: true negative_slope: 0.25"),
    convolution("filter-stride", "kernel_size: 3 filter_stride: 2 pad: 2"),
    convolution("filter-stride-h-w", "kernel_size: 3 filter_stride_h: 2 filter_stride_w: 1"),
    convolution("dilation-h-w", "kernel_size: 3 dilation_h: 1 dilation_w: 3"),
    convolution("sides", "kernel_size: 3 stride: 2 pad_l: 2 pad_r: 1 pad_t: 0 pad_b: 3"),
    convolution("same-of-synopsys", "kernel_size: 4 stride: 3 pad_type: 1"),
    convolution("same-dilated-of-synopsys", "kernel_size: 3 dilation: 2 pad_type: 1"),
    convolution("tf-same", "kernel_h: 5 kernel_w: 3 stride: 2 pad: 1 tf_pad: SAME"),
    convolution("tf-valid", "kernel_size: 3 stride: 2 pad: 1 tf_pad: VALID"),
    convolution("depthwise-tf-same", "kernel_size: 3 group: 4 pad: 1 tf_pad: SAME", (2, 4, 9, 11)),
    form(
        "one-filter-a-channel",
        "ConvolutionDepthwise",
        "convolution_param { kernel_h: 3 kernel_w: 2 stride: 2 pad: 1 }",
        IMAGE,
    ),
    form(
        "one-channel",
        "ConvolutionDepthwise",
        "convolution_param { num_output: 7 group: 5 kernel_size: 3 stride: 1 pad: 0 }",
        (2, 1, 5, 7),
    ),
    convolution("multiplier", "kernel_size: 3 group: 2", (2, 2, 5, 7), "DepthwiseConvolution"),
    volume("plain", "kernel_size: 3 kernel_depth: 3 pad: 1 temporal_pad: 1"),
    volume("all", "kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 3 filter_group: 2"),
    volume("no-bias", "kernel_size: 2 kernel_depth: 1 pad: 2 bias_term: false"),
]

SAVED = [
    Form(
        "convolutions",
        (
            nets.layer(
                "Convolution",
                "data",
                "nd",
                "convolution_param { num_output: 4 axis: 2 kernel_size: 2 pad: 1 stride: 2 }",
            ),
            nets.layer(
                "Deconvolution",
                "nd",
                "up",
                "convolution_param { num_output: 6 axis: 2 kernel_size: [3, 2] stride: [1, 2] "
                "group: 2 }",
            ),
        ),
        dict(data=(2, 3, 6, 5, 7)),
    )
]
