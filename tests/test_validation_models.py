"""`validate` with models: through the driver, interrupted and resumed, and through every door."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import UsageError
from schemas.preprocessing import Preprocessing
from stage_build import codegen, passes, weights_npz
from stage_build.delivery import Delivery
from stage_build.lowering.registry import lower
from tests import nets
from tests.cli import orchestrate
from tests.paths import ROOT, SHARED, needs_shared

pytestmark = pytest.mark.slow  # TensorFlow

DIGITS = ROOT / "examples" / "digits"
TEST = DIGITS / "test"
DIGITS_TOML = 'resize = "none"\nchannels = "gray"\nscale = 0.00390625\n'


# The example, through the driver


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The converted example, which knows its preprocessing."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "own.toml").write_text(DIGITS_TOML)
    files = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
    options = ("--preprocess", folder / "own.toml", "--formats", "class", "--quiet")
    done = orchestrate("convert", *files, "-o", folder / "digits", *options)
    assert done.returncode == 0, done.stderr
    return folder / "digits"


def validate(model, *options, images=TEST, labels=TEST / "labels.txt"):
    done = orchestrate(
        "validate", model, "--images", images, "--labels", labels, "--json", *options
    )
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def scored(digits):
    """What a run over all test images says."""
    code, document = validate(digits)
    assert code == 0, document
    return document


def test_the_example_is_right_on_358_of_360(digits, scored):
    document = scored
    assert document["accuracy"] == {"1": 358 / 360, "5": 1.0}
    assert document["summary"]["right"] == {"1": 358, "5": 360}
    assert document["warnings"] == [] and document["summary"]["unreadable"] == []
    (run,) = document["runs"]
    assert run["images"] == 360 and run["images_per_second"] > 0
    assert {"keras", "numpy", "python"} < run["versions"].keys()
    results = digits.with_name("digits.validation.json")
    assert document["out"] == str(results) and results.is_file()
    # A second run has nothing to do, and says the same.
    again = validate(digits)[1]
    assert again["summary"] == document["summary"] and again["runs"] == document["runs"]


def test_shards_merge_to_what_one_run_gives(digits, tmp_path):
    whole = tmp_path / "whole.json"
    assert validate(digits, "--limit", 50, "--results", whole)[0] == 0
    parts = [tmp_path / f"{number}.json" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        options = ("--limit", 50, "--shard", f"{number}/2", "--results", part)
        code, document = validate(digits, *options)
        assert code == 0 and document["images"] == 25
    done = orchestrate("validate", "merge", *parts, "-o", tmp_path / "all.json", "--json")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(path.read_text()) for path in (whole, tmp_path / "all.json"))
    assert {**first, "runs": None} == {**second, "runs": None}


def test_images_that_cannot_be_read_are_counted_and_named(digits, scored, tmp_path):
    labels = (TEST / "labels.txt").read_text().splitlines()[:40]
    for line in labels:
        shutil.copy(TEST / line.split()[0], tmp_path)
    whole = (TEST / "000.png").read_bytes()
    buffer = io.BytesIO()
    Image.new("L", (9, 8)).save(buffer, "PNG")
    odd = {
        "000-empty.png": b"",
        "010-torn.png": whole[: len(whole) // 2],
        "020-te\x1bxt.png": b"no image at all",
        "zz-large.png": buffer.getvalue(),
    }
    for name, content in odd.items():
        (tmp_path / name).write_bytes(content)
    odd["025-endless.png"] = b""
    with (tmp_path / "025-endless.png").open("wb") as file:
        file.truncate(257 << 20)  # takes no place on the disk
    (tmp_path / "labels").write_text("\n".join([*labels, *(f"{name}\t1" for name in odd)]))
    options = ("--results", tmp_path / "results.json", "--batch-size", "8")
    code, document = validate(digits, *options, images=tmp_path, labels=tmp_path / "labels")
    assert code == 0, document
    assert document["images"] == 40
    found = {one["name"]: one["reason"] for one in document["summary"]["unreadable"]}
    assert found.keys() == odd.keys()
    assert all(reason and "\n" not in reason and "{{" not in reason for reason in found.values())
    whole_run = json.loads(Path(scored["out"]).read_text())["images"]
    known = {image["name"]: image for image in whole_run}
    images = json.loads((tmp_path / "results.json").read_text())["images"]
    assert all(image == known[image["name"]] for image in images if image["name"] not in odd)
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.png").touch()
    (only / "labels").write_text("a.png 1")
    options = ("--results", tmp_path / "none.json")
    code, document = validate(digits, *options, images=only, labels=only / "labels")
    assert code == 2 and "none of the 1 images could be read" in document["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_is_taken_up(digits, tmp_path, number):
    results = tmp_path / "results.json"
    partial = tmp_path / "results.json.partial"
    options = ("--results", results, "--batch-size", "1")
    command = [sys.executable, ROOT / "orchestrate.py", "validate", digits, "--images", TEST]
    command += ["--labels", TEST / "labels.txt", *options]
    with subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not partial.exists() or partial.read_bytes().count(b"\n") < 10:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == 130
    assert f"error: interrupted; what is done is in {partial} (the same command goes on" in said
    content = partial.read_text()
    assert content.endswith("\n")
    done = [json.loads(line) for line in content.splitlines()[1:]]
    assert 9 <= len(done) < 360 and not results.exists()
    code, document = validate(digits, *options)
    assert code == 0
    assert document["runs"][0]["images"] == 360 - len(done)
    assert document["summary"]["right"] == {"1": 358, "5": 360}
    images = json.loads(results.read_text())["images"]
    assert [image for image in images if image in done] == done
    assert not partial.exists()


# A trained net of 1000 classes, as real Caffe has it


@needs_shared
def test_squeezenet_is_as_often_right_as_in_caffe(tmp_path):
    """Through the class and through the SavedModel that takes files: Caffe's own best five."""
    source, images = SHARED / "models" / "squeezenet-imagenet", SHARED / "images"
    options = ("--preprocess", "squeezenet", "--labels", images / "imagenet-classes.txt")
    made = ("--bake-preprocess", "--formats", "class,saved_model", "-o", tmp_path / "net")
    files = (source / "deploy.prototxt", source / "weights.caffemodel")
    done = orchestrate("convert", *files, *options, *made, "--quiet")
    assert done.returncode == 0, done.stderr
    with np.load(images / "squeezenet_caffe.npz") as caffe:
        order = np.argsort(-caffe["prob"], axis=1, kind="stable")[:, :5].tolist()
        expected = dict(zip(caffe["name"].tolist(), order, strict=True))
    for through in ("class", "bytes"):
        code, document = validate(
            tmp_path / "net", "--through", through, images=images, labels=images / "labels.txt"
        )
        assert code == 0, document
        assert document["accuracy"] == {"1": 0.64, "5": 0.86}
        found = json.loads(Path(document["out"]).read_text())["images"]
        assert {image["name"]: image["top"] for image in found} == expected
    options = ("--through", "bytes", "--top", "6", "--results", tmp_path / "six.json")
    code, document = validate(
        tmp_path / "net", *options, images=images, labels=images / "labels.txt"
    )
    assert code == 2 and "--through bytes gives the best 5 classes" in document["error"]
    assert not (tmp_path / "six.json.partial").exists()


