"""What each layer means: hand-worked numbers, refusals, batch axes.

Long for being tables, a row a fact. The arithmetic stands beside each row; the rules are those of
BVLC Caffe's src/caffe/layers, in the file that the layer's docstring names.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from schemas.layers import registry, windows
from schemas.layers.axes import taps
from schemas.layers.convolution import Geometry
from tests.meanings import close, row, run

LOWEST = np.finfo(np.float32).min


def grid(*shape, values=None):
    """Float32 of this shape: the given values, or 0, 1, 2, ..."""
    values = np.arange(np.prod(shape)) if values is None else values
    return np.array(values, np.float32).reshape(shape)


def layer(type_, fields=None, bottoms=1, tops=1):
    return Layer(
        "l",
        type_,
        tuple(f"b{i}" for i in range(bottoms)),
        tuple(f"t{i}" for i in range(tops)),
        fields or {},
    )


def readable(value):
    """Test ids: types and parameters as they are written; the rest is left to pytest."""
    if isinstance(value, dict):
        text = str(value).replace("'", "").replace(": ", "=")
        return re.sub(r"[^A-Za-z0-9_.=-]+", " ", text).strip() or "default"
    return None


# ---- Convolution and Deconvolution ---------------------------------------------------------------


def test_convolution_per_axis_forms():
    """h: (3 - 2) / 1 + 1 = 2 windows; w: (4 + 2 - 1) / 3 + 1 = 2, at columns -1 (padding), 2.

    Each is x[i, w] + 10 x[i+1, w] + 0.5: 2 + 60 + 0.5 and 6 + 100 + 0.5 at column 2.
    """
    param = dict(num_output=1, kernel_h=2, kernel_w=1, stride_h=1, stride_w=3, pad_h=0, pad_w=1)
    weight, bias = grid(1, 1, 2, 1, values=[1, 10]), grid(1, values=[0.5])
    (top,) = run("Convolution", param, [grid(1, 1, 3, 4)], [weight, bias])
    close(top, [[[[0.5, 62.5], [0.5, 106.5]]]])


def test_convolution_repeated_forms_and_groups():
    """One row, taps at w - 1 and w + 1 (dilation 2, pad 1), output i reading channel i."""
    param = dict(
        num_output=2,
        kernel_size=[1, 2],
        pad=[0, 1],
        dilation=[1, 2],
        stride=[1],
        group=2,
        bias_term=False,
    )
    x = grid(1, 2, 1, 3, values=[1, 2, 3, 4, 5, 6])
    weight = grid(2, 1, 1, 2, values=[1, 10, 2, 1])
    (top,) = run("Convolution", param, [x], [weight])
    # 0 + 10*2, 1 + 10*3, 2 + 0;  0 + 5, 2*4 + 6, 2*5 + 0
    close(top, [[[[20, 31, 2]], [[5, 14, 10]]]])


def test_convolution_rounds_sizes_towards_zero():
    """(2 - 3) / 2 is 0 in C++, so 2 pixels give one output, whose third tap reads a zero."""
    param = dict(num_output=1, kernel_h=1, kernel_w=3, stride_h=1, stride_w=2, bias_term=False)
    (top,) = run("Convolution", param, [row(5, 7)], [grid(1, 1, 1, 3, values=[1, 10, 100])])
    close(top, [[[[75]]]])
    geometry = Geometry(kernel=(1, 3), stride=(1, 2), pad=(0, 0), dilation=(1, 1))
    assert geometry.padding((1, 2)) == ((0, 0), (0, 1))
    assert Geometry((3, 2), (2, 1), (1, 0), (2, 3)).padding((7, 9)) == ((1, 1), (0, 0))


@pytest.mark.parametrize(("limit", "rows"), [(1, 1), (179, 1), (270, 3), (2**22, 8)])
def test_columns_in_blocks(limit, rows, monkeypatch):
    """8 rows of 5 windows, of 2 * 3 * 3 values each: 90 a row. Together they are what there is."""
    monkeypatch.setattr(windows, "BLOCK", limit)
    geometry = Geometry(kernel=(3, 3), stride=(2, 3), pad=(4, 1), dilation=(2, 1))
    image, out = grid(2, 11, 14) + 1, (8, 5)
    assert geometry.convolved((11, 14)) == out
    blocks = list(geometry.blocks(image, out))
    ends = [min(first + rows, 8) * 5 for first in range(0, 8, rows)]
    assert [places for places, _ in blocks] == list(map(slice, [0, *ends], ends))
    flat = [columns.reshape(18, -1) for _, columns in blocks]
    whole = np.zeros((2, 3, 3, *out), np.float32)
    for c, i, j, h, w in np.ndindex(whole.shape):
        y, x = 2 * h - 4 + 2 * i, 3 * w - 1 + j
        if 0 <= y < 11 and 0 <= x < 14:
            whole[c, i, j, h, w] = image[c, y, x]
    np.testing.assert_array_equal(np.concatenate(flat, axis=1), whole.reshape(18, -1))


@pytest.mark.parametrize("size", [(23,), (7, 9), (5, 4, 6)], ids=str)
def test_convolution_in_blocks(size, monkeypatch):
    rng = np.random.default_rng(5)
    param = dict(num_output=6, kernel_size=[3], stride=[2], pad=[2], group=2)
    shapes = (2, 4, *size), (6, 2) + (3,) * len(size), (6,)
    x, *weights = (rng.integers(-9, 9, shape).astype(np.float32) for shape in shapes)
    (whole,) = run("Convolution", param, [x], weights)
    monkeypatch.setattr(windows, "BLOCK", 1)
    (top,) = run("Convolution", param, [x], weights)
    np.testing.assert_array_equal(top, whole)


def test_convolution_axis_keeps_the_axes_before_it():
    """A pointwise sum of 2 channels, for each place of the axes before axis 2."""
    x = grid(3, 2, 2, 1, 5)
    (top,) = run(
        "Convolution",
        dict(num_output=1, kernel_size=[1], axis=-3, bias_term=False),
        [x],
        [grid(1, 2, 1, 1, values=[1, 1])],
    )
    close(top, x.sum(axis=2, keepdims=True))


def test_convolution_of_several_bottoms_shares_the_weights():
    tops = run(
        "Convolution",
        dict(num_output=1, kernel_size=[1], bias_term=False),
        [row(1, 2), row(3, 4)],
        [grid(1, 1, 1, 1, values=[3])],
        tops=2,
    )
    close(tops[0], row(3, 6))
    close(tops[1], row(9, 12))


@pytest.mark.parametrize(
    "param, weight, expected",
    [
        # 1 * [1 2 3] from place 0 and 2 * [1 2 3] from place 2: size 2 * (2 - 1) + 3
        (dict(stride_h=1, stride_w=2), [1, 2, 3], [1, 2, 3 + 2, 4, 6]),
        (dict(stride_h=1, stride_w=2, pad_h=0, pad_w=1), [1, 2, 3], [2, 5, 4]),
        # taps 2 apart: 1 * [1 . 2 . 3] and 2 * [1 . 2 . 3] one further
        (dict(dilation=[1, 2]), [1, 2, 3], [1, 2, 2, 4, 3, 6]),
    ],
    ids=["stride", "pad", "dilation"],
)
def test_deconvolution(param, weight, expected):
    param = dict(param, num_output=1, kernel_h=1, kernel_w=3)
    (top,) = run(
        "Deconvolution", param, [row(1, 2)], [grid(1, 1, 1, 3, values=weight), grid(1, values=[10])]
    )
    close(top, row(*expected) + 10)


def test_deconvolution_groups():
    """Group g reads its own half of the bottom: weights (C, num_output / group, 1, 1)."""
    x = grid(1, 4, 1, 1, values=[1, 2, 3, 4])
    weight = grid(4, 1, 1, 1, values=[1, 10, 100, 1000])
    param = dict(num_output=2, kernel_size=[1], group=2, bias_term=False)
    (top,) = run("Deconvolution", param, [x], [weight])
    close(top.reshape(-1), [1 + 20, 300 + 4000])


@pytest.mark.parametrize("group", [1, 3])
def test_deconvolution_is_the_transpose_of_convolution(group):
    """<conv(x), y> = <x, deconv(y)> for the same weight, whatever the window."""
    rng = np.random.default_rng(7)
    window = dict(kernel_h=3, kernel_w=2, stride_h=2, stride_w=3, pad_h=2, pad_w=1, group=group)
    window.update(bias_term=False, dilation=[2, 1])
    x = rng.standard_normal((2, 6, 9, 12), np.float32)
    weight = rng.standard_normal((3, 6 // group, 3, 2), np.float32)
    (forward,) = run("Convolution", dict(window, num_output=3), [x], [weight])
    y = rng.standard_normal(forward.shape, np.float32)
    (back,) = run("Deconvolution", dict(window, num_output=6), [y], [weight])
    assert back.shape == x.shape
    np.testing.assert_allclose(np.vdot(forward, y), np.vdot(x, back), rtol=1e-5)


# ---- InnerProduct --------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("axis, shape", [(1, (2, 3, 1)), (2, (1, 2, 3)), (-1, (1, 2, 3))])
def test_inner_product(axis, shape, transpose):
    """Rows [0 1 2] and [3 4 5] times [1 10 100] and [1 0 0], plus [0.5 -1]."""
    weight = grid(2, 3, values=[1, 10, 100, 1, 0, 0])
    weight = np.ascontiguousarray(weight.T) if transpose else weight
    param = dict(num_output=2, axis=axis, transpose=transpose)
    (top,) = run("InnerProduct", param, [grid(*shape)], [weight, grid(2, values=[0.5, -1])])
    close(top.reshape(2, 2), [[210.5, -1], [543.5, 2]])


def test_inner_product_of_axis_0_without_bias():
    param = dict(num_output=1, axis=0, bias_term=False)
    (top,) = run("InnerProduct", param, [grid(2, 3)], [grid(1, 6, values=[1] * 6)])
    close(top, [15])


# ---- Pooling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "param, bottom, expected",
    [
        # ceil((5 - 2) / 2) + 1 = 3 windows; floor 2
        (dict(kernel_size=1, stride=2), row(1, 2, 3, 4, 5), [1, 3, 5]),
        (dict(kernel_h=1, kernel_w=2, stride=2), row(1, 2, 3, 4, 5), [2, 4, 5]),
        (dict(kernel_h=1, kernel_w=2, stride=2, round_mode="FLOOR"), row(1, 2, 3, 4, 5), [2, 4]),
        (dict(kernel_h=1, kernel_w=2, stride=2, ceil_mode=False), row(1, 2, 3, 4, 5), [2, 4]),
        (dict(kernel_h=1, kernel_w=2, stride=2, torch_pooling=True), row(1, 2, 3, 4, 5), [2, 4]),
        # ceil((4 + 2 - 2) / 2) + 1 = 3: starts -1, 1, 3
        (
            dict(kernel_h=1, kernel_w=2, stride_h=1, stride_w=2, pad_h=0, pad_w=1),
            row(4, 1, 2, 3),
            [4, 2, 3],
        ),
        # ceil((3 + 2 - 2) / 2) + 1 = 3, but the third would start at 2 * 2 >= 3 + 1
        (dict(kernel_h=1, kernel_w=2, stride=2, pad_h=0, pad_w=1), row(4, 1, 2), [4, 2]),
        # the third starts at 4 >= 4: kept without padding, and empty
        (dict(kernel_size=1, stride=2), row(4, 1, 2, 3), [4, 2, LOWEST]),
        # 2 pixels, kernel 3, stride 2: ceil(-1 / 2) + 1 = 1
        (dict(kernel_h=1, kernel_w=3, stride=2), row(1, 2), [2]),
        # x > maximum is false for NaN
        (dict(kernel_h=1, kernel_w=2, stride=2), row(np.nan, 1, np.nan, np.nan), [1, LOWEST]),
        (dict(global_pooling=True), row(1, 5, 2), [5]),
    ],
    ids="stride ceil floor ceil_mode torch pad drop empty large nan global".split(),  # noqa: SIM905
)
def test_max_pooling(param, bottom, expected):
    (top,) = run("Pooling", param, [bottom])
    close(top.reshape(-1), expected)


def test_padding_on_one_axis_drops_the_last_window_on_both():
    """w as in `empty` above: with pad_h = 1 the third window is dropped. h has 3 windows of 2."""
    param = dict(kernel_h=2, kernel_w=1, stride_h=1, stride_w=2, pad_h=1, pad_w=0)
    (top,) = run("Pooling", param, [grid(1, 1, 2, 4)])
    close(top, [[[[0, 2], [4, 6], [4, 6]]]])


@pytest.mark.parametrize(
    "param, bottom, expected",
    [
        # windows [-1, 2) [1, 4) [3, 5): padding counts, what lies past in + pad does not
        (
            dict(kernel_h=1, kernel_w=3, stride_h=1, stride_w=2, pad_h=0, pad_w=1),
            row(1, 2, 3, 4),
            [(1 + 2) / 3, (2 + 3 + 4) / 3, 4 / 2],
        ),
        (dict(global_pooling=True), grid(1, 1, 2, 3), [15 / 6]),
        (dict(kernel_h=1, kernel_w=2, stride=2), row(1, 2, 3), [1.5, 3]),
        # starts 0, 2, 4: no pixels over an area of min(5, 4) - 4 = 0
        (dict(kernel_size=1, stride=2), row(4, 1, 2, 3), [4, 2, np.nan]),
    ],
    ids=["pad", "global", "overhang", "empty"],
)
def test_average_pooling(param, bottom, expected):
    (top,) = run("Pooling", dict(param, pool="AVE"), [bottom])
    close(top.reshape(-1), expected)


def test_windows_far_apart_take_no_longer():
    """Taps that meet nothing but padding are passed over, not counted through."""
    param = dict(kernel_size=2 * 10**9, pad=10**9, stride=10**9)
    (top,) = run("Pooling", param, [grid(1, 1, 2, 3)])
    np.testing.assert_array_equal(top, np.full((1, 1, 2, 2), 5))


def test_taps():
    """As every tap of the window in turn tells, whatever the stride."""
    rng = np.random.default_rng(7)
    highs = dict(size=8, out=8, kernel=30, stride=30, pad=40, dilation=9)
    for _ in range(500):
        size, out, kernel, stride, dilation = (
            int(rng.integers(1, highs[name]))
            for name in ("size", "out", "kernel", "stride", "dilation")
        )
        pad = int(rng.integers(-highs["pad"], highs["pad"]))
        read = {
            tap: {o: o * stride - pad + tap * dilation for o in range(out)} for tap in range(kernel)
        }
        expected = {
            tap: {o: place for o, place in places.items() if 0 <= place < size}
            for tap, places in read.items()
        }
        found = {
            tap: {o: range(size)[places][i] for i, o in enumerate(range(out)[served])}
            for tap, served, places in taps(size, out, kernel, stride, pad, dilation)
        }
        assert found == {tap: places for tap, places in expected.items() if places}


def test_pooling_leaves_samples_and_channels_apart():
    x = grid(2, 3, 4, 5)
    (top,) = run("Pooling", dict(kernel_h=3, kernel_w=2, stride_h=1, stride_w=3), [x])
    # h windows [0, 3) [1, 4); w windows [0, 2) [3, 5): the last pixel of each is the greatest
    close(top, x[:, :, 2:, [1, 4]])


# ---- LRN and BatchNorm ---------------------------------------------------------------------------


def test_lrn_across_channels():
    """alpha / n = 1, so scales are 2 + (1 + 4), 2 + (1 + 4 + 9), 2 + (4 + 9), to the power -2."""
    param = dict(local_size=3, alpha=3, beta=2, k=2)
    (top,) = run("LRN", param, [grid(1, 3, 1, 1, values=[1, 2, 3])])
    close(top.reshape(-1), [1 / 49, 2 / 256, 3 / 225])


def test_lrn_within_channel_does_not_read_k():
    """Each window's area is 9, padding counted: 1 + 9 * (1 + 4) / 9 = 6, then 15 and 14."""
    param = dict(local_size=3, alpha=9, beta=1, k=100, norm_region="WITHIN_CHANNEL")
    (top,) = run("LRN", param, [row(1, 2, 3)])
    close(top, row(1 / 6, 2 / 15, 3 / 14))


