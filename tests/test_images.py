"""Images as nets take them: read and resized as OpenCV does, printed with the class, baked."""

from __future__ import annotations

import dataclasses
import importlib
import io
import re
import struct
import subprocess
import sys
import zlib

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from schemas import interchange
from schemas.errors import MalformedModel, UsageError
from schemas.preprocessing import Preprocessing
from stage_build import codegen, images, weights_npz
from stage_build.artefacts import baking, models
from stage_build.delivery import Delivery
from stage_build.layout import Door
from stage_build.lowering.registry import lower
from stage_build.runtime import images as runtime
from stage_extract import worker
from tests import nets, test_codegen
from tests.paths import ROOT, SHARED, needs_shared

PHOTOGRAPHS = SHARED / "images"
SQUEEZENET = SHARED / "models" / "squeezenet-imagenet"
DIGITS = ROOT / "examples" / "digits"
MEAN = (104.0, 117.0, 123.0)
NOTHING = {"resize": "none", "size": None, "crop": None, "mean": None, "scale": 1.0}


class Reader(runtime.ImagesCalls):
    """The images of a net without the net."""

    def __init__(self, channels="rgb", **document):
        self.images = {**NOTHING, "channels": channels, **document}


def pixels(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def as_opencv(encoded, flag=cv2.IMREAD_COLOR):
    """What OpenCV reads, as RGB or (h, w, 1) gray."""
    found = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)
    return found[..., None] if found.ndim == 2 else found[..., ::-1]


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def opencv_png(array):
    """A PNG of 16 bits or with transparency, too."""
    return cv2.imencode(".png", array)[1].tobytes()


# Read


def photographs(count):
    return sorted(PHOTOGRAPHS.glob("*.JPEG"))[:count]


