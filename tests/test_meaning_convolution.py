"""Convolutions over any number of axes, and the forks', by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from schemas.layers import registry
from tests.meanings import close, infer, row, run, values


def test_one_axis():
    """base_conv_layer.cpp: taps 1 and 10 with stride 2 over 0 1 2 3 0: 0 + 10, 2 + 30; bias 100."""
    x = values((2, 1, 3), 1, 2, 3, 4, 5, 6)
    param = dict(num_output=1, kernel_size=[2], stride=[2], pad=[1])
    (top,) = run("Convolution", param, [x], [values((1, 1, 2), 1, 10), values((1,), 100)])
    close(top, values((2, 1, 2), 110, 132, 140, 165))


def test_three_axes():
    """x[d, h, w] = 6 d + 2 h + w of shape (2, 3, 2); taps 1 and 10 along d, 1 and 1 along h:
    top[h, w] = x[0, h] + x[0, h + 1] + 10 (x[1, h] + x[1, h + 1])
    = 4 h + 2 + 2 w + 10 (12 + 4 h + 2 + 2 w)."""
    x = values((1, 1, 2, 3, 2))
    param = dict(num_output=1, kernel_size=[2, 2, 1], bias_term=False)
    (top,) = run("Convolution", param, [x], [values((1, 1, 2, 2, 1), 1, 1, 10, 10)])
    close(top, values((1, 1, 1, 2, 2), 142, 164, 186, 208))


def test_another_channel_axis():
    """Axis 2 of (1, 2, 2, 3): each of the 2 places of axis 1 is a row of 2 channels.
    top[a, w] = x[a, 0, w] + 10 x[a, 1, w + 1], with x = 6 a + 3 c + w: 6 a + w + 10 (6 a + 4 + w).
    """
    param = dict(num_output=1, kernel_size=[2], axis=2, bias_term=False)
    weight = values((1, 2, 2), 1, 0, 0, 10)
    (top,) = run("Convolution", param, [values((1, 2, 2, 3))], [weight])
    close(top, values((1, 2, 1, 2), 40, 51, 106, 117))


def test_no_spatial_axis():
    """Over the last axis a convolution is a product with its channels: 2 * 1 + 3 * 10 = 32."""
    param = dict(num_output=1, axis=1, bias_term=False)
    (top,) = run("Convolution", param, [values((1, 2), 2, 3)], [values((1, 2), 1, 10)])
    close(top, values((1, 1), 32))


def test_deconvolution_along_one_axis():
    """deconv_layer.cpp: 2 pixels with stride 3, kernel 1 10: 2 20 0 3 30; pad 1 takes both ends."""
    param = dict(num_output=1, kernel_size=[2], stride=[3], pad=[1], bias_term=False)
    (top,) = run("Deconvolution", param, [values((1, 1, 2), 2, 3)], [values((1, 1, 2), 1, 10)])
    close(top, values((1, 1, 3), 20, 0, 3))


@pytest.mark.parametrize(
    "window, size",
    [
        (dict(kernel_size=[3], stride=[2], pad=[1], dilation=[2]), (13,)),
        (dict(kernel_size=[2, 3, 1], stride=[1, 2, 3], pad=[1, 0, 2], group=2), (5, 7, 4)),
        (dict(kernel_size=[2], dilation=[1, 2, 3], axis=2), (3, 5, 7)),
    ],
)
def test_a_deconvolution_is_the_transpose_of_a_convolution(window, size):
    """<conv(x), y> = <x, deconv(y)> with the same weights (sizes where no pixel is left over)."""
    rng = np.random.default_rng(3)
    lead, channels, outputs = (2, 3)[: window.get("axis", 1)], 6, 4
    _, _, (shape,) = infer(
        "Convolution", dict(window, num_output=outputs), [(*lead, channels, *size)]
    )
    made, _, (back,) = infer("Deconvolution", dict(window, num_output=channels), [shape])
    x, y = rng.standard_normal(back, np.float32), rng.standard_normal(shape, np.float32)
    kernel = made.geometry(len(size)).kernel
    weight = rng.standard_normal((outputs, channels // window.get("group", 1), *kernel), np.float32)
    (there,) = run("Convolution", dict(window, num_output=outputs, bias_term=False), [x], [weight])
    param = dict(window, num_output=channels, bias_term=False)
    (again,) = run("Deconvolution", param, [y], [weight])
    np.testing.assert_allclose(np.vdot(there, y), np.vdot(x, again), rtol=1e-4)


def test_several_bottoms_share_the_weights():
    param = dict(num_output=1, kernel_size=[2], bias_term=False)
    bottoms = [values((1, 1, 3), 1, 2, 3), values((1, 1, 3), 4, 5, 6)]
    tops = run("Convolution", param, bottoms, [values((1, 1, 2), 1, 10)], tops=2)
    close(np.stack(tops), values((2, 1, 1, 2), 21, 32, 54, 65))


def test_the_samples_stay_apart_before_the_channel_axis():
    param = dict(num_output=1, kernel_size=[2], axis=2)
    made, _, tops = infer("Convolution", param, [(4, 3, 2, 5)])
    assert made.batch_axes([(4, 3, 2, 5)], [1], tops) == [1]
    assert made.batch_axes([(4, 3, 2, 5)], [2], tops) == [None]


# ---- The forks' fields ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pads, expected",
    [
        # 4 pixels, kernel 3, stride 2, pad 1: 2 windows, which lack 2 + 3 - 4 = 1 pixel, put after
        (dict(tf_pad="SAME", pad=[0, 1], stride=[1, 2]), [321, 43]),
        # kernel 3, stride 1, pad 1: 4 windows lack 2, one before
        (dict(tf_pad="SAME", pad=[0, 1]), [210, 321, 432, 43]),
        # pad counts for the size alone: 4 windows from pixel 0 on
        (dict(tf_pad="VALID", pad=[0, 1]), [321, 432, 43, 4]),
    ],
)
def test_tf_pad(pads, expected):
    """chuanqi305/ssd, base_conv_layer.cpp; taps 1, 10, 100 on 1 2 3 4."""
    param = dict(num_output=1, kernel_h=1, kernel_w=3, bias_term=False, **pads)
    (top,) = run("Convolution", param, [row(1, 2, 3, 4)], [row(1, 10, 100)])
    close(top, row(*expected))


def test_tf_pad_takes_the_greater_half_for_both_sides():
    """Kernel 4, stride 1, pad 1 makes 3 windows of 4, which lack 2 + 4 - 4 = 2: 1 and 1. With pad 2
    there are 5, which lack 4: 2 and 2. With kernel 4, stride 3, pad 2: (4 + 4 - 4) / 3 + 1 = 2
    windows lack 3 + 4 - 4 = 3: 1 and 2, and the fork puts 2 before: 0 0 1 2, 2 3 4 0."""
    param = dict(num_output=1, kernel_h=1, kernel_w=4, bias_term=False, tf_pad="SAME")
    taps = row(1, 10, 100, 1000)
    (top,) = run("Convolution", {**param, "pad": [0, 1]}, [row(1, 2, 3, 4)], [taps])
    close(top, row(3210, 4321, 432))
    fields = {**param, "pad": [0, 2], "stride": [1, 3]}
    (top,) = run("Convolution", fields, [row(1, 2, 3, 4)], [taps])
    close(top, row(2100, 432))


def test_a_filter_stride_is_a_dilation():
    """ParseNet's im2col.cpp: taps 1 and 10, two pixels apart. Height has its own."""
    param = dict(num_output=1, kernel_size=[1, 2], bias_term=False)
    for field in (dict(filter_stride=2), dict(filter_stride_h=3, filter_stride_w=2)):
        (top,) = run("Convolution", {**param, **field}, [row(1, 2, 3, 4)], [row(1, 10)])
        close(top, row(31, 42))
    with pytest.raises(UnsupportedModel, match="two names of one thing"):
        infer("Convolution", {**param, "filter_stride": 2, "dilation": [2]}, [(1, 1, 1, 4)])