def test_batch_norm_divides_the_statistics_by_the_factor():
    """mean 2 / 2, variance 6 / 2: (5 - 1) / sqrt(3 + 1) and (7 - 10) / sqrt(15 + 1)."""
    blobs = [grid(2, values=[2, 20]), grid(2, values=[6, 30]), grid(1, values=[2])]
    (top,) = run("BatchNorm", dict(eps=1), [grid(1, 2, 1, 1, values=[5, 7])], blobs)
    close(top.reshape(-1), [2, -0.75])
    mean, variance = registry.meaning(layer("BatchNorm")).statistics(blobs)
    close(mean, [1, 10])
    close(variance, [3, 15])


def test_batch_norm_of_factor_0_has_statistics_of_0():
    blobs = [grid(2, values=[2, 20]), grid(2, values=[6, 30]), grid(1, values=[0])]
    (top,) = run("BatchNorm", dict(eps=4), [grid(1, 2, values=[5, 7])], blobs)
    close(top, [[2.5, 3.5]])


def test_batch_norm_of_the_batch_s_own_statistics():
    """Channel 0 holds 0, 4 (mean 2, variance 4), channel 1 holds 1, 3 (mean 2, variance 1)."""
    blobs = [grid(2, values=[9, 9]), grid(2, values=[9, 9]), grid(1, values=[9])]
    x = grid(2, 2, 1, 1, values=[0, 1, 4, 3])
    (top,) = run("BatchNorm", dict(use_global_stats=False, eps=12), [x], blobs)
    close(top.reshape(2, 2), [[-2 / 4, -1 / 13**0.5], [2 / 4, 1 / 13**0.5]])


