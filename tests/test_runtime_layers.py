"""Every form of every layer: the generated class against what schemas.layers says it means.

A row a form. Batch, channels, height and width all differ, so that no two axes can be confused.
"""

from __future__ import annotations

import ast
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import stage_build.runtime
from schemas.errors import UnsupportedModel
from schemas.layers import registry as meanings
from stage_build import layout, verify
from stage_build.artefacts import export, models
from stage_build.caffe_layers import calls_name
from stage_build.lowering.registry import lower
from tests import nets
from tests.forms import SHAPES, Form, families, form
from tests.paths import ROOT

LAYER_TOLERANCE = 1e-5


def convolution(id_, parameters, shape=(2, 6, 9, 11), type_="Convolution"):
    return form(id_, type_, f"convolution_param {{ num_output: 12 {parameters} }}", shape)


def deconvolution(id_, parameters, shape=(2, 6, 4, 5)):
    return convolution(id_, parameters, shape, "Deconvolution")


def pooling(id_, parameters, shape=(2, 3, 8, 11)):
    """Both kinds of pooling."""
    return [
        form(f"{kind}-{id_}", "Pooling", f"pooling_param {{ pool: {kind} {parameters} }}", shape)
        for kind in ("MAX", "AVE")
    ]


CONVOLUTIONS = [
    convolution("plain", "kernel_size: 3"),
    convolution("1x1", "kernel_size: 1"),
    convolution("1x1-stride", "kernel_size: 1 stride: 2"),
    convolution("no-bias", "kernel_size: 3 bias_term: false"),
    convolution("same", "kernel_size: 3 pad: 1"),
    # TensorFlow's "same" would pad one side alone here.
    convolution("same-but-for-stride", "kernel_size: 3 pad: 1 stride: 2", (2, 6, 8, 10)),
    convolution(
        "depthwise-same-but-for-stride", "kernel_size: 3 pad: 1 stride: 2 group: 6", (2, 6, 8, 10)
    ),
    convolution("same-h-not-w", "kernel_h: 3 kernel_w: 5 pad_h: 1 pad_w: 1"),
    convolution("same-dilated", "kernel_size: 3 pad: 2 dilation: 2"),
    convolution("even-kernel", "kernel_size: 4 pad: 2"),
    convolution("pad-h-w", "kernel_size: 3 pad_h: 2 pad_w: 0"),
    convolution("pad-larger-than-kernel", "kernel_size: 2 pad: 4"),
    convolution("all-h-w", "kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 2 pad_h: 0 pad_w: 2"),
    convolution("repeated-forms", "kernel_size: [2, 3] stride: [3, 2] pad: [1, 0]"),
    convolution("dilated-h-w", "kernel_size: 3 dilation: [1, 3] pad: [0, 3]"),
    convolution("stride-and-dilation", "kernel_size: 3 stride: 2 dilation: 2 pad: 1"),
    convolution("stride-and-dilation-h-w", "kernel_size: [3, 2] stride: [1, 3] dilation: [2, 1]"),
    convolution("stride-larger-than-kernel", "kernel_size: 2 stride: 4"),
    convolution("kernel-larger-than-input", "kernel_size: 7 pad: 2", (2, 6, 4, 5)),
    convolution("kernel-is-input", "kernel_h: 9 kernel_w: 11"),
    convolution("one-window", "kernel_size: 5 stride: 7", (2, 6, 5, 6)),
    convolution("group", "kernel_size: 3 group: 3 pad: 1"),
    convolution("group-stride-dilation", "kernel_size: 3 group: 2 stride: 2 dilation: 2 pad: 2"),
    convolution("depthwise", "kernel_size: 3 group: 6 pad: 1"),
    convolution("depthwise-stride", "kernel_size: 3 group: 6 stride: 2 pad: 1 bias_term: false"),
    convolution("depthwise-stride-h-w", "kernel_size: 3 group: 6 stride: [1, 2]"),
    convolution("depthwise-dilated", "kernel_size: 3 group: 6 dilation: [2, 1] pad: 1"),
    convolution("depthwise-dilated-stride", "kernel_size: 3 group: 6 dilation: 2 stride: 3"),
    convolution("depthwise-h-w", "kernel_h: 2 kernel_w: 4 pad_h: 1 pad_w: 3 group: 6"),
    convolution("one-channel", "kernel_size: 3 group: 1", (2, 1, 5, 7)),
    deconvolution("plain", "kernel_size: 3"),
    deconvolution("no-bias", "kernel_size: 3 stride: 2 bias_term: false"),
    deconvolution("upsample", "kernel_size: 4 stride: 2 pad: 1"),
    deconvolution("all-h-w", "kernel_h: 2 kernel_w: 5 stride_h: 3 stride_w: 2 pad_h: 0 pad_w: 2"),
    deconvolution("kernel-smaller-than-stride", "kernel_size: 2 stride: 5"),
    deconvolution("kernel-smaller-than-stride-h", "kernel_size: [1, 4] stride: [3, 2]"),
    deconvolution("kernel-smaller-than-stride-pad", "kernel_size: 2 stride: 5 pad: 1"),
    deconvolution("pad-larger-than-kernel", "kernel_size: 2 stride: 3 pad: 4"),
    deconvolution("group", "kernel_size: 3 stride: 2 group: 3"),
    deconvolution("group-h-w", "kernel_size: [2, 3] stride: [3, 1] pad: [0, 2] group: 2"),
    deconvolution("group-kernel-smaller-than-stride", "kernel_size: 1 stride: 3 group: 2"),
    deconvolution("depthwise", "kernel_size: 4 stride: 2 pad: 1 group: 6 bias_term: false"),
    deconvolution("dilated", "kernel_size: 3 dilation: 2"),
    deconvolution("dilated-h-w", "kernel_size: [2, 3] dilation: [3, 1] stride: [2, 3] pad: [1, 0]"),
    deconvolution("group-dilated", "kernel_size: 3 dilation: 2 stride: 2 pad: 1 group: 2"),
    deconvolution("dilated-pad-larger-than-extent", "kernel_size: 2 dilation: 2 stride: 4 pad: 5"),
    deconvolution("group-pad-larger-than-extent", "kernel_size: 2 stride: 3 pad: [3, 4] group: 3"),
    deconvolution("one-pixel", "kernel_size: 3 stride: 2 group: 2", (2, 6, 1, 1)),
]

