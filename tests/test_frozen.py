"""model.pb: what readers of TensorFlow 1 find in it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tensorflow as tf

from stage_build import verify
from stage_build.artefacts import frozen, models
from stage_build.artefacts.served import serve
from stage_build.delivery import Delivery
from tests import nets

CONVOLUTION = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 %s }"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes model.pb for a net of these layers: (its content, the folder)."""

    def write(*layers, **inputs):
        content = nets.net(nets.inputs(**inputs), *layers)
        folder = nets.package(content, tmp_path_factory.mktemp("net") / "net_tf")
        with models.imported(folder) as package:
            frozen.write(folder, serve(package.load()), Delivery(("class", "pb")))
        return content, folder

    return write


def read(folder):
    return tf.compat.v1.GraphDef.FromString((folder / frozen.FILE).read_bytes())


def check(content, folder):
    """Every output, by the recorded reference; two samples were recorded."""
    recorded = content.reference
    want = {key: recorded.blobs[key] for key in content.net.outputs}
    outcome = verify.check(content.net, frozen.FrozenRunner(folder), recorded.inputs, want, 1e-5)
    assert outcome.passed, outcome.first_failure


@pytest.fixture(scope="module")
def small(written):
    """Batch 2, a grouped convolution, a slope that is no default, a softmax."""
    return written(
        nets.layer("Convolution", "data", "conv/a", CONVOLUTION % "group: 2"),
        nets.layer("ReLU", "conv/a", "conv/a", "relu_param { negative_slope: 0.1 }", "relu"),
        nets.layer("InnerProduct", "conv/a", "fc", "inner_product_param { num_output: 5 }"),
        nets.layer("Softmax", "fc", "prob/out"),
        data=(2, 6, 7, 9),
    )


def test_it_computes_what_the_net_does(small):
    check(*small)


def test_it_takes_any_batch(small):
    content, folder = small
    runner, (image,) = frozen.FrozenRunner(folder), content.reference.inputs.values()
    three = runner({"data": np.concatenate([image, image[:1]])}, ["prob/out"])["prob/out"]
    np.testing.assert_allclose(three[2], content.reference.blobs["prob/out"][0], atol=1e-6)


def test_nodes_are_named_after_blobs(small):
    graph = read(small[1])
    placeholders = [node.name for node in graph.node if node.op == "Placeholder"]
    outside = [node.name for node in graph.node if not node.name.startswith(frozen.INSIDE)]
    assert placeholders == ["data"]
    assert sorted(outside) == ["data", "prob_out"]
    assert [node.op for node in graph.node if node.name == "prob_out"] == ["Softmax"]


def test_there_are_constants_and_plain_operations_alone(small):
    graph = read(small[1])
    operations = {node.op for node in graph.node}
    assert {"Conv2D", "BiasAdd", "MatMul", "Softmax"} <= operations
    assert not {name for name in operations if name.startswith("_") or "Call" in name}
    assert not operations & {"VarHandleOp", "ReadVariableOp", "NoOp", "_FusedConv2D"}
    assert not graph.library.function
    assert not [node.name for node in graph.node if node.device]
    assert not [name for node in graph.node for name in node.attr if name.startswith("_")]
    assert graph.versions.producer > 0
    assert graph.versions.min_consumer == 0


def test_defaults_are_left_out(small):
    """Readers of TensorFlow 1.4 do not know the attribute `explicit_paddings`."""
    (convolution,) = (node for node in read(small[1]).node if node.op == "Conv2D")
    assert set(convolution.attr) == {"T", "padding", "strides"}


def test_what_constants_make_is_a_constant(small):
    """Keras reshapes a bias."""
    nodes = {node.name: node for node in read(small[1]).node}
    biases = [nodes[node.input[1]].op for node in nodes.values() if node.op == "BiasAdd"]
    assert biases == ["Const", "Const"]


def test_opencv_reads_images_through_to_images(written):
    content, folder = written(
        nets.layer("Convolution", "data", "conv", CONVOLUTION % ""),
        nets.layer("ReLU", "conv", "conv", "relu_param { negative_slope: 0.1 }", "relu"),
        nets.layer("Pooling", "conv", "pool", "pooling_param { kernel_size: 2 stride: 2 }"),
        nets.layer("Convolution", "pool", "score", CONVOLUTION % ""),
        data=(2, 3, 8, 10),
    )
    reader = cv2.dnn.readNetFromTensorflow(str(folder / frozen.FILE))
    reader.setInput(content.reference.inputs["data"])
    np.testing.assert_allclose(
        reader.forward(), content.reference.blobs["score"], rtol=1e-4, atol=1e-4
    )


def test_an_output_that_is_named_as_an_input(written):
    content, folder = written(nets.layer("TanH", "net", "net"), net=(2, 3, 5, 7))
    check(content, folder)
    assert frozen.node_names(["net"], ["net", "prob"]) == {"net": "net__out", "prob": "prob"}
    assert {"net", "net__out"} <= {node.name for node in read(folder).node}


def test_several_inputs_and_outputs_keep_their_names(written):
    content, folder = written(
        nets.layer("Eltwise", "zebra apple", "sum"),
        nets.layer("TanH", "apple", "curve"),
        nets.layer("Slice", "sum", "left right", "slice_param { axis: 3 slice_point: 2 }"),
        zebra=(2, 3, 5, 7),
        apple=(2, 3, 5, 7),
    )
    check(content, folder)
    named = {node.name for node in read(folder).node if frozen.INSIDE not in node.name}
    assert named == {"zebra", "apple", "left", "right", "curve"}


@pytest.mark.slow
def test_loops_are_the_operations_of_tensorflow_1(written):
    content, folder = written(
        nets.layer("LSTM", "x cont", "out", "recurrent_param { num_output: 4 }"),
        x=(5, 2, 3),
        cont=(5, 2),
    )
    check(content, folder)
    graph = read(folder)
    assert {"Enter", "Exit", "NextIteration"} <= {node.op for node in graph.node}
    assert not graph.library.function
