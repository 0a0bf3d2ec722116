"""The generated package: what is printed, that it says no more than it should, and that it runs."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from schemas.interchange import Interchange, Source
from stage_build import caffe_layers, printing, verify, weights_npz
from stage_build.artefacts import models
from stage_build.delivery import Delivery
from stage_build.lowering.registry import lower
from stage_build.printing import literal
from tests import nets

CONV = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"
FILES = ("__init__.py", "__main__.py", "model.py", "caffe_layers.py", "names.json")

RUFF = importlib.util.find_spec("ruff") is not None


def run_ruff(folder):
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select=E,F"]
        + ["--line-length", str(printing.WIDTH), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def check_package(folder):
    """What holds for every package: it parses, its lines are short, ruff finds nothing."""
    for file in folder.glob("*.py"):
        text = file.read_text("ascii")
        ast.parse(text)
        long = [line for line in text.splitlines() if len(line) > printing.WIDTH]
        assert not long, (file.name, long)
        assert not [line for line in text.splitlines() if line != line.rstrip()], file.name
        assert text.endswith("\n") and not text.endswith("\n\n")
    if RUFF:
        run_ruff(folder)


def check_numbers(content, folder, tolerance=1e-5):
    """Every blob of the class is what the NumPy forward pass gave; returns the network."""
    network = models.import_package(folder).load()
    runner = models.KerasRunner(network.model, network.names)
    recorded = content.reference
    outcome = verify.check(content.net, runner, recorded.inputs, recorded.blobs, tolerance)
    assert outcome.first_failure is None
    assert len(outcome.compared) == len(content.net.blobs)
    return network


def graph_of(folder):
    """The statements of the generated class's graph method."""
    tree = ast.parse((folder / "model.py").read_text())
    (class_,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    (method,) = (node for node in class_.body if isinstance(node, ast.FunctionDef))
    assert method.name == "graph"
    return [ast.unparse(statement) for statement in method.body]


LENET = (
    nets.inputs(data=(2, 3, 10, 12)),
    nets.layer("Convolution", "data", "conv1", CONV),
    nets.layer("ReLU", "conv1", "conv1", name="relu1"),
    nets.layer("Pooling", "conv1", "pool1", "pooling_param { kernel_size: 2 stride: 2 }"),
    nets.layer("InnerProduct", "pool1", "ip1", "inner_product_param { num_output: 5 }"),
    nets.layer("Softmax", "ip1", "prob"),
)


# What is printed


@pytest.mark.parametrize(
    ("filled", "said"),
    [
        ((), "(sha256 01234567)."),
        (("conv1/0",), "(sha256 01234567); untrained in part: weights come from fillers, see "),
        (("conv1/0", "conv1/1", "ip1/0", "ip1/1"), "(sha256 01234567); untrained: weights come "),
    ],
    ids=["trained", "in part", "untrained"],
)
def test_a_class_says_whether_it_was_trained(filled, said, tmp_path):
    content = dataclasses.replace(nets.net(*LENET, name="LeNet"), filled=filled)
    folder = nets.package(content, tmp_path)
    for file in ("model.py", "__init__.py"):
        text = " ".join((folder / file).read_text().split())
        assert said in text


def test_the_class_reads_like_the_net(tmp_path):
    content = nets.net(*LENET, name="LeNet")
    folder = nets.package(content, tmp_path)
    assert (
        (folder / "model.py").read_text()
        == '''"""LeNet, converted from net.prototxt (sha256 01234567)."""

from .caffe_layers import Network


class LeNet(Network):
    """data (N, 10, 12, 3) float32 -> prob (N, 5)."""

    inputs = {"data": (None, 10, 12, 3)}

    def graph(self, data):
        conv1 = self.convolution(data, 4, kernel=3, pad=1, name="conv1")
        conv1 = self.relu(conv1, name="relu1")
        pool1 = self.pooling(conv1, "max", kernel=2, stride=2, name="pool1")
        ip1 = self.inner_product(pool1, 5, name="ip1")
        prob = self.softmax(ip1, name="prob")
        return {"prob": prob}
'''
    )
    check_package(folder)
    network = check_numbers(content, folder)
    assert type(network).__name__ == "LeNet"
    assert network.model.name == "LeNet"


@pytest.mark.skipif(not RUFF, reason="ruff is not installed")
def test_ruff_finds_nothing_and_would_find_something(tmp_path):
    folder = nets.package(nets.net(*LENET), tmp_path)
    run_ruff(folder)
    (folder / "more.py").write_text("import os\n")
    with pytest.raises(AssertionError, match="F401"):
        run_ruff(folder)


def test_arguments_that_equal_the_defaults_are_left_out(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 10, 12)),
        nets.layer("ReLU", "data", "a", "relu_param { negative_slope: 0 }"),
        nets.layer("ReLU", "data", "b", "relu_param { negative_slope: 0.1 }"),
        nets.layer("LRN", "data", "c", "lrn_param { local_size: 5 alpha: 1 beta: 0.75 k: 1 }"),
        nets.layer("LRN", "data", "d", "lrn_param { local_size: 3 alpha: 1e-4 }"),
    )
    assert graph_of(nets.package(content, tmp_path))[:4] == [
        "a = self.relu(data, name='a')",
        "b = self.relu(data, slope=0.1, name='b')",
        "c = self.lrn(data, name='c')",
        "d = self.lrn(data, size=3, alpha=0.0001, name='d')",
    ]