# ---- Scale and Bias ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axis, num_axes, shape",
    [(1, 1, (3,)), (0, 2, (2, 3)), (2, -1, (4, 5)), (-1, 1, (5,)), (3, 0, ())],
    ids=["channels", "two-axes", "all-the-rest", "negative", "scalar"],
)
def test_scale_and_bias_by_blob(axis, num_axes, shape):
    x = grid(2, 3, 4, 5)
    size = int(np.prod(shape))
    factor, term = grid(*shape, values=range(2, size + 2)), grid(*shape, values=range(5, size + 5))
    first = axis % 4 if num_axes else 0
    spread = (...,) + (None,) * (4 - first - len(shape))
    param = dict(axis=axis, num_axes=num_axes)
    (top,) = run("Scale", param, [x], [factor])
    close(top, x * factor[spread])
    (top,) = run("Scale", dict(param, bias_term=True), [x], [factor, term])
    close(top, x * factor[spread] + term[spread])
    (top,) = run("Bias", param, [x], [term])
    close(top, x + term[spread])


def test_scale_and_bias_by_second_bottom():
    """[2 3] along axis 1, and a bias blob of the second bottom's shape; num_axes is not read."""
    x, s = grid(1, 2, 1, 3), grid(2, values=[2, 3])
    (top,) = run(
        "Scale", dict(axis=1, num_axes=0, bias_term=True), [x, s], [grid(2, values=[1, 5])]
    )
    close(top.reshape(2, 3), [[1, 3, 5], [14, 17, 20]])
    (top,) = run("Bias", dict(axis=-3), [x, s])
    close(top.reshape(2, 3), [[2, 3, 4], [6, 7, 8]])


