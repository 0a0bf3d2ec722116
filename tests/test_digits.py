"""The embedded example: its files are what they claim to be, and the demo scores what it should."""

import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from sklearn.datasets import load_digits

from stage_extract.descriptors import message_class
from tests.paths import ROOT

DIGITS = ROOT / "examples" / "digits"


def held_out():
    lines = (DIGITS / "test" / "labels.txt").read_text().splitlines()
    names, labels = zip(*(line.split() for line in lines), strict=True)
    return names, np.array(labels, int)


def test_the_weights_are_small():
    assert (DIGITS / "digits.caffemodel").stat().st_size < 1_000_000


def test_the_weights_are_of_the_net():
    """The binary repeats the prototxt's layers, as Caffe's own snapshots do."""
    stored = message_class("NetParameter").FromString((DIGITS / "digits.caffemodel").read_bytes())
    written = text_format.Parse(
        (DIGITS / "deploy.prototxt").read_text(), message_class("NetParameter")()
    )
    shapes = {layer.name: [tuple(blob.shape.dim) for blob in layer.blobs] for layer in stored.layer}
    for layer in stored.layer:
        assert all(len(blob.data) == np.prod(blob.shape.dim) for blob in layer.blobs), layer.name
        layer.ClearField("blobs")
        layer.ClearField("phase")
    assert stored == written
    assert {name: found for name, found in shapes.items() if found} == {
        "conv1": [(16, 1, 3, 3), (16,)],
        "conv2": [(32, 8, 3, 3)],
        "bn2": [(32,), (32,), (1,)],
        "scale2": [(32,), (32,)],
        "ip1": [(64, 128), (64,)],
        "ip2": [(10, 64), (10,)],
    }


def test_the_images_are_scikit_learns():
    names, labels = held_out()
    assert len(names) == len(set(names)) == 360
    assert sorted(path.name for path in (DIGITS / "test").glob("*.png")) == sorted(names)
    digits = load_digits()
    known = {
        (np.minimum(image * 16, 255).astype(np.uint8).tobytes(), label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    for name, label in zip(names, labels, strict=True):
        image = np.asarray(Image.open(DIGITS / "test" / name))
        assert image.shape == (8, 8)
        assert (image.tobytes(), label) in known, name


@pytest.mark.slow
def test_training_never_saw_the_held_out_images(monkeypatch):
    monkeypatch.syspath_prepend(str(DIGITS))
    train, test, _, labels = importlib.import_module("train").data()
    names, expected = held_out()
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in test)
    assert labels.tolist() == expected.tolist()
    for name, image in zip(names, test, strict=True):
        assert np.array_equal(np.asarray(Image.open(DIGITS / "test" / name)), image)


@pytest.mark.slow
def test_the_demo_scores_the_converted_net(tmp_path):
    def run(*arguments):
        ran = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    net = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
    run(ROOT / "orchestrate.py", "convert", *net, "-o", "digits")
    shown = run(DIGITS / "demo.py", "digits")
    assert re.search(r"accuracy +99\.44%  \(358 of 360 held-out images\)", shown), shown
    ((passed, blobs),) = re.findall(r"verified +(\d+) of (\d+) blobs", shown)
    assert int(passed) == int(blobs) >= 10
    (error,) = re.findall(r"largest error +(\S+) ", shown)
    assert 0 <= float(error) < 1e-4
