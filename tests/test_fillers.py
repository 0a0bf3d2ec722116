"""How parameters start that no weights are given for: which filler fills which blob, and with what.

What is random has a fixed seed; a bound stands beside each draw. Runs on Python 3.8 too.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.layers import registry
from schemas.layers.registry import Filler, Meaning
from stage_extract import descriptors, fillers, reference
from tests import prototxts
from tests.meanings import infer, layer, run, values

SEED = 7
MESSAGES = descriptors.message("LayerParameter").fields_by_name
WITH_WEIGHTS = {
    key: cls
    for key, cls in registry.registered().items()
    if cls.weight_shapes is not Meaning.weight_shapes
}

IMAGE = (2, 6, 9, 9)
CONV = {"num_output": 4, "kernel_size": [3]}
ZERO = Filler()
WEIGHT, BIAS = Filler("weight_filler"), Filler("bias_filler")
SLOPE, SCALE, SHIFT = Filler("slope_filler"), Filler("scale_filler"), Filler("shift_filler")
STEPS = [(3, 2, 5), (3, 2)]  # x and cont of a recurrent layer

# (type, dialect), parameters, bottoms, how the blobs start.
STARTS = [
    (("Convolution", ""), CONV, [IMAGE], [WEIGHT, BIAS]),
    (("Convolution", ""), {**CONV, "bias_term": False}, [IMAGE], [WEIGHT]),
    (("Deconvolution", ""), CONV, [IMAGE], [WEIGHT, BIAS]),
    (("DepthwiseConvolution", "depthwise"), CONV, [IMAGE], [WEIGHT, BIAS]),
    (("ConvolutionDepthwise", "depthwise"), {"kernel_size": [3]}, [IMAGE], [WEIGHT, BIAS]),
    (
        ("Convolution3D", "c3d"),
        {"num_output": 4, "kernel_size": 3, "kernel_depth": 3},
        [(1, 2, 5, 9, 9)],
        [WEIGHT, BIAS],
    ),
    (("InnerProduct", ""), {"num_output": 4}, [IMAGE], [WEIGHT, BIAS]),
    (("InnerProduct", ""), {"num_output": 4, "bias_term": False}, [IMAGE], [WEIGHT]),
    (("InnerDistance", "happynear"), {"num_output": 4}, [IMAGE], [WEIGHT]),
    (("InnerDistance", "happynear"), {}, [(2, 3), (4, 3)], []),
    (("Embed", ""), {"num_output": 4, "input_dim": 5}, [(2, 3)], [WEIGHT, BIAS]),
    (("Local", "happynear"), {"num_output": 4, "kernel_size": 3}, [IMAGE], [WEIGHT, BIAS]),
    # lstm_layer.cpp, rnn_layer.cpp: InnerProducts, of which those of x and of o have a bias.
    (("LSTM", ""), {"num_output": 4}, STEPS, [WEIGHT, BIAS, WEIGHT]),
    (("LSTM", ""), {"num_output": 4}, [*STEPS, (2, 8)], [WEIGHT, BIAS, WEIGHT, WEIGHT]),
    (("RNN", ""), {"num_output": 4}, STEPS, [WEIGHT, BIAS, WEIGHT, WEIGHT, BIAS]),
    (
        ("RNN", ""),
        {"num_output": 4},
        [*STEPS, (2, 8)],
        [WEIGHT, BIAS, WEIGHT, WEIGHT, WEIGHT, BIAS],
    ),
    (("Lstm", "junhyukoh"), {"num_output": 4}, [(3, 5)], [WEIGHT, WEIGHT, BIAS]),
    # batch_norm_layer.cpp sets all three to 0.
    (("BatchNorm", ""), {}, [IMAGE], [ZERO] * 3),
    # NVIDIA's caffe-0.17 sets the factor to 1, and a scale without a filler to 1.
    (("BatchNorm", "nvidia"), {}, [IMAGE], [ZERO, ZERO, Filler(value=1)]),
    (
        ("BatchNorm", "nvidia"),
        {"scale_bias": True},
        [IMAGE],
        [ZERO, ZERO, Filler(value=1), Filler("scale_filler", 1), BIAS],
    ),
    # NVIDIA's caffe-0.15 does not ask whether there is a filler: FillerParameter's own default, 0.
    (("BatchNorm", "nvidia15"), {}, [IMAGE], [SCALE, BIAS, ZERO, ZERO, ZERO]),
    # mkldnn_batch_norm_layer.cpp.
    (("BatchNorm", "intel"), {}, [IMAGE], [ZERO, ZERO, ZERO, Filler("filler", 1), BIAS]),
    (("BatchNorm", "intel"), {"use_weight_bias": False}, [IMAGE], [ZERO] * 3),
    (("MKLBatchNorm", "intel"), {"bias_term": False}, [IMAGE], [ZERO] * 3 + [Filler("filler", 1)]),
    # bn_layer.cpp of PSPNet: the variance of a layer that never learns it is 1.
    (("BN", "pspnet"), {}, [IMAGE], [SLOPE, BIAS, ZERO, ZERO]),
    (("BN", "pspnet"), {"frozen": True}, [IMAGE], [SLOPE, BIAS, ZERO, Filler(value=1)]),
    (("BN", "tsn"), {}, [IMAGE], [SLOPE, BIAS, ZERO, ZERO]),
    (("BN", "happynear"), {}, [IMAGE], [SLOPE, BIAS, ZERO, Filler(value=1)]),
    (("BN", "segnet"), {}, [IMAGE], [SCALE, SHIFT]),
    (("BN", "parsenet"), {}, [IMAGE], [SCALE, SHIFT]),
    (("Scale", ""), {}, [IMAGE], [Filler("filler", 1)]),
    (("Scale", ""), {"bias_term": True}, [IMAGE], [Filler("filler", 1), BIAS]),
    (("Scale", ""), {"bias_term": True}, [IMAGE, (6,)], [BIAS]),
    (("Scale", ""), {}, [IMAGE, (6,)], []),
    (("Bias", ""), {}, [IMAGE], [Filler("filler")]),
    (("Bias", ""), {}, [IMAGE, (6,)], []),
    (("ChannelScale", "happynear"), {}, [(2, 3), (2, 1)], []),
    (
        ("ChannelScale", "happynear"),
        {"global_scale": True},
        [(2, 3), (2, 1)],
        [Filler("init_global_scale", 1)],
    ),
    (("PReLU", ""), {}, [IMAGE], [Filler("filler", 0.25)]),  # prelu_layer.cpp
    (("Normalize", "ssd"), {}, [IMAGE], [Filler("scale_filler", 1)]),  # SSD's normalize_layer.cpp
    (("Parameter", ""), {"shape": [2, 3]}, [], [Filler("blob_filler")]),
]


def named(value):
    return "-".join(filter(None, value)) if isinstance(value, tuple) else None


@pytest.mark.parametrize("key, param, bottoms, expected", STARTS, ids=named)
def test_how_the_blobs_of_a_layer_start(key, param, bottoms, expected):
    type_, dialect = key
    made, weights, _ = infer(type_, param, bottoms, dialect=dialect)
    assert list(made.fillers(len(weights))) == expected
    assert len(weights) == len(expected)
    fields = {
        field.name for message in made.messages for field in MESSAGES[message].message_type.fields
    }
    assert {filler.field for filler in expected} - {""} <= fields
    filled = fillers.fill(layer(type_, param, len(bottoms), 1, dialect), weights, SEED)
    assert [blob.shape for blob in filled] == [tuple(shape) for shape in weights]
    for blob, filler in zip(filled, expected):  # noqa: B905  Python 3.8
        np.testing.assert_array_equal(blob, np.full(blob.shape, filler.value, np.float32))


def test_every_meaning_with_weights_says_how_they_start():
    assert {key for key, *_ in STARTS} == set(WITH_WEIGHTS)
    assert [key for key, cls in WITH_WEIGHTS.items() if cls.fillers is Meaning.fillers] == []


def test_a_plug_in_that_says_nothing_starts_with_zeros():
    with registry.extended():

        @registry.layer("Gain", message="python_param", harmless=registry.PYTHON)
        class Gain(Meaning):
            def weight_shapes(self, bottoms):
                return [(2, 3), ()]

        blobs = fillers.fill(layer("Gain", {}, 1, 1, ""), [(2, 3), ()], SEED)
    assert [blob.tolist() for blob in blobs] == [[[0, 0, 0], [0, 0, 0]], 0]


def test_fillers_that_are_too_few_are_refused():
    with pytest.raises(UnsupportedModel, match="layer 'l' .PReLU.: .* fillers for 1 of 2 blobs"):
        fillers.fill(layer("PReLU", {}, 1, 1, ""), [(2,), (2,)], SEED)


# ---- What each type of filler makes --------------------------------------------------------------


def filled(filler, shape, name="l", seed=SEED):
    """A blob of this shape by this filler; `blob_filler` is that of a layer of any shape."""
    text = f"parameter_param {{ shape {{ {prototxts.dims(shape)} }} blob_filler {{ {filler} }} }}"
    made = prototxts.layer("Parameter", "", "out", text, name=name)
    built = prototxts.build(prototxts.inputs(data=(1,)), made)
    (of,) = [each for each in built.net.layers if each.type == "Parameter"]
    (blob,) = fillers.fill(of, built.weight_shapes[name], seed)
    assert (blob.shape, blob.dtype) == (tuple(shape), np.float32)
    assert blob.flags.c_contiguous and blob.flags.writeable
    return blob


MANY = (400, 500)  # 200,000 values


def distance(blob, cumulative):
    """Kolmogorov's: the largest difference of the values' distribution from the stated one."""
    ordered = np.sort(blob, axis=None)
    expected = np.array([cumulative(float(x)) for x in ordered])
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())


def uniform(low, high):
    return lambda x: (x - low) / (high - low)


def normal(mean, std):
    return lambda x: (1 + math.erf((x - mean) / (std * math.sqrt(2)))) / 2


@pytest.mark.parametrize(
    "filler, cumulative, mean, variance",
    [
        ('type: "uniform"', uniform(0, 1), 0.5, 1 / 12),
        ('type: "uniform" min: -3 max: -1', uniform(-3, -1), -2, 4 / 12),
        ('type: "gaussian"', normal(0, 1), 0, 1),
        ('type: "gaussian" mean: 2 std: 0.01', normal(2, 0.01), 2, 1e-4),
        # 400 outputs of 500 inputs: variance 1 / n, on +-sqrt(3 / n)
        ('type: "xavier"', uniform(-math.sqrt(3 / 500), math.sqrt(3 / 500)), 0, 1 / 500),
        ('type: "msra"', normal(0, math.sqrt(2 / 500)), 0, 2 / 500),
        ('type: "msra" alpha: 3', normal(0, math.sqrt(2 / 500 / 10)), 0, 2 / 500 / 10),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_distribution(filler, cumulative, mean, variance):
    """Kolmogorov's distance is above 1.95 / sqrt(n) once in 1000 seeds; mean and variance are 4
    standard errors off once in 16,000 (a variance's is at most sqrt(2 / n) of it)."""
    blob = filled(filler, MANY)
    assert distance(blob, cumulative) < 1.95 / math.sqrt(blob.size)
    assert abs(blob.mean(dtype=np.float64) - mean) < 4 * math.sqrt(variance / blob.size)
    assert abs(blob.var(dtype=np.float64) / variance - 1) < 4 * math.sqrt(2 / blob.size)


def test_uniform_stays_within_its_bounds():
    blob = filled('type: "uniform" min: 0.1 max: 0.3', MANY)
    assert np.float32(0.1) <= blob.min() < 0.1001 and 0.2999 < blob.max() <= np.float32(0.3)
    assert set(filled('type: "uniform" min: 2 max: 2', (3,)).tolist()) == {2}


def test_constant():
    np.testing.assert_array_equal(filled("", (2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(filled("value: 0.1", (2, 3)), np.full((2, 3), np.float32(0.1)))
    np.testing.assert_array_equal(filled('type: "constant" value: -2', ()), -2)
    assert np.isnan(filled("value: nan", (1,))).all()
    assert filled("value: 1e60", (1,)) == np.inf


def test_sparse_keeps_a_value_in_so_many():
    """Each is kept with probability 5 / 400: 2,500 of 200,000, give or take 4 sqrt(2,500)."""
    blob = filled('type: "gaussian" std: 2 mean: 1 sparse: 5', MANY)
    kept = blob[blob != 0]
    assert abs(kept.size - 2500) < 4 * math.sqrt(2500)
    assert abs(kept.mean() - 1) < 4 * 2 / math.sqrt(2500)
    assert not filled('type: "gaussian" sparse: 0', MANY).any()
    assert filled('type: "gaussian" sparse: 400', MANY).all()


def test_positive_unitball_divides_each_output_by_its_sum():
    blob = filled('type: "positive_unitball"', (5, 40, 10))
    np.testing.assert_allclose(blob.reshape(5, -1).sum(axis=1), np.ones(5), rtol=1e-6)
    assert blob.min() >= 0
    # The mean of 400 is 1 / 400 and the largest about twice that, each row by itself.
    assert (blob.reshape(5, -1).max(axis=1) > 1.9 / 400).all() and blob.max() < 2.3 / 400


@pytest.mark.parametrize(
    "shape, norm, fan",
    [
        ((40, 10, 5, 3), "", 150),
        ((40, 10, 5, 3), "FAN_IN", 150),
        ((40, 10, 5, 3), "FAN_OUT", 600),
        ((40, 10, 5, 3), "AVERAGE", 375),
        ((300, 20), "FAN_IN", 20),
        ((300, 20), "FAN_OUT", 300),
        ((300, 20), "AVERAGE", 160),
        ((6000,), "FAN_IN", 1),
        ((6000,), "FAN_OUT", 6000),
        ((6000,), "AVERAGE", 3000.5),
        ((40, 10, 5, 3, 2), "FAN_IN", 300),
        ((40, 10, 5, 3, 2), "FAN_OUT", 1200),
    ],
)
def test_fans(shape, norm, fan):
    """The largest of 6,000 or more uniform values is within 1 / 500 of the bound, all but once in
    exp(12) seeds; a normal's variance within 4 standard errors of 2 / n."""
    variance_norm = f"variance_norm: {norm}" if norm else ""
    blob = filled(f'type: "xavier" {variance_norm}', shape)
    bound = np.float32(math.sqrt(3 / fan))
    assert 0.998 * bound < np.abs(blob).max() <= bound
    blob = filled(f'type: "msra" {variance_norm}', shape)
    assert abs(blob.var() * fan / 2 - 1) < 4 * math.sqrt(2 / blob.size)


def test_a_single_value_has_a_fan_of_one():
    """Blob::num() of a blob without axes is 1."""
    found = [filled('type: "xavier"', (), seed=seed).item() for seed in range(50)]
    assert 1 < max(map(abs, found)) <= np.float32(math.sqrt(3))


@pytest.mark.parametrize(
    "size, side",
    [
        (4, [0.25, 0.75, 0.75, 0.25]),  # f = 2, c = 3/4: 1 - |x/2 - 3/4|
        (1, [1]),  # f = 1, c = 0
        (2, [0.5, 0.5]),  # f = 1, c = 1/2
        (3, [0.5, 1, 0.5]),  # f = 2, c = 1/2
        (8, [0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125]),  # f = 4, c = 7/8
    ],
)
def test_bilinear(size, side):
    """The numbers are halves and their like, and so exact."""
    blob = filled('type: "bilinear"', (3, 2, size, size))
    np.testing.assert_array_equal(blob, np.broadcast_to(np.outer(side, side), blob.shape))


def test_bilinear_of_thirds_is_float32s():
    third = np.float32(1) / np.float32(3)  # f = 3, c = 4/6: 1 - |x/3 - 2/3|
    side = 1 - np.abs(np.array([0, third, 2 * third, 1, 4 * third], np.float32) - 2 * third)
    blob = filled('type: "bilinear"', (1, 1, 5, 5))
    np.testing.assert_allclose(blob[0, 0], np.outer(side, side), rtol=0, atol=2**-23)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_bilinear_deconvolution_interpolates(factor):
    """As filler.hpp tells to use it: top j lies at bottom (j + 1/2) / factor - 1/2."""
    param = {
        "num_output": 2,
        "group": 2,
        "kernel_size": [2 * factor - factor % 2],
        "stride": [factor],
        "pad": [math.ceil((factor - 1) / 2)],
        "bias_term": False,
        "weight_filler": {"type": "bilinear"},
    }
    x = values((1, 2, 6, 7))  # x[0, c, i, j] = 42 c + 7 i + j
    _, shapes, _ = infer("Deconvolution", param, [x.shape])
    weights = fillers.fill(layer("Deconvolution", param, 1, 1, ""), shapes, SEED)
    (top,) = run("Deconvolution", param, [x], weights)
    assert top.shape == (1, 2, 6 * factor, 7 * factor)
    row, column = ((np.arange(n * factor) + 0.5) / factor - 0.5 for n in (6, 7))
    channel = np.array([0, 42])[:, None, None]
    inner = slice(factor, -factor)
    np.testing.assert_allclose(
        top[0, :, inner, inner],
        (channel + 7 * row[:, None] + column)[:, inner, inner],
        rtol=1e-5,
    )


def test_diagonal():
    """FlowNet2's filler.hpp: diag_val[n], then 1, over the kernel's 4 values."""
    blob = filled('type: "diagonal" diag_val: 8 diag_val: -2', (4, 3, 2, 2))
    expected = np.zeros((4, 3, 2, 2))
    expected[0, 0], expected[1, 1], expected[2, 2] = 2, -0.5, 0.25
    np.testing.assert_array_equal(blob, expected)
    np.testing.assert_array_equal(filled('type: "diagonal"', (2, 3)), np.eye(2, 3))


# ---- The same values everywhere ------------------------------------------------------------------


@pytest.mark.parametrize(
    "filler, expected",
    [
        ('type: "uniform"', [0.34534928, 0.24642353, 0.8671022, 0.4452434]),
        ('type: "gaussian"', [0.5713762, 1.361007, 0.969644, 0.49598703]),
    ],
)
def test_the_values_are_the_same_on_every_machine(filler, expected):
    """As NumPy 1.24 drew them under Python 3.8."""
    np.testing.assert_array_equal(filled(filler, (4,)), np.array(expected, np.float32))


@pytest.mark.parametrize(
    "filler, digest",
    [
        ('type: "xavier"', "b7ab661e1679a826"),
        ('type: "gaussian" sparse: 100', "683ff1f6fc8699f0"),
        ('type: "positive_unitball"', "471abb08304932a3"),
    ],
)
def test_all_values_are_the_same_on_every_machine(filler, digest):
    drawn = filled(filler, MANY).astype("<f4").tobytes()
    assert hashlib.sha256(drawn).hexdigest()[:16] == digest


@pytest.mark.parametrize("filler", ['type: "uniform"', 'type: "gaussian" sparse: 3'])
def test_the_values_do_not_depend_on_how_many_are_drawn_at_a_time(filler, monkeypatch):
    at_once = filled(filler, (5, 11))
    monkeypatch.setattr(fillers, "PART", 7)
    np.testing.assert_array_equal(filled(filler, (5, 11)), at_once)


def test_each_blob_has_values_of_its_own():
    """By seed, by the layer's name and by the blob's place, whatever else there is."""
    random = {"type": "gaussian"}
    param = {"num_output": 4, "weight_filler": random, "bias_filler": random}
    of = layer("InnerProduct", param, 1, 1, "")
    both = fillers.fill(of, [(4, 4), (4, 4)], SEED)
    alone = fillers.fill(of, [(4, 4)], SEED)
    np.testing.assert_array_equal(both[0], alone[0])
    draws = [*both, *(filled('type: "gaussian"', (4, 4), *own) for own in (("l", 8), ("m", 7)))]
    assert len({draw.tobytes() for draw in draws}) == 4
    names = ["a", "b", "ä", '"', "a/0", "\ud800"]
    drawn = [fillers.fill(replace(of, name=name), [(4, 4)], SEED)[0] for name in names]
    assert len({draw.tobytes() for draw in drawn}) == len(names)


# ---- From a net without weights ------------------------------------------------------------------


def test_a_net_without_weights_computes():
    built = prototxts.build(
        prototxts.inputs(data=(2, 3, 12, 12)),
        prototxts.layer(
            "Convolution",
            "data",
            "conv",
            "convolution_param { num_output: 8 kernel_size: 3 "
            'weight_filler { type: "msra" } bias_filler { value: 0.1 } }',
        ),
        prototxts.layer("BatchNorm", "conv", "norm"),
        prototxts.layer("Scale", "norm", "scaled", "scale_param { bias_term: true }"),
        prototxts.layer("PReLU", "scaled", "relu"),
        prototxts.layer(
            "InnerProduct",
            "relu",
            "out",
            'inner_product_param { num_output: 5 weight_filler { type: "xavier" } }',
        ),
    )
    weights = {
        f"{of.name}/{place}": blob
        for of in built.net.layers
        for place, blob in enumerate(fillers.fill(of, built.weight_shapes.get(of.name, []), SEED))
    }
    blobs = reference.forward(built.net, weights, prototxts.seeded(built.net))
    # BatchNorm's factor of 0 makes mean and variance 0: x / sqrt(1e-5).
    np.testing.assert_allclose(blobs["norm"], blobs["conv"] / math.sqrt(1e-5), rtol=1e-5)
    np.testing.assert_array_equal(blobs["scaled"], blobs["norm"])
    assert np.isfinite(blobs["out"]).all() and blobs["out"].std() > 1


def test_a_number_is_a_filler_too():
    scale = {"global_scale": True, "init_global_scale": 2.5}
    of = layer("ChannelScale", scale, 2, 1, "happynear")
    assert fillers.fill(of, [(1,)], SEED)[0].tolist() == [2.5]


# ---- Refusals ------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_schema():
    fields = descriptors.message("FillerParameter").fields
    schema = {
        field.name: field.enum_type.values_by_number[field.default_value].name
        if field.enum_type
        else ()
        if descriptors.is_repeated(field)
        else field.default_value
        for field in fields
    }
    assert schema.pop("scale") == 1  # Intel's, which no filler of theirs that is known reads
    assert schema == fillers.DEFAULTS


@pytest.mark.parametrize(
    "filler, shape, error, said",
    [
        (
            'type: "orthogonal"',
            (2, 2),
            UnsupportedModel,
            "'orthogonal' is not supported; supp.*msra",
        ),
        ("scale: 2", (2, 2), UnsupportedModel, "scale is set but not understood"),
        ('type: "xavier" sparse: 1', (2, 2), MalformedModel, "sparse is for type gaussian"),
        (
            'type: "gaussian" sparse: -2',
            (2, 2),
            MalformedModel,
            "sparse should be 0 to .* found -2",
        ),
        ('type: "gaussian" sparse: 3', (2, 2), MalformedModel, r"found 3 and shape \[2, 2\]"),
        ('type: "gaussian" sparse: 0', (), MalformedModel, r"found 0 and shape \[\]"),
        ('type: "gaussian" std: 0', (2, 2), MalformedModel, "std should be positive, .* std 0"),
        ('type: "gaussian" std: -1', (2, 2), MalformedModel, "std should be positive, .* std -1"),
        ('type: "gaussian" std: nan', (2, 2), MalformedModel, "std nan"),
        ('type: "gaussian" mean: inf', (2, 2), MalformedModel, "mean inf"),
        ('type: "msra" alpha: inf', (2, 2), MalformedModel, "std should be positive"),
        ('type: "uniform" min: 2', (2, 2), MalformedModel, "min should be at most max, found 2"),
        ('type: "uniform" max: inf', (2, 2), MalformedModel, "0 and inf"),
        ('type: "uniform" min: nan', (2, 2), MalformedModel, "nan and 1"),
        ('type: "bilinear"', (2, 2), MalformedModel, r"square kernels, found shape \[2, 2\]"),
        ('type: "bilinear"', (1, 1, 4, 3), MalformedModel, r"found shape \[1, 1, 4, 3\]"),
        ('type: "diagonal"', (1, 1, 1, 2, 2), MalformedModel, "up to 4 axes"),
    ],
)
def test_refused(filler, shape, error, said):
    with pytest.raises(error, match=f"^layer 'l' .Parameter, line 2.: blob_filler: .*{said}"):
        filled(filler, shape)


@pytest.mark.parametrize("written", ["msra", None, [1, 2, 3], {"value": "x"}, {"type": []}])
def test_what_is_no_filler_is_refused(written):
    """The reader lets none of these through."""
    of = layer("PReLU", {"filler": written}, 1, 1, "")
    with pytest.raises(MalformedModel):
        fillers.fill(of, [(2,)], SEED)