def test_each_layer_is_one_statement(tmp_path):
    content = nets.net(
        *LENET,
        nets.layer("Slice", "conv1", "s0 s1 s2", "slice_param { slice_point: [1, 3] }"),
        nets.layer("Split", "s0", "t0 t1"),
        nets.layer("Concat", "t0 s1 t1", "joined"),
    )
    statements = graph_of(nets.package(content, tmp_path))
    assert len(statements) == len(content.net.layers) + 1
    assert statements[-4:-1] == [
        "s0, s1, s2 = self.slice(conv1, [1, 3], name='s0')",
        "t0, t1 = self.split(s0, 2)",
        "joined = self.concat([t0, s1, t1], name='joined')",
    ]
    check_numbers(content, tmp_path)


def test_an_overwritten_blob_keeps_its_variable_where_nobody_looks_back(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Convolution", "data", "x", CONV),
        nets.layer("ReLU", "x", "x", name="relu"),
        nets.layer("Power", "x", "x", "power_param { shift: 2 }", name="shift"),
    )
    folder = nets.package(content, tmp_path)
    assert graph_of(folder) == [
        "x = self.convolution(data, 4, kernel=3, pad=1, name='x')",
        "x = self.relu(x, name='relu')",
        "x = self.power(x, shift=2.0, name='shift')",
        "return {'x': x}",
    ]
    network = check_numbers(content, folder)
    assert sorted(network.names["blobs"]) == ["data", "x", "x@relu", "x@x"]


def test_a_value_that_is_read_after_it_is_overwritten_has_a_variable_of_its_own(tmp_path):
    """Split makes copies in the graph, so that the first value lives on beside the second."""
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Convolution", "data", "x", CONV),
        nets.layer("Power", "x", "y", "power_param { scale: 3 }"),
        nets.layer("Power", "x", "x", "power_param { shift: 2 }", name="shift"),
        nets.layer("Eltwise", "x y", "sum"),
    )
    folder = nets.package(content, tmp_path)
    assert graph_of(folder)[2] == "x = self.power(x, shift=2.0, name='shift')"
    check_numbers(content, folder)
    # The same layers, read in another order: y now comes of the first value after it is gone.
    net = content.net
    first, y, second, total = net.layers
    late = Interchange(
        type(net)(
            net.name, (first, second, y, total), net.blobs, net.names, net.inputs, net.outputs
        ),
        content.weights,
        reference=content.reference,
    )
    folder = nets.package(late, tmp_path / "late")
    assert graph_of(folder)[1:4] == [
        "x_2 = self.power(x, shift=2.0, name='shift')",
        "y = self.power(x, scale=3.0, name='y')",
        "sum = self.eltwise([x_2, y], 'sum', name='sum')",
    ]
    check_numbers(late, folder)


