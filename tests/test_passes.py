"""Rewrites of the net for serving: the same outputs by NumPy, with fewer layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import UnsupportedModel, UsageError
from stage_build import passes
from stage_build.lowering.registry import lower
from stage_build.verify import compare
from stage_extract import reference
from tests import nets

IMAGE = nets.inputs(data=(2, 3, 11, 13))


def convolution(bottom="data", top="conv", bias="true", group=1, more=""):
    return nets.layer(
        "Convolution",
        bottom,
        top,
        f"convolution_param {{ num_output: 6 kernel_size: 3 group: {group} bias_term: {bias} "
        f"{more} }}",
    )


DECONVOLUTION = nets.layer(
    "Deconvolution",
    "data",
    "conv",
    "convolution_param { num_output: 6 kernel_size: 2 stride: 2 group: 3 }",
)
DENSE = nets.layer("InnerProduct", "data", "conv", "inner_product_param { num_output: 6 }")
TURNED = DENSE.replace("num_output: 6", "num_output: 6 transpose: true bias_term: false")
NORM = nets.layer("BatchNorm", "conv", "norm", "batch_norm_param { eps: 0.01 }")
SCALE = nets.layer("Scale", "norm", "scale", "scale_param { bias_term: true }")
ALONE = nets.layer("Scale", "conv", "scale")
BIAS = nets.layer("Bias", "conv", "scale")


def types(net):
    return [layer.type for layer in net.layers]


def check_same(content, net, weights):
    """The outputs of the rewritten net, which must stand the checks of any other, are the same."""
    lower(net, weights)
    got = reference.forward(net, weights, content.reference.inputs)
    assert net.outputs == content.net.outputs
    for key in net.outputs:
        compared = compare(key, got[key], content.reference.blobs[key], 1e-5)
        assert compared.passed, compared


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ((convolution(), NORM, SCALE), ["Convolution"]),
        ((convolution(bias="false"), NORM, SCALE), ["Convolution"]),
        ((convolution(group=3), NORM), ["Convolution"]),
        ((convolution(), ALONE), ["Convolution"]),
        ((convolution(), BIAS), ["Convolution"]),
        ((DECONVOLUTION, NORM, SCALE), ["Deconvolution"]),
        ((DENSE, NORM, SCALE), ["InnerProduct"]),
        ((TURNED, NORM), ["InnerProduct"]),
        ((convolution(more="relu: true"), NORM), ["Convolution", "BatchNorm"]),
        ((convolution(), nets.layer("ReLU", "conv", "conv"), NORM), None),
        ((nets.layer("BatchNorm", "data", "norm"), SCALE), None),
    ],
    ids=[
        "norm-and-scale",
        "without-bias",
        "groups",
        "scale",
        "bias",
        "deconvolution-in-groups",
        "inner-product",
        "transposed",
        "relu-within",
        "relu-between",
        "nothing-before",
    ],
)
def test_scales_are_folded_into_the_weights_before_them(text, left):
    content = nets.net(IMAGE, *text)
    net, weights = passes.folded(content.net, content.weights)
    assert types(net) == (left or types(content.net))
    check_same(content, net, weights)


def test_what_is_read_elsewhere_stays():
    content = nets.net(IMAGE, convolution(), NORM, nets.layer("ReLU", "conv", "other"))
    net, _ = passes.folded(content.net, content.weights)
    assert net == content.net


def test_an_output_stays():
    content = nets.net(IMAGE, convolution(), NORM, outputs=("conv", "norm"))
    net, weights = passes.folded(content.net, content.weights)
    assert types(net) == types(content.net)
    check_same(content, net, weights)


def test_shared_weights_are_folded_for_one_layer_alone():
    shared = 'param { name: "w" } param { name: "b" }'
    texts = [
        convolution(top=top).rstrip().removesuffix("}") + shared + "}" for top in ("conv", "twin")
    ]
    content = nets.net(IMAGE, *texts, NORM)
    assert content.net.layers[0].weights == content.net.layers[1].weights
    net, weights = passes.folded(content.net, content.weights)
    assert types(net) == ["Convolution", "Convolution"]
    check_same(content, net, weights)


@pytest.mark.parametrize("text", [convolution(), DENSE, TURNED], ids=["conv", "dense", "turned"])
def test_channels_are_reversed_in_the_first_weights(text):
    content = nets.net(IMAGE, text)
    net, weights = passes.reversed_channels(content.net, content.weights)
    recorded = content.reference
    flipped = {key: value[:, ::-1] for key, value in recorded.inputs.items()}
    check_same(replace(content, reference=replace(recorded, inputs=flipped)), net, weights)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ((IMAGE, convolution(group=3)), r"layer 'conv' \(Convolution, line \d+\)"),
        ((IMAGE, convolution(), nets.layer("BatchNorm", "data", "norm")), "layer 'norm'"),
    ],
    ids=["groups", "another-reader"],
)
def test_channels_that_no_weights_can_reverse_are_refused(text, named):
    content = nets.net(*text, record=False)
    with pytest.raises(UnsupportedModel, match=f"--swap-rgb: .*{named}"):
        passes.reversed_channels(content.net, content.weights)


def test_gray_images_have_no_channels_to_reverse():
    content = nets.net(nets.inputs(data=(2, 1, 11, 13)), convolution(), record=False)
    with pytest.raises(UsageError, match="--swap-rgb: no input has three channels"):
        passes.reversed_channels(content.net, content.weights)


def test_new_weights_are_not_read_for_their_shape():
    changed = passes.Changed({"a": np.zeros((2, 3))}, {"b": np.ones(5)})
    assert [changed.shape(key) for key in changed] == [(2, 3), (5,)]
    assert len(changed) == 2