@needs_shared
@pytest.mark.parametrize(
    "count", [8, pytest.param(100, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_photographs_are_decoded_as_opencv_does(count):
    files = photographs(count)
    assert len(files) == count
    for file in files:
        data = file.read_bytes()
        color, gray = (Reader(name).decoded(data).numpy() for name in ("rgb", "gray"))
        np.testing.assert_array_equal(color, as_opencv(data), file.name)
        np.testing.assert_array_equal(gray, as_opencv(data, cv2.IMREAD_GRAYSCALE), file.name)


PICTURE = Image.fromarray(pixels(11, 13, 3))
GRAY = Image.fromarray(pixels(11, 13))
FILES = {
    "jpeg": encoded(PICTURE, "JPEG"),
    "jpeg-gray": encoded(GRAY, "JPEG"),
    "jpeg-progressive": encoded(PICTURE, "JPEG", progressive=True),
    "jpeg-not-subsampled": encoded(PICTURE, "JPEG", subsampling=0),
    "jpeg-rgb": encoded(PICTURE, "JPEG", keep_rgb=True),
    "png": encoded(PICTURE, "PNG"),
    "png-gray": encoded(GRAY, "PNG"),
    "png-alpha": opencv_png(pixels(11, 13, 4)),
    "png-gray-alpha": encoded(Image.fromarray(pixels(11, 13, 4)).convert("LA"), "PNG"),
    "png-16": opencv_png(pixels(11, 13, 3, dtype=np.uint16)),
    "png-16-alpha": opencv_png(pixels(11, 13, 4, dtype=np.uint16)),
    "png-16-gray": opencv_png(pixels(11, 13, dtype=np.uint16)),
    "png-palette": encoded(PICTURE.quantize(16), "PNG"),
    "png-palette-transparent": encoded(PICTURE.quantize(16), "PNG", transparency=3),
    "png-1-bit": encoded(GRAY.convert("1"), "PNG"),
    "bmp": encoded(PICTURE, "BMP"),
    "gif": encoded(GRAY, "GIF"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_decoded_as_opencv_does(name):
    data = FILES[name]
    found = Reader().decoded(data).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, as_opencv(data))
    gray = Reader("gray").decoded(data).numpy()
    assert gray.shape == (11, 13, 1)
    # OpenCV itself has two roundings: of a coloured PNG or BMP, and cvtColor's, which is ours.
    difference = gray.astype(int) - as_opencv(data, cv2.IMREAD_GRAYSCALE)
    assert np.abs(difference).max() <= (not name.startswith("jpeg"))


def test_gray_has_opencvs_weights():
    colored = pixels(50, 60, 3)
    expected = cv2.cvtColor(colored, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(runtime.luma(colored)[..., 0], expected)


# EXIF


def tiff(turn, order="<", entries=0, directory=8):
    """TIFF data with an orientation, behind so many other entries."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)
    rows = [(0x100, 3, 1, 7)] * entries + [(0x112, 3, 1, turn)]
    body = b"".join(struct.pack(order + "HHIHH", *row, 0) for row in rows)
    return head.ljust(directory, b"\0") + struct.pack(order + "H", len(rows)) + body + bytes(4)


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def exif(*arguments, **options):
    return segment(0xE1, b"Exif\0\0" + tiff(*arguments, **options))


def jpeg_with(*segments):
    plain = encoded(pixels(16, 24, 3), "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def png_with(name, data):
    plain = encoded(pixels(16, 24, 3), "PNG")
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return plain[:33] + chunk + plain[33:]


def turned(image, turn):
    """What EXIF's orientation means: where the first row and the first column are."""
    image = image.transpose(1, 0, 2) if turn >= 5 else image
    image = image[::-1] if turn in (3, 4, 7, 8) else image
    return image[:, ::-1] if turn in (2, 3, 6, 7) else image


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_images_as_in_opencv(turn, order):
    data = jpeg_with(exif(turn, order))
    assert int(runtime.orientation(data)) == turn
    np.testing.assert_array_equal(as_opencv(data), turned(as_opencv(jpeg_with()), turn))
    np.testing.assert_array_equal(Reader().decoded(data).numpy(), as_opencv(data))


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_png_is_turned_as_well(turn, order):
    """OpenCV does so from 4.11 on."""
    found = Reader().decoded(png_with(b"eXIf", tiff(turn, order))).numpy()
    np.testing.assert_array_equal(found, turned(pixels(16, 24, 3), turn))


XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")


@pytest.mark.parametrize(
    ("segments", "turn"),
    [
        ([exif(6, entries=9, directory=20)], 6),
        ([XMP, exif(6)], 6),
        ([exif(6), XMP], 6),
        ([exif(6), exif(3)], 6),
        ([segment(0xE2, bytes(65000))] * 3 + [exif(6)], 6),
        ([b"\xff\xff" + exif(6)], 6),
        ([], 1),
        ([exif(0)], 1),
        ([exif(9)], 1),
        ([exif(6).replace(b"Exif", b"Nope")], 1),
    ],
    ids=[
        "far in the data", "behind XMP", "before XMP", "the first of two", "behind a profile",
        "filled", "none", "0", "9", "another's",
    ],
)  # fmt: skip
def test_where_exif_is_found(segments, turn):
    data = jpeg_with(*segments)
    assert int(runtime.orientation(data)) == turn
    np.testing.assert_array_equal(Reader().decoded(data).numpy(), as_opencv(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xff\xd8\xff\xe1",
        b"\xff\xd8" + b"\xff\xe1\x00\x00" * 9,
        b"\xff\xd8" + b"\xff" * 9999,
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0",
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0II*\0" + b"\xff" * 40),
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40)),
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 40,
        b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffeXIfMM\0*",
    ],
    ids=[
        "empty", "one byte", "cut marker", "no lengths", "filled to the end", "cut segment",
        "a directory nowhere", "too many entries", "nothing behind", "PNG of nothing", "cut PNG",
    ],
)  # fmt: skip
def test_exif_that_is_damaged_turns_nothing(data):
    assert int(runtime.orientation(data)) == 1


def test_random_damage_never_stops_the_walk():
    """Bytes changed at random: a turn comes out, and soon."""
    rng = np.random.default_rng(5)
    sound = np.frombuffer(jpeg_with(XMP, exif(6, entries=3)), np.uint8)
    for _ in range(200):
        data = sound.copy()
        places = rng.integers(0, 160, 4)
        data[places] = rng.integers(0, 256, 4)
        assert 1 <= int(runtime.orientation(data[: rng.integers(0, len(data))].tobytes())) <= 8


# Resized, cut, counted


@pytest.mark.parametrize("channels", [3, 1], ids=["color", "gray"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((375, 500), (256, 256)), ((500, 333), (227, 227)), ((100, 90), (256, 341)),
        ((37, 53), (300, 227)), ((512, 512), (256, 256)), ((512, 300), (256, 300)),
        ((227, 454), (454, 227)), ((1, 1), (5, 7)), ((2, 3), (64, 96)), ((1000, 1503), (3, 2)),
        ((20, 30), (20, 30)), ((20, 30), (1, 1)),
    ],
    ids=lambda size: "x".join(map(str, size)),
)  # fmt: skip
def test_resizing_is_opencvs(source, target, channels):
    image = pixels(*source, channels)
    expected = cv2.resize(image, target[::-1]).reshape(*target, channels)
    np.testing.assert_array_equal(runtime.resized(image, *target), expected)


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (101, 100), (90, 90), (3, 11)])
def test_the_shorter_side(size):
    image = pixels(*size, 3)
    height, width = (int(side) for side in runtime.short_sized(image, 64))
    factor = 64 / min(size)
    # What OpenCV makes of a factor, resizes to.
    assert (height, width) == cv2.resize(image, None, fx=factor, fy=factor).shape[:2]
    found = Reader(resize="short_side", size=(64, 64)).prepared(image)
    np.testing.assert_array_equal(found, cv2.resize(image, (width, height)))


@needs_shared
def test_photographs_are_preprocessed_as_opencv_does():
    reader = Reader("bgr", resize="warp", size=(256, 256), crop=(227, 227))
    expected = np.load(PHOTOGRAPHS / "preprocessed_cv2_256_227.npz")["bgr"]
    np.testing.assert_array_equal(reader.preprocess(photographs(10)), expected)


def test_a_long_thin_image_takes_no_more_memory_than_others():
    """Its longer side grows with the shorter one: this would have a thousand million pixels."""
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        runtime.resized(np.zeros((1, 16_000, 3), np.uint8), 256, 256 * 16_000)


def test_the_order_of_work_is_caffes():
    """Crop, mean, scale (data_transformer.cpp); odd rows and columns are left at the end."""
    image = pixels(12, 15, 3)
    reader = Reader("bgr", crop=(7, 10), mean=MEAN, scale=0.5)
    expected = (image[2:9, 2:12, ::-1].astype(np.float32) - np.float32(MEAN)) * np.float32(0.5)
    np.testing.assert_array_equal(reader.preprocess(image), expected[None])


@pytest.mark.parametrize("sides", [(12, 15), (7, 10), (9, 11)], ids=["resized", "cut", "between"])
def test_an_image_of_means_is_cut_as_images_are(sides, tmp_path):
    image, mean = pixels(12, 15, 3), pixels(*sides, 3, seed=1).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    reader = Reader(crop=(7, 10), mean="mean.npy")
    reader.folder = tmp_path
    top, left = (sides[0] - 7) // 2, (sides[1] - 10) // 2
    expected = image[2:9, 2:12] - mean[top : top + 7, left : left + 10]
    np.testing.assert_array_equal(reader.prepared(image), expected)


def test_a_graph_does_as_one_image_after_another():
    """In tf.data, with a shape that is known before."""
    reader = Reader("bgr", resize="warp", size=(20, 24), crop=(15, 16), mean=MEAN, scale=0.25)
    data = [*FILES.values(), jpeg_with(exif(6))]
    batches = tf.data.Dataset.from_tensor_slices(data)
    batches = batches.map(lambda each: reader.prepared(reader.decoded(each))).batch(len(data))
    assert batches.element_spec.shape == (None, 15, 16, 3)
    (found,) = batches
    np.testing.assert_array_equal(found, reader.preprocess(data))


@pytest.mark.parametrize("channels", ["rgb", "gray"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)], ids=str)
def test_arrays_are_images_too(shape, channels):
    image = pixels(*shape)
    found = Reader(channels).preprocess(image)
    plain = image.reshape(5, 7, -1)
    if channels == "gray" and plain.shape[2] == 3:
        plain = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)[..., None]
    expected = np.broadcast_to(plain, (5, 7, 1 if channels == "gray" else 3))
    np.testing.assert_array_equal(found, expected[None].astype(np.float32))