POOLINGS = [
    *pooling("plain", "kernel_size: 2"),
    *pooling("exact", "kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 4"),
    *pooling("overhang", "kernel_size: 3 stride: 2"),
    # What TensorFlow calls "SAME", but for the average that counts the padding.
    *pooling("overhang-as-same", "kernel_size: 3 stride: 2", (2, 3, 8, 10)),
    *pooling("pad-as-same", "kernel_size: 3 pad: 1"),
    *pooling("floor", "kernel_size: 3 stride: 2 round_mode: FLOOR"),
    *pooling("floor-leaves-rows", "kernel_size: 2 stride: 3 round_mode: FLOOR"),
    *pooling("pad", "kernel_size: 3 stride: 2 pad: 1"),
    *pooling("pad-floor", "kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR"),
    *pooling("pad-h", "kernel_size: 3 pad_h: 1 pad_w: 0"),
    *pooling("pad-w", "kernel_h: 2 kernel_w: 5 pad_h: 0 pad_w: 4 stride_h: 3 stride_w: 1"),
    # Rounding up would start the last window past the image: Caffe drops it.
    *pooling("clipped", "kernel_size: 2 stride: 2 pad: 1", (2, 3, 5, 7)),
    *pooling("clipped-h-alone", "kernel_size: 2 stride: 2 pad: 1", (2, 3, 5, 8)),
    # The padding of one axis makes Caffe look at the other too.
    *pooling("clipped-unpadded-axis", "kernel_h: 3 kernel_w: 1 stride: 3 pad_h: 2 pad_w: 0"),
    *pooling("stride-larger-than-kernel", "kernel_size: 2 stride: 4"),
    *pooling("stride-larger-than-kernel-pad", "kernel_size: 2 stride: 3 pad: 1"),
    *pooling("kernel-is-image", "kernel_h: 8 kernel_w: 11"),
    *pooling("kernel-larger-than-image", "kernel_size: 12 stride: 5 pad: 3"),
    *pooling("kernel-one", "kernel_size: 1"),
    *pooling("kernel-one-stride", "kernel_size: 1 stride: 2"),
    *pooling("global", "global_pooling: true"),
    *pooling("global-1x1", "global_pooling: true", (2, 3, 1, 1)),
    # Without padding Caffe keeps a last window that lies past the image: 8 < 3 * 3, 11 < 4 * 3.
    *pooling("empty-window", "kernel_size: 1 stride: 3", (2, 3, 8, 11)),
    *pooling("empty-window-w", "kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 5", (2, 3, 8, 7)),
    *pooling("window-ends-where-it-starts", "kernel_size: 1 stride: 4", (2, 3, 8, 12)),
    form(
        "negative",
        "Pooling",
        "pooling_param { kernel_size: 3 pad: 1 }",
        x=-np.ones((2, 3, 5, 7), "f4"),
    ),
]

NORMALIZATIONS = [
    form("default", "LRN", shape=(2, 9, 5, 7)),
    form("k", "LRN", "lrn_param { local_size: 3 alpha: 2 beta: 0.5 k: 2 }"),
    form("size-1", "LRN", "lrn_param { local_size: 1 alpha: 0.1 }"),
    form("size-over-channels", "LRN", "lrn_param { local_size: 11 alpha: 0.3 }"),
    form("beta-1", "LRN", "lrn_param { local_size: 5 alpha: 1e-4 beta: 1 k: 1e-3 }"),
    form("within", "LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 5e-2 }"),
    form("within-beta", "LRN", "lrn_param { norm_region: WITHIN_CHANNEL alpha: 3 beta: 0.5 k: 9 }"),
    form("within-size-1", "LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 1 }"),
    form("within-large", "LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 9 }"),
    *(form(f"rank-{rank}", "BatchNorm", shape=SHAPES[rank]) for rank in (2, 3, 4, 5)),
    form("eps", "BatchNorm", "batch_norm_param { eps: 0.3 moving_average_fraction: 0.9 }"),
    *(
        form(
            f"batch-rank-{rank}",
            "BatchNorm",
            "batch_norm_param { use_global_stats: false }",
            SHAPES[rank],
        )
        for rank in (2, 3, 4, 5)
    ),
    form("batch-eps", "BatchNorm", "batch_norm_param { use_global_stats: false eps: 0.3 }"),
]


