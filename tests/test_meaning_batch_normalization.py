"""BatchNorm as the forks have it, and every BN."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from stage_extract import dialects
from tests.meanings import close, infer, run, values

# Two channels of 1 x 2 pixels, (1, 3) and (5, 13): means 2 and 9, variances 1 and 16.
X = values((1, 2, 1, 2), 1, 3, 5, 13)


def blob(*numbers, shape=None):
    return values(shape or (len(numbers),), *numbers)


# (X - (1, 5)) / sqrt((3, 15) + 1) = (0, 1, 0, 2)
MEAN, VARIANCE = blob(1, 5), blob(3, 15)
NORMALIZED = np.array([0, 1, 0, 2])
SCALE, BIAS = blob(10, -2), blob(0.5, 1)
# (0, 1) * 10 + 0.5, (0, 2) * -2 + 1
AFFINE = np.array([0.5, 10.5, 1, -3])


@pytest.mark.parametrize(
    "param, expected",
    [
        (dict(eps=1), NORMALIZED),
        (dict(eps=1, disable_mean=True), [0.5, 1.5, 1.25, 3.25]),
        (dict(eps=1, disable_variance=True), [0, 2, 0, 8]),
        (dict(eps=1, disable_mean=True, disable_variance=True), [1, 3, 5, 13]),
        # Divisors sqrt(3) + 1 and sqrt(15) + 1.
        (
            dict(eps=1, add_eps_before_sqrt=False),
            [0, 2 / (3**0.5 + 1), 0, 8 / (15**0.5 + 1)],
        ),
        (dict(eps=1, icnet=True, update_global_stats=False), NORMALIZED),
    ],
)
def test_fields_of_forks(param, expected):
    """batch_norm_layer.cpp of happynear (disable_*) and of synopsys-caffe; the factor is 2."""
    blobs = [2 * MEAN, 2 * VARIANCE, blob(2)]
    (top,) = run("BatchNorm", param, [X], blobs)
    close(top.reshape(-1), expected)


@pytest.mark.parametrize(
    "param, expected",
    [
        # x / sqrt(E(x^2) + 4): (1 + 9) / 2 = 5 and (25 + 169) / 2 = 97
        (dict(eps=4, disable_mean=True), np.array([1, 3, 5, 13]) / [3, 3, 101**0.5, 101**0.5]),
        (dict(disable_variance=True), [-1, 1, -4, 4]),
    ],
)
def test_fields_of_happynear_with_statistics_of_the_batch(param, expected):
    blobs = [MEAN, VARIANCE, blob(1)]
    (top,) = run("BatchNorm", dict(param, use_global_stats=False), [X], blobs)
    close(top.reshape(-1), expected)


@pytest.mark.parametrize("param", [dict(icnet=True), dict(add_eps_before_sqrt=False)])
def test_synopsys_has_no_variance_of_the_batch_in_test(param):
    with pytest.raises(UnsupportedModel, match="no variance then in TEST"):
        infer("BatchNorm", dict(param, use_global_stats=False), [X.shape])


@pytest.mark.parametrize(
    "param, expected",
    [
        (dict(eps=1), NORMALIZED),
        (dict(eps=1, scale_bias=True), AFFINE),
        (dict(eps=1, scale_filler={"value": 3}), AFFINE),
        (dict(eps=1, bias_filler={}), AFFINE),
        (dict(eps=1, scale_bias=True, use_global_stats=False), AFFINE),
    ],
)
def test_nvidia(param, expected):
    """batch_norm_layer.cpp of caffe-0.17. With 3 blobs, the factor 4 divides mean and variance;
    with 5 it is not read."""
    three = [4 * MEAN, 4 * VARIANCE, blob(4)]
    five = [MEAN, VARIANCE, blob(4), SCALE, BIAS]
    blobs = three if expected is NORMALIZED else five
    (top,) = run("BatchNorm", param, [X], blobs, dialect="nvidia")
    close(top.reshape(-1), expected)


def test_nvidia_raises_a_small_eps():
    """max(eps, 1e-5): with variance 0, 2 / sqrt(1e-5)."""
    blobs = [blob(1), blob(0), blob(1)]
    (top,) = run("BatchNorm", dict(eps=1e-9), [blob(3, shape=(1, 1, 1, 1))], blobs, 1, "nvidia")
    close(top, 2 / 1e-5**0.5)


def test_nvidia_015():
    """batch_norm_layer.cpp of caffe-0.15; the batch's own: (x - mean) / sqrt((1, 16) + 9)."""
    blobs = [SCALE, BIAS, MEAN, VARIANCE, blob(7)]
    (top,) = run("BatchNorm", dict(eps=1), [X], blobs, dialect="nvidia15")
    close(top.reshape(-1), AFFINE)
    (top,) = run("BatchNorm", dict(eps=9, use_global_stats=False), [X], blobs, dialect="nvidia15")
    first = 10 / 10**0.5
    close(top.reshape(-1), [0.5 - first, 0.5 + first, 2.6, -0.6])