def test_what_is_no_image_is_named(tmp_path):
    file = tmp_path / "page.jpg"
    file.write_bytes(b"<!DOCTYPE html>")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(FILES["jpeg"][:200])
    small = Reader(crop=(20, 9))
    for image, said in (
        (file, re.escape(str(file)) + ": no image that can be used: Unknown image file"),
        ([FILES["png"], str(cut)], re.escape(str(cut)) + ": no image that can be used: jpeg"),
        ([b""], "image 0: no image that can be used: Input is empty"),
        ([FILES["png"], b"GIF89a"], "image 1: no image that can be used: "),
        (pixels(5, 7, 4), r"image 0, an array: .* found uint8 \(5, 7, 4\)"),
        (pixels(5, 7).astype(np.float32), r"image 0, an array: .* found float32 \(5, 7\)"),
        ([pixels(5, 7, 3), pixels(6, 7, 3)], r"several sizes, \[\(5, 7, 3\), \(6, 7, 3\)\]"),
    ):
        with pytest.raises(ValueError, match=said):
            Reader().preprocess(image)
    with pytest.raises(ValueError, match="image 0, an array: .*smaller than what is cut"):
        small.preprocess(pixels(19, 30, 3))
    with pytest.raises(OSError, match=re.escape(repr(str(tmp_path / "no.jpg")))):
        Reader().preprocess(tmp_path / "no.jpg")


