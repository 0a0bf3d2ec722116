"""A SavedModel that computes in bfloat16."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from schemas.errors import UsageError
from schemas.interchange import write
from stage_build import processor, report
from stage_build.artefacts import check, export, models, precision, served
from stage_build.delivery import Delivery, fewer_bits
from tests import nets
from tests.cli import orchestrate
from tests.paths import SHARED, needs_shared

FORMATS = ("class", "saved_model")
INPUT = nets.inputs(data=(2, 3, 11, 13))
CONVOLUTION = "convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2"


def convolution(bottom, top, more=""):
    return nets.layer("Convolution", bottom, top, f"{CONVOLUTION} {more} }}")


NETS = {
    "convolution": (convolution("data", "conv"),),
    "groups": (convolution("data", "conv", "group: 3"),),
    "depthwise": (
        nets.layer(
            "Convolution",
            "data",
            "conv",
            "convolution_param { num_output: 3 kernel_size: 2 group: 3 }",
        ),
    ),
    "dilation": (
        nets.layer(
            "Convolution",
            "data",
            "conv",
            "convolution_param { num_output: 5 kernel_size: 3 dilation: 2 }",
        ),
    ),
    "deconvolution": (
        nets.layer(
            "Deconvolution",
            "data",
            "conv",
            "convolution_param { num_output: 5 kernel_size: 3 stride: 2 }",
        ),
    ),
    "sum": (
        convolution("data", "left"),
        convolution("data", "right"),
        nets.layer("Eltwise", ("left", "right"), "sum"),
        nets.layer("ReLU", "sum", "out"),
    ),
    "classifier": (
        convolution("data", "conv"),
        nets.layer("ReLU", "conv", "conv"),
        nets.layer("LRN", "conv", "norm", "lrn_param { local_size: 3 }"),
        nets.layer("Pooling", "norm", "pool", "pooling_param { kernel_size: 2 stride: 2 }"),
        nets.layer("InnerProduct", "pool", "ip", "inner_product_param { num_output: 7 }"),
        nets.layer("Softmax", "ip", "prob"),
    ),
}


def traced(content, folder):
    with models.imported(nets.package(content, folder)) as package:
        return served.serve(precision.load(package)).function


def run(function, content):
    image = content.reference.inputs["data"].transpose(0, 2, 3, 1)
    return function(data=tf.constant(image))


def operations(function, *types):
    """(operation, dtype) of each node of these types."""
    nodes = function.graph.as_graph_def().node
    return {(n.op, tf.as_dtype(n.attr["T"].type).name) for n in nodes if n.op in types}


@pytest.mark.parametrize("text", NETS.values(), ids=NETS)
def test_it_computes_in_bfloat16_between_float32(text, tmp_path):
    content = nets.net(INPUT, *text)
    function = traced(content, tmp_path / "net_tf")
    result = run(function, content)
    products = ("Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MatMul")
    computed = operations(function, *products)
    assert computed and {dtype for _, dtype in computed} == {"bfloat16"}
    for key in content.net.outputs:
        want = content.reference.blobs[key]
        got = np.asarray(result[key])
        got = got.transpose(0, 3, 1, 2) if want.ndim == 4 else got
        assert got.dtype == np.float32
        error = np.abs(got - want).max() / np.abs(want).max()
        assert 1e-5 < error < precision.TOLERANCES["bfloat16"]


def test_bias_sum_and_relu_stay_with_the_convolution(tmp_path):
    """No cast stands between them, which would keep oneDNN from computing them as one."""
    function = traced(nets.net(INPUT, *NETS["sum"]), tmp_path / "net_tf")
    assert operations(function, "Conv2D", "BiasAdd", "AddV2", "Relu") == {
        (name, "bfloat16") for name in ("Conv2D", "BiasAdd", "AddV2", "Relu")
    }


def test_averages_normalisation_and_softmax_are_float32(tmp_path):
    function = traced(nets.net(INPUT, *NETS["classifier"]), tmp_path / "net_tf")
    assert operations(function, "LRN", "Softmax") == {("LRN", "float32"), ("Softmax", "float32")}


def test_what_no_convolution_made_keeps_its_bits(tmp_path):
    pool = nets.layer("Pooling", "data", "pool", "pooling_param { kernel_size: 3 }")
    join = nets.layer("Concat", ("pool", "pool"), "join")
    content = nets.net(INPUT, pool, join)
    result = run(traced(content, tmp_path / "net_tf"), content)
    want = content.reference.blobs["join"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(result["join"], want)


def test_the_saved_model_is_half_as_large_and_held_to_the_tolerance(tmp_path):
    """Weights are constants, or variables: whichever, in 16 bits. What else is made has 32."""
    wide = nets.layer("InnerProduct", "data", "ip", "inner_product_param { num_output: 500 }")
    content = nets.net(INPUT, convolution("data", "conv"), wide)
    write(tmp_path / "net.h5", content)
    sizes = {}
    for name in ("float32", "bfloat16"):
        folder = nets.package(content, tmp_path / name)
        (folder / "names.json").write_text(
            json.dumps({**models.load_names(folder), "precision": name})
        )
        list(export.handle(str(folder), ["saved_model"], precision=name))
        files = (folder / "saved_model").rglob("*")
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file())
        found = check.check_artefact(folder, tmp_path / "net.h5", "saved_model", 1e-4)
        assert found["recorded"]["passed"]
        lowered = name == "bfloat16"
        assert found["quantized"] == ("bfloat16" if lowered else None)
        assert found["tolerance"] == (precision.TOLERANCES["bfloat16"] if lowered else 1e-4)
        worst = report.relative(found["recorded"]["worst"])
        assert (worst > 1e-4) == lowered
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "--precision must be float32 or bfloat16, not 'float16'"),
        (
            {"formats": ("class", "tflite"), "precision": "bfloat16"},
            "--precision bfloat16 is for saved_model, see --formats",
        ),
    ],
    ids=["unknown", "without-saved-model"],
)
def test_usage(options, message):
    with pytest.raises(UsageError, match=message):
        Delivery(**options)


def test_it_is_a_fact_of_the_saved_model_alone():
    facts = Delivery(FORMATS, precision="bfloat16").facts()
    names = ("class", "keras", "saved_model", "tflite", "pb")
    told = {name: fewer_bits(name, facts) for name in names}
    assert told == {**dict.fromkeys(names), "saved_model": "bfloat16"}
    assert fewer_bits("saved_model", Delivery(FORMATS).facts()) is None
    assert fewer_bits("saved_model", {}) is None, "a result of an earlier version"


def result(error, passed=True):
    blob = {"name": "prob", "max_error": error, "magnitude": 1.0, "passed": passed, "reason": ""}
    outcome = {"passed": passed, "worst": blob, "first_failure": blob, "blobs": [blob]}
    return {"recorded": outcome, "user": None}


@pytest.fixture
def content():
    return nets.net(INPUT, *NETS["classifier"])


def reported(content, error, passed=True):
    lowered = {**result(error, passed), "quantized": "bfloat16", "tolerance": 0.1}
    return report.make_report(content, {"class": result(1e-7), "saved_model": lowered}, 1e-4)


def test_its_error_is_not_the_conversions(content):
    made = reported(content, 0.03)
    assert (made["status"], made["worst"]["error"]) == ("ok", 1e-7)
    part = made["artefacts"]["saved_model"]
    assert (part["quantized"], part["tolerance"], part["error"]) == ("bfloat16", 0.1, 0.03)


def test_what_it_costs_is_no_layers_fault(content):
    error = report.failure(content, reported(content, 0.3, passed=False))
    assert str(error).startswith("saved_model: blob 'prob' of the saved_model differs from ")
    assert error.hint.startswith("that is what --precision bfloat16 costs: leave it out, or ")


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("model name\t: x\nflags\t\t: fpu avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu amx_tile amx_bf16\n", False),
        ("Features\t: fp asimd i8mm bf16\n", False),
        ("flags\t\t: fpu avx2 avx512f\nprocessor: 1\nflags\t\t: fpu avx2 avx512f\n", True),
        ("Features\t: fp asimd\n", True),
        ("uarch\t\t: sifive,u74-mc\n", False),
    ],
    ids=["avx512", "amx", "arm", "older", "older-arm", "not-told"],
)
def test_whether_the_processor_lacks_it(text, lacks, tmp_path):
    file = tmp_path / "cpuinfo"
    assert not processor.lacks_bfloat16(file), "no such file: not Linux"
    file.write_text(text)
    assert processor.lacks_bfloat16(file) == lacks


@pytest.mark.parametrize("lacks", [True, False], ids=["lacks", "has"])
def test_a_processor_that_lacks_it_is_noted(lacks, content, monkeypatch):
    monkeypatch.setattr(processor, "lacks_bfloat16", lambda: lacks)
    told = "this processor has no instructions for bfloat16"
    assert any(told in note for note in reported(content, 0.03)["notes"]) == lacks
    plain = report.make_report(content, {"class": result(1e-7)}, 1e-4)
    assert not any(told in note for note in plain["notes"])


@pytest.mark.slow
@needs_shared
def test_a_real_net(tmp_path):
    """squeezenet: its first class is the reference's, in float32 as in bfloat16."""
    model = SHARED / "models" / "squeezenet-imagenet"
    done = orchestrate(
        *("convert", model / "deploy.prototxt", model / "weights.caffemodel"),
        *("-o", tmp_path / "out", "--formats=saved_model,tflite", "--precision=bfloat16"),
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads((tmp_path / "out" / "report.json").read_text())
    assert made["delivery"]["precision"] == "bfloat16"
    parts = made["artefacts"]
    assert {name: part["quantized"] for name, part in parts.items()} == {
        "class": None,
        "saved_model": "bfloat16",
        "tflite": None,
    }
    assert 1e-4 < parts["saved_model"]["error"] < parts["saved_model"]["tolerance"]
    assert parts["tflite"]["error"] < 1e-4
    assert parts["saved_model"]["bytes"] < 0.65 * parts["tflite"]["bytes"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "saved_model, bfloat16" in page
    golden = np.load(model / "golden.npz")
    runner = models.SavedRunner(tmp_path / "out")
    names = models.load_names(tmp_path / "out")
    (given,), (key,) = names["inputs"], names["outputs"]
    want = golden[f"blob:{key}"]
    got = runner({given: golden[f"input:{given}"]}, [key])[key]
    np.testing.assert_array_equal(got.argmax(1), want.argmax(1))
