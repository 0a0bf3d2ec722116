"""model.tflite: what the interpreter makes of it, as it is and quantised."""

from __future__ import annotations

import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from schemas.errors import MalformedModel, UsageError
from schemas.preprocessing import Preprocessing
from stage_build import verify
from stage_build.artefacts import lite, models
from stage_build.artefacts.served import serve
from stage_build.delivery import Delivery
from tests import nets


def delivery(**options):
    return Delivery(("class", "tflite"), **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes model.tflite for a net: its folder."""

    def write(content, **options):
        folder = nets.package(content, tmp_path_factory.mktemp("net") / "net_tf")
        with models.imported(folder) as package:
            lite.write(folder, serve(package.load()), delivery(**options))
        return folder

    return write


def outcome(content, folder, tolerance):
    recorded = content.reference
    want = {key: recorded.blobs[key] for key in content.net.outputs}
    return verify.check(content.net, lite.LiteRunner(folder), recorded.inputs, want, tolerance)


def small():
    """Two samples, two outputs, names that are no identifiers."""
    return nets.net(
        nets.inputs(**{"data": (2, 6, 7, 9)}),
        nets.layer(
            "Convolution",
            "data",
            "conv/a",
            "convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 group: 2 }",
        ),
        nets.layer("ReLU", "conv/a", "conv/a", "relu_param { negative_slope: 0.1 }", "relu"),
        nets.layer("Pooling", "conv/a", "pool", "pooling_param { kernel_size: 2 stride: 2 }"),
        nets.layer("InnerProduct", "pool", "fc", "inner_product_param { num_output: 5 }"),
        nets.layer("Softmax", "fc", "prob/out"),
        outputs=("pool", "prob/out"),
    )


@pytest.fixture(scope="module")
def plain(written):
    content = small()
    return content, written(content)


@pytest.fixture
def interpreter(plain):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(str(plain[1] / lite.FILE))


def test_it_computes_what_the_net_does(plain):
    assert outcome(*plain, 1e-5).passed


@pytest.mark.parametrize("batch", [1, 3])
def test_it_takes_any_batch(plain, batch):
    content, folder = plain
    (image,) = content.reference.inputs.values()
    rows = np.arange(batch) % 2
    keys = list(content.net.outputs)
    got = lite.LiteRunner(folder)({"data": image[rows]}, keys)
    for key in keys:
        np.testing.assert_allclose(got[key], content.reference.blobs[key][rows], atol=1e-5)


def test_the_signature_has_the_names_of_names_json(interpreter):
    assert interpreter.get_signature_list() == {
        lite.SIGNATURE: {"inputs": ["data"], "outputs": ["pool", "prob_out"]}
    }


def test_an_input_is_resized_as_the_documentation_of_lite_has_it(plain, interpreter):
    (image,) = plain[0].reference.inputs.values()
    three = np.concatenate([image, image[:1]]).transpose(0, 2, 3, 1)
    (given,) = interpreter.get_input_details()
    assert given["shape_signature"].tolist() == [-1, 7, 9, 6]
    interpreter.resize_tensor_input(given["index"], three.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], three)
    interpreter.invoke()
    sides = sorted(detail["shape"].tolist() for detail in interpreter.get_output_details())
    assert sides == [[3, 2, 3, 4], [3, 5]]


def test_it_has_operators_of_lite_alone(plain):
    assert b"Flex" not in (plain[1] / lite.FILE).read_bytes()


def test_the_runner_does_not_warn(plain):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lite.LiteRunner(plain[1])


def test_nothing_is_left_beside_it(plain):
    made = {"model.py", "caffe_layers.py", "names.json", "weights.npz", lite.FILE}
    assert {path.name for path in plain[1].iterdir()} == {"__init__.py", "__main__.py", *made}


def test_infinities_stay_infinite(written):
    """The converter's own default is the greatest float in their place."""
    content = nets.net(
        nets.inputs(data=(2, 3, 8, 9)),
        nets.layer(
            "Pooling", "data", "pool", "pooling_param { pool: AVE kernel_size: 1 stride: 3 }"
        ),
        nets.layer("Log", "pool", "out"),
        given={"data": np.zeros((2, 3, 8, 9), np.float32)},
    )
    assert np.isneginf(content.reference.blobs["out"]).any()
    assert outcome(content, written(content), 1e-5).passed


# Fewer bits


def large(signs):
    """Weights by the thousand, where the converter leaves no tensor as it is.

    Args:
        signs: whether sums cancel: values of both signs.
    """
    layers = [
        nets.layer(
            "Convolution", "data", "conv", "convolution_param { num_output: 32 kernel_size: 3 }"
        ),
        nets.layer("ReLU", "conv", "conv", name="relu"),
        nets.layer("InnerProduct", "conv", "fc", "inner_product_param { num_output: 20 }"),
    ]
    content = nets.net(nets.inputs(data=(1, 16, 9, 11)), *layers)
    if signs:
        return content
    weights = {key: np.abs(array) for key, array in content.weights.items()}
    given = {key: np.abs(array) for key, array in content.reference.inputs.items()}
    return nets.net(nets.inputs(data=(1, 16, 9, 11)), *layers, weights=weights, given=given)


def in_eight_bits(model):
    """Rounds the weights as the converter does, to 127 steps for each output channel."""
    for layer in model.layers:
        if layer.weights:
            kernel = layer.kernel.numpy()
            step = np.abs(kernel).max(tuple(range(kernel.ndim - 1)), keepdims=True) / 127
            layer.kernel.assign(np.round(kernel / step) * step)


@pytest.mark.parametrize(
    ("quantize", "signs", "size"),
    [("float16", True, 0.6), ("dynamic", False, 0.4)],
    ids=["float16", "dynamic"],
)
def test_fewer_bits_are_smaller_and_within_the_tolerance(written, quantize, signs, size):
    content = large(signs)
    folder = written(content, quantize=quantize)
    weights = sum(array.nbytes for array in content.weights.values())
    assert (folder / lite.FILE).stat().st_size < size * weights
    shown = outcome(content, folder, lite.TOLERANCES[quantize])
    assert shown.passed, shown.worst
    assert shown.worst.relative > 1e-5


def test_where_sums_cancel_eight_bits_of_weights_are_not_enough(written):
    """That `dynamic` then fails is no fault of the file: weights in eight bits alone, computed with
    in float32, are as far from the net."""
    content = large(True)
    folder = written(content, quantize="dynamic")
    tolerance = lite.TOLERANCES["dynamic"]
    shown = outcome(content, folder, tolerance)
    recorded = content.reference
    with models.opened_class(folder) as runner:
        in_eight_bits(runner.model)
        want = {key: recorded.blobs[key] for key in content.net.outputs}
        rounded = verify.check(content.net, runner, recorded.inputs, want, tolerance)
    assert not shown.passed and not rounded.passed
    assert shown.worst.relative < 3 * rounded.worst.relative


# Calibration


def photograph(folder, color, number):
    """A noisy JPEG of one colour, the classes of `sorter`."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 60, (13, 17, 3), np.uint8)
    image[..., color] += 150
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / f"{number}.jpg"), image)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twelve photographs in a folder a class, one file that is none, one of another kind."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        photograph(folder / f"class {number % 3}", number % 3, number)
    (folder / "class 0" / "broken.jpg").write_bytes(b"no image")
    (folder / "labels.txt").write_text("0.jpg 0")
    return folder


def sorter(described=True, twist=0.0):
    """A net that tells which colour an image is of; `twist` is added to its weights."""
    kernel = np.repeat(np.eye(3, dtype=np.float32)[..., None, None], 3, 2).repeat(3, 3)
    content = nets.net(
        nets.inputs(data=(2, 3, 8, 10)),
        nets.layer(
            "Convolution", "data", "conv", "convolution_param { num_output: 3 kernel_size: 3 }"
        ),
        nets.layer("ReLU", "conv", "conv", name="relu"),
        nets.layer("Pooling", "conv", "pool", "pooling_param { pool: AVE global_pooling: true }"),
        nets.layer("Softmax", "pool", "prob"),
        weights={"conv/0": kernel * 0.01 + np.float32(twist), "conv/1": np.zeros(3, np.float32)},
    )
    if not described:
        return content
    images = {"data": Preprocessing("warp", (10, 12), (8, 10))}
    means = {"data": np.array([104, 117, 123], np.float32)}
    return replace(content, images=images, means=means)


@pytest.fixture(scope="module")
def calibrated(written, photographs):
    """The folder of `sorter`, calibrated, and of its class."""
    return written(sorter(), quantize="int8", calibration=str(photographs))


def agreement(folder, photographs):
    with models.imported(folder) as package:
        network = package.load()
        images = lite.Images(network, photographs)
        return lite.agreement(network, lite.LiteRunner(folder), images)


def test_int8_computes_with_integers_between_floats(calibrated):
    runner = lite.LiteRunner(calibrated)
    ends = [*runner.run.get_input_details().values(), *runner.run.get_output_details().values()]
    assert {detail["dtype"] for detail in ends} == {np.float32}
    found = {detail["dtype"] for detail in runner._interpreter.get_tensor_details()}
    assert np.int8 in found
    image = np.zeros((3, 8, 10, 3), np.float32)
    assert runner.run(data=image)["prob"].shape == (3, 1, 1, 3)


def test_int8_agrees_with_the_class(calibrated, photographs):
    (shown,) = agreement(calibrated, photographs).compared
    assert shown.passed
    assert shown.name == "prob" and shown.shape == (12, 1, 1, 3)
    assert 0 < shown.relative < 0.1
    assert shown.reason == (
        "int8: top-1 as the class's on 12 of 12 calibration images, 1 unreadable; at least 95% are "
        "asked for"
    )


def test_int8_that_disagrees_fails(calibrated, photographs, written):
    """The class is another one than the file was made of: it takes every image for one colour."""
    twisted = sorter()
    twisted.weights["conv/0"][2] = 1
    other = nets.package(twisted, calibrated.parent / "other_tf")
    (other / lite.FILE).write_bytes((calibrated / lite.FILE).read_bytes())
    shown = agreement(other, photographs)
    assert not shown.passed
    assert "on 8 of 12" in shown.first_failure.reason


def network_of(tmp_path, content):
    return models.import_package(nets.package(content, tmp_path / "net_tf")).load()


def test_images_are_spread_over_the_folder(tmp_path, monkeypatch):
    for number in range(9):
        photograph(tmp_path / str(number), 0, number)
    monkeypatch.setattr(lite, "MAX_IMAGES", 4)
    images = lite.Images(network_of(tmp_path, sorter()), tmp_path)
    assert [taken.shape for _, taken in images] == [(1, 8, 10, 3)] * 3
    assert [file.parent.name for file in images._files] == ["0", "3", "6"]


def test_a_net_that_cannot_prepare_images_is_refused(tmp_path, photographs):
    with pytest.raises(UsageError, match="how this net's images are prepared is not known"):
        lite.Images(network_of(tmp_path, sorter(described=False)), photographs)


def test_a_folder_without_images_is_refused(tmp_path):
    network = network_of(tmp_path, sorter())
    with pytest.raises(UsageError, match=r"--calibration: there is no image \(.jpg, .jpeg, .png\)"):
        lite.Images(network, tmp_path / "net_tf")


def test_a_folder_of_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images = lite.Images(network_of(tmp_path, sorter()), tmp_path)
    with pytest.raises(MalformedModel, match="none of 1 images can be read"):
        list(images)


@pytest.mark.parametrize(
    "inputs",
    [{"data": (None, 8, 10, 3), "info": (1, 3)}, {"data": (None, 7)}],
    ids=["two", "no-image"],
)
def test_int8_is_for_one_image(inputs):
    with pytest.raises(UsageError, match="is for nets with one input, an image"):
        lite.image_input(inputs)