# ---- Activations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type_, param, x, expected",
    [
        ("ReLU", {}, [-2, 0, 3], [0, 0, 3]),
        ("ReLU", dict(negative_slope=0.5), [-2, 0, 3], [-1, 0, 3]),
        ("ELU", {}, [-1, 2], [np.exp(-1) - 1, 2]),
        ("ELU", dict(alpha=2), [-1, 2], [2 * (np.exp(-1) - 1), 2]),
        ("Sigmoid", {}, [0, 2, -100], [0.5, 1 / (1 + np.exp(-2)), 0]),
        ("TanH", {}, [0.5, -9], [np.tanh(0.5), np.tanh(-9)]),
        ("AbsVal", {}, [-2, 3], [2, 3]),
        ("BNLL", {}, [0, 100, -100], [np.log(2), 100, 0]),
        ("Power", dict(power=2, scale=3, shift=1), [1, -1], [16, 4]),
        ("Power", dict(power=0.5), [4, -4], [2, np.nan]),
        ("Power", dict(power=0, scale=3, shift=1), [5, np.nan], [1, 1]),
        ("Power", dict(power=3, scale=0, shift=2), [5, np.nan], [8, 8]),
        ("Exp", {}, [1, 0], [np.e, 1]),
        ("Exp", dict(base=2, scale=3, shift=1), [1, 0], [16, 2]),
        ("Log", {}, [np.e, 0], [1, -np.inf]),
        ("Log", dict(base=2, scale=3, shift=1), [1, 5], [2, 4]),
        ("Dropout", dict(dropout_ratio=0.75), [4, 8], [4, 8]),
        ("Dropout", dict(dropout_ratio=0.75, scale_train=False), [4, 8], [1, 2]),
    ],
    ids=readable,
)
def test_activations(type_, param, x, expected):
    (top,) = run(type_, param, [row(*x)])
    close(top, row(*expected))


def test_an_activation_of_a_scalar_is_an_array():
    for type_ in ("ReLU", "AbsVal", "TanH", "Sigmoid"):
        run(type_, {}, [grid(values=[2])])
    run("Eltwise", {}, [grid(values=[2]), grid(values=[3])])


@pytest.mark.parametrize("shared", [False, True])
def test_prelu(shared):
    """Channels [-1 2] and [-3 4] with slopes 0.5 and 10, or 0.5 for both."""
    slopes = grid(values=[0.5]) if shared else grid(2, values=[0.5, 10])
    (top,) = run(
        "PReLU", dict(channel_shared=shared), [grid(1, 2, 1, 2, values=[-1, 2, -3, 4])], [slopes]
    )
    close(top.reshape(2, 2), [[-0.5, 2], [-1.5 if shared else -30, 4]])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax(axis):
    """Two values that differ by log 3 get 1/4 and 3/4; far from 0 as well."""
    x = np.moveaxis(grid(3, 5, 2, values=[1000, 1000 + np.log(3)] * 15), -1, axis)
    (top,) = run("Softmax", dict(axis=axis), [np.ascontiguousarray(x)])
    np.testing.assert_allclose(np.moveaxis(top, axis, -1), [[[0.25, 0.75]] * 5] * 3, rtol=1e-4)


# ---- Eltwise -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "param, expected",
    [
        ({}, [1 + 4 + 7, 2 - 5 + 8]),
        (dict(operation="SUM", coeff=[0.5, -1, 2]), [0.5 - 4 + 14, 1 + 5 + 16]),
        (dict(operation="PROD", stable_prod_grad=False), [28, -80]),
        (dict(operation="MAX"), [7, 8]),
        (dict(operation="MAX", coeff=[9, 9, 9]), [7, 8]),
    ],
    ids=["sum", "coeff", "prod", "max", "max-ignores-coeff"],
)
def test_eltwise(param, expected):
    (top,) = run("Eltwise", param, [row(1, 2), row(4, -5), row(7, 8)])
    close(top, row(*expected))


# ---- Moving values -------------------------------------------------------------------------------


@pytest.mark.parametrize("param, axis", [({}, 1), (dict(axis=-2), 2), (dict(concat_dim=0), 0)])
def test_concat(param, axis):
    x = grid(2, 3, 4, 5)
    y = np.take(x, [1, 0], axis) + 100
    (top,) = run("Concat", param, [x, y])
    np.testing.assert_array_equal(top, np.concatenate([x, y], axis))


@pytest.mark.parametrize(
    "param, axis, parts",
    [
        ({}, 1, [[0, 1], [2, 3], [4, 5]]),
        (dict(slice_point=[1, 4]), 1, [[0], [1, 2, 3], [4, 5]]),
        (dict(axis=-1, slice_point=[2, 3]), 3, [[0, 1], [2], [3, 4]]),
        (dict(slice_dim=0), 0, [[0], [1], [2]]),
    ],
    ids=["even", "points", "axis", "slice_dim"],
)
def test_slice(param, axis, parts):
    x = grid(3, 6, 2, 5)
    tops = run("Slice", param, [x], tops=3)
    for index, part in enumerate(parts):
        np.testing.assert_array_equal(tops[index], x.take(part, axis))