def spreads():
    """Scale and Bias: every axis and num_axes of every rank, and every second bottom that fits."""
    for rank, axis in ((r, a) for r in SHAPES for a in range(-r if r == 4 else 0, r)):
        shape, start = SHAPES[rank], axis % rank
        for count in [-1, *range(rank - start + 1)] if axis >= 0 else [-1]:
            settings, id_ = f"axis: {axis} num_axes: {count}", f"rank-{rank}-axis-{axis}-of-{count}"
            yield form(
                f"bias-{id_}", "Scale", f"scale_param {{ {settings} bias_term: true }}", shape
            )
            if rank == 4:
                yield form(id_, "Scale", f"scale_param {{ {settings} }}", shape)
                yield form(id_, "Bias", f"bias_param {{ {settings} }}", shape)
        for end in range(start + 1, rank + 1):
            id_, like = f"by-rank-{rank}-axes-{axis}-to-{end}", shape[start:end]
            yield form(id_, "Scale", f"scale_param {{ axis: {axis} }}", shape, like=like)
            if rank == 4 and axis >= 0:
                both = f"scale_param {{ axis: {axis} bias_term: true }}"
                yield form(f"bias-{id_}", "Scale", both, shape, like=like)
                yield form(id_, "Bias", f"bias_param {{ axis: {axis} }}", shape, like=like)


X = np.array([-3, -1.5, -1, -0.5, -0.125, 0, 0.25, 0.5, 1, 2, 3, 7], np.float32).reshape(2, 3, 1, 2)
POSITIVE = np.abs(X) + np.float32(0.5)
HUGE = np.array([-1e4, -90, -20, -1e-6, 0, 1e-6, 1, 20, 90, 1e4], np.float32).reshape(2, 5)

ACTIVATIONS = [
    form("default", "ReLU"),
    form("slope", "ReLU", "relu_param { negative_slope: 0.1 }"),
    form("slope-over-1", "ReLU", "relu_param { negative_slope: 2.5 }"),
    form("slope-negative", "ReLU", "relu_param { negative_slope: -1 }"),
    *(form(f"rank-{rank}", "ReLU", shape=SHAPES[rank]) for rank in (1, 2, 3, 5)),
    *(form(f"rank-{rank}", "PReLU", shape=SHAPES[rank]) for rank in (2, 3, 4)),
    *(
        form(f"shared-rank-{rank}", "PReLU", "prelu_param { channel_shared: true }", SHAPES[rank])
        for rank in (2, 3, 4)
    ),
    form("default", "ELU"),
    form("alpha", "ELU", "elu_param { alpha: 0.3 }"),
    *(
        form(f"{id_}", type_, x=x)
        for type_ in ("Sigmoid", "TanH", "AbsVal", "BNLL", "ELU", "ReLU")
        for id_, x in (("signs", X), ("far", HUGE))
    ),
    *(form(f"rank-{rank}", "AbsVal", shape=SHAPES[rank]) for rank in (1, 3)),
    form("default", "Power"),
    form("affine", "Power", "power_param { scale: -0.3 shift: 2 }"),
    form("square", "Power", "power_param { power: 2 shift: 1 }"),
    form("cube-of-negative", "Power", "power_param { power: 3 }", x=X),
    form("root", "Power", "power_param { power: 0.5 scale: 2 }", x=POSITIVE),
    form("root-of-negative", "Power", "power_param { power: 0.5 }", x=X),
    form("reciprocal", "Power", "power_param { power: -1 }", x=POSITIVE),
    form("reciprocal-of-zero", "Power", "power_param { power: -1 }", x=X),
    form("to-0", "Power", "power_param { power: 0 shift: 2 }", x=X),
    form("to-0-of-0", "Power", "power_param { power: 0 scale: 0 }", x=X),
    form("of-shift", "Power", "power_param { power: 2 scale: 0 shift: 3 }", x=X),
    form("of-no-shift", "Power", "power_param { scale: 0 }", x=X),
    form("of-0-to-minus-1", "Power", "power_param { power: -1 scale: 0 }", x=X),
    form("of-negative-shift", "Power", "power_param { power: 0.5 scale: 0 shift: -1 }", x=X),
    form("of-huge-shift", "Power", "power_param { power: 9 scale: 0 shift: 1e30 }", x=X),
    form("no-nan", "Power", "power_param { scale: 0 shift: 3 }", x=np.full((2, 3), np.nan, "f4")),
    form("default", "Exp", x=X),
    form("scale-shift", "Exp", "exp_param { scale: 0.5 shift: -2 }", x=X),
    form("base-2", "Exp", "exp_param { base: 2 }", x=X),
    form("base-half", "Exp", "exp_param { base: 0.5 shift: 1.5 }", x=X),
    form("base-1", "Exp", "exp_param { base: 1 scale: 3 }", x=X),
    form("base-10-far", "Exp", "exp_param { base: 10 shift: 30 }", x=X),
    form("base-10-over", "Exp", "exp_param { base: 10 shift: 400 }", x=X),
    form("base-10-under", "Exp", "exp_param { base: 10 shift: -400 }", x=X),
    form("default", "Log", x=POSITIVE),
    form("scale-shift", "Log", "log_param { scale: 2 shift: 0.25 }", x=POSITIVE),
    form("base-2", "Log", "log_param { base: 2 }", x=POSITIVE),
    form("base-half", "Log", "log_param { base: 0.5 shift: 3 }", x=POSITIVE),
    form("of-zero-and-negative", "Log", x=X),
    *(
        form(
            f"rank-{rank}-axis-{axis}", "Softmax", f"softmax_param {{ axis: {axis} }}", SHAPES[rank]
        )
        for rank in SHAPES
        for axis in range(-rank, rank)
    ),
    *(
        form(
            f"one-of-{len(shape)}-axis-{axis}",
            "Softmax",
            f"softmax_param {{ axis: {axis} }}",
            shape,
        )
        for axis, shape in ((0, (1, 3, 5, 7)), (1, (2, 1, 5, 7)), (3, (2, 3, 5, 1)), (1, (2, 1)))
    ),
    form("far", "Softmax", x=HUGE),
    form("default", "Dropout"),
    form("ratio", "Dropout", "dropout_param { dropout_ratio: 0.3 }"),
    form("scale-train-false", "Dropout", "dropout_param { dropout_ratio: 0.3 scale_train: false }"),
    form("all-dropped", "Dropout", "dropout_param { dropout_ratio: 1 scale_train: false }"),
    form("rank-2", "Dropout", shape=SHAPES[2]),
]

