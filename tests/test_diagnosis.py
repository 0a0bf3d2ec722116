"""Why a reference differs: each deviation that is known, made by NumPy, is found and named."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from schemas.interchange import write
from schemas.preprocessing import Preprocessing
from stage_build import diagnosis, verify
from tests import nets
from tests.cli import orchestrate

SHAPE = (2, 3, 10, 8)


def single(type_, parameters="", shape=SHAPE, bottoms="data", **options):
    """A net of one layer, called x."""
    inputs = {name: shape for name in bottoms.split()}
    return nets.net(nets.inputs(**inputs), nets.layer(type_, bottoms, "x", parameters), **options)


def told(content, want, key="x", **known):
    """What is said of a reference that has `want` for the blob."""
    return diagnosis.cause(content, {**content.reference.inputs, **known, key: want}, key)


def computed(content, key="x", weights=None, **inputs):
    """The blob as a net computes it, of these weights and inputs or of its own."""
    given = {**content.reference.inputs, **inputs}
    return nets.reference.forward(content.net, {**content.weights, **(weights or {})}, given)[key]


def check_said(said, expected, key="x"):
    """The sentence: how the reference looks, and that it then agrees to 1e-4."""
    start, end = "the reference looks as if ", r"agrees (exactly|to \S+)"
    found = re.fullmatch(f"{start}(.*): then '(.*)' {end}", said)
    assert found, said
    assert (found[1], found[2]) == (expected, key)
    assert found[3] == "exactly" or 0 < float(found[3][3:]) <= verify.NET_TOLERANCE


CONV = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 %s }"


# Inputs


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(None, "RGB, not BGR"), ("bgr", "RGB, not BGR"), ("rgb", "BGR, not RGB")],
)
def test_channels_in_reverse_order(channels, expected):
    content = single("Convolution", CONV % "stride: 2")
    if channels:
        content = replace(content, images={"data": Preprocessing("none", channels=channels)})
    want = computed(content, data=content.reference.inputs["data"][:, ::-1])
    expected = f"its images were {expected} (the channels of 'data' reversed)"
    check_said(told(content, want), expected)


def test_the_blobs_between_may_be_missing():
    """Of a blob that is overwritten in place, Caffe keeps the last value alone."""
    content = nets.net(
        nets.inputs(data=SHAPE),
        nets.layer("Convolution", "data", "x", CONV % "", name="conv"),
        nets.layer("ReLU", "x", "x", name="relu"),
        nets.layer("Pooling", "x", "y", "pooling_param { kernel_size: 2 }"),
    )
    swapped = content.reference.inputs["data"][:, ::-1]
    expected = "its images were RGB, not BGR (the channels of 'data' reversed)"
    check_said(told(content, computed(content, data=swapped)), expected)
    check_said(told(content, computed(content, "y", data=swapped), "y"), expected, "y")


MEAN = np.float32([90, 110, 130])
MEAN_IMAGE = np.random.default_rng(4).uniform(90, 130, (3, 12, 11)).astype(np.float32)
CENTRE = MEAN_IMAGE[:, 1:11, 1:9]


@pytest.mark.parametrize(
    ("mean", "scale", "change", "expected"),
    [
        (MEAN, 1, lambda x: x + MEAN[:, None, None], "no mean had been subtracted from 'data'"),
        (
            MEAN,
            1,
            lambda x: x - MEAN[:, None, None],
            "the mean of 'data' had been subtracted once more",
        ),
        (MEAN_IMAGE, 1, lambda x: x + CENTRE, "no mean had been subtracted from 'data'"),
        (None, 1 / 256, lambda x: x * 256, "'data' had not been scaled"),
        (None, 1 / 256, lambda x: x / 256, "'data' had been scaled once more"),
        (
            MEAN,
            1 / 256,
            lambda x: x * 256 + MEAN[:, None, None],
            "neither mean nor scale had been applied to 'data'",
        ),
        (MEAN, 1 / 256, lambda x: x * 256, "'data' had not been scaled"),
        (
            MEAN,
            1 / 256,
            lambda x: x + MEAN[:, None, None] / 256,
            "no mean had been subtracted from 'data'",
        ),
    ],
    ids=["no-mean", "mean-twice", "no-mean-image", "no-scale", "scale-twice", "neither"]
    + ["no-scale-but-mean", "no-mean-but-scale"],
)
@pytest.mark.parametrize("written", ["images", "transform_param"])
def test_images_that_were_prepared_otherwise(mean, scale, change, expected, written):
    content = single("Convolution", CONV % "")
    if written == "images":
        content = replace(content, images={"data": Preprocessing("none", scale=scale)})
    else:
        content = replace(content, preprocessing={"data": {"scale": scale}})
    if mean is not None:
        content = replace(content, means={"data": mean})
    want = computed(content, data=change(content.reference.inputs["data"]).astype(np.float32))
    check_said(told(content, want), expected)


# Layers


@pytest.mark.parametrize(
    ("window", "pad", "before", "after", "expected"),
    [
        (
            "kernel_size: 3 stride: 2",
            1,
            0,
            1,
            "the bottom and the right more, as TensorFlow's SAME",
        ),
        ("kernel_size: 4", 1, 2, 1, "the top and the left more"),
        ("kernel_size: 3", 1, 0, 2, "the bottom and the right alone"),
        ("kernel_size: 5 stride: 2", 2, 4, 0, "the top and the left alone"),
    ],
    ids=["same", "early", "after", "before"],
)
@pytest.mark.parametrize("type_", ["Convolution", "Pooling"])
def test_padding_on_another_side(type_, window, pad, before, after, expected):
    given = {
        "Convolution": f"convolution_param {{ num_output: 4 {window} pad: %d }}",
        # Rounding up would add a row of its own.
        "Pooling": f"pooling_param {{ pool: AVE {window} pad: %d round_mode: FLOOR }}",
    }[type_]
    content = single(type_, given % pad)
    x = content.reference.inputs["data"]
    padded = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
    want = computed(single(type_, given % 0, padded.shape), data=padded, weights=content.weights)
    check_said(told(content, want), f"'x' padded {expected}")


def test_no_padding():
    content = single("Convolution", CONV % "")
    want = computed(single("Convolution", CONV.replace("pad: 1", "") % ""), weights=content.weights)
    check_said(told(content, want), "'x' did not pad")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("round_mode: CEIL", "the size of 'x' were rounded down (floor)"),
        ("round_mode: FLOOR", "the size of 'x' were rounded up (ceil)"),
        ("ceil_mode: false", "the size of 'x' were rounded up (ceil)"),
    ],
)
def test_rounding_to_the_other_side(mode, expected):
    pooling = "pooling_param { kernel_size: 3 stride: 2 %s }"
    content = single("Pooling", pooling % mode)
    other = "round_mode: " + ("CEIL" if "up" in expected else "FLOOR")
    want = computed(single("Pooling", pooling % other))
    assert want.shape != content.net.blobs["x"].shape
    check_said(told(content, want), expected)


def test_averages_without_padding():
    pooling = "pooling_param { pool: %s kernel_size: 3 pad: 1 }"
    want = computed(single("Pooling", pooling % "AVE_EXC_PAD"))
    content = single("Pooling", pooling % "AVE")
    check_said(told(content, want), "the averages of 'x' did not count padding")


@pytest.mark.parametrize(
    ("type_", "parameters", "own", "other"),
    [
        ("BatchNorm", "batch_norm_param { eps: %g }", 1e-5, 1e-3),
        ("BatchNorm", "batch_norm_param { eps: %g }", 1e-3, 1e-5),
        ("MVN", "mvn_param { eps: %g }", 1e-9, 1e-3),
        ("LRN", "lrn_param { alpha: 0.1 k: %g }", 2, 1),
        ("LRN", "lrn_param { alpha: 0.1 k: %g }", 1, 2),
    ],
)
def test_another_epsilon(type_, parameters, own, other):
    name = "k" if type_ == "LRN" else "eps"
    content, deviating = (single(type_, parameters % value) for value in (own, other))
    # Statistics small enough for either value to show.
    weights = {key: array * np.float32(0.01) for key, array in content.weights.items()}
    weights.update({"x/2": np.ones(1, np.float32)} if weights else {})
    content = replace(content, weights=weights)
    small = content.reference.inputs["data"] * np.float32(0.1 if type_ == "MVN" else 1)
    want = computed(deviating, weights=weights, data=small)
    said = told(content, want, data=small)
    check_said(said, f"{name} of 'x' were {other:g}, not {own:g}")


def test_another_epsilon_of_ssd_s_normalize():
    text = "norm_param { across_spatial: false eps: %g }"
    content, deviating = (
        single("Normalize", text % eps, dialects=("ssd",)) for eps in (1e-10, 1e-3)
    )
    small = content.reference.inputs["data"] * np.float32(0.01)
    want = computed(deviating, weights=content.weights, data=small)
    check_said(told(content, want, data=small), "eps of 'x' were 0.001, not 1e-10")


def test_weights_with_height_and_width_swapped():
    content = single("Convolution", CONV % "")
    want = computed(content, weights={"x/0": content.weights["x/0"].swapaxes(2, 3).copy()})
    check_said(told(content, want), "the weights of 'x' had height and width swapped")


def test_a_kernel_of_unequal_sides_stored_by_columns():
    content = single("Convolution", "convolution_param { num_output: 4 kernel_size: [3, 2] }")
    stored = content.weights["x/0"].reshape(4, 3, 2, 3).transpose(0, 1, 3, 2).copy()
    want = computed(content, weights={"x/0": stored})
    check_said(told(content, want), "the weights of 'x' had height and width swapped")


def test_a_kernel_turned_around():
    content = single("Convolution", CONV % "")
    want = computed(content, weights={"x/0": content.weights["x/0"][:, :, ::-1, ::-1].copy()})
    check_said(
        told(content, want), "the weights of 'x' were turned by 180 degrees, a convolution's"
    )


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ((2, 3, 1), "were for a bottom flattened as height, width, channels"),
        ((1, 3, 2), "were for a bottom flattened as channels, width, height"),
    ],
)
def test_an_inner_product_of_a_bottom_flattened_otherwise(axes, expected):
    content = single("InnerProduct", "inner_product_param { num_output: 5 }")
    x = content.reference.inputs["data"]
    rows = x.transpose(0, *axes).reshape(2, -1)
    want = rows @ content.weights["x/0"].T + content.weights["x/1"]
    check_said(told(content, want), f"the weights of 'x' {expected}")


def test_an_inner_product_s_matrix_transposed():
    content = single("InnerProduct", "inner_product_param { num_output: 5 }")
    x = content.reference.inputs["data"].reshape(2, -1)
    want = x @ content.weights["x/0"].reshape(240, 5) + content.weights["x/1"]
    check_said(told(content, want), "the weights of 'x' were transposed")


def test_bottoms_in_another_order():
    content = single("Concat", bottoms="a b")
    want = np.concatenate([content.reference.inputs[name] for name in "ba"], 1)
    check_said(told(content, want), "the bottoms of 'x' were in reverse order")


def rectified_convolution():
    return nets.net(
        nets.inputs(data=SHAPE),
        nets.layer("Convolution", "data", "x", CONV % "", name="conv"),
        nets.layer("ReLU", "x", "x", name="relu"),
    )


def test_a_layer_whose_own_top_the_reference_lacks():
    content = rectified_convolution()
    turned = content.weights["conv/0"].swapaxes(2, 3).copy()
    want = computed(content, weights={"conv/0": turned})
    check_said(told(content, want), "the weights of 'conv' had height and width swapped")


def test_of_a_long_stretch_only_the_inputs_are_tried(monkeypatch):
    content = rectified_convolution()
    turned = computed(content, weights={"conv/0": content.weights["conv/0"].swapaxes(2, 3).copy()})
    swapped = computed(content, data=content.reference.inputs["data"][:, ::-1])
    monkeypatch.setattr(diagnosis, "MOST_LAYERS", 1)
    assert told(content, turned) == ""
    assert "RGB, not BGR" in told(content, swapped)
    monkeypatch.setattr(diagnosis, "PATIENCE", 0)
    assert told(content, swapped) == ""


# What is not told


def test_what_agrees_is_no_fault_of_the_reference():
    content = single("Convolution", CONV % "")
    said = told(content, computed(content))
    assert said == "computed by NumPy, 'x' agrees with the reference: the artefact is wrong"


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 1,
        lambda x: x * np.float32(1.001),
        lambda x: x[:, :, :-1],
        lambda x: x * np.nan,
    ],
    ids=["shifted", "scaled", "cut", "nan"],
)
def test_nothing_is_said_of_what_no_deviation_explains(change):
    content = single("Convolution", CONV % "")
    assert told(content, change(computed(content))) == ""


def test_a_deviation_that_explains_a_part_is_not_told():
    content = single("Convolution", CONV % "")
    want = computed(content, data=content.reference.inputs["data"][:, ::-1])
    want[0, 0, 0, 0] += np.abs(want).max() * np.float32(1e-3)
    assert told(content, want) == ""


def test_positions_must_be_equal():
    """Relative to the greatest, the places of reversed channels are only a little off."""
    content = single("ArgMax", "argmax_param { axis: 3 }", (2, 3, 4, 30000))
    want = computed(content, data=content.reference.inputs["data"][:, ::-1])
    want[0, 0, 0] += 1
    assert told(content, want) == ""


def test_a_meaning_that_fails_is_not_in_the_way_of_the_verdict(monkeypatch):
    def fails(content, layer, shapes):
        raise TypeError

    content = single("Convolution", CONV % "")
    monkeypatch.setattr(diagnosis, "_rounded", fails)
    assert told(content, computed(content) + 1) == ""


def test_a_blob_that_cannot_be_computed_is_not_tried():
    content = nets.net(
        nets.inputs(a=SHAPE, b=SHAPE), nets.layer("Eltwise", "a b", "x"), record=False
    )
    assert (
        diagnosis.cause(content, {"a": np.ones(SHAPE, "f4"), "x": np.ones(SHAPE, "f4")}, "x") == ""
    )
    assert diagnosis.cause(content, {"a": np.ones(SHAPE, "f4")}, "a") == ""


def test_hostile_names_are_quoted():
    name = "a'b\n</script>"
    content = nets.net(
        nets.layer("Input", [], [name], "input_param { shape { dim: [2, 3, 10, 8] } }"),
        nets.layer("Convolution", [name], "x", CONV % ""),
    )
    want = computed(content, **{name: content.reference.inputs[name][:, ::-1]})
    said = told(content, want)
    assert repr(name) in said and "\n" not in said


# From the command line


@pytest.mark.slow
def test_a_reference_of_rgb_images_is_seen_through(tmp_path):
    """The user's Caffe was fed RGB, the reference says what BGR would be."""
    text = "\n".join(
        (
            nets.inputs(data=(1, 3, 10, 8)),
            nets.layer("Convolution", "data", "conv1", CONV % ""),
            nets.layer("ReLU", "conv1", "conv1", name="relu1"),
            nets.layer("Pooling", "conv1", "pool1", "pooling_param { kernel_size: 2 }"),
        )
    )
    (tmp_path / "net.prototxt").write_text(text)
    content = nets.net(text)
    bgr = content.reference.inputs["data"]
    rgb = nets.reference.forward(content.net, content.weights, {"data": bgr[:, ::-1].copy()})
    blobs = {f"blob:{name}": rgb[key] for name, key in content.net.names.items() if name != "data"}
    np.savez(tmp_path / "mine.npz", **{"input:data": bgr}, **blobs)
    write(tmp_path / "net.h5", content)

    out, failed = tmp_path / "out", tmp_path / "out.failed"
    done = orchestrate(
        "build", tmp_path / "net.h5", "-o", out, "--reference", tmp_path / "mine.npz",
        "--formats", "class",
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    shown = " ".join(done.stderr.split())
    assert "blob 'conv1' of the class differs from the user reference" in shown
    assert "layer 'relu1' (ReLU, line " in shown
    assert "the reference looks as if its images were RGB, not BGR" in shown
    assert not out.exists() and (failed / "model.py").is_file()
    report = json.loads((failed / "report.json").read_text())
    assert report["first_failure"]["name"] == "conv1"
    assert report["culprit"]["layer"] == "relu1" and report["culprit"]["line"] > 0
    check_said(
        report["cause"],
        "its images were RGB, not BGR (the channels of 'data' reversed)",
        "conv1",
    )