@pytest.mark.parametrize(
    "param, kept",
    [
        ({}, np.s_[:, :, :2, :4]),
        (dict(offset=[1]), np.s_[:, :, 1:3, 1:5]),
        (dict(axis=1, offset=[2, 3, 0]), np.s_[:, 2:3, 3:5, :4]),
        (dict(axis=-1, offset=[1]), np.s_[:, :, :, 1:5]),
    ],
    ids=["none", "once", "each", "negative-axis"],
)
def test_crop(param, kept):
    x = grid(2, 3, 5, 6)
    (top,) = run("Crop", param, [x, grid(7, 1, 2, 4)])
    np.testing.assert_array_equal(top, x[kept])


@pytest.mark.parametrize(
    "param, shape",
    [
        ({}, (2, 60)),
        (dict(axis=2), (2, 3, 20)),
        (dict(axis=0, end_axis=1), (6, 4, 5)),
        (dict(axis=-3, end_axis=-2), (2, 12, 5)),
        (dict(axis=2, end_axis=1), (2, 3, 1, 4, 5)),
    ],
)
def test_flatten(param, shape):
    (top,) = run("Flatten", param, [grid(2, 3, 4, 5)])
    np.testing.assert_array_equal(top, grid(*shape))


@pytest.mark.parametrize(
    "dims, axis, num_axes, shape",
    [
        ([0, -1], 0, -1, (2, 60)),
        ([0, 0, -1, 10], 0, -1, (2, 3, 2, 10)),
        ([-1, 6], 1, 2, (2, 2, 6, 5)),
        ([5, 0, 3], 1, -1, (2, 5, 4, 3)),
        ([1], 1, 0, (2, 1, 3, 4, 5)),
        ([5, 4], -3, -1, (2, 3, 5, 4)),
        ([1, 1], -1, -1, (2, 3, 4, 5, 1, 1)),
    ],
)
def test_reshape(dims, axis, num_axes, shape):
    (top,) = run(
        "Reshape", dict(shape=dict(dim=dims), axis=axis, num_axes=num_axes), [grid(2, 3, 4, 5)]
    )
    np.testing.assert_array_equal(top, grid(*shape))


def test_split_and_silence():
    x = grid(2, 3)
    for top in run("Split", {}, [x], tops=2):
        np.testing.assert_array_equal(top, x)
    assert run("Silence", {}, [x, x], tops=0) == []


@pytest.mark.parametrize(
    "type_, bottoms, tops, shared",
    [
        ("Split", 1, 2, True),
        ("Reshape", 1, 1, True),
        ("Flatten", 1, 1, True),
        ("Concat", 1, 1, True),
        ("Concat", 2, 1, False),
        ("Slice", 1, 1, True),
        ("Slice", 1, 2, False),
        ("Dropout", 1, 1, False),
        ("ReLU", 1, 1, False),
    ],
)
def test_shared_memory(type_, bottoms, tops, shared):
    assert registry.meaning(layer(type_)).shares_memory(bottoms, tops) is shared


# ---- ArgMax --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "param, shape, expected",
    [
        # samples [1 5 5 | 0 2 3] and [7 0 7 | 7 1 1]: of equals, the later first
        ({}, (2, 1, 1, 1), [2, 3]),
        (dict(top_k=3), (2, 1, 3, 1), [2, 1, 5, 3, 2, 0]),
        (dict(top_k=2, out_max_val=True), (2, 2, 2, 1), [2, 1, 5, 5, 3, 2, 7, 7]),
        (dict(axis=1), (2, 1, 1, 3), [0, 0, 0, 1, 1, 0]),
        (dict(axis=-1, top_k=2), (2, 2, 1, 2), [2, 1, 2, 1, 2, 0, 0, 2]),
        (dict(axis=3, out_max_val=True), (2, 2, 1, 1), [5, 3, 7, 7]),
    ],
    ids=["default", "top_k", "out_max_val", "axis", "axis-top_k", "axis-out_max_val"],
)
def test_argmax(param, shape, expected):
    x = grid(2, 2, 1, 3, values=[1, 5, 5, 0, 2, 3, 7, 0, 7, 7, 1, 1])
    (top,) = run("ArgMax", param, [x])
    np.testing.assert_array_equal(top, grid(*shape, values=expected))
    made = registry.meaning(layer("ArgMax", {"argmax_param": param}))
    assert made.index_tops == (() if param.get("out_max_val") else (0,))


def test_argmax_has_three_axes_at_least():
    (top,) = run("ArgMax", {}, [grid(2, 3)])
    np.testing.assert_array_equal(top, [[[2]], [[2]]])


# ---- Inputs and losses ---------------------------------------------------------------------------

SHAPE = {"dim": [2, 3, 5, 7]}


@pytest.mark.parametrize(
    "type_, fields, shapes",
    [
        ("Input", {"input_param": {"shape": [SHAPE]}}, [(2, 3, 5, 7)] * 2),
        ("Input", {"input_param": {"shape": [SHAPE, {"dim": [2]}]}}, [(2, 3, 5, 7), (2,)]),
        ("DummyData", {"dummy_data_param": {"shape": [SHAPE]}}, [(2, 3, 5, 7)] * 2),
        (
            "DummyData",
            {"dummy_data_param": {"num": [2], "channels": [3], "height": [5], "width": [7, 9]}},
            [(2, 3, 5, 7), (2, 3, 5, 9)],
        ),
        (
            "MemoryData",
            {"memory_data_param": {"batch_size": 2, "channels": 3, "height": 5, "width": 7}},
            [(2, 3, 5, 7), (2,)],
        ),
        (
            "Data",
            {
                "data_param": {"batch_size": 2, "backend": "LMDB"},
                "transform_param": {"crop_size": 7, "mean_value": [104, 117, 123]},
            },
            [(2, 3, 7, 7), (2,)],
        ),
        (
            "Data",
            {
                "data_param": {"batch_size": 2},
                "transform_param": {"crop_size": 7, "force_gray": True},
            },
            [(2, 1, 7, 7), (2,)],
        ),
        (
            "Data",
            {
                "data_param": {"batch_size": 2},
                "transform_param": {"crop_size": 7, "force_color": True},
            },
            [(2, 3, 7, 7), (2,)],
        ),
        (
            "ImageData",
            {"image_data_param": {"batch_size": 2, "new_height": 5, "new_width": 7}},
            [(2, 3, 5, 7), (2,)],
        ),
        (
            "ImageData",
            {"image_data_param": {"is_color": False}, "transform_param": {"crop_size": 7}},
            [(1, 1, 7, 7), (1,)],
        ),
        (
            "ImageData",
            {
                "image_data_param": {"batch_size": 2, "new_height": 9, "new_width": 9},
                "transform_param": {"crop_size": 7},
            },
            [(2, 3, 7, 7), (2,)],
        ),
        (
            "WindowData",
            {"window_data_param": {"batch_size": 2}, "transform_param": {"crop_size": 7}},
            [(2, 3, 7, 7), (2,)],
        ),
    ],
    ids=readable,
)
def test_sources_tell_their_shapes(type_, fields, shapes):
    made, weight_shapes, tops = registry.infer(layer(type_, fields, 0, 2), [])
    assert (weight_shapes, tops) == ([], shapes)
    assert made.role == ("input" if type_ == "Input" else "data")
    assert made.batch_axes([], [], tops) == [0, 0]


