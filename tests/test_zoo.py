"""The published nets, with seeded weights, against what real Caffe recorded of every blob."""

from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest

from schemas import interchange
from stage_build import models, verify
from stage_build.layout import to_blob, to_tensor
from stage_extract import network, reference, upgrade, weights
from stage_extract.prototxt import read as read_prototxt
from tests.cli import orchestrate
from tests.paths import SHARED, needs_shared

ZOO = SHARED / "zoo"
# Without mobilenet_ssd and se-resnet-50, whose layers are not there yet.
NAMES = [
    "bvlc_alexnet",
    "bvlc_reference_caffenet",
    "bvlc_googlenet",
    "nin_imagenet",
    "vgg16",
    "resnet-50",
    "resnet-101",
    "resnet-152",
    "squeezenet_v1.1",
    "mobilenet_v2",
    "densenet-121",
    "resnext50-32x4d",
    "inception-v3",
    "fcn8s",
]
TOLERANCE = 1e-4

pytestmark = [needs_shared, pytest.mark.slow]


@pytest.fixture(scope="module")
def tool():
    """../shared/tools/fill_caffemodel.py"""
    spec = importlib.util.spec_from_file_location("fill", SHARED / "tools" / "fill_caffemodel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(golden: dict, blob: str, value: np.ndarray, relative: float) -> None:
    """Samples, mean, deviation and magnitude, each relative to the magnitude."""
    want = golden["blobs"][blob]
    assert list(value.shape) == want["shape"], blob
    flat = value.reshape(-1).astype(np.float64)
    found = {
        "samples": np.abs(flat[want["index"]] - want["value"]).max(),
        "mean": abs(flat.mean() - want["mean"]),
        "std": abs(flat.std() - want["std"]),
        "absmax": abs(np.abs(flat).max() - want["absmax"]),
    }
    limit = relative * want["absmax"] + 1e-6
    assert all(error <= limit for error in found.values()), (blob, found, limit)


@pytest.fixture(scope="module", params=NAMES)
def net(request, tool, tmp_path_factory):
    """One net: its folder in the zoo, its weights, what Caffe recorded."""
    folder = tmp_path_factory.mktemp(request.param)
    tool.write_caffemodel(ZOO / request.param, folder / "net.caffemodel")
    golden = json.loads((ZOO / request.param / "golden.json").read_text())
    yield ZOO / request.param / "deploy.prototxt", folder, golden
    shutil.rmtree(folder)


def test_numpy_forward(net, tool):
    """Our own reference, strictly: it sums in Caffe's order, so that not even rounding differs."""
    prototxt, folder, golden = net
    built = network.build(upgrade.upgrade(read_prototxt(prototxt)), network.Options())
    with weights.open_weights(folder / "net.caffemodel") as model:
        match = weights.match(model.layers, built.weight_shapes)
        arrays = {
            f"{la}/{i}": b.array() for la, bs in match.blobs.items() for i, b in enumerate(bs)
        }
    inputs = {key: tool.input_values(key, tuple(s)) for key, s in golden["inputs"].items()}
    got = reference.forward(built.net, arrays, inputs)
    compared = [blob for blob in golden["blobs"] if blob in built.net.names]
    assert set(golden["outputs"]) <= set(compared)
    for blob in compared:
        check(golden, blob, got[built.net.names[blob]], TOLERANCE)


def test_converted_class(net, tool):
    """Converted by the command, which verifies against our own reference; then held to Caffe's."""
    prototxt, folder, golden = net
    out = folder / "out"
    done = orchestrate("convert", prototxt, folder / "net.caffemodel", "-o", out, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    # Deep BatchNorm nets with random weights let float32 rounding grow: Caffe's own pass is up to
    # 2e-3 off a float64 one in ResNet-152. Three times what was seen against our reference is what
    # may be seen here, from there on; every layer alone is within 1e-5, or conversion had failed.
    allowed = verify.allowances(interchange.read(out / "net.h5").net, report["rounding"])
    package = models.import_package(out)
    converted = package.load()
    inputs = {
        key: to_tensor(tool.input_values(key, tuple(shape)))
        for key, shape in golden["inputs"].items()
    }
    known = [blob for blob in golden["blobs"] if blob in converted.names["blobs"]]
    assert set(golden["outputs"]) <= set(known)
    splits = set(golden["blobs"]) - set(known)
    assert all("_split_" in blob for blob in splits), splits
    got = models.KerasRunner(converted.model, converted.names)(inputs, known)
    for blob in known:
        check(golden, blob, to_blob(got.pop(blob)), max(TOLERANCE, allowed.get(blob, 0)))
    models.forget_package(package)