INNER_PRODUCTS = [
    form(
        f"rank-{rank}-axis-{axis}{'-transpose' * transpose}{'-no-bias' * (not bias)}",
        "InnerProduct",
        f"inner_product_param {{ num_output: 4 axis: {axis} transpose: {str(transpose).lower()} "
        f"bias_term: {str(bias).lower()} }}",
        SHAPES[rank],
    )
    for rank in SHAPES
    for axis in range(-rank, rank)
    for transpose, bias in ((False, True), (True, True), (True, False))
    if axis >= 0 or (transpose, bias) == (False, True)
]


def eltwise(id_, parameters="", bottoms="data like data", shape=SHAPES[4]):
    text = nets.layer("Eltwise", bottoms, "out", f"eltwise_param {{ {parameters} }}")
    return Form(f"Eltwise-{id_}", (text,), {"data": shape, "like": shape}, {})


ELEMENTWISE = [
    eltwise("sum"),
    eltwise("product", "operation: PROD"),
    eltwise("max", "operation: MAX"),
    eltwise("two", "operation: PROD", "data like"),
    eltwise("twice-the-same", "operation: SUM", "data data"),
    eltwise("coefficients", "coeff: [0.5, -2, 0.1]"),
    eltwise("coefficients-of-one", "coeff: [1, 1, 1]"),
    eltwise("coefficients-with-zero", "coeff: [1, 0, 3]"),
    eltwise("max-does-not-read-coefficients", "operation: MAX coeff: [1, 2, 3]"),
    eltwise("stable-product", "operation: PROD stable_prod_grad: false"),
    *(eltwise(f"rank-{rank}", "coeff: [1, -1, 1]", shape=SHAPES[rank]) for rank in (1, 2, 3, 5)),
]


def concat(rank, axis):
    like = list(SHAPES[rank])
    like[axis] += 3
    text = nets.layer("Concat", "data like data", "out", f"concat_param {{ axis: {axis} }}")
    inputs = {"data": SHAPES[rank], "like": tuple(like)}
    return Form(f"Concat-rank-{rank}-axis-{axis}", (text,), inputs, {})


def slices(rank, axis):
    points = " ".join(f"slice_point: {i}" for i in range(1, SHAPES[rank][axis]))
    tops = " ".join(f"t{i}" for i in range(SHAPES[rank][axis]))
    parameters = f"slice_param {{ axis: {axis} {points} }}"
    return form(f"rank-{rank}-axis-{axis}", "Slice", parameters, SHAPES[rank], tops=tops)


def crop(id_, parameters, like, shape=(2, 6, 9, 11)):
    return form(id_, "Crop", f"crop_param {{ {parameters} }}", shape, like=like)


def reshape(id_, dims, shape=SHAPES[4], more=""):
    sizes = " ".join(f"dim: {dim}" for dim in dims)
    return form(id_, "Reshape", f"reshape_param {{ shape {{ {sizes} }} {more} }}", shape)


def reshapes():
    """From every rank to every rank, with the batch kept and with the samples mixed."""
    for rank, shape in SHAPES.items():
        count = int(np.prod(shape[1:]))
        kept = {1: (0,), 2: (0, -1), 3: (0, 1, -1), 4: (0, 1, 1, -1), 5: (0, 1, -1, 1, 1)}
        if rank > 1:
            kept.update({3: (0, 5, -1), 4: (0, 5, -1, 1), 5: (0, 1, 5, 1, -1)})
        for to, dims in kept.items():
            if to > 1 or count == 1:
                yield reshape(f"rank-{rank}-to-{to}", dims, shape)
        total = count * shape[0]
        mixed = {1: (-1,), 2: (3, -1), 3: (1, 3, -1), 4: (3, 1, -1, 2), 5: (1, 3, 1, -1, 2)}
        for to, dims in mixed.items():
            if total % 6 == 0:
                yield reshape(f"mixed-rank-{rank}-to-{to}", dims, shape)