@pytest.mark.parametrize(
    "type_, fields",
    [
        ("Input", {}),
        ("Data", {"data_param": {"batch_size": 2}, "transform_param": {"crop_size": 7}}),
        ("Data", {"data_param": {"batch_size": 2}, "transform_param": {"force_color": True}}),
        ("ImageData", {"image_data_param": {"batch_size": 2}}),
        ("WindowData", {"window_data_param": {"batch_size": 2}}),
        ("HDF5Data", {"hdf5_data_param": {"batch_size": 2, "source": "files.txt"}}),
    ],
    ids=readable,
)
def test_a_shape_that_is_not_told_is_asked_for(type_, fields):
    with pytest.raises(MalformedModel, match="top 0 .*--input-shape"):
        registry.infer(layer(type_, fields, 0, 1), [])


LOSSES = {
    type_: cls
    for (type_, dialect), cls in registry.registered().items()
    if cls.role == "loss" and not dialect
}


def test_every_loss_of_caffe_is_declared():
    assert set(LOSSES) == {
        "Accuracy",
        "ContrastiveLoss",
        "EuclideanLoss",
        "HingeLoss",
        "InfogainLoss",
        "MultinomialLogisticLoss",
        "SigmoidCrossEntropyLoss",
        "SoftmaxWithLoss",
    }
    # ContrastiveLoss compares two predictions; its third bottom says whether they are alike.
    assert {type_ for type_, cls in LOSSES.items() if cls.labels != 1} == {"ContrastiveLoss"}


# ---- What is refused -----------------------------------------------------------------------------

CONV = {"num_output": 2, "kernel_size": [3]}
POOL = {"kernel_size": 3}