def test_an_overwritten_input_keeps_its_own_variable(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Power", "data", "data", "power_param { scale: 0.5 }", name="half"),
        nets.layer("AbsVal", "data", "data", name="abs"),
    )
    folder = nets.package(content, tmp_path)
    assert graph_of(folder)[:2] == [
        "data_2 = self.power(data, scale=0.5, name='half')",
        "data_2 = self.abs_val(data_2, name='abs')",
    ]
    check_numbers(content, folder)


def test_an_output_is_not_overwritten(tmp_path):
    """`x` is an output and so is what an in-place layer makes of its second name."""
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Convolution", "data", "x", CONV),
        nets.layer("Flatten", "x", "flat"),
        nets.layer("ReLU", "flat", "flat", name="relu"),
        nets.layer("Sigmoid", "x", "y"),
    )
    check_numbers(content, nets.package(content, tmp_path))


def test_an_output_that_is_overwritten_keeps_its_variable(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Convolution", "data", "x", CONV),
        nets.layer("ReLU", "x", "x", name="relu"),
    )
    net = dataclasses.replace(content.net, outputs=("x", "x@x"))
    content = dataclasses.replace(content, net=net)
    folder = nets.package(content, tmp_path)
    assert graph_of(folder)[1:] == [
        "x_2 = self.relu(x, name='relu')",
        "return {'x': x_2, 'x_2': x}",
    ]
    network = check_numbers(content, folder)
    data = content.reference.inputs["data"].transpose(0, 2, 3, 1)
    for name, key in (("x", "x"), ("x_2", "x@x")):
        got = network(data)[name].numpy().transpose(0, 3, 1, 2)
        np.testing.assert_allclose(got, content.reference.blobs[key], rtol=1e-4, atol=1e-5)


def test_a_net_of_nothing_but_its_input(tmp_path):
    content = nets.net(nets.inputs(data=(2, 3, 5, 7)), nets.layer("Split", "data", "a b"))
    folder = nets.package(content, tmp_path)
    check_package(folder)
    check_numbers(content, folder)


def test_a_layer_half_of_which_is_cut_away(tmp_path):
    """--outputs keeps a layer whole: the top that leads nowhere is no part of the Keras model."""
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Slice", "data", "a b c"),
        nets.layer("ReLU", "b", "d"),
        outputs=["d"],
    )
    network = models.import_package(nets.package(content, tmp_path)).load()
    assert list(network.model.output) == ["d"]
    assert set(network.names["blobs"]) == {"data", "b", "d"}


def test_a_fixed_batch_is_printed_as_it_is(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Concat", "data data", "x", "concat_param { axis: 0 }"),
    )
    folder = nets.package(content, tmp_path)
    text = (folder / "model.py").read_text()
    assert 'inputs = {"data": (2, 5, 7, 3)}' in text
    assert "data (2, 5, 7, 3) float32 -> x (4, 5, 7, 3)." in text
    check_numbers(content, folder)


def test_an_axis_that_the_data_size_is_called_rows(tmp_path):
    content = nets.net(
        nets.inputs(data=(4, 3, 5, 7), keep=(4, 1)),
        nets.layer("Filter", "data keep", "kept"),
        given={"keep": np.array([[1], [0], [1], [1]], np.float32)},
    )
    text = (nets.package(content, tmp_path) / "model.py").read_text()
    assert "data (4, 5, 7, 3), keep (4, 1) float32 -> kept (rows, 5, 7, 3)." in text


# Long lines

LONG = "a_long_name_" * 10