# Printed

LAYERS = (
    nets.inputs(data=(2, 3, 10, 12)),
    nets.layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"),
    nets.layer("InnerProduct", "conv", "ip", "inner_product_param { num_output: 7 }"),
    nets.layer("Softmax", "ip", "prob"),
)
# So small that the softmax tells classes apart.
SCALE = 0.00025
HOW = Preprocessing("warp", (14, 16), (10, 12), "bgr", SCALE)
LABELS = ("cat", "dog, hound", 'a "quoted" \\ one', "élan", "{x}", "%s", "<b>")


def known(*layers, how=HOW, mean=MEAN, labels=LABELS, **options):
    content = nets.net(*(layers or LAYERS), name="Small", **options)
    means = {"data": np.asarray(mean, np.float32)} if mean is not None else {}
    return dataclasses.replace(content, images={"data": how}, means=means, labels=labels)


def loaded(content, folder, **delivery):
    folder.mkdir(exist_ok=True)
    lowered = lower(content.net, content.weights)
    codegen.write_package(folder, content, lowered, Delivery(**delivery))
    weights_npz.write(folder / "weights.npz", lowered, lambda done, total: None)
    return models.import_package(folder).load()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A net that finds classes in images, loaded."""
    return loaded(known(), tmp_path_factory.mktemp("small") / "small")


def image_files():
    return [
        FILES["jpeg"],
        FILES["png-alpha"],
        jpeg_with(exif(6)),
        encoded(pixels(31, 17, 3), "PNG"),
    ]


def test_the_class_says_how_images_are_prepared(small):
    text = (small.folder / "model.py").read_text()
    assert '\n    images = {\n        "resize": "warp",\n        "size": (14, 16),\n' in text
    assert type(small).images == {
        "resize": "warp",
        "size": (14, 16),
        "crop": (10, 12),
        "channels": "bgr",
        "mean": MEAN,
        "scale": SCALE,
    }
    test_codegen.check_package(small.folder)
    assert (small.folder / "labels.txt").read_text("utf-8").split("\n") == [*LABELS, ""]
    assert small.labels == LABELS


def test_a_net_whose_preprocessing_is_not_known_says_so(tmp_path):
    network = loaded(nets.net(*LAYERS), tmp_path)
    assert "ImagesCalls" not in (tmp_path / "caffe_layers.py").read_text()
    for method in (network.preprocess, network.classify):
        with pytest.raises(ValueError, match="not known: tell it with .*convert --preprocess"):
            method("cat.jpg")


def test_what_was_assumed_is_a_comment(tmp_path):
    texts = ("long words " * 20, 'ends\n"""\nimport os', "é\x1b[31m")
    content = known(how=dataclasses.replace(HOW, unknown=texts))
    folder = nets.package(content, tmp_path)
    test_codegen.check_package(folder)
    text = (folder / "model.py").read_text()
    assert text.count("    # Assumed: ") == 3
    assert '    # Assumed: ends?"""?import os\n    # Assumed: ??[31m\n    images = {' in text