# Small nets, in this process

SIZE = (9, 8)
MEAN = np.array([10.0, 20.0, 30.0], np.float32)
OWN = Preprocessing("warp", (12, 10), SIZE, "bgr", 0.05)
GIVEN = {**OWN.document(), "size": (12, 10), "crop": None, "mean": MEAN}


def small(*, images=OWN, labels=(), batch=1, head=()):
    content = nets.net(
        nets.inputs(data=(batch, 3, *SIZE)),
        *head,
        nets.layer(
            "Convolution", "data", "conv", "convolution_param { num_output: 5 kernel_size: 3 }"
        ),
        nets.layer("InnerProduct", "conv", "ip", "inner_product_param { num_output: 7 }"),
    )
    told = {"data": images} if images else {}
    return replace(content, images=told, means={"data": MEAN} if told else {}, labels=labels)


def package(content, folder, delivery=None):
    folder.mkdir()
    delivery = delivery or Delivery()
    net, weights = content.net, content.weights
    if delivery.swap_rgb:
        net, weights = passes.reversed_channels(net, weights)
    lowered = lower(net, weights)
    codegen.write_package(folder, replace(content, net=net, weights=weights), lowered, delivery)
    weights_npz.write(folder / "weights.npz", lowered, lambda done, total: None)
    return folder