@pytest.mark.parametrize(
    "param, blobs, expected",
    [
        ({}, [SCALE, BIAS], AFFINE),
        (dict(relu=True), [SCALE, BIAS], [0.5, 10.5, 1, 0]),
        (dict(bias_term=False), [SCALE], [0, 10, 0, -4]),
        (dict(use_weight_bias=False), [], NORMALIZED),
        (dict(use_weight_bias=False, bias_term=True, stats_batch_size=2), [], NORMALIZED),
    ],
)
def test_intel(param, blobs, expected):
    """mkldnn_batch_norm_layer.cpp: 3 + use_weight_bias + (use_weight_bias and bias_term) blobs."""
    stored = [2 * MEAN, 2 * VARIANCE, blob(2), *blobs]
    for type_ in ("BatchNorm", "MKLBatchNorm"):
        (top,) = run(type_, dict(param, eps=1), [X], stored, dialect="intel")
        close(top.reshape(-1), expected)


def test_intel_with_statistics_of_the_batch():
    """(x - mean) / sqrt((1, 16) + 9) without scale."""
    param = dict(use_global_stats=False, use_weight_bias=False, eps=9)
    blobs = [MEAN, VARIANCE, blob(1)]
    for type_ in ("BatchNorm", "MKLBatchNorm"):
        (top,) = run(type_, param, [X], blobs, dialect="intel")
        close(top.reshape(-1), [-1 / 10**0.5, 1 / 10**0.5, -0.8, 0.8])
    with pytest.raises(UnsupportedModel, match="stats_batch_size"):
        infer("BatchNorm", dict(param, stats_batch_size=2), [X.shape], dialect="intel")


@pytest.mark.parametrize(
    "dialect, shape", [("pspnet", (1, 2, 1, 1)), ("tsn", (1, 2)), ("happynear", (1, 2))]
)
def test_bn_of_4_blobs(dialect, shape):
    """bn_layer.cpp of PSPNet, yjxiong (variance) and happynear (1 / sqrt(variance + eps), which
    eps is no part of)."""
    last = 1 / np.sqrt(VARIANCE + 1) if dialect == "happynear" else VARIANCE
    blobs = [array.reshape(shape) for array in (SCALE, BIAS, MEAN, last)]
    (top,) = run("BN", dict(eps=1), [X], blobs, dialect=dialect)
    close(top.reshape(-1), AFFINE)
    if dialect == "happynear":
        (top,) = run("BN", dict(eps=5), [X], blobs, dialect=dialect)
        close(top.reshape(-1), AFFINE)
    flat = blob(1, 5, 3, 13, shape=(2, 2))
    (top,) = run("BN", dict(eps=1), [flat], blobs, dialect=dialect)
    # (0, 0) and ((3 - 1) / 2, (13 - 5) / 4)
    close(top, [[0.5, 1], [10.5, -3]])


@pytest.mark.parametrize("inverse", [0.5, -0.25, 0, 30])
def test_happynears_variance_gives_its_deviation_back(inverse):
    """What the converted net holds: slope / sqrt(variance + eps) is slope * inverse."""
    made, _, _ = infer("BN", dict(eps=1e-3), [(1, 1)], dialect="happynear")
    blobs = [values((1, 1), number) for number in (3, 2, 1, inverse)]
    with np.errstate(all="ignore"):
        _, variance = made.statistics(blobs)
        slope = made.affine(blobs)[0] / np.sqrt(variance + np.float32(1e-3))
    close(slope, [3 * inverse])


PAIRED = (1, 2, 1, 1)


def test_segnet():
    """bn_layer.cpp: INFERENCE is x * scale + shift; LEARN, the default, takes the batch's mean
    2, 9 and variance 1, 16, (0 and 0 for one sample of 2 axes), eps 1e-9."""
    blobs = [SCALE.reshape(PAIRED), BIAS.reshape(PAIRED)]
    (top,) = run("BN", dict(bn_mode="INFERENCE"), [X], blobs, dialect="segnet")
    close(top.reshape(-1), [10.5, 30.5, -9, -25])
    top, mean, variance = run("BN", {}, [X], blobs, 3, "segnet")
    close(top.reshape(-1), [-9.5, 10.5, 3, -1])
    close(mean.reshape(-1), [2, 9])
    close(variance.reshape(-1), [1, 16])
    top, mean = run("BN", dict(bn_mode="LEARN"), [blob(1, 5, shape=(1, 2))], blobs, 2, "segnet")
    close(top, BIAS.reshape(PAIRED))
    close(mean.reshape(-1), [1, 5])


def test_segnets_inference_has_one_top():
    with pytest.raises(MalformedModel, match="one top"):
        infer("BN", dict(bn_mode="INFERENCE"), [X.shape], 2, "segnet")