@pytest.mark.parametrize("mean", [None, MEAN, pixels(3, 10, 12)], ids=["none", "values", "image"])
@pytest.mark.parametrize(
    "door",
    [{}, {"swap_rgb": True}, {"input_layout": "nchw"}, {"transpose_hw": True},
     {"swap_rgb": True, "input_layout": "nchw", "transpose_hw": True}],
    ids=["plain", "swapped", "nchw", "transposed", "all"],
)  # fmt: skip
def test_images_come_through_every_door(door, mean, tmp_path):
    """As the class takes them: what Caffe takes, through the door."""
    how = Preprocessing("none", None, (10, 12), "bgr", 0.5)
    content, delivery = known(how=how, mean=mean), Delivery(**door)
    reader = Reader()
    reader.folder = tmp_path
    made = images.images_of(content, Door(**delivery.door()))
    made.write(tmp_path)
    reader.images = made.document
    image = pixels(16, 15, 3)
    # A net that takes its images transposed was shown them so.
    caffes = image.transpose(1, 0, 2) if delivery.transpose_hw else image
    top, left = (caffes.shape[0] - 10) // 2, (caffes.shape[1] - 12) // 2
    blob = caffes[top : top + 10, left : left + 12, ::-1].transpose(2, 0, 1).astype(np.float32)
    if mean is not None:
        blob = blob - np.asarray(mean, np.float32).reshape(3, *np.shape(mean)[1:] or (1, 1))
    expected = Door(**delivery.door()).feed(blob[None] * np.float32(0.5))
    np.testing.assert_array_equal(reader.preprocess(image), expected)
    assert (tmp_path / "mean.npy").exists() == (np.ndim(mean) == 3)


def test_inputs_that_differ_have_no_common_preprocessing():
    content = nets.net(
        nets.inputs(a=(2, 3, 10, 12), b=(2, 3, 10, 12)), nets.layer("Eltwise", "a b", "c")
    )
    other = dataclasses.replace(HOW, scale=2.0)
    for how, expected in ((HOW, True), (other, False)):
        both = dataclasses.replace(content, images={"a": HOW, "b": how})
        assert (images.images_of(both, Door()) is not None) == expected
    lost = dataclasses.replace(content, images={"a": HOW}, means={"a": np.float32([1, 2])})
    with pytest.raises(MalformedModel, match=r"input 'a': a mean of float32 \[2\]; 3 channels"):
        images.images_of(lost, Door())
    uneven = dataclasses.replace(
        content, images={"a": HOW, "b": HOW}, means={"a": np.float32(MEAN)}
    )
    assert images.images_of(uneven, Door()) is None


# Classified


def test_the_best_classes(small):
    files = image_files()
    scores = small(small.preprocess(files))["prob"].numpy()
    found = small.classify(files, top=3)
    for row, best in zip(scores, found, strict=True):
        assert [label for label, _ in best] == [LABELS[i] for i in np.argsort(-row)[:3]]
        assert [value for _, value in best] == sorted(row.tolist(), reverse=True)[:3]
    assert small.classify(files[0]) == small.classify(files[:1])[0]
    assert len(small.classify(files[0])) == 5
    assert len(small.classify(files[0], top=99)) == len(LABELS)