def flattens():
    for rank, shape in SHAPES.items():
        for axis, end in itertools.product(range(rank), repeat=2):
            if axis <= end:
                settings = f"flatten_param {{ axis: {axis} end_axis: {end - rank} }}"
                yield form(f"rank-{rank}-axes-{axis}-to-{end}", "Flatten", settings, shape)


SHAPING = [
    *(concat(rank, axis) for rank in SHAPES for axis in range(rank)),
    concat(4, -1),
    form("one", "Concat"),
    form("old-name", "Concat", "concat_param { concat_dim: 3 }", bottoms="data data"),
    *(slices(rank, axis) for rank in SHAPES for axis in range(rank)),
    slices(4, -2),
    form("one", "Slice"),
    form("equal-parts", "Slice", "slice_param { axis: 1 }", (2, 6, 5, 7), tops="a b c"),
    form("old-name", "Slice", "slice_param { slice_dim: 2 slice_point: 2 }", tops="a b"),
    form("two", "Split", tops="a b"),
    form("one", "Split"),
    crop("default", "", (2, 6, 4, 5)),
    crop("offset", "offset: 3", (2, 6, 4, 5)),
    crop("offsets", "offset: [1, 4]", (2, 6, 4, 5)),
    crop("like-differs-in-channels", "offset: [1, 4]", (2, 3, 4, 5)),
    crop("channels", "axis: 1 offset: [2, 1, 0]", (2, 3, 4, 5)),
    crop("width", "axis: -1 offset: 6", (2, 6, 4, 5)),
    crop("batch", "axis: 0 offset: [1, 2, 3, 4]", (1, 3, 4, 5)),
    crop("nothing", "offset: 0", (2, 6, 9, 11)),
    crop("rank-2", "axis: 1 offset: 3", (2, 6), (2, 15)),
    crop("rank-3", "axis: 1 offset: [1, 2]", (2, 2, 3), (2, 4, 7)),
    crop("rank-5", "axis: 2 offset: [1, 2, 0]", (2, 3, 4, 4, 3), (2, 3, 5, 7, 4)),
    *reshapes(),
    reshape("copies", (0, 0, -1)),
    reshape("all-copied", (0, 0, 0, 0)),
    reshape("inferred-batch", (-1, 105)),
    reshape("literal-batch", (2, 7, 5, 3)),
    reshape("swaps-sizes", (0, 7, 5, 3)),
    reshape("from-1x1", (0, 2, 3), (2, 6, 1, 1)),
    reshape("to-1x1", (0, -1, 1, 1), (2, 15)),
    reshape("axis", (-1, 5), more="axis: 1 num_axes: 2"),
    reshape("insert", (1, 1), more="axis: 2 num_axes: 0"),
    reshape("insert-first", (1,), SHAPES[3], "axis: 0 num_axes: 0"),
    reshape("insert-last", (1,), SHAPES[3], "axis: -1 num_axes: 0"),
    reshape("last-two", (7, 5), more="axis: -3"),
    reshape("samples-mixed-in-same-rank", (3, 2, 0, 0)),
    *flattens(),
]


def argmax(id_, parameters, shape=SHAPES[4], x=None):
    return form(id_, "ArgMax", f"argmax_param {{ {parameters} }}", shape, x=x)


TIES = np.array([3, 1, 3, 2, 3, 1, 0, 0, 0, 0, 0, 0], np.float32).reshape(2, 3, 1, 2)

SELECTIONS = [
    *(
        argmax(f"rank-{rank}-axis-{axis}-top-{top}{'-values' * values}",
               f"axis: {axis} top_k: {top} out_max_val: {str(values).lower()}", SHAPES[rank])
        for rank in SHAPES
        for axis in range(rank)
        for top, values in ((1, False), (2, True))
    ),
    *(
        argmax(f"rank-{rank}-top-{top}{'-values' * values}",
               f"top_k: {top} out_max_val: {str(values).lower()}", SHAPES[rank])
        for rank in SHAPES
        for top, values in ((1, False), (1, True), (4, False), (4, True))
        if rank > 1 or top == 1
    ),
    argmax("negative-axis", "axis: -2 top_k: 3"),
    argmax("ties", "top_k: 5", x=TIES),
    argmax("ties-values", "top_k: 3 out_max_val: true", x=TIES),
    argmax("ties-axis", "axis: 1 top_k: 3", x=TIES),
    argmax("all", "axis: 3 top_k: 7"),
    argmax("negative-values", "", x=-np.ones((2, 3, 5, 7), np.float32)),
]  # fmt: skip

FORMS = [
    *CONVOLUTIONS,
    *POOLINGS,
    *NORMALIZATIONS,
    *spreads(),
    *ACTIVATIONS,
    *INNER_PRODUCTS,
    *ELEMENTWISE,
    *SHAPING,
    *SELECTIONS,
    *families("FORMS"),
]