def test_dilation_by_axis():
    """TSN's spelling of `dilation`."""
    param = dict(num_output=1, kernel_size=[1, 2], bias_term=False, dilation_h=3, dilation_w=2)
    (top,) = run("Convolution", param, [row(1, 2, 3, 4)], [row(1, 10)])
    close(top, row(31, 42))


def test_a_relu_of_its_own():
    """Intel's mkldnn_convolution_layer.cpp: 1 - 10 * 2 = -19 and 2 - 10 * -1 = 12, plus 1; 1/2."""
    param = dict(num_output=1, kernel_size=[1, 2], relu=True, negative_slope=0.5)
    bottom, blobs = [row(1, 2, -1)], [row(1, -10), values((1,), 1)]
    close(run("Convolution", param, bottom, blobs)[0], row(-9, 13))
    close(run("Convolution", {**param, "relu": False}, bottom, blobs)[0], row(-18, 13))


def test_synopsys_padding():
    """im2col.cpp there, zeros at l, r, t, b: 0 0 1 2 3 0 with stride 2, a row of zeros below."""
    param = dict(num_output=1, kernel_h=2, kernel_w=3, stride_h=1, stride_w=2, bias_term=False)
    weight = values((1, 1, 2, 3), 1, 10, 100, 1000, 1000, 1000)
    sides = dict(pad_l=2, pad_r=1, pad_b=1)
    (top,) = run("Convolution", {**param, **sides}, [row(1, 2, 3)], [weight])
    close(top, row(100, 321))
    (top,) = run("Convolution", {**param, **sides, "pad_t": 1}, [row(1, 2, 3)], [weight])
    close(top, values((1, 1, 2, 2), 1000, 6000, 100, 321))