def test_what_has_brackets_of_its_own_is_given_a_line():
    rows = [[float(row), 1.5, -2.0] for row in range(7)]
    nested = f"anchors={literal([rows[:2], rows])}"
    assert printing.wrapped_call("    x = f(", ["a", "(b, c)", nested], ")") == [
        "    x = f(",
        "        a,",
        "        (b, c),",
        "        anchors=[",
        "            [[0.0, 1.5, -2.0], [1.0, 1.5, -2.0]],",
        "            [",
        *(f"                {literal(row)}," for row in rows),
        "            ],",
        "        ],",
        "    )",
    ]


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(
            [nets.layer("Slice", "data", [f"{LONG}{i}" for i in range(12)], name=LONG)],
            id="many-tops",
        ),
        pytest.param(
            [nets.layer("Split", "data", [f"{LONG}{i}" for i in range(12)], name=LONG)],
            id="many-copies",
        ),
        pytest.param(
            [
                nets.layer("Slice", "data", [f"t{i}" for i in range(12)], name="slice"),
                nets.layer("Concat", [f"t{i}" for i in range(12)] * 4, LONG, name=LONG),
            ],
            id="many-bottoms",
        ),
        pytest.param(
            [
                nets.layer("Sigmoid", "data", LONG + "1", name=LONG + "1"),
                nets.layer("Sigmoid", LONG + "1", LONG + "2", name=LONG + "2"),
                nets.layer("Eltwise", [LONG + "1", LONG + "2"], LONG + "3", name=LONG + "3"),
            ],
            id="long-names",
        ),
        pytest.param(
            [
                nets.layer("Concat", "data", "1" + LONG, name=LONG),
                nets.layer("Concat", ["1" + LONG], "2" + LONG, name=LONG + "2"),
                nets.layer("ReLU", ["2" + LONG], "3" + LONG, name=LONG + "3"),
            ],
            id="long-aliases",
        ),
        pytest.param(
            [
                nets.layer(
                    "Convolution",
                    "data",
                    "1" + LONG,
                    "convolution_param { num_output: 12 kernel_h: 3 kernel_w: 2 pad_h: 2 pad_w: 1 "
                    "group: 12 dilation: 2 dilation: 3 bias_term: false }",
                    name="1" + LONG,
                ),
                nets.layer(
                    "LRN",
                    ["1" + LONG],
                    "2" + LONG,
                    "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 1e-9 }",
                    name="2" + LONG,
                ),
            ],
            id="long-methods",
        ),
        pytest.param(
            [
                nets.layer(
                    "Eltwise",
                    ["data"] * 30,
                    "sum",
                    "eltwise_param { "
                    + " ".join(f"coeff: {0.123456 + i}" for i in range(30))
                    + " }",
                )
            ],
            id="many-coefficients",
        ),
        pytest.param(
            [nets.layer("Power", "data", f"{LONG}{i}", name=f"{i}{LONG}") for i in range(9)],
            id="many-outputs",
        ),
        pytest.param([nets.layer("ReLU", "data", "x", name=LONG)], id="long-layer-name"),
    ],
)
def test_long_lines_are_wrapped(tmp_path, layers):
    content = nets.net(nets.inputs(data=(2, 12, 7, 8)), *layers, name=LONG)
    content = Interchange(
        content.net,
        content.weights,
        tuple(
            Source(role, f"{LONG}.{role}", 1, "0123456789abcdef" * 4)
            for role in ("prototxt", "caffemodel", "mean")
        ),
        content.reference,
    )
    folder = nets.package(content, tmp_path)
    check_package(folder)
    check_numbers(content, folder)
    assert len(graph_of(folder)) == len(content.net.layers) + 1


def test_many_long_inputs_are_wrapped(tmp_path):
    shapes = {f"{i}_{LONG}": (2, 103, 105, 107, 1) for i in range(9)}
    content = nets.net(
        nets.inputs(**shapes), nets.layer("Concat", list(shapes), "all"), record=False
    )
    folder = nets.package(content, tmp_path)
    check_package(folder)
    network = models.import_package(folder).load()
    assert network.model.output["all"].shape == (None, 9 * 103, 105, 107, 1)


# Hostile names

