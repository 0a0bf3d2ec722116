"""What a result is made of and how it takes its images: the options of a build."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from schemas.errors import UsageError
from schemas.interchange import write
from stage_build.artefacts import models, opening
from stage_build.delivery import DEFAULT, LARGE, LARGEST, Delivery, chosen_formats
from stage_build.layout import Door
from tests import nets
from tests.cli import orchestrate
from tests.paths import ROOT


def test_the_class_comes_first_and_is_always_there():
    assert chosen_formats("tflite, saved_model,") == ("class", "saved_model", "tflite")
    assert chosen_formats("") == ("class",)
    assert DEFAULT == ("class", "keras", "saved_model")
    with pytest.raises(UsageError, match="unknown format 'onnx'; known: class, keras,"):
        chosen_formats("class,onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "--quantize must be float16 or dynamic or int8, not 'int4'"),
        ({"input_layout": "chwn"}, "--input-layout must be nhwc or nchw, not 'chwn'"),
        ({"quantize": "float16"}, "--quantize is for tflite, see --formats"),
        ({"formats": ("class",), "bake_preprocess": True}, "--bake-preprocess is for saved_model"),
        (
            {"formats": ("class",), "bake_normalization": True},
            "--bake-normalization is for keras and tflite",
        ),
        (
            {"formats": ("class", "tflite"), "quantize": "int8"},
            "--quantize int8 and --calibration DIR go together",
        ),
        (
            {"formats": ("class", "tflite"), "quantize": "dynamic", "calibration": "x"},
            "--quantize int8 and --calibration DIR go together",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Delivery(**options)


@pytest.mark.parametrize(
    ("formats", "allowed", "size", "refused"),
    [
        (("class", "tflite"), False, LARGE, False),
        (("class", "tflite"), False, LARGE + 1, True),
        (("class", "pb"), True, LARGE + 1, False),
        (("class", "pb"), True, LARGEST + 1, True),
        (DEFAULT, False, LARGEST + 1, False),
    ],
    ids=["small", "large", "allowed", "beyond-protobuf", "variables"],
)
def test_graphs_of_constants_have_a_size(formats, allowed, size, refused):
    delivery = Delivery(formats, allow_large=allowed)
    if not refused:
        delivery.require_size(size)
        return
    with pytest.raises(UsageError, match="MB of weights are too much for (tflite|pb)"):
        delivery.require_size(size)


DOORS = {
    f"{layout}{'-swapped' * swapped}{'-transposed' * transposed}": Door(layout, swapped, transposed)
    for layout in ("nhwc", "nchw")
    for swapped in (False, True)
    for transposed in (False, True)
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_what_goes_in_by_a_door_comes_out_by_it(door):
    blob = np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7)
    fed = door.feed(blob)
    assert fed.shape == door.input_order(blob.shape)
    np.testing.assert_array_equal(door.taken(fed), blob)
    rows, columns = (3, 4) if door.transposed else (4, 3)
    place = (1, 2, rows, columns) if door.layout == "nchw" else (1, rows, columns, 2)
    assert fed[place] == blob[1, 0 if door.swapped else 2, 4, 3]
    row = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(door.feed(row), row)


def test_gray_images_are_not_swapped():
    blob = np.arange(2 * 2 * 5 * 7).reshape(2, 2, 5, 7)
    np.testing.assert_array_equal(Door("nchw", swapped=True).feed(blob), blob)


NET = (
    nets.inputs(data=(2, 3, 11, 13)),
    nets.layer("Convolution", "data", "conv", "convolution_param { num_output: 5 kernel_size: 3 }"),
    nets.layer("BatchNorm", "conv", "norm"),
    nets.layer("Pooling", "norm", "map", "pooling_param { kernel_size: 2 stride: 2 }"),
    nets.layer("InnerProduct", "map", "ip", "inner_product_param { num_output: 4 }"),
    nets.layer("Softmax", "ip", "prob"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [(), ("--swap-rgb", "--transpose-hw", "--input-layout=nchw")],
    ids=["plain", "every-door"],
)
def test_every_format_is_verified_and_stands_alone(options, tmp_path):
    """The result is used as its reader would use it: by the shapes that it says."""
    content = nets.net(*NET, outputs=("map", "prob"))
    write(tmp_path / "net.h5", content)
    formats = "--formats=class,keras,saved_model,tflite,pb"
    out = tmp_path / "out"
    done = orchestrate("build", tmp_path / "net.h5", "-o", out, formats, *options, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    assert {name: len(part["blobs"]) for name, part in report["artefacts"].items()} == {
        "class": 6,
        "keras": 6,
        "saved_model": 2,
        "tflite": 2,
        "pb": 2,
    }
    assert all(part["passed"] and part["bytes"] for part in report["artefacts"].values())
    assert not (out / "served").exists()
    again = orchestrate("verify", out, "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["warnings"] == []
    recorded = content.reference
    image = recorded.inputs["data"]
    image = image[:, ::-1].swapaxes(2, 3) if options else image.transpose(0, 2, 3, 1)
    with opening.opened(out, "class") as runner:
        assert runner.model.input_shape == (None, *image.shape[1:])
        given = runner.model(np.ascontiguousarray(image), training=False)
    feature_map = recorded.blobs["map"].transpose(0, 3, 2, 1) if options else None
    if feature_map is not None:
        np.testing.assert_allclose(given["map"], feature_map, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(given["prob"], recorded.blobs["prob"], rtol=1e-5, atol=1e-6)


DIGITS = ROOT / "examples" / "digits"
RECIPE = 'resize = "warp"\nsize = 8\nchannels = "gray"\nscale = 0.00390625\n'


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "float16", "dynamic", "int8"], ids=str)
def test_preprocessing_is_baked_and_weights_are_quantised(quantize, tmp_path):
    (tmp_path / "digits.toml").write_text(RECIPE)
    (tmp_path / "labels.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    out = tmp_path / "out"
    options = ["--formats=keras,saved_model,tflite", "--bake-preprocess", "--bake-normalization"]
    if quantize:
        options.append(f"--quantize={quantize}")
    if quantize == "int8":
        options.append(f"--calibration={DIGITS / 'test'}")
    done = orchestrate(
        "convert",
        DIGITS / "deploy.prototxt",
        DIGITS / "digits.caffemodel",
        *("-o", out, "--preprocess", tmp_path / "digits.toml", "--labels", tmp_path / "labels.txt"),
        *options,
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((out / "report.json").read_text())["artefacts"]
    assert all(part["passed"] for part in parts.values())
    for name in ("keras", "saved_model", "tflite"):
        assert parts[name]["twin"]["passed"]
        assert parts[name]["quantized"] == (quantize if name == "tflite" else None)
    smaller = {None: 1.2, "float16": 0.8, "dynamic": 0.8, "int8": 0.8}[quantize]
    assert parts["tflite"]["bytes"] < smaller * parts["class"]["bytes"]
    images = sorted((DIGITS / "test").glob("*.png"))[:5]
    with opening.opened(out, "saved_model") as runner:
        files = tf.constant([path.read_bytes() for path in images])
        found = runner.signature("classify_images")(image_bytes=files)
    with models.imported(out) as package:
        network = package.load()
        for path, labels, scores in zip(
            images, found["labels"].numpy(), found["probabilities"].numpy(), strict=True
        ):
            wanted = network.classify(path)
            assert [label.decode() for label in labels] == [label for label, _ in wanted]
            np.testing.assert_allclose(scores, [score for _, score in wanted], atol=1e-6)
    again = orchestrate("verify", out, "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    unproven = ["model.tflite is not verified" in t for t in json.loads(again.stdout)["warnings"]]
    assert unproven == ([True] if quantize == "int8" else [])