@pytest.mark.parametrize(
    "type_, param, shapes, error, message",
    [
        ("Convolution", {"kernel_size": [3]}, [(1, 3, 9, 9)], MalformedModel, "num_output"),
        (
            "Convolution",
            {"num_output": 2},
            [(1, 3, 9, 9)],
            MalformedModel,
            "kernel_size is missing",
        ),
        ("Convolution", {**CONV, "kernel_h": 2}, [(1, 3, 9, 9)], MalformedModel, "per axis"),
        ("Convolution", {**CONV, "pad": [0], "pad_w": 0}, [(1, 3, 9, 9)], MalformedModel, "pad is"),
        ("Convolution", {**CONV, "stride_h": 2}, [(1, 3, 9, 9)], MalformedModel, r"\[2, 0\]"),
        ("Convolution", {**CONV, "stride": [0]}, [(1, 3, 9, 9)], MalformedModel, "stride"),
        ("Convolution", {**CONV, "group": 0}, [(1, 3, 9, 9)], MalformedModel, "group"),
        ("Convolution", {**CONV, "group": 2}, [(1, 3, 9, 9)], MalformedModel, "divide"),
        ("Convolution", {**CONV, "group": 3}, [(1, 3, 9, 9)], MalformedModel, "divide"),
        ("Convolution", CONV, [(1, 3, 9, 9), (1, 3, 9, 8)], MalformedModel, "bottom 1"),
        ("Convolution", CONV, [(1, 3, 9, 9)] * 2, MalformedModel, "one top per bottom"),
        ("Convolution", CONV, [(1, 3, 2, 2)], MalformedModel, r"\[1, 2, 0, 0\]"),
        ("Convolution", {**CONV, "axis": 4}, [(1, 3, 9, 9)], MalformedModel, "axis 4"),
        ("Convolution", {**CONV, "kernel_size": [3] * 3}, [(1, 3, 9, 9)], MalformedModel, "of 2"),
        ("Deconvolution", {**CONV, "pad": [2]}, [(1, 3, 1, 1)], MalformedModel, "-1"),
        ("InnerProduct", {}, [(1, 3)], MalformedModel, "num_output"),
        ("InnerProduct", {"num_output": 2, "axis": 2}, [(1, 3)], MalformedModel, "axis 2"),
        ("Pooling", {}, [(1, 3, 9, 9)], MalformedModel, "kernel_size"),
        ("Pooling", {"kernel_h": 2}, [(1, 3, 9, 9)], MalformedModel, "kernel_h and kernel_w"),
        ("Pooling", {**POOL, "kernel_h": 2, "kernel_w": 2}, [(1,)], MalformedModel, "kernel_h"),
        ("Pooling", {**POOL, "stride": 0}, [(1, 3, 9, 9)], MalformedModel, "positive"),
        ("Pooling", {**POOL, "stride_h": 2}, [(1, 3, 9, 9)], MalformedModel, "stride_w"),
        ("Pooling", {**POOL, "pad": 3}, [(1, 3, 9, 9)], MalformedModel, "smaller than kernel"),
        ("Pooling", {**POOL, "global_pooling": True}, [(1,)], MalformedModel, "global_pooling"),
        ("Pooling", {"global_pooling": True, "stride": 2}, [(1,)], MalformedModel, "no stride but"),
        ("Pooling", {"global_pooling": True, "pad": 1}, [(1,)], MalformedModel, "no pad"),
        ("Pooling", POOL, [(1, 3, 9)], MalformedModel, "4 axes"),
        ("Pooling", POOL, [(1, 3, 2, 9)], MalformedModel, r"\[1, 3, 0, 7\]"),
        ("Pooling", {**POOL, "pool": "STOCHASTIC"}, [(1, 3, 9, 9)], UnsupportedModel, "GPU"),
        ("Pooling", {**POOL, "pool": "RCM"}, [(1, 3, 9, 9)], UnsupportedModel, "MAX, AVE"),
        (
            "Pooling",
            {**POOL, "ceil_mode": True, "round_mode": "FLOOR"},
            [(1,)],
            UnsupportedModel,
            "cont",
        ),
        ("LRN", {"local_size": 4}, [(1, 3, 9, 9)], MalformedModel, "odd"),
        ("LRN", {}, [(1, 3)], MalformedModel, "4 axes"),
        ("BatchNorm", {}, [(3,)], MalformedModel, "channel axis"),
        ("Scale", {"num_axes": -2}, [(1, 3)], MalformedModel, "num_axes"),
        ("Scale", {"num_axes": 2}, [(1, 3)], MalformedModel, "2 axes should fit"),
        ("Scale", {}, [(2, 3), (2,)], MalformedModel, r"bottom 1 of shape \[2\]"),
        ("Bias", {"axis": 2}, [(2, 3)], MalformedModel, "axis 2"),
        ("PReLU", {}, [(3,)], MalformedModel, "2 to 4 axes"),
        ("Exp", {"base": 0}, [(3,)], MalformedModel, "base"),
        ("Log", {"base": 1}, [(3,)], MalformedModel, "base 1"),
        ("Log", {"base": float("nan")}, [(3,)], MalformedModel, "base"),
        ("Dropout", {"sample_weights_test": True}, [(3,)], UnsupportedModel, "random"),
        ("Softmax", {"axis": 1}, [(3,)], MalformedModel, "axis 1"),
        ("Eltwise", {"operation": "DIV"}, [(2, 3)], MalformedModel, "DIV takes two bottoms"),
        ("Eltwise", {}, [(2, 3), (2, 1)], MalformedModel, "bottom 1"),
        ("Eltwise", {"coeff": [1]}, [(2, 3), (2, 3)], MalformedModel, "one coeff"),
        ("Eltwise", {"coeff": [1, 1], "operation": "PROD"}, [(2,)] * 2, MalformedModel, "PROD"),
        ("Concat", {"axis": 1, "concat_dim": 1}, [(2, 3)], MalformedModel, "both"),
        ("Concat", {}, [(2, 3), (3, 3)], MalformedModel, "along axis 1 alone"),
        ("Concat", {}, [(2, 3), (2, 3, 1)], MalformedModel, "along axis 1 alone"),
        ("Slice", {"axis": 1, "slice_dim": 1}, [(2, 3)], MalformedModel, "both"),
        ("Slice", {"slice_point": [1]}, [(2, 3)], MalformedModel, "0 increasing slice points"),
        ("Crop", {}, [(1, 3, 5, 5), (1, 3, 5, 6)], MalformedModel, "fit into"),
        ("Crop", {"offset": [1]}, [(1, 3, 5, 5), (1, 3, 5, 5)], MalformedModel, "fit into"),
        ("Crop", {"offset": [-1]}, [(1, 3, 5, 5), (1, 3, 4, 4)], MalformedModel, "fit into"),
        ("Crop", {"offset": [10**40]}, [(1, 3, 5, 5)] * 2, MalformedModel, r"offset is 1\.0e\+40"),
        ("Power", {"scale": 10**400}, [(2, 3)], MalformedModel, "too large to convert to float"),
        ("Reshape", {"axis": "x" * 999}, [(2, 3)], MalformedModel, "found 'x{79}$"),
        ("Crop", {"offset": [1, 1, 1]}, [(1, 3, 5, 5)] * 2, MalformedModel, "each of 2 axes"),
        ("Flatten", {"axis": 3, "end_axis": 1}, [(1, 3, 5, 5)], MalformedModel, "after end_axis"),
        ("Reshape", {"shape": {"dim": [-1, -1]}}, [(2, 3)], MalformedModel, "one -1"),
        ("Reshape", {"shape": {"dim": [4, -1]}}, [(2, 3)], MalformedModel, "cannot hold"),
        ("Reshape", {"shape": {"dim": [2, 0, 0]}}, [(2, 3)], MalformedModel, "copies axis 2"),
        ("Reshape", {"axis": 1, "num_axes": 2}, [(2, 3)], MalformedModel, "out of range"),
        ("ArgMax", {"top_k": 0}, [(2, 3)], MalformedModel, "top_k"),
        ("ArgMax", {"top_k": 4}, [(2, 3)], MalformedModel, "only 3"),
        ("DummyData", {"num": [2], "shape": [SHAPE]}, [], MalformedModel, "both"),
        ("DummyData", {"num": [2]}, [], MalformedModel, "channels should be given"),
        ("MemoryData", {"batch_size": 2}, [], MalformedModel, "positive"),
        ("ImageData", {"new_height": 2}, [], MalformedModel, "together"),
        ("Nonesuch", {}, [(2, 3)], UnsupportedModel, "'Nonesuch' is not supported"),
    ],
    ids=readable,
)
def test_refused(type_, param, shapes, error, message):
    cls = registry.find(type_)
    fields = {cls.messages[0]: param} if param else {}
    with pytest.raises(error, match=message) as caught:
        registry.infer(layer(type_, fields, len(shapes)), shapes)
    assert caught.value.where == f"layer 'l' ({type_})"


def test_the_tops_of_slice_and_pooling_are_counted():
    for param in ({"slice_point": [2, 2]}, {"slice_point": [3, 6]}, {"slice_point": [1]}):
        with pytest.raises(MalformedModel, match="2 increasing slice points below 6"):
            registry.infer(layer("Slice", {"slice_param": param}, tops=3), [(2, 6)])
    with pytest.raises(MalformedModel, match="no 4 equal parts"):
        registry.infer(layer("Slice", tops=4), [(2, 6)])
    with pytest.raises(MalformedModel, match="only MAX"):
        registry.infer(
            layer("Pooling", {"pooling_param": {**POOL, "pool": "AVE"}}, tops=2), [(1, 3, 9, 9)]
        )