def test_classes_without_names(tmp_path):
    network = loaded(known(labels=()), tmp_path)
    assert not (tmp_path / "labels.txt").exists()
    assert network.labels == ()
    assert {label for label, _ in network.classify(FILES["png"], top=7)} == set("0123456")


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            {"conv": (2, 8, 10, 7)},
            r"output conv is no list of classes: it has shape \(2, 8, 10, 7\)",
        ),
        ({"loss": ()}, r"output loss is no list of classes: it has shape \(\)"),
        ({"a": (2, 7), "b": (2, 7)}, "the net has 2 outputs, not one of classes: a, b"),
        ({"prob": (2, 9)}, "7 labels, output prob has 9 classes"),
    ],
    ids=["places", "loss", "two", "labels"],
)
def test_what_finds_no_classes_is_refused(shapes, said):
    reader = Reader()
    reader.labels = LABELS
    with pytest.raises(ValueError, match=said):
        reader.class_scores({name: tf.zeros(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize("shape", [(2, 7), (2, 1, 1, 7), (2, 7, 1)], ids=str)
def test_classes_are_a_list_whatever_its_shape(shape):
    values, reader = np.arange(14, dtype=np.float32), Reader()
    reader.labels = ()
    found = reader.class_scores({"prob": tf.constant(values.reshape(shape))})
    np.testing.assert_array_equal(found, values.reshape(2, 7))


def test_a_net_of_two_inputs_is_fed_by_hand():
    reader = Reader()
    reader.inputs = {"data": (None, 5, 7, 3), "info": (None, 3)}
    with pytest.raises(ValueError, match="the net has 2 inputs, data, info"):
        reader.classify(pixels(5, 7, 3))


def test_the_program_classifies(small, tmp_path, capsys):
    main = importlib.import_module(f"{type(small).__module__.rpartition('.')[0]}.__main__")
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(FILES["png"])
    bad.write_bytes(b"no")
    assert main.classify(small, [str(good)]) == 0
    ((label, value), *_) = small.classify(good)
    shown = capsys.readouterr()
    assert shown.out.splitlines()[:2] == [str(good), f"{value:10.4f}  {label}"]
    assert len(shown.out.splitlines()) == 6
    assert shown.err == ""
    assert main.classify(small, [str(bad), str(good), str(tmp_path / "none.png")]) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 6
    said = shown.err.splitlines()
    assert str(bad) in said[0] and str(tmp_path / "none.png") in said[1] and len(said) == 2
    main.describe(small)
    assert "input 'data': data" in capsys.readouterr().out


@pytest.mark.slow
def test_the_program_runs(tmp_path):
    nets.package(known(), tmp_path / "small")
    nets.package(nets.net(*LAYERS), tmp_path / "unknown")
    (tmp_path / "cat.png").write_bytes(FILES["png"])

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    shown = run("small", "cat.png")
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 6), shown.stderr
    shown = run("unknown", "cat.png")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "the preprocessing of this net is not known: tell it with" in shown.stderr
    shown = run("unknown")
    assert shown.returncode == 0
    assert "input 'data': data" in shown.stdout


# Baked


def by_name(network):
    """The model as a served function is called."""
    return lambda **inputs: network.model(*inputs.values())


def named(baked):
    """A signature's results as arrays."""
    return {name: value.numpy() for name, value in baked.items()}


def check_signature(signature, network, files):
    found = named(signature(image_bytes=tf.constant(files)))
    expected = network.classify(files)
    labels = [[label.decode() for label in row] for row in found["labels"]]
    assert labels == [[label for label, _ in row] for row in expected]
    values = [[value for _, value in row] for row in expected]
    np.testing.assert_allclose(found["probabilities"], values, rtol=1e-5, atol=1e-6)
    assert found["indices"].dtype == np.int32
    known_as = [[network.label(index) for index in row] for row in found["indices"]]
    assert known_as == labels


def test_a_signature_takes_image_files(small, tmp_path):
    served = tf.Module()
    served.weights = [variable.value for variable in small.model.variables]
    function = tf.function(lambda data: small.model(data, training=False), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec((None, 10, 12, 3), name="data"))
    signature = baking.image_signature(small, concrete)
    check_signature(signature, small, image_files())
    tf.saved_model.save(served, str(tmp_path), signatures={"classify_images": signature})
    again = tf.saved_model.load(str(tmp_path)).signatures["classify_images"]
    check_signature(again, small, image_files())
    check_signature(again, small, image_files()[:1])
    assert baking.signature_error(small, again) <= 1e-5
    other = loaded(known(mean=np.add(MEAN, 9)), tmp_path / "other")
    assert baking.signature_error(other, again) > 1e-4
    with pytest.raises(tf.errors.InvalidArgumentError):
        again(image_bytes=tf.constant([b"no image"]))


def test_scores_are_not_called_probabilities(tmp_path):
    network = loaded(known(*LAYERS[:3], labels=()), tmp_path)
    signature = baking.image_signature(network, by_name(network))
    found = named(signature(image_bytes=tf.constant(image_files())))
    assert set(found) == {"labels", "scores", "indices"}
    assert [[label.decode() for label in row] for row in found["labels"]] == (
        found["indices"].astype(str).tolist()
    )


def test_images_of_several_sizes_make_no_signature():
    reader = Reader()
    reader.inputs = {"data": (None, None, None, 3)}
    with pytest.raises(ValueError, match="several sizes, which make no batch"):
        baking.image_signature(reader, dict)


def baked_forms(mean_image):
    for name, door in (
        ("plain", {}),
        ("swapped", {"swap_rgb": True}),
        ("nchw", {"input_layout": "nchw"}),
    ):
        mean = pixels(3, 14, 16) if mean_image else MEAN
        yield name, known(mean=mean), door


@pytest.mark.parametrize("mean_image", [False, True], ids=["values", "image"])
def test_pixels_go_in_where_the_normalization_is_baked(mean_image, tmp_path):
    for name, content, door in baked_forms(mean_image):
        network = loaded(content, tmp_path / name, **door)
        model = baking.normalized_model(network)
        assert model.input_shape == (None, 10, 12, 3)
        assert model.count_params() - network.model.count_params() in (7, 2 * 10 * 12 * 3 + 1)
        assert baking.normalization_error(network, model) <= 1e-5
        # By hand: what Caffe's blob holds is found under the name of the input.
        seen = pixels(2, 10, 12, 3).astype(np.float32)
        mean = np.asarray(content.means["data"], np.float32)
        mean = mean[:, 2:12, 2:14].transpose(1, 2, 0) if mean_image else mean
        blob = ((seen[..., ::-1] - mean) * np.float32(SCALE)).transpose(0, 3, 1, 2)
        keys = list(content.net.outputs)
        runner = models.KerasRunner(model, network.names)
        expected = runner.between(["data"], {"data": blob}, keys)
        for key in keys:
            np.testing.assert_allclose(model(seen)[key], expected[key], rtol=1e-5, atol=1e-6)
        function = baking.normalized_function(network, by_name(network))
        assert baking.normalization_error(network, function) <= 1e-5
        file = tmp_path / f"{name}.keras"
        model.save(file)
        again = keras.models.load_model(file, compile=False)
        assert baking.normalization_error(network, again) <= 1e-5


def test_a_wrong_normalization_is_seen(small):
    assert baking.normalization_error(small, small.model) > 1
    model = baking.normalized_model(small)
    (layer,) = (each for each in model.layers if isinstance(each, keras.layers.Normalization))
    layer.adapt_mean.assign(np.add(MEAN, 0.1))
    layer.finalize_state()
    assert baking.normalization_error(small, model) > 1e-4


@pytest.mark.slow
def test_a_baked_model_reloads_anywhere_and_converts(tmp_path):
    network = loaded(known(mean=pixels(3, 14, 16)), tmp_path / "net")
    model = baking.normalized_model(network)
    model.save(tmp_path / "model.keras")
    seen = pixels(2, 10, 12, 3).astype(np.float32)
    np.save(tmp_path / "seen.npy", seen)
    text = (
        "import keras, numpy as np; model = keras.models.load_model('model.keras', compile=False); "
        "np.save('found.npy', model(np.load('seen.npy'))['prob'])"
    )
    subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True, capture_output=True)
    expected = network(network.normalized(seen))["prob"]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=1e-5, atol=1e-6)
    served = tf.Module()
    served.weights = [variable.value for variable in network.model.variables]
    function = baking.normalized_function(network, by_name(network))
    tf.saved_model.save(served, str(tmp_path / "saved"), signatures={"pixels": function})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    with pytest.warns(UserWarning, match="tf.lite.Interpreter is deprecated"):
        lite = tf.lite.Interpreter(model_content=converter.convert())
    run = lite.get_signature_runner()
    assert baking.normalization_error(network, lambda pixels: run(pixels=pixels)) <= 1e-5