def check_blobs(content, runner, keys=None):
    """Every blob against NumPy's: exactly where nothing is computed, else to 1e-5."""
    net, recorded = content.net, content.reference
    keys = list(recorded.blobs) if keys is None else keys
    got = runner(recorded.inputs, keys)
    exact = len(net.layers) == 1 and meanings.meaning(net.layers[0]).copies
    for key in keys:
        index, want = exact or net.blobs[key].index, recorded.blobs[key]
        compared = verify.compare(key, got[key], want, LAYER_TOLERANCE, index)
        assert compared.passed, compared
    assert keys


@pytest.mark.parametrize("form_", FORMS, ids=lambda form_: form_.id)
def test_form(form_, tmp_path):
    content = form_.content()
    network = models.import_package(nets.package(content, tmp_path)).load()
    check_blobs(content, models.KerasRunner(network.model, network.names))
    for key, blob in content.net.blobs.items():
        free = (*content.net.free_axes(key), blob.varying)
        sizes = [None if axis in free else size for axis, size in enumerate(blob.shape)]
        assert network.tensor(key).shape == layout.tensor_order(sizes)


@pytest.mark.parametrize("factor", [1, 0, 250.5])
def test_a_mean_far_from_zero_is_subtracted_first(factor, tmp_path):
    """x * s + (b - m * s) would cancel: its terms are 1000 times the result."""
    rng = np.random.default_rng(4)
    mean, scale = np.array([3000, -2000, 50], np.float32), np.float32(factor)
    x = mean[:, None, None] + rng.standard_normal((2, 3, 5, 7), np.float32)
    content = nets.net(
        nets.inputs(data=x.shape),
        nets.layer("BatchNorm", "data", "out"),
        given={"data": x},
        weights={
            "out/0": mean * scale,
            "out/1": np.array([1, 0.1, 3], np.float32) * scale,
            "out/2": np.array([factor], np.float32),
        },
    )
    network = models.import_package(nets.package(content, tmp_path)).load()
    check_blobs(content, models.KerasRunner(network.model, network.names))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [
                nets.layer("Reshape", "data", "y", "reshape_param { shape { dim: 1 } axis: 4 }"),
                nets.layer("Crop", "data y", "x", "crop_param { axis: 2 }"),
            ],
            r"layer 'x' \(Crop, line \d+\): bottom 0 has 4 axes, bottom 1 has 5",
        ),
        (
            [
                nets.layer("Reshape", "data", "y", "reshape_param { shape { dim: 1 } axis: 4 }"),
                nets.layer("Crop", "data y", "a", "crop_param { axis: 2 }"),
                nets.layer(
                    "Deconvolution",
                    "data",
                    "x",
                    "convolution_param { num_output: 2 kernel_size: 1 }",
                ),
                nets.layer("Crop", "x data", "c", "crop_param { axis: 2 }"),
                nets.layer("Crop", "data y", "z", "crop_param { axis: 2 }"),
            ],
            r"layer 'a' .*has 5; .*layer 'z' .*has 5",
        ),
    ],
    ids=["crop-like-another-rank", "all-at-once"],
)
def test_what_has_no_exact_form_is_refused(layers, message):
    content = nets.net(nets.inputs(data=(2, 3, 5, 7)), *layers)
    with pytest.raises(UnsupportedModel, match=message):
        lower(content.net, content.weights)


# ---- Layers of ours: saved, loaded, trained ------------------------------------------------------

ANY_BATCH = Form(
    "any-batch",
    (
        nets.layer(
            "Deconvolution",
            "data",
            "deconvolution",
            "convolution_param { num_output: 4 kernel_size: [2, 3] stride: [3, 1] pad: [0, 2] "
            "dilation: [1, 2] group: 2 }",
        ),
        nets.layer("ReLU", "data", "folded", "relu_param { negative_slope: -0.3 }"),
        nets.layer("AbsVal", "data", "positive"),
        nets.layer(
            "Power", "positive", "power", "power_param { power: 1.5 scale: 0.5 shift: 0.1 }"
        ),
        nets.layer("Power", "data", "constant", "power_param { power: 2 scale: 0 shift: 3 }"),
        nets.layer("Exp", "data", "exp", "exp_param { base: 3 scale: 0.5 shift: -1 }"),
        nets.layer("Log", "positive", "log", "log_param { base: 3 scale: 0.5 shift: 0.25 }"),
        nets.layer("Eltwise", "folded exp log", "sum", "eltwise_param { coeff: [2, 0.1, -0.5] }"),
        nets.layer("LRN", "sum", "lrn", "lrn_param { local_size: 3 alpha: 0.3 beta: 0.5 k: 2 }"),
        nets.layer(
            "LRN",
            "sum",
            "within",
            "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.3 beta: 0.5 }",
        ),
        nets.layer("BatchNorm", "lrn", "norm", "batch_norm_param { eps: 0.01 }"),
        nets.layer(
            "Pooling", "norm", "pool", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"
        ),
        nets.layer("Scale", "pool", "scale", "scale_param { bias_term: true }"),
        nets.layer("Bias", "scale", "bias", "bias_param { axis: 1 num_axes: 3 }"),
        nets.layer("Scale", "bias like", "aligned", "scale_param { axis: 0 }"),
        nets.layer("ArgMax", "aligned", "argmax", "argmax_param { axis: 1 top_k: 2 }"),
        nets.layer(
            "Slice", "aligned", "s0 s1", "slice_param { axis: 2 slice_point: 2 }", name="slice"
        ),
        nets.layer("Crop", "data s1", "crop", "crop_param { axis: 2 offset: [1, 3] }"),
        nets.layer("InnerProduct", "crop", "one", "inner_product_param { num_output: 1 }"),
        nets.layer("Softmax", "one", "softmax"),
    ),
    dict(data=(2, 6, 8, 11), like=(2, 6)),
)