# ---- Where the samples of a batch go -------------------------------------------------------------

IMAGE = (4, 6, 5, 7)


@pytest.mark.parametrize(
    "type_, param, shapes, batches, expected",
    [
        ("ReLU", {}, [IMAGE], [0], [0]),
        ("ReLU", {}, [IMAGE], [1], [1]),
        ("ReLU", {}, [IMAGE], [None], [None]),
        ("Convolution", CONV, [IMAGE], [0], [0]),
        ("Convolution", CONV, [IMAGE], [1], [None]),
        ("Pooling", POOL, [IMAGE], [0], [0]),
        ("Pooling", POOL, [IMAGE], [1], [None]),
        ("LRN", {}, [IMAGE], [0], [0]),
        ("InnerProduct", {"num_output": 2}, [IMAGE], [0], [0]),
        ("InnerProduct", {"num_output": 2, "axis": 0}, [IMAGE], [0], [None]),
        ("InnerProduct", {"num_output": 2, "axis": 2}, [IMAGE], [1], [1]),
        ("BatchNorm", {}, [IMAGE], [0], [0]),
        ("BatchNorm", {}, [IMAGE], [1], [None]),
        ("BatchNorm", {"use_global_stats": False}, [IMAGE], [0], [None]),
        ("Scale", {}, [IMAGE], [0], [0]),
        ("Scale", {"axis": 0}, [IMAGE], [0], [None]),
        ("Scale", {"num_axes": -1}, [IMAGE], [2], [None]),
        ("Scale", {"axis": 0}, [IMAGE, (4, 6)], [0, 0], [0]),
        ("Scale", {"axis": 0}, [IMAGE, (4, 6)], [0, None], [None]),
        ("Scale", {"axis": 0, "bias_term": True}, [IMAGE, (4, 6)], [0, 0], [None]),
        ("Scale", {"axis": 1}, [IMAGE, (6,)], [0, 0], [None]),
        ("Scale", {"axis": 1, "bias_term": True}, [IMAGE, (6,)], [1, 0], [None]),
        ("Bias", {"axis": 0}, [IMAGE, (4,)], [0, 0], [0]),
        ("Bias", {"axis": 0}, [IMAGE, ()], [0, None], [None]),
        ("PReLU", {}, [IMAGE], [1], [None]),
        ("PReLU", {"channel_shared": True}, [IMAGE], [1], [1]),
        ("Softmax", {}, [IMAGE], [0], [0]),
        ("Softmax", {"axis": -4}, [IMAGE], [0], [None]),
        ("Eltwise", {}, [IMAGE, IMAGE], [0, 0], [0]),
        ("Eltwise", {}, [IMAGE, IMAGE], [0, None], [None]),
        ("Eltwise", {}, [IMAGE, IMAGE], [0, 1], [None]),
        ("Concat", {}, [IMAGE, IMAGE], [0, 0], [0]),
        ("Concat", {}, [IMAGE, IMAGE], [0, None], [None]),
        ("Concat", {"axis": 0}, [IMAGE, IMAGE], [0, 0], [None]),
        ("Concat", {"axis": -4}, [IMAGE, IMAGE], [0, 0], [None]),
        ("Slice", {"axis": 2}, [IMAGE], [0], [0]),
        ("Slice", {"slice_dim": 0}, [IMAGE], [0], [None]),
        ("Split", {}, [IMAGE], [0], [0]),
        ("Crop", {}, [IMAGE, IMAGE], [0, 0], [0]),
        ("Crop", {"axis": 0}, [IMAGE, IMAGE], [0, 0], [None]),
        ("Crop", {}, [IMAGE, IMAGE], [0, None], [None]),
        ("Flatten", {}, [IMAGE], [0], [0]),
        ("Flatten", {"axis": 0}, [IMAGE], [0], [None]),
        ("Flatten", {"axis": 0}, [(4, 1, 1)], [0], [0]),
        ("Flatten", {"axis": 0, "end_axis": 1}, [IMAGE], [3], [2]),
        ("ArgMax", {}, [IMAGE], [0], [0]),
        ("ArgMax", {}, [IMAGE], [1], [None]),
        ("ArgMax", {"axis": 1}, [IMAGE], [0], [0]),
        ("ArgMax", {"axis": 0}, [IMAGE], [0], [None]),
    ],
    ids=readable,
)
def test_batch_axes(type_, param, shapes, batches, expected):
    check_batch_axes(type_, param, shapes, batches, expected)


def check_batch_axes(type_, param, shapes, batches, expected):
    cls = registry.find(type_)
    fields = {cls.messages[0]: param} if param else {}
    made, _, tops = registry.infer(layer(type_, fields, len(shapes)), shapes)
    assert made.batch_axes(shapes, batches, tops) == expected


@pytest.mark.parametrize(
    "dims, axis, num_axes, batch, expected",
    [
        ([0, -1], 0, -1, 0, 0),  # copied
        ([-1, 210], 0, -1, 0, 0),  # inferred, 210 = 6 * 5 * 7 values a row
        ([-1, 105], 0, -1, 0, None),  # half a row each
        ([-1, 420], 0, -1, 0, None),
        ([4, -1], 0, -1, 0, None),  # the batch size itself is written down
        ([1, -1, 210], 0, -1, 0, 1),  # moved behind a new axis
        ([2, -1, 105], 0, -1, 0, None),
        ([42, 5], 1, -1, 0, 0),  # lies before
        ([24], 0, 2, 2, 1),  # lies behind
        ([1], 0, 0, 0, 1),
        ([0, 0, 35], 0, -1, 1, 1),
        ([2, 0, 70], 0, -1, 1, None),  # 6 is kept, but 2 rows are before it instead of 4
        ([0, -1], 0, -1, None, None),
    ],
)
def test_batch_axis_of_reshape(dims, axis, num_axes, batch, expected):
    param = {"shape": {"dim": dims}, "axis": axis, "num_axes": num_axes}
    check_batch_axes("Reshape", param, [IMAGE], [batch], [expected])
