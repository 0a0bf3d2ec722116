"""The published nets, with seeded weights, against what real Caffe recorded of every blob."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from stage_build import models
from stage_build.layout import to_blob, to_tensor
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


@pytest.mark.parametrize("name", NAMES)
def test_every_blob(name, tool, tmp_path):
    """Converts with the command, which verifies against our own reference; then asks the class."""
    tool.write_caffemodel(ZOO / name, tmp_path / "net.caffemodel")
    done = orchestrate(
        "convert",
        ZOO / name / "deploy.prototxt",
        tmp_path / "net.caffemodel",
        "-o",
        tmp_path / "out",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    golden = json.loads((ZOO / name / "golden.json").read_text())
    package = models.import_package(tmp_path / "out")
    network = package.load()
    inputs = {
        key: to_tensor(tool.input_values(key, tuple(shape)))
        for key, shape in golden["inputs"].items()
    }
    known = [blob for blob in golden["blobs"] if blob in network.names["blobs"]]
    assert set(golden["outputs"]) <= set(known)
    splits = set(golden["blobs"]) - set(known)
    assert all("_split_" in blob for blob in splits), splits
    got = models.KerasRunner(network.model, network.names)(inputs, known)
    for blob in known:
        want = golden["blobs"][blob]
        value = to_blob(got.pop(blob))
        assert list(value.shape) == want["shape"], blob
        limit = TOLERANCE * want["absmax"] + 1e-6
        flat = value.reshape(-1)
        samples = np.abs(flat[want["index"]].astype(np.float64) - want["value"]).max()
        assert samples <= limit, (blob, "samples", samples, limit)
        for what, number in (
            ("mean", flat.mean(dtype=np.float64)),
            ("std", flat.std(dtype=np.float64)),
            ("absmax", np.abs(flat).max()),
        ):
            assert abs(float(number) - want[what]) <= limit, (blob, what, number, want[what])
    models.forget_package(package)