FIXED_BATCH = Form(
    "fixed-batch",
    (
        nets.layer("Concat", "data data", "concat", "concat_param { axis: 0 }"),
        nets.layer(
            "BatchNorm", "concat", "norm", "batch_norm_param { use_global_stats: false eps: 0.1 }"
        ),
        nets.layer(
            "Reshape", "norm", "mixed", "reshape_param { shape { dim: 3 dim: -1 dim: 5 dim: 8 } }"
        ),
        nets.layer(
            "InnerProduct", "mixed", "whole", "inner_product_param { num_output: 7 axis: 0 }"
        ),
    ),
    dict(data=(2, 6, 4, 5)),
)

SAVED = [ANY_BATCH, FIXED_BATCH, *families("SAVED")]
NETS = pytest.mark.parametrize("saved", SAVED, ids=lambda saved: saved.id)


def own_layers():
    """Names of the Keras layers that the runtime defines."""
    names = set()
    for source in (ROOT / "stage_build" / "runtime").glob("*.py"):
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.decorator_list:
                names.add(node.name)
    return names


def own_layers_of(model):
    """The layers of a model that are ours."""
    return [layer for layer in model.layers if type(layer).__name__ in own_layers()]


def loaded(saved, folder):
    content = saved.content()
    network = models.import_package(nets.package(content, folder)).load()
    return content, network


def test_every_layer_of_ours_is_among_those_that_are_saved_and_trained(tmp_path):
    used = set()
    for saved in SAVED:
        _, network = loaded(saved, tmp_path / saved.id)
        used |= {type(layer).__name__ for layer in own_layers_of(network.model)}
    assert used == own_layers()
    assert len(used) > 15


@pytest.mark.slow
@NETS
def test_every_layer_of_ours_is_saved_and_loaded(saved, tmp_path):
    content, network = loaded(saved, tmp_path)
    check_blobs(content, models.KerasRunner(network.model, network.names))
    *_, last = export.handle(str(tmp_path), ["keras", "saved_model"])
    seconds = last["seconds"]
    assert set(seconds) == {"load class", "trace", "export keras", "export saved_model"}
    again = models.load_keras(tmp_path)
    check_blobs(content, again)
    configs = [
        {layer.name: layer.get_config() for layer in own_layers_of(model)}
        for model in (network.model, again.model)
    ]
    assert repr(configs[0]).replace("[", "(").replace("]", ")") == repr(configs[1]).replace(
        "[", "("
    ).replace("]", ")")
    check_blobs(content, models.SavedRunner(tmp_path), list(content.net.outputs))


def test_a_saved_model_takes_any_batch(tmp_path):
    content = ANY_BATCH.content()
    nets.package(content, tmp_path)
    list(export.handle(str(tmp_path), ["saved_model"]))
    runner = models.SavedRunner(tmp_path)
    recorded, outputs = content.reference, content.net.outputs
    tripled = {key: np.concatenate([value, value[:1]]) for key, value in recorded.inputs.items()}
    got = runner(tripled, outputs)
    for key in outputs:
        want = np.concatenate([recorded.blobs[key], recorded.blobs[key][:1]])
        index = content.net.blobs[key].index
        compared = verify.compare(key, got[key], want, LAYER_TOLERANCE, index)
        assert compared.passed, compared


def test_a_saved_model_holds_every_weight_once(tmp_path):
    """Matrices as variables, the others as constants of the graph."""
    content = ANY_BATCH.content()
    nets.package(content, tmp_path)
    list(export.handle(str(tmp_path), ["saved_model"]))
    stored = tf.train.list_variables(str(tmp_path / "saved_model" / "variables" / "variables"))
    values = sum(int(np.prod(shape)) for name, shape in stored if "VARIABLE_VALUE" in name)
    assert values == sum(array.size for array in content.weights.values() if array.ndim == 2)
    graph = (tmp_path / "saved_model" / "saved_model.pb").read_bytes()
    with models.imported(tmp_path) as package:
        kernels = [
            layer.kernel.numpy()
            for layer in package.load().model.layers
            if len(getattr(layer, "kernel", np.zeros(1)).shape) == 4
        ]
    assert kernels
    assert [graph.count(kernel.tobytes()) for kernel in kernels] == [1] * len(kernels)


# Their gradient is nothing by nature: positions, constants, the only value of an axis.
FLAT = {"ArgMax", "SoftmaxOfOne", *families("FLAT")}
# Of Crop's second bottom only the size is read.
MOVED = {"Crop": 1, **dict(families("MOVED"))}