NET = known()
TWO = known(*LAYERS, nets.layer("ReLU", "ip", "more"))


@pytest.mark.parametrize(
    ("content", "option", "said"),
    [
        (nets.net(*LAYERS), "preprocess", "--bake-preprocess: the preprocessing .* is not known"),
        (nets.net(*LAYERS), "normalization", "--bake-normalization: the preprocessing .* not kno"),
        (TWO, "preprocess", r"expected, found 'more' \[2, 7\], 'prob' \[2, 7\]"),
        (known(*LAYERS[:2]), "preprocess", r"expected, found 'conv' \[2, 4, 8, 10\]"),
        (known(labels=("a", "b")), "preprocess", "2 labels for 7 classes"),
        (known(how=Preprocessing("none")), "preprocess", "several sizes make no batch"),
        (known(mean=pixels(3, 14, 16)), "normalization", "an image of means is for one size"),
        (TWO, "normalization", None),
        (NET, "preprocess", None),
        (NET, "normalization", None),
    ],
    ids=[
        "unknown", "unknown to pixels", "outputs", "spatial", "labels", "sizes", "a mean",
        "outputs of pixels", "files", "pixels",
    ],
)  # fmt: skip
def test_what_cannot_be_baked_is_refused_before(content, option, said):
    delivery = Delivery(**{f"bake_{option}": True}, dynamic_size=option == "normalization")
    if said is None:
        images.require(content, delivery)
        return
    with pytest.raises(UsageError, match=said):
        images.require(content, delivery)