HOSTILE = [
    '"); import os #',
    "'); import os #",
    "../../x",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "'''",
    '"""',
    "\\",
    "\\'",
    "a\"b'c",
    "n\newline",
    "r\rreturn",
    "\x00\x01\x7f",
    "\u2028\u202e",
    "{title}",
    "%(x)s",
    "x" * 1000,
    "é" * 300,
    "😀",
    "变量",
    "class",
    "match",
    "None",
    "self",
    "keras",
    "graph",
    "model",
    "float",
    "Network",
    "l",
    "O",
    "",
]


def hostile_net():
    """A chain of layers, each with a name of its own, over as many blobs and an input so named."""
    names = [name for name in HOSTILE if name]
    layers, bottom = [], "<in>'\""
    for name in names:
        layers.append(nets.layer("ReLU", [bottom], [name + "!"], name=name))
        bottom = name + "!"
    declared = f"input: {nets.quoted(names[0] + '?')} input_shape {{ dim: 2 dim: 3 dim: 5 dim: 7 }}"
    text = [declared, nets.layer("Power", [names[0] + "?"], ["<in>'\""], name="<in>"), *layers]
    content = nets.net(*text, name='"""); import os #')
    sources = tuple(Source("prototxt", name, 1, name) for name in HOSTILE)
    return Interchange(content.net, content.weights, sources[:3], content.reference)


def test_hostile_names_never_reach_the_source(tmp_path):
    """Letters, digits and ``._-`` of a name are all a docstring shows; code has identifiers."""
    content = hostile_net()
    folder = nets.package(content, tmp_path / "net")
    check_package(folder)
    odd = [name for name in HOSTILE if re.search(r"[^A-Za-z0-9_]", name) and name != '"""']
    for file in FILES[:4]:
        text = (folder / file).read_text("ascii")
        assert not [name for name in odd if name in text], file
        assert file == "caffe_layers.py" or not re.search(r"<|/etc", text)
    tree = ast.parse((folder / "model.py").read_text())
    assert [type(node).__name__ for node in tree.body] == ["Expr", "ImportFrom", "ClassDef"]
    called = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert called == {"self.relu", "self.power"}
    init = ast.parse((folder / "__init__.py").read_text())
    assert [type(node).__name__ for node in init.body] == ["Expr", "ImportFrom", "FunctionDef"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        [*FILES, "weights.npz"]
    )


def test_hostile_names_are_kept_in_names_json(tmp_path):
    content = hostile_net()
    folder = nets.package(content, tmp_path)
    network = check_numbers(content, folder)
    names = json.loads((folder / "names.json").read_text("ascii"))
    assert set(names["layers"]) == {layer.name for layer in content.net.layers}
    assert set(names["blobs"]) == set(content.net.blobs)
    kept = {layer.name for layer in network.model.layers}
    assert set(names["layers"].values()) <= kept
    data = content.reference.inputs[content.net.inputs[0]]
    for name in ("self!", "😀!", "x" * 1000 + "!"):
        got = network.blob(name)(data.transpose(0, 2, 3, 1))
        np.testing.assert_allclose(
            got.numpy().transpose(0, 3, 1, 2), content.reference.blobs[name], rtol=1e-6
        )


@pytest.mark.parametrize("name", [name for name in HOSTILE if name], ids=lambda n: ascii(n)[:20])
def test_one_hostile_name_for_everything(tmp_path, name):
    """Net, input, layer and blob share the name; the layer works in place."""
    content = nets.net(
        f"input: {nets.quoted(name)} input_shape {{ dim: 2 dim: 3 dim: 5 dim: 7 }}",
        nets.layer("Power", [name], [name], "power_param { shift: 1.5 }", name=name),
        nets.layer("TanH", [name], [name], name=name + "2"),
        name=name,
    )
    folder = nets.package(content, tmp_path)
    check_package(folder)
    check_numbers(content, folder)


def test_a_blob_named_float_does_not_hide_python_s(tmp_path):
    content = nets.net(
        nets.inputs(float=(2, 3)),
        nets.layer("ReLU", "float", "Float", name="relu"),
        nets.layer("Power", "Float", "x", "power_param { shift: inf }"),
    )
    folder = nets.package(content, tmp_path)
    assert 'shift=float("inf")' in (folder / "model.py").read_text()
    check_numbers(content, folder)