def flows(layer):
    return type(layer).__name__ not in FLAT and layer.name != "constant"


def bottoms_of(layer, rng):
    """Random values for a layer's inputs, in its domain; a batch of 2 where any will do."""
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    values = [rng.standard_normal([size or 2 for size in t.shape], np.float32) for t in tensors]
    if type(layer).__name__ in ("Log", "Power"):
        values = [np.abs(value) for value in values]
    for i in range(MOVED.get(type(layer).__name__, len(values)), len(values)):
        values[i] = np.resize(np.float32([0, 1]), values[i].shape)
    return [tf.constant(value) for value in values]


@NETS
def test_gradients_flow_through_every_layer_of_ours(saved, tmp_path):
    _, network = loaded(saved, tmp_path)
    rng = np.random.default_rng(5)
    layers = [layer for layer in own_layers_of(network.model) if flows(layer)]
    for layer in layers:
        bottoms = bottoms_of(layer, rng)
        with tf.GradientTape() as tape:
            tape.watch(bottoms)
            tops = layer(bottoms if len(bottoms) > 1 else bottoms[0])
            loss = tf.add_n(
                tf.reduce_sum(top * rng.standard_normal(top.shape, np.float32))
                for top in (tops if isinstance(tops, (list, tuple)) else [tops])
            )
        moved = bottoms[: MOVED.get(type(layer).__name__)]
        for gradient in tape.gradient(loss, [*moved, *layer.trainable_variables]):
            assert gradient is not None, layer.name
            values = tf.convert_to_tensor(gradient).numpy()
            assert np.isfinite(values).all(), layer.name
            assert np.abs(values).max() > 0, layer.name


@pytest.mark.parametrize("saved", [ANY_BATCH, FIXED_BATCH], ids=lambda saved: saved.id)
def test_gradients_of_our_weights_are_right(saved, tmp_path):
    """They are linear in each weight: a step along the gradient adds the square of its norm."""
    content, network = loaded(saved, tmp_path)
    rng = np.random.default_rng(6)
    seen = set()
    for layer in own_layers_of(network.model):
        if not layer.trainable_variables:
            continue
        (x,) = bottoms_of(layer, rng)
        upstream = rng.standard_normal(layer(x).shape, np.float32)
        for variable in layer.trainable_variables:
            with tf.GradientTape() as tape:
                before = tf.reduce_sum(layer(x) * upstream)
            gradient = tape.gradient(before, variable.value)
            variable.assign_add(gradient)
            after = tf.reduce_sum(layer(x) * upstream)
            norm = float(tf.reduce_sum(tf.square(gradient)))
            np.testing.assert_allclose(after - before, norm, rtol=1e-4)
            seen.add((type(layer).__name__, variable.name))
    names = {name for name, _ in seen}
    assert names == (
        {"GroupedDeconvolution", "Affine"} if saved is ANY_BATCH else {"WholeBatchDense"}
    )
    assert all((name, "bias") in seen for name in names)


def test_training_moves_the_stored_statistics_and_inference_does_not(tmp_path):
    content, network = loaded(ANY_BATCH, tmp_path)
    layer = network.model.get_layer("norm")
    inputs = {key: layout.to_tensor(v) for key, v in content.reference.inputs.items()}
    before = layer.moving_mean.numpy().copy()
    network(inputs)
    np.testing.assert_array_equal(layer.moving_mean.numpy(), before)
    network.model(inputs, training=True)
    assert np.abs(layer.moving_mean.numpy() - before).max() > 0


def test_a_converted_net_can_be_trained(tmp_path):
    saved = Form(
        "trained",
        (
            nets.layer(
                "Deconvolution",
                "data",
                "up",
                "convolution_param { num_output: 4 kernel_size: 2 stride: 2 group: 2 }",
            ),
            nets.layer("Scale", "up", "scale", "scale_param { bias_term: true }"),
            nets.layer("Dropout", "scale", "dropped"),
            nets.layer("InnerProduct", "dropped", "ip", "inner_product_param { num_output: 3 }"),
            nets.layer("Softmax", "ip", "prob"),
        ),
        dict(data=(2, 6, 8, 11)),
    )
    content, network = loaded(saved, tmp_path)
    keras.utils.set_random_seed(1)
    data = layout.to_tensor(content.reference.inputs["data"])
    labels = np.array([0, 2])
    network.model.compile(keras.optimizers.SGD(1e-3), {"prob": "sparse_categorical_crossentropy"})
    before = network.model.evaluate(data, {"prob": labels}, verbose=0)
    network.model.fit(data, {"prob": labels}, epochs=5, verbose=0)
    assert network.model.evaluate(data, {"prob": labels}, verbose=0) < before


def test_calls_are_named_after_their_family():
    families = [p.stem for p in (ROOT / "stage_build" / "runtime").glob("*.py")]
    # What images become is no layer's.
    for family in set(families) - {"__init__", "base", "images"}:
        source = (ROOT / "stage_build" / "runtime" / f"{family}.py").read_text()
        assert f"class {calls_name(family)}(Calls):" in source
        assert (ROOT / "stage_build" / "lowering" / f"{family}.py").is_file()
    assert stage_build.runtime.__doc__