# As users have it


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The example, which tells that pixels are scaled."""
    folder = tmp_path_factory.mktemp("digits")
    files = [str(DIGITS / name) for name in ("deploy.prototxt", "digits.caffemodel")]
    assert worker.main([*files, "-o", str(folder / "net.h5")]) == 0
    content = interchange.read(folder / "net.h5")
    how = Preprocessing("none", None, None, "gray", 0.00390625)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return loaded(
        dataclasses.replace(content, images={"data": how}, labels=names), folder / "digits"
    )


@pytest.mark.slow
def test_the_example_classifies_its_files(digits):
    lines = (DIGITS / "test" / "labels.txt").read_text().splitlines()
    files, labels = zip(*(line.split() for line in lines), strict=True)
    found = digits.classify([DIGITS / "test" / file for file in files], top=1)
    right = [
        best[0][0] == digits.labels[int(label)] for best, label in zip(found, labels, strict=True)
    ]
    assert (sum(right), len(right)) == (358, 360)


@needs_shared
@pytest.mark.slow
def test_squeezenet_finds_what_caffe_finds(tmp_path):
    files = [str(SQUEEZENET / name) for name in ("deploy.prototxt", "weights.caffemodel")]
    assert worker.main([*files, "-o", str(tmp_path / "net.h5")]) == 0
    content = dataclasses.replace(
        interchange.read(tmp_path / "net.h5"),
        images={"data": Preprocessing("warp", (256, 256), (227, 227))},
        means={"data": np.float32(MEAN)},
        labels=tuple((PHOTOGRAPHS / "imagenet-classes.txt").read_text("utf-8").splitlines()),
    )
    network = loaded(content, tmp_path / "squeezenet")
    caffe = np.load(PHOTOGRAPHS / "squeezenet_caffe.npz")
    best = np.argsort(-caffe["prob"], axis=1, kind="stable")[:, :5]
    signature = baking.image_signature(network, by_name(network))
    for start in range(0, 100, 20):
        rows = slice(start, start + 20)
        paths = [PHOTOGRAPHS / str(name) for name in caffe["name"][rows]]
        expected = [[network.labels[index] for index in row] for row in best[rows]]
        found = network.classify(paths)
        assert [[label for label, _ in row] for row in found] == expected
        baked = signature(image_bytes=tf.constant([path.read_bytes() for path in paths]))
        np.testing.assert_array_equal(baked["indices"], best[rows])
    right = best == caffe["label"][:, None]
    assert (right[:, 0].sum(), right.sum()) == (64, 86)