def test_synopsys_same():
    """3 pixels, stride 2: 2 windows; kernel 4 - 3 % 2 = 3 zeros, 1 before: 0 1 2 3, 2 3 0 0."""
    param = dict(num_output=1, kernel_h=1, kernel_w=4, stride_h=1, stride_w=2, bias_term=False)
    (top,) = run("Convolution", {**param, "pad_type": 1}, [row(1, 2, 3)], [row(1, 10, 100, 1000)])
    close(top, row(3210, 32))


# ---- The forks' layers ---------------------------------------------------------------------------


def test_one_filter_for_each_channel():
    """suzhenghang/MobileNetv2, conv_dw_layer.cpp: `num_output` and `group` are not looked at."""
    x = values((1, 2, 1, 3), 1, 2, 3, 4, 5, 6)
    param = dict(num_output=7, group=5, kernel_h=1, kernel_w=2, stride=[1], pad=[0])
    blobs = [values((2, 1, 1, 2), 1, 10, 1, 100), values((2,), 0, 1000)]
    (top,) = run("ConvolutionDepthwise", param, [x], blobs, dialect="depthwise")
    close(top, values((1, 2, 1, 2), 21, 32, 1504, 1605))


def test_a_depthwise_convolution_without_group_is_dense():
    """depthwise_conv_layer.cpp of yonghenglh6 on the CPU: 1 * 1 + 4 * 10 + 5."""
    x, blobs = values((1, 2, 1, 1), 1, 4), [values((1, 2, 1, 1), 1, 10), values((1,), 5)]
    param = dict(num_output=1, kernel_size=[1])
    (top,) = run("DepthwiseConvolution", param, [x], blobs, dialect="depthwise")
    close(top, values((1, 1, 1, 1), 46))


@pytest.mark.parametrize(
    "fields, first, second",
    [
        ({}, [21, 32, 43], [-605, -706, -807]),
        (dict(dilation_h=3, dilation_w=2), [31, 42], [-705, -806]),
        (dict(filter_stride=2), [31, 42], [-705, -806]),
        (dict(filter_stride_h=3, filter_stride_w=2), [31, 42], [-705, -806]),
        (dict(relu=True, negative_slope=0.5), [21, 32, 43], [-302.5, -353, -403.5]),
        # pad counts for the size alone
        (dict(tf_pad="VALID", pad=[0, 1]), [21, 32, 43, 4, 0], [-605, -706, -807, -8, 0]),
        (dict(pad_type=1), [21, 32, 43, 4], [-605, -706, -807, -8]),
        (dict(pad_l=1, pad_r=2), [10, 21, 32, 43, 4, 0], [-500, -605, -706, -807, -8, 0]),
    ],
    ids=lambda value: " ".join(value) or "none" if isinstance(value, dict) else "",
)
def test_a_depthwise_convolution_has_the_fields_of_a_convolution(fields, first, second):
    """depthwise_conv_layer.cpp is a BaseConvolutionLayer, whatever fork that is of. Channels
    1 2 3 4 and -5 -6 -7 -8 with the taps 1 10 and 1 100."""
    x = values((1, 2, 1, 4), 1, 2, 3, 4, -5, -6, -7, -8)
    param = dict(num_output=2, group=2, kernel_size=[1, 2], bias_term=False, **fields)
    weight = values((2, 1, 1, 2), 1, 10, 1, 100)
    (top,) = run("DepthwiseConvolution", param, [x], [weight], dialect="depthwise")
    close(top, values((1, 2, 1, len(first)), *first, *second))
    # The same over the axes after another.
    (top,) = run(
        "DepthwiseConvolution", {**param, "axis": 2}, [x[None]], [weight], dialect="depthwise"
    )
    close(top, values((1, 1, 2, 1, len(first)), *first, *second))