def test_unknown_blobs_are_asked_for_in_vain(tmp_path):
    network = models.import_package(nets.package(nets.net(*LENET), tmp_path)).load()
    with pytest.raises(KeyError, match="no blob 'nothing'; known: conv1, conv1@conv1, data"):
        network.blob("nothing")


def test_layers_may_share_their_weights(tmp_path):
    shared = 'param { name: "w" } param { name: "b" } '
    parameters = shared + "convolution_param { num_output: 3 kernel_size: 1 }"
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Convolution", "data", "a", parameters),
        nets.layer("Convolution", "a", "b", parameters),
    )
    assert len(content.weights) == 2
    check_numbers(content, nets.package(content, tmp_path))


def test_no_layer_is_called_what_baked_models_take(tmp_path):
    content = nets.net(nets.inputs(pixels=(2, 3, 5, 7)), nets.layer("ReLU", "pixels", "out"))
    folder = nets.package(content, tmp_path)
    names = json.loads((folder / "names.json").read_text())
    assert names["inputs"] == {"pixels": "pixels_2"}
    check_numbers(content, folder)


# names.json


def test_names_map_both_ways(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 10, 12)),
        nets.layer("Convolution", "data", "a/b", CONV, name="conv/1"),
        nets.layer("ReLU", ["a/b"], ["a/b"], name="conv:1"),
        nets.layer("Slice", ["a/b"], "s/0 s:0", name="cut"),
    )
    folder = nets.package(content, tmp_path)
    network = check_numbers(content, folder)
    names = json.loads((folder / "names.json").read_text())
    assert names == {
        **Delivery().facts(),
        "inputs": {"data": "data"},
        "outputs": {"s/0": "s_0", "s:0": "s_0_2"},
        "layers": {"conv/1": "conv_1", "conv:1": "conv_1_2", "cut": "cut"},
        "blobs": {
            "a/b": ["conv_1_2", 0],
            "a/b@conv/1": ["conv_1", 0],
            "data": ["data", 0],
            "s/0": ["cut__0", 0],
            "s:0": ["cut__1", 0],
        },
    }
    for kind in ("inputs", "outputs", "layers"):
        back = {ours: caffe for caffe, ours in names[kind].items()}
        assert len(back) == len(names[kind]), "a name stands for two"
    assert set(network.model.output) == set(names["outputs"].values())


def test_names_of_caffe_that_share_memory_name_one_value(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Split", "data", "a b"),
        nets.layer("ReLU", "a", "a", name="relu"),
        nets.layer("AbsVal", "b", "c"),
    )
    network = check_numbers(content, nets.package(content, tmp_path))
    assert network.names["blobs"]["a"] == network.names["blobs"]["b"] == ["relu", 0]