@pytest.mark.parametrize(
    "mode, batch, expected", [("LEARN", 0, None), ("INFERENCE", 0, 0), ("INFERENCE", 1, None)]
)
def test_only_segnets_inference_keeps_samples_apart(mode, batch, expected):
    made, _, tops = infer("BN", dict(bn_mode=mode), [(2, 3, 4, 5)], dialect="segnet")
    assert made.batch_axes([(2, 3, 4, 5)], [batch], tops) == [expected]


def test_parsenet():
    """bn_layer.cpp with the batch's statistics. Per channel: divisors sqrt((1, 16) + 9).
    Per value, of samples (1, 3) and (5, 13): means 3 and 8, variances 4 and 25, divisors
    sqrt((4, 25) + 9)."""
    blobs = [SCALE.reshape(PAIRED), BIAS.reshape(PAIRED)]
    (top,) = run("BN", dict(var_eps=9), [X], blobs, dialect="parsenet")
    first = 10 / 10**0.5
    close(top.reshape(-1), [0.5 - first, 0.5 + first, 2.6, -0.6])
    samples = values((2, 1, 1, 2), 1, 3, 5, 13)
    blobs = [values((1, 1, 1, 2), 2, 3), values((1, 1, 1, 2), 0.5, 1)]
    param = dict(var_eps=9, across_spatial=False)
    (top,) = run("BN", param, [samples], blobs, dialect="parsenet")
    a, b = 4 / 13**0.5, 15 / 34**0.5
    close(top.reshape(-1), [0.5 - a, 1 - b, 0.5 + a, 1 + b])


def test_parsenets_running_averages_are_not_stored():
    with pytest.raises(UnsupportedModel, match="does not store"):
        infer("BN", dict(moving_average=True), [X.shape], dialect="parsenet")


# ---- Which fork's it is --------------------------------------------------------------------------

C, ONE = (3,), (1,)
IMAGE, ROW = (1, 3, 1, 1), (1, 3)


@pytest.mark.parametrize(
    "type_, param, stored, expected",
    [
        ("BatchNorm", {}, [C, C, ONE], ""),
        ("BatchNorm", {}, [], ""),
        ("BatchNorm", dict(eps=1e-3, engine="CUDNN"), [C, C, ONE], ""),
        ("BatchNorm", dict(use_global_stats=False), [C, C, ONE], ""),
        ("BatchNorm", dict(disable_mean=True), [C, C, ONE], ""),
        ("BatchNorm", dict(scale_bias=True), [C, C, ONE, C, C], "nvidia"),
        ("BatchNorm", dict(scale_filler={}, bias_filler={}), [C, C, ONE, C, C], "nvidia"),
        ("BatchNorm", dict(scale_filler={}, bias_filler={}), [C, C, C, C, ONE], "nvidia15"),
        ("BatchNorm", {}, [C, C, C, C, ONE], "nvidia15"),
        ("BatchNorm", dict(use_weight_bias=True), [C, C, ONE, C, C], "intel"),
        ("BatchNorm", {}, [C, C, ONE, C], "intel"),
        ("BatchNorm", {}, [C, C, ONE, C, C], "intel"),
        ("BN", {}, [IMAGE, IMAGE], "segnet"),
        ("BN", dict(bn_mode="INFERENCE"), [IMAGE, IMAGE], "segnet"),
        ("BN", dict(scale_filler={}, shift_filler={}), [IMAGE, IMAGE], "segnet"),
        ("BN", dict(var_eps=1e-5), [IMAGE, IMAGE], "parsenet"),
        ("BN", {}, [(1, 3, 5, 7)] * 2, "parsenet"),
        ("BN", {}, [IMAGE] * 4, "pspnet"),
        ("BN", dict(slope_filler={}, frozen=True), [IMAGE] * 4, "pspnet"),
        ("BN", {}, [ROW] * 4, "tsn"),
        ("BN", {}, [(1, 1, 1, 3)] * 4, "tsn"),
        ("Normalize", {}, [C], "ssd"),
        ("Normalize", {}, [], "happynear"),
    ],
)
def test_the_dialect_is_told_by_fields_and_stored_blobs(type_, param, stored, expected):
    message = {"BatchNorm": "batch_norm_param", "BN": "bn_param"}.get(type_, "norm_param")
    layer = Layer("l", type_, ("a",), ("b",), {message: param} if param else {})
    settled = dialects.settle([layer], (), lambda: {"l": stored}, [])
    assert not settled.ambiguous
    assert settled.layers[0].dialect == expected


def test_happynears_own_layers_speak_for_happynears_bn():
    layers = [Layer(name, name, ("a",), ("b",)) for name in ("BN", "Flip")]
    settled = dialects.settle(layers, (), lambda: {"BN": [ROW] * 4}, [])
    assert [layer.dialect for layer in settled.layers] == ["happynear", "happynear"]
    settled = dialects.settle(layers[:1], ("happynear",), dict, [])
    assert settled.layers[0].dialect == "happynear"