def test_rows_of_zeros_around_a_depthwise_convolution():
    param = dict(num_output=2, group=2, kernel_size=[1, 2], bias_term=False, pad_t=1, pad_b=2)
    weight = values((2, 1, 1, 2), 1, 10, 1, 100)
    x = values((1, 2, 1, 2), 1, 2, 3, 4)
    (top,) = run("DepthwiseConvolution", param, [x], [weight], dialect="depthwise")
    close(top, values((1, 2, 4, 1), 0, 21, 0, 0, 0, 403, 0, 0))


def test_deconvolution_dilated_by_axis():
    """TSN's spelling of `dilation`: 2 and 3 times the taps 1 10 | 100 1000, which lie 2 rows and 3
    columns apart."""
    param = dict(num_output=1, kernel_size=[2], bias_term=False, dilation_h=2, dilation_w=3)
    (top,) = run("Deconvolution", param, [row(2, 3)], [values((1, 1, 2, 2), 1, 10, 100, 1000)])
    close(top[0, 0], [[2, 3, 0, 20, 30], [0] * 5, [200, 300, 0, 2000, 3000]])


def test_convolution_3d():
    """C3D's convolution3d_layer.cpp: x[l, w] = 2 l + w + 1 for l < 3, w < 2, height 1.

    kernel_depth 2, temporal_stride 2, temporal_pad 1: lengths (-1, 0) and (1, 2); with stride 2 of
    2 columns, column 0: 10 * 1 and 3 + 10 * 5, bias 7. With pad 1 the heights are -1 and 1, both of
    them padding: only the bias is left.
    """
    x = values((1, 1, 3, 1, 2), 1, 2, 3, 4, 5, 6)
    param = dict(num_output=1, kernel_size=1, kernel_depth=2, stride=2, temporal_stride=2)
    blobs = [values((1, 1, 2, 1, 1), 1, 10), values((1, 1, 1, 1, 1), 7)]
    (top,) = run("Convolution3D", {**param, "temporal_pad": 1}, [x], blobs, dialect="c3d")
    close(top, values((1, 1, 2, 1, 1), 17, 60))
    (top,) = run("Convolution3D", {**param, "temporal_pad": 1, "pad": 1}, [x], blobs, dialect="c3d")
    close(top, np.full((1, 1, 2, 2, 2), 7))


