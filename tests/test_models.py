"""The trained models: converted by the command, held to real Caffe's numbers, used side by side."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest

from tests.cli import run_batch
from tests.paths import SHARED, needs_shared

MODELS = SHARED / "models"
NAMES = [
    "lenet-mnist",
    "mtcnn-det1",
    "mtcnn-det2",
    "mtcnn-det3",
    "mtcnn-det4",
    "squeezenet-imagenet",
    "triplet-3d",
    "wechat-qr-detect",
    "wechat-qr-sr",
]
IMAGES = SHARED / "images"

pytestmark = [needs_shared, pytest.mark.slow]


def package(name: str) -> str:
    return name.replace("-", "_")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Every model, converted against its golden by one batch: (folder, name -> result)."""
    folder = tmp_path_factory.mktemp("models")
    entries = [
        {
            "name": package(name),
            "prototxt": MODELS / name / "deploy.prototxt",
            "weights": MODELS / name / "weights.caffemodel",
            "reference": MODELS / name / "golden.npz",
        }
        for name in NAMES
    ]
    return folder / "out", run_batch(entries, folder)


@pytest.mark.parametrize("name", NAMES)
def test_verified_against_our_reference_and_caffes(converted, name):
    out, results = converted
    assert results[package(name)]["exit_code"] == 0, results[package(name)]["error"]
    report = json.loads((out / package(name) / "report.json").read_text())
    assert report["status"] == "ok"
    assert report["reference"] == "numpy"
    assert set(report["artefacts"]) == {"class", "keras", "saved_model"}
    assert all(artefact["passed"] for artefact in report["artefacts"].values())
    with np.load(MODELS / name / "golden.npz") as golden:
        blobs = [key for key in golden.files if key.startswith("blob:")]
    user = report["user_reference"]
    assert user["passed"]
    assert len(user["blobs"]) + len(report["skipped"]) == len(blobs)
    assert all("copy of" in reason for reason in report["skipped"].values()), report["skipped"]


@pytest.fixture
def importable(converted, monkeypatch):
    """The batch's folder on the path, as a user would have it."""
    out, _ = converted
    monkeypatch.syspath_prepend(str(out))
    yield importlib.import_module
    for name in [n for n in sys.modules if n.split(".")[0] in map(package, NAMES)]:
        del sys.modules[name]


def test_four_mtcnn_nets_in_one_process(importable):
    nets = {n: importable(f"mtcnn_det{n}").load() for n in (1, 2, 3, 4)}
    for number, net in nets.items():
        with np.load(MODELS / f"mtcnn-det{number}" / "golden.npz") as golden:
            inputs = {
                net.names["inputs"][key[6:]]: golden[key].transpose(0, 2, 3, 1)
                for key in golden.files
                if key.startswith("input:")
            }
            outputs = net(next(iter(inputs.values())) if len(inputs) == 1 else inputs)
            for name, here in net.names["outputs"].items():
                want = golden[f"blob:{name}".replace("/", "%2F")]
                got = outputs[here].numpy()
                got = got.transpose(0, 3, 1, 2) if got.ndim == 4 else got
                assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max() + 1e-6, (number, name)


def test_wechat_finds_the_qr_code_where_caffe_does(importable):
    net = importable("wechat_qr_detect").load()
    with np.load(MODELS / "wechat-qr-detect" / "golden.npz") as golden:
        image = golden["input:data"].transpose(0, 2, 3, 1)
        (want,) = golden["blob:detection_output"][0, 0]
    (found,) = net(image)["detection_output"].numpy()[0, :, :, 0]
    np.testing.assert_allclose(found, want, rtol=1e-4)
    (nothing,) = net(np.zeros_like(image))["detection_output"].numpy()[0, :, :, 0]
    assert nothing.tolist() == [0] + [-1] * 6


def test_squeezenet_scores_photographs_as_caffe_does(importable):
    cv2 = pytest.importorskip("cv2", reason="not run: OpenCV decodes the photographs")
    net = importable("squeezenet_imagenet").load()
    with np.load(IMAGES / "squeezenet_caffe.npz") as caffe:
        names, want = [str(name) for name in caffe["name"]], caffe["prob"]
    got = []
    for start in range(0, len(names), 20):
        batch = []
        for name in names[start : start + 20]:
            image = cv2.resize(cv2.imread(str(IMAGES / name)), (256, 256))[14:241, 14:241]
            batch.append(image.astype(np.float32) - np.float32([104, 117, 123]))
        scores = net.blob("pool_final")(np.stack(batch)).numpy()
        got.append(scores.reshape(len(batch), -1))
    got = np.concatenate(got)
    assert np.abs(got - want).max() <= 1e-4 * want.max()
    top5 = [np.argsort(-scores, kind="stable")[:, :5] for scores in (got, want)]
    assert (top5[0] == top5[1]).all()