@pytest.fixture(scope="module")
def classifier():
    from stage_build.validation import classifier

    return classifier


def encoded(count=6):
    rng = np.random.default_rng(3)
    files = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def orders(model):
    """All classes of each of some images, best first."""
    import tensorflow as tf

    return model.guesses(tf.stack([model.prepared(file) for file in encoded()]), 7)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, classifier):
    folder = package(small(), tmp_path_factory.mktemp("small") / "plain")
    with classifier.opened(folder, "class", None, None) as model:
        assert model.classes == 7 and model.labels == () and model.batch is None
        return orders(model)


def test_the_images_tell_the_classes_apart(plain):
    assert len({tuple(order) for order in plain}) > 2
    assert all(sorted(order) == list(range(7)) for order in plain)


@pytest.mark.parametrize(
    "delivery",
    [
        Delivery(),
        Delivery(input_layout="nchw"),
        Delivery(swap_rgb=True),
        Delivery(swap_rgb=True, input_layout="nchw"),
    ],
    ids=["nhwc", "nchw", "swapped", "both"],
)
def test_through_every_door_with_own_and_with_given_preprocessing(
    tmp_path, classifier, plain, delivery
):
    folder = package(small(), tmp_path / "net", delivery)
    with classifier.opened(folder, "class", None, None) as model:
        assert orders(model) == plain
        own = model.preprocessing
    with classifier.opened(folder, "class", GIVEN, None) as model:
        assert orders(model) == plain
        assert model.preprocessing == {**own, "unknown": []}
    with classifier.opened(folder, "class", {**GIVEN, "scale": 1.0}, None) as model:
        assert model.preprocessing != own


def test_a_net_of_a_fixed_batch(tmp_path, classifier):
    flat = nets.layer("Reshape", "data", "flat", "reshape_param { shape { dim: 4 dim: -1 } }")
    content = nets.net(
        nets.inputs(data=(4, 3, *SIZE)),
        flat,
        nets.layer("InnerProduct", "flat", "ip", "inner_product_param { num_output: 7 }"),
    )
    content = replace(content, images={"data": OWN}, means={"data": MEAN})
    with classifier.opened(package(content, tmp_path / "net"), "class", None, None) as model:
        import tensorflow as tf

        assert model.batch == 4
        images = tf.stack([model.prepared(file) for file in encoded(3)])
        alone = [model.guesses(images[i : i + 1], 7)[0] for i in range(3)]
        assert model.guesses(images, 7) == alone


@pytest.mark.parametrize(
    ("content", "through", "given", "crop", "message"),
    [
        ({"images": None}, "class", None, None, "does not say how its images are prepared"),
        ({}, "tflite", None, None, "--through tflite needs model.tflite, which the model has not"),
        ({}, "bytes", None, None, "--through bytes needs saved_model, which the model has not"),
        ({}, "class", None, (8, 8), "images are made 8 x 8 x 3, the net takes 9 x 8 x 3"),
        ({}, "class", {**GIVEN, "channels": "gray"}, None, "images are made 9 x 8 x 1"),
        ({"labels": ("a", "b")}, "class", None, None, "2 labels, output ip has 7 classes"),
        ({}, "bytes", GIVEN, None, "--preset and --crop have no say"),
    ],
    ids=["unknown", "no tflite", "no saved_model", "crop", "gray", "labels", "baked"],
)
def test_what_cannot_be_validated(tmp_path, classifier, content, through, given, crop, message):
    folder = package(small(**content), tmp_path / "net")
    if given is not None and through == "bytes":
        (folder / "saved_model").mkdir()
    with pytest.raises(UsageError) as raised, classifier.opened(folder, through, given, crop):
        pass
    assert message in str(raised.value)


def test_a_net_of_two_inputs(tmp_path, classifier):
    content = nets.net(
        nets.inputs(a=(1, 3, *SIZE), b=(1, 3, *SIZE)), nets.layer("Eltwise", ["a", "b"], "sum")
    )
    folder = package(content, tmp_path / "net")
    with (
        pytest.raises(UsageError, match="the net takes a, b, and not one image"),
        classifier.opened(folder, "class", GIVEN, None),
    ):
        pass