def test_convolution_3d_place_by_place():
    """As convolution3d_layer.cpp has it, on N 2, C 3, L 5, H 8, W 7."""
    rng = np.random.default_rng(4)
    x, weight = rng.standard_normal((2, 3, 5, 8, 7)), rng.standard_normal((4, 3, 2, 3, 3))
    param = dict(
        num_output=4, kernel_size=3, kernel_depth=2, stride=2, temporal_stride=3, pad=1,
        temporal_pad=2, bias_term=False,
    )  # fmt: skip
    padded = np.pad(x, [(0, 0), (0, 0), (2, 2), (1, 1), (1, 1)])
    # (5 + 4 - 2) / 3 + 1, (8 + 2 - 3) / 2 + 1, (7 + 2 - 3) / 2 + 1
    expected = np.empty((2, 4, 3, 4, 4), np.float32)
    for n, o, d, h, w in np.ndindex(expected.shape):
        window = padded[n, :, 3 * d : 3 * d + 2, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
        expected[n, o, d, h, w] = np.sum(window * weight[o])
    bottoms, blobs = [x.astype(np.float32)], [weight.astype(np.float32)]
    (top,) = run("Convolution3D", param, bottoms, blobs, dialect="c3d")
    np.testing.assert_allclose(top, expected, rtol=1e-5, atol=1e-5)


def test_filter_groups_of_c3d_read_all_channels():
    """Both filters over both channels: 2 + 3 * 10 and 2 * 100 + 3 * 1000; no bias."""
    param = dict(num_output=2, kernel_size=1, kernel_depth=1, filter_group=2, bias_term=False)
    (top,) = run(
        "Convolution3D",
        param,
        [values((1, 2, 1, 1, 1), 2, 3)],
        [values((2, 2, 1, 1, 1), 1, 10, 100, 1000)],
        dialect="c3d",
    )
    close(top, values((1, 2, 1, 1, 1), 32, 3200))


# ---- Refused -------------------------------------------------------------------------------------

CONV = {"num_output": 2, "kernel_size": [3]}
SHAPE = (1, 3, 9, 8)


@pytest.mark.parametrize(
    "param, error, message",
    [
        ({**CONV, "stride": [1, 2, 3]}, MalformedModel, "stride should be given once or for each"),
        ({**CONV, "stride_h": 1, "stride_w": 1, "axis": 2}, MalformedModel, "1 spatial axes"),
        ({"num_output": 2}, MalformedModel, "kernel_size is missing"),
        ({**CONV, "relu": True, "negative_slope": -1}, UnsupportedModel, "negative_slope is -1"),
        ({**CONV, "fusion_type": "SUM_FUSION"}, UnsupportedModel, "SUM_FUSION"),
        ({**CONV, "shape_offset": [1]}, UnsupportedModel, "shape_offset"),
        ({**CONV, "submanifold_sparse": True}, UnsupportedModel, "submanifold_sparse"),
        ({**CONV, "pad_type": 2}, MalformedModel, "pad_type should be 0 or 1"),
        ({**CONV, "pad_type": 1, "pad_l": 1}, UnsupportedModel, "only one of"),
        ({**CONV, "pad_type": 1, "pad": [1]}, MalformedModel, "pad is given twice"),
        ({**CONV, "pad_b": 1, "pad_h": 1, "pad_w": 1}, MalformedModel, "pad is given twice"),
        ({**CONV, "kernel_size": [1], "pad_l": 1}, UnsupportedModel, "1x1"),
        ({**CONV, "tf_pad": "SAME", "dilation": [2]}, UnsupportedModel, "dilation"),
        ({**CONV, "tf_pad": "SAME", "stride": [5]}, UnsupportedModel, "leave pixels out"),
        ({**CONV, "tf_pad": "SAME", "axis": 2}, MalformedModel, "for 2 spatial axes"),
    ],
)
def test_refused(param, error, message):
    with pytest.raises(error, match=message):
        infer("Convolution", param, [SHAPE])


def test_tf_pad_is_no_field_of_deconvolutions():
    with pytest.raises(UnsupportedModel, match="tf_pad"):
        infer("Deconvolution", {**CONV, "tf_pad": "SAME"}, [SHAPE])


@pytest.mark.parametrize(
    "type_, dialect, param, shape, error, message",
    [
        ("ConvolutionDepthwise", "depthwise", {**CONV, "axis": 2}, SHAPE, UnsupportedModel, "axis"),
        ("ConvolutionDepthwise", "depthwise", CONV, (1, 3, 9), MalformedModel, "4 axes"),
        ("Convolution3D", "c3d", dict(num_output=2, kernel_size=3), SHAPE, MalformedModel, "depth"),
        (
            "Convolution3D",
            "c3d",
            dict(num_output=2, kernel_size=3, kernel_depth=1, filter_group=3),
            SHAPE,
            MalformedModel,
            "filter_group 3 should divide",
        ),
        (
            "Convolution3D",
            "c3d",
            dict(num_output=2, kernel_size=3, kernel_depth=1),
            SHAPE,
            MalformedModel,
            "5 axes",
        ),
    ],
)
def test_refused_of_the_forks(type_, dialect, param, shape, error, message):
    with pytest.raises(error, match=message):
        infer(type_, param, [shape], dialect=dialect)


def test_deformable_convolutions_are_refused_with_the_reason():
    layer = Layer("l", "DeformableConvolution", ("x", "o"), ("y",), dialect="deformable")
    with pytest.raises(UnsupportedModel, match="for GPUs only"):
        registry.meaning(layer)