# Literals


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (1 / 3, "0.33333334"),
        (0.75, "0.75"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (16777216.0, "16777216.0"),
        (float(np.float32(0.1)), "0.1"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (math.inf, 'float("inf")'),
        (-math.inf, 'float("-inf")'),
        (math.nan, 'float("nan")'),
        (0, "0"),
        (-3, "-3"),
        (True, "True"),
        (False, "False"),
        (None, "None"),
        ((), "()"),
        ((1,), "(1,)"),
        ((1, 2), "(1, 2)"),
        ([], "[]"),
        ([1, (2.5, None)], "[1, (2.5, None)]"),
        ({"a": (None, 3), "b": {}}, '{"a": (None, 3), "b": {}}'),
        ("max", '"max"'),
        ("it's", '"it\'s"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a\nb\0", '"a\\nb\\x00"'),
        ("é😀", '"\\xe9\\U0001f600"'),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_literals(value, expected):
    assert literal(value) == expected


@pytest.mark.parametrize(
    "value", [*HOSTILE, "\\", "\\\\", "\\'\"", "'\\\"", "\\n", "\ud800"], ids=ascii
)
def test_a_string_literal_gives_the_string(value):
    text = literal(value)
    assert text.isascii() and text.isprintable()
    assert ast.literal_eval(text) == value


def test_a_float_literal_gives_the_same_float32():
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    for value in bits[np.isfinite(bits)]:
        assert np.float32(eval(literal(float(value)))) == value
    for value in rng.standard_normal(1000):
        assert np.float32(eval(literal(float(value)))) == np.float32(value)


def test_a_float_out_of_range_is_infinite():
    assert literal(1e300) == 'float("inf")'


@pytest.mark.parametrize(
    "value", [b"x", {1}, np.float32(1), object()], ids=lambda v: type(v).__name__
)
def test_no_literal_is_made_of_anything_else(value):
    with pytest.raises(TypeError, match="no literal for"):
        literal(value)


# weights.npz and determinism


def test_the_weights_are_numbered_plain_arrays(tmp_path):
    content = nets.net(*LENET)
    folder = tmp_path / "net"
    folder.mkdir()
    lowered = lower(content.net, content.weights)
    progress = []
    written = weights_npz.write(
        folder / "weights.npz", lowered, lambda done, total: progress.append((done, total))
    )
    assert progress == [(i + 1, 5) for i in range(5)]
    assert written == [
        {"layer": "conv1", "shape": [3, 3, 3, 4]},
        {"layer": "conv1", "shape": [4]},
        {"layer": "ip1", "shape": [120, 5]},
        {"layer": "ip1", "shape": [5]},
    ]
    with zipfile.ZipFile(folder / "weights.npz") as archive:
        # Plain and without times: equal weights give equal bytes.
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        # Where values can be used as they lie.
        whole = (folder / "weights.npz").read_bytes()
        for info in archive.infolist():
            assert whole.index(archive.read(info), info.header_offset) % 64 == 0
            assert archive.read(info).index(b"\n") % 64 == 63
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        assert arrays.files == ["0", "1", "2", "3"]
        assert all(arrays[name].dtype == np.float32 for name in arrays.files)
        np.testing.assert_array_equal(
            arrays["0"], content.weights["conv1/0"].transpose(2, 3, 1, 0), strict=True
        )
        np.testing.assert_array_equal(arrays["1"], content.weights["conv1/1"], strict=True)


def test_a_weight_larger_than_one_piece_is_written_whole(tmp_path, monkeypatch):
    content = nets.net(*LENET)
    whole = nets.package(content, tmp_path / "whole") / "weights.npz"
    monkeypatch.setattr(weights_npz._pieces, "__defaults__", (7,))
    parts = nets.package(content, tmp_path / "parts") / "weights.npz"
    assert parts.read_bytes() == whole.read_bytes()


def test_weights_that_do_not_fit_are_refused(tmp_path):
    folder = nets.package(nets.net(*LENET), tmp_path)
    source = (folder / "model.py").read_text().replace("pool1, 5, name", "pool1, 6, name")
    (folder / "model.py").write_text(source)
    with pytest.raises(ValueError, match=r"weights\.npz, member 2: shape \(120, 6\) expected"):
        models.import_package(folder).load()


def test_equal_nets_give_equal_bytes(tmp_path):
    for run in ("a", "b"):
        nets.package(hostile_net(), tmp_path / run / "hostile")
        nets.package(nets.net(*LENET), tmp_path / run / "lenet")
    for net in ("hostile", "lenet"):
        for file in (*FILES, "weights.npz"):
            a, b = (tmp_path / run / net / file for run in ("a", "b"))
            assert a.read_bytes() == b.read_bytes(), (net, file)


# caffe_layers.py


def imported(source):
    return {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }


def classes(source):
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def test_the_runtime_holds_the_families_in_use_alone(tmp_path):
    source = (nets.package(nets.net(*LENET), tmp_path) / "caffe_layers.py").read_text()
    calls = {name for name in classes(source) if name.endswith("Calls")}
    assert calls == {
        "Calls",
        "ActivationsCalls",
        "ConvolutionCalls",
        "InnerProductCalls",
        "PoolingCalls",
    }
    assert "GroupedDeconvolution" in source
    assert "LocalResponse" not in source


def test_the_runtime_holds_the_families_that_others_build_on():
    source = caffe_layers.runtime_source(["normalization"])
    assert {"Pooling", "PoolingCalls", "NormalizationCalls"} <= classes(source)
    assert source.index("class Pooling(") < source.index("class LocalResponseWithinChannel(")


@pytest.mark.parametrize(
    "families",
    [
        [],
        ["activations"],
        ["elementwise"],
        ["normalization"],
        ["activations", "scaling", "shaping"],
    ],
    ids=lambda families: "+".join(families) or "none",
)
def test_the_runtime_imports_what_it_needs_and_nothing_of_ours(tmp_path, families):
    source = caffe_layers.runtime_source(families)
    (tmp_path / "caffe_layers.py").write_text(source)
    check_package(tmp_path)
    packages = imported(source) - set(sys.stdlib_module_names)
    assert packages <= {"keras", "numpy", "tensorflow"}
    assert "stage_build" not in source
    assert "schemas" not in source


# Packages side by side


def test_two_packages_work_in_one_process(tmp_path):
    first = nets.net(*LENET, name="First")
    second = nets.net(
        nets.inputs(image=(2, 3, 5, 7)),
        nets.layer("Pooling", "image", "p", "pooling_param { pool: AVE kernel_size: 3 pad: 1 }"),
        nets.layer("LRN", "p", "n", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }"),
        name="Second",
    )
    folders = [
        nets.package(content, tmp_path / name)
        for content, name in ((first, "a"), (second, "b"), (first, "c"))
    ]
    runners = []
    for folder in folders:
        models.import_package(folder).load().model.save(folder / "model.keras")
    for folder in folders:
        network = models.import_package(folder).load()
        runners += [models.KerasRunner(network.model, network.names), models.load_keras(folder)]
    for content, runner in zip([first, first, second, second, first, first], runners, strict=True):
        recorded = content.reference
        assert verify.check(content.net, runner, recorded.inputs, recorded.blobs, 1e-5).passed


def test_layers_of_one_name_and_another_code_are_told_apart(tmp_path):
    """Results of two versions in one process: each model finds the code it was built with."""
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Pooling", "data", "p", "pooling_param { pool: AVE kernel_size: 3 pad: 1 }"),
    )
    ours, other = (nets.package(content, tmp_path / name) for name in ("ours", "other"))
    source = (other / "caffe_layers.py").read_text()
    changed = source.replace("tf.nn.avg_pool(", "7.0 + 0.0 * tf.nn.avg_pool(")
    assert changed != source
    (other / "caffe_layers.py").write_text(changed)
    data = content.reference.inputs["data"].transpose(0, 2, 3, 1)
    for order in ((ours, other), (other, ours)):
        for folder in order:
            models.import_package(folder).load().model.save(folder / "model.keras")
        mean = {
            folder: keras.models.load_model(folder / "model.keras")(data)["p"].numpy().mean()
            for folder in order
        }
        assert mean[ours] == pytest.approx(content.reference.blobs["p"].mean(), abs=1e-5)
        assert mean[other] >= 7


def test_the_package_runs_as_a_program(tmp_path):
    folder = nets.package(nets.net(*LENET, name="LeNet"), tmp_path / "le_net")
    sys.path.insert(0, str(tmp_path))
    try:
        package = importlib.import_module("le_net")
        data = np.zeros((4, 10, 12, 3), np.float32)
        assert package.load()(data)["prob"].shape == (4, 5)
        assert (
            package.load(  # a second net of the same class
            )
            .blob("pool1")(data)
            .shape
            == (4, 5, 6, 4)
        )
    finally:
        sys.path.remove(str(tmp_path))
        for name in [n for n in sys.modules if n.split(".")[0] == "le_net"]:
            del sys.modules[name]
    assert folder.is_dir()
