"""The net as it is served: what TensorFlow runs of it, and what it holds as constants."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.util import _pywrap_util_port

from stage_build import passes, verify
from stage_build.artefacts import models, served
from stage_build.layout import Door
from tests import nets

CONVOLUTION = "convolution_param { num_output: 6 kernel_size: 3 %s }"
FUSED = {"_FusedConv2D", "_FusedDepthwiseConv2dNative", "_FusedMatMul"}
# What moves data about, or was to be computed together with what comes before it.
LEFT = {"Transpose", "ConcatV2", "Split", "BiasAdd", "Relu", "AddV2", "Mul", "Conv2D", "MatMul"}

RELU = nets.layer("ReLU", "conv", "conv", name="relu")


def convolution(bottom="data", top="conv", more=""):
    return nets.layer("Convolution", bottom, top, CONVOLUTION % more)


NORMALISED = (
    convolution(more="pad: 1 stride: 2"),
    nets.layer("BatchNorm", "conv", "norm", "batch_norm_param { eps: 0.01 }"),
    nets.layer("Scale", "norm", "scale", "scale_param { bias_term: true }"),
    nets.layer("ReLU", "scale", "scale", name="relu"),
)
RESIDUAL = (
    convolution("data", "first", "pad: 1"),
    nets.layer("ReLU", "first", "first", name="relu_first"),
    convolution("first", "conv", "pad: 1"),
    nets.layer("Eltwise", "conv first", "sum"),
    nets.layer("ReLU", "sum", "sum", name="relu"),
)
DENSE = nets.layer("InnerProduct", "data", "conv", "inner_product_param { num_output: 5 }")
POOLED = nets.layer("Pooling", "conv", "pool", "pooling_param { kernel_size: 3 stride: 2 }")

BIAS_RELU = ("BiasAdd", "Relu")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The class of the folded net of these layers, over 6 channels: (its content, it)."""

    def load(*layers):
        content = nets.net(nets.inputs(data=(2, 6, 10, 14)), *layers)
        net, weights = passes.folded(content.net, content.weights)
        content = replace(content, net=net, weights=weights)
        with models.imported(nets.package(content, tmp_path_factory.mktemp("net") / "n")) as made:
            return content, made.load()

    return load


def check(content, network, made):
    """Every output, by the recorded reference."""

    def run(inputs, keys):
        door = Door.of(network.names)
        fed = {network.names["inputs"][k]: tf.constant(door.feed(v)) for k, v in inputs.items()}
        results = made.function(**fed)
        return {key: door.given(results[network.names["outputs"][key]].numpy()) for key in keys}

    recorded = content.reference
    want = {key: recorded.blobs[key] for key in content.net.outputs}
    outcome = verify.check(content.net, run, recorded.inputs, want, 1e-5)
    assert outcome.passed, outcome.first_failure


def optimised(made):
    """The nodes that TensorFlow runs, before oneDNN's names for them; of a function that has not
    run yet."""
    context.enable_graph_collection()
    try:
        specs = made.function.structured_input_signature[1]
        made.function(**{name: tf.zeros([2, *spec.shape[1:]]) for name, spec in specs.items()})
        graphs = context.export_run_metadata().function_graphs
    finally:
        context.disable_graph_collection()
    return [node for graph in graphs for node in graph.post_optimization_graph.node]


@pytest.mark.slow
@pytest.mark.skipif(not _pywrap_util_port.IsMklEnabled(), reason="oneDNN fuses, and is off here")
@pytest.mark.parametrize(
    ("layers", "operation", "fused", "others"),
    [
        (NORMALISED, "_FusedConv2D", [BIAS_RELU], {"Pad": 1}),
        ((convolution(more="group: 2"), RELU), "_FusedConv2D", [BIAS_RELU], {}),
        (RESIDUAL, "_FusedConv2D", [BIAS_RELU, ("BiasAdd", "Add", "Relu")], {}),
        (
            (convolution(more="group: 6 pad: 1"), RELU),
            "_FusedDepthwiseConv2dNative",
            [BIAS_RELU],
            {},
        ),
        ((convolution(more="group: 6 pad: 1 stride: 2"), RELU), "_FusedConv2D", [BIAS_RELU], {}),
        ((DENSE, RELU), "_FusedMatMul", [BIAS_RELU], {}),
        ((convolution(), RELU, POOLED), "_FusedConv2D", [BIAS_RELU], {"MaxPool": 1}),
    ],
    ids=[
        "convolution-norm-scale-relu",
        "groups",
        "residual",
        "depthwise",
        "depthwise-padded",
        "inner-product",
        "pooling",
    ],
)
def test_bias_sum_and_relu_are_one_with_what_comes_before(
    network, layers, operation, fused, others
):
    content, loaded = network(*layers)
    made = served.serve(loaded, served.padded_depthwise(loaded.model))
    nodes = optimised(made)
    got = [
        (n.op, tuple(part.decode() for part in n.attr["fused_ops"].list.s))
        for n in nodes
        if n.op in FUSED
    ]
    assert sorted(got) == sorted((operation, parts) for parts in fused)
    count = Counter(node.op for node in nodes)
    assert not LEFT & set(count)
    # oneDNN takes a Pad into the convolution after it.
    assert {op: count[op] for op in ("Pad", "MaxPool") if count[op]} == others
    check(content, loaded, made)


@pytest.mark.parametrize(
    ("limit", "read"),
    [(10**9, {(6, 5)}), (0, {(6, 5), (5,), (3, 3, 6, 6), (6,)})],
    ids=["small", "large"],
)
def test_all_weights_but_matrices_are_constants_up_to_a_limit(network, monkeypatch, limit, read):
    content, loaded = network(
        convolution(),
        nets.layer("Pooling", "conv", "pool", "pooling_param { pool: AVE global_pooling: true }"),
        nets.layer("InnerProduct", "pool", "fc", "inner_product_param { num_output: 5 }"),
    )
    monkeypatch.setattr(served, "LARGE", limit)
    made = served.serve(loaded)
    assert {tuple(variable.shape) for variable in made.module.variables} == read
    check(content, loaded, made)


def test_depthwise_layers_are_as_before_when_they_have_been_served_in_groups(network):
    content, loaded = network(convolution(more="group: 6 pad: 1 stride: 2"), RELU)
    image = np.random.default_rng(3).standard_normal((2, 10, 14, 6)).astype(np.float32)
    before = loaded(image)["conv"].numpy()
    pairs = served.padded_depthwise(loaded.model)
    assert [layer.name for pair in pairs for layer in pair] == ["conv__pad", "conv"]
    made = served.serve(loaded, pairs)
    operations = {operation.type for operation in made.function.graph.get_operations()}
    assert "Conv2D" in operations and not {"Pad", "DepthwiseConv2dNative"} & operations
    np.testing.assert_array_equal(loaded(image)["conv"], before)
    check(content, loaded, made)
