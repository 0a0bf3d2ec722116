"""How images become inputs: presets, TOML files, transform_param, means, labels; what wins."""

from __future__ import annotations

import argparse
import io
import sys

import numpy as np
import pytest

from schemas import interchange
from schemas.errors import EnvironmentProblem, MalformedModel, UsageError
from schemas.preprocessing import MAX_LABEL, MAX_LABELS, Preprocessing
from schemas.presets import PRESETS
from schemas.recipe import find
from stage_extract import labels, network, preprocessing, prototxt, reference, upgrade, worker
from tests.paths import SHARED, needs_shared
from tests.prototxts import build, inputs, layer

ILSVRC = [104.00698793, 116.66876762, 122.67891434]
ROUNDED = [104, 117, 123]
SIZES = (5, 7)  # of the nets' input
NET = [inputs(data=(2, 3, *SIZES)), layer("TanH")]


def data_layer(transform, type_="Data", more="", size=SIZES, channels=3):
    """A net that begins with a data layer, and what it is read with."""
    text = layer(type_, "", "data", f"transform_param {{ {transform} }} {more}")
    return build(text, layer("TanH"), input_shapes={"data": (2, channels, *size)})


def resolved(built, preprocess=(), means=(), label_file=None):
    """What is resolved for a net, and the notes."""
    notes = []
    told = preprocessing.read(argparse.Namespace(preprocess=list(preprocess), labels=label_file))
    found = preprocessing.resolve(told, means, built.net, built.preprocessing, notes)
    return found, notes


def only(built, *preprocess, means=()):
    """The preprocessing of the net's one input, and its mean as a list."""
    found, _ = resolved(built, preprocess, means)
    (image,) = found.images.values()
    return image, found.means["data"].tolist() if found.means else None


@pytest.fixture
def toml(tmp_path):
    def write(text, name="images.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def numpy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


# What a preprocessing is


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"resize": "stretch"}, "resize is one of warp, short_side, none, found 'stretch'"),
        ({"channels": "bgra"}, "channels is one of bgr, rgb, gray, found 'bgra'"),
        ({"size": (0, 4)}, "size is a height and a width, each from 1 to 16384"),
        ({"size": (8, 16385)}, "size is a height and a width"),
        ({"size": (8, 8, 8)}, "size is a height and a width"),
        ({"crop": (8, -1)}, "crop is a height and a width"),
        ({"size": None}, "resize is 'warp', and size None"),
        ({"resize": "none"}, r"resize is 'none', and size \(8, 9\)"),
        ({"resize": "short_side"}, r"the shorter side has one length, found \(8, 9\)"),
        ({"crop": (8, 10)}, r"crop \(8, 10\) is larger than size \(8, 9\)"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"scale": -1e31}, "scale is -1e\\+31"),
    ],
    ids=[
        "resize", "channels", "no height", "too wide", "three sizes", "negative", "no size",
        "a size for nothing", "two shorter sides", "crop too large", "NaN", "infinity", "huge",
    ],
)  # fmt: skip
def test_what_is_no_preprocessing(members, message):
    sound = {"resize": "warp", "size": (8, 9), "crop": (7, 9), "channels": "rgb", "scale": 0.5}
    Preprocessing(**sound)
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{**sound, **members})


# Nothing is invented


@pytest.mark.parametrize(
    "built",
    [build(*NET), data_layer("mirror: true"), data_layer("", "HDF5Data")],
    ids=["Input", "only mirror", "HDF5Data"],
)
def test_where_nothing_is_told_nothing_is_done(built):
    found, notes = resolved(built)
    assert found == preprocessing.Resolved({}, {}, ())
    assert notes == []


# Presets


@needs_shared
@pytest.mark.parametrize(
    ("preset", "folder", "resize", "crop", "mean"),
    [
        ("alexnet", "zoo/bvlc_alexnet", "warp", 227, ILSVRC),
        ("caffenet", "zoo/bvlc_reference_caffenet", "warp", 227, ILSVRC),
        ("googlenet", "zoo/bvlc_googlenet", "warp", 224, ROUNDED),
        ("nin", "zoo/nin_imagenet", "short_side", 224, ILSVRC),
        ("vgg16", "zoo/vgg16", "short_side", 224, [103.939, 116.779, 123.68]),
        ("resnet-50", "zoo/resnet-50", "short_side", 224, [103.0626238, 115.9028826, 123.1516308]),
        ("resnet-101", "zoo/resnet-101", "short_side", 224, [103.0626238, 115.9028826, 123.151631]),
        ("resnet-152", "zoo/resnet-152", "short_side", 224, [103.0626238, 115.9028826, 123.151631]),
        ("squeezenet", "zoo/squeezenet_v1.1", "warp", 227, ROUNDED),
        ("squeezenet", "models/squeezenet-imagenet", "warp", 227, ROUNDED),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" in value else "",
)
def test_a_preset_takes_its_crop_from_the_net(preset, folder, resize, crop, mean):
    (path,) = (SHARED / folder).glob("*.prototxt")
    built = network.build(upgrade.upgrade(prototxt.read(path)), network.Options())
    found, notes = resolved(built, [preset])
    (image,) = found.images.values()
    assert (image.resize, image.size, image.crop) == (resize, (256, 256), (crop, crop))
    assert (image.channels, image.scale) == ("bgr", 1.0)
    np.testing.assert_allclose(found.means["data"], mean, rtol=1e-6)
    approximate = preset not in ("googlenet", "vgg16", "squeezenet")
    assert [text.startswith("a mean for each channel") for text in image.unknown] == (
        [True] * approximate
    )
    assert len(notes) == approximate


def test_every_preset_is_sound():
    built = build(inputs(data=(1, 3, 224, 224)), layer("TanH"))
    for name in PRESETS:
        image, mean = only(built, name)
        assert image.size == (256, 256)
        assert all(100 < value < 130 for value in mean)


def test_a_mean_image_replaces_what_a_preset_approximates(toml):
    built = build(inputs(data=(1, 3, 4, 6)), layer("TanH"))
    mean = np.random.default_rng(3).uniform(90, 130, (3, 256, 256)).astype(np.float32)
    found, notes = resolved(built, ["resnet-50"], [toml(numpy_bytes(mean), "mean.npy")])
    assert found.images["data"].unknown == ()
    np.testing.assert_array_equal(found.means["data"], mean)
    assert notes == []


@needs_shared
def test_a_preset_gives_what_caffe_gave(tmp_path):
    """The order of the channels and the mean, held to Caffe's own scores of a photograph."""
    folder, out = SHARED / "models" / "squeezenet-imagenet", tmp_path / "net.h5"
    (net,), (caffemodel,) = folder.glob("*.prototxt"), folder.glob("*.caffemodel")
    options = ["--no-reference", "--preprocess", "squeezenet"]
    assert worker.main([str(net), str(caffemodel), "-o", str(out), *options]) == 0
    content = interchange.read(out)
    image = content.images["data"]
    cropped = np.load(SHARED / "images" / "preprocessed_cv2_256_227.npz")["bgr"][:1]
    recorded = np.load(SHARED / "images" / "squeezenet_caffe.npz")["prob"][0]
    bgr = cropped.astype(np.float32).transpose(0, 3, 1, 2)
    assert (image.channels, bgr.shape[2:]) == ("bgr", image.crop)
    fed = (bgr - content.means["data"].reshape(-1, 1, 1)) * np.float32(image.scale)
    blobs = reference.forward(content.net, content.weights, {"data": fed})
    np.testing.assert_allclose(blobs["pool_final"].reshape(-1), recorded, 1e-5, 1e-5)


def test_a_net_larger_than_the_presets_images():
    built = build(inputs(data=(1, 3, 500, 400)), layer("TanH"))
    with pytest.raises(
        UsageError, match=r"--preprocess vgg16: input 'data': crop \(500, 400\) is larger than size"
    ):
        only(built, "vgg16")


# TOML


def test_a_toml_file_tells_all(toml, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\n")
    path = toml(
        'resize = "warp"\nsize = [9, 11]\ncrop = [5, 7]\nchannels = "rgb"\nmean = [1, 2.5, 3]\n'
        'scale = 0.5\nlabels = "names.txt"'
    )
    found, notes = resolved(build(*NET), [path])
    assert found.images["data"] == Preprocessing("warp", (9, 11), (5, 7), "rgb", 0.5)
    assert found.means["data"].tolist() == [1, 2.5, 3]
    assert found.means["data"].dtype == np.float32
    assert found.labels == ("a", "b")
    assert notes == []


@pytest.mark.parametrize(
    ("text", "expected", "mean"),
    [
        ('resize = "warp"', Preprocessing("warp", SIZES), None),
        ('resize = "warp"\nsize = 9', Preprocessing("warp", (9, 9), SIZES), None),
        ('resize = "short_side"', Preprocessing("short_side", (7, 7), SIZES), None),
        ('resize = "short_side"\nsize = 8', Preprocessing("short_side", (8, 8), SIZES), None),
        ('resize = "none"', Preprocessing("none"), None),
        ('resize = "none"\ncrop = [5, 7]', Preprocessing("none", None, SIZES), None),
        ("mean = 128", Preprocessing("warp", SIZES), [128] * 3),
        ("mean = 0", Preprocessing("warp", SIZES), [0] * 3),
        ("scale = -2", Preprocessing("warp", SIZES, scale=-2.0), None),
    ],
    ids=[
        "warp", "warp and crop", "short side", "short side and crop", "no resizing", "only a crop",
        "one mean for all", "a mean of zero", "a whole scale",
    ],
)  # fmt: skip
def test_a_toml_file_tells_some(text, expected, mean, toml):
    image, found = only(build(*NET), toml(text))
    assert image.__dict__ == {**expected.__dict__, "unknown": image.unknown}
    assert found == mean
    assert ("no mean is subtracted" in image.unknown) == ("mean" not in text)
    assert any("warped" in each for each in image.unknown) == ("resize" not in text)
    assert any("BGR" in each for each in image.unknown)


def test_paths_in_a_toml_file_start_at_its_folder(toml, tmp_path, monkeypatch):
    (tmp_path / "settings").mkdir()
    monkeypatch.chdir(tmp_path)
    mean = np.random.default_rng(3).uniform(90, 130, (3, 9, 8)).astype(np.float32)
    (tmp_path / "mean.npy").write_bytes(numpy_bytes(mean))
    path = toml('mean = "../mean.npy"\nlabels = "names.txt"', "settings/images.toml")
    toml("one\n", "settings/names.txt")
    told = preprocessing.read(argparse.Namespace(preprocess=[path], labels=None))
    assert [role for role, _ in told.files] == ["preprocess", "mean", "labels"]
    found, _ = resolved(build(*NET), [path])
    np.testing.assert_array_equal(found.means["data"], mean)
    # The mean image has the size that images have before they are cropped.
    assert (found.images["data"].size, found.images["data"].crop) == ((9, 8), SIZES)
    assert found.labels == ("one",)
    assert resolved(build(*NET), [path], (), toml("two", "two.txt"))[0].labels == ("two",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise = 3", "'sise' is not known here .*there are resize, size, crop"),
        ("[data]\nsize = 3", "'data' is not known here"),
        ("size = '256'", "size should be a number of pixels or .*, found '256'"),
        ("size = 0", "size should be a number of pixels"),
        ("size = 16385", "size should be a number of pixels"),
        ("size = true", "size should be a number of pixels"),
        ("size = [256]", "size should be a number of pixels"),
        ("size = [1.0, 2.0]", "size should be a number of pixels"),
        ("crop = -1", "crop should be a number of pixels"),
        ("resize = 3", "resize should be one of warp, short_side, none, found 3"),
        ("channels = 'RGB'", "channels should be one of bgr, rgb, gray, found 'RGB'"),
        ("mean = true", "mean should be a number, a list of numbers or the path"),
        ("mean = []", "mean should be"),
        ("mean = [1, nan, 3]", "mean should be"),
        ("mean = [1, inf, 3]", "mean should be"),
        ("mean = ['1', 2, 3]", "mean should be"),
        ("mean = ''", "mean should be"),
        ('mean = "a\\u0000b"', "mean should be"),
        ("scale = '1'", "scale should be a number, found '1'"),
        ("scale = nan", "scale should be a number"),
        ("scale = 1e300", "scale should be a number"),
        ("scale = 1" + "0" * 4000, "scale should be a number"),
        ("labels = 3", "labels should be the path of a text file, found 3"),
        ("resize = 'none'\nsize = 3", "a size is told, and resize is 'none'"),
        ("size = ", "this is not TOML: "),
        (b"mean = '\xff'", "this is not TOML: "),
        ("mean = " + "[" * 30_000, "this is not TOML: "),
        ("#" * 70_000, "a TOML file of at most 65,536 bytes is expected"),
        ("mean = [1, 2]", "a mean of 2 channels, input 'data' has shape"),
    ],
    ids=[
        "misspelt", "a table", "text for a size", "no size", "too large", "a truth", "one side",
        "floats for a size", "negative", "number for a word", "wrong case", "a truth as mean",
        "empty mean", "NaN in a mean", "infinity in a mean", "text in a mean", "no path", "a null",
        "text for a scale", "NaN", "beyond float32", "4001 digits", "number for a path",
        "size of nothing", "cut off", "Latin-1", "deep", "long", "two means",
    ],
)  # fmt: skip
def test_what_a_toml_file_cannot_tell(text, message, toml):
    path = toml(text)
    with pytest.raises(MalformedModel, match=message) as caught:
        resolved(build(*NET), [path])
    assert caught.value.where == path


def test_toml_needs_a_package_before_3_11(toml, monkeypatch):
    for name in ("tomli", "tomllib"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentProblem, match=r"package tomll?ib? cannot .*pip install toml"):
        find(toml("scale = 1"), "--preprocess")
    find("vgg16", "--preprocess")  # a preset needs none


def test_no_such_preset():
    with pytest.raises(UsageError, match="--preprocess vgg: no such preset or file .*, vgg16"):
        find("vgg", "--preprocess")


def test_a_folder_is_no_toml_file(tmp_path):
    with pytest.raises(UsageError, match="not a regular file"):
        find(str(tmp_path), "--preprocess")


# transform_param


@pytest.mark.parametrize(
    ("transform", "expected", "mean"),
    [
        ("scale: 0.5", Preprocessing("warp", SIZES, scale=0.5), None),
        ("mean_value: 104 mean_value: 117 mean_value: 123", Preprocessing("warp", SIZES), ROUNDED),
        ("mean_value: 128", Preprocessing("warp", SIZES), [128] * 3),
        ("crop_size: 5", Preprocessing("warp", SIZES), None),
        ("force_color: true", Preprocessing("warp", SIZES), None),
        ("scale: 2 bgr2rgb: true", Preprocessing("warp", SIZES, None, "rgb", 2.0), None),
        (
            "resize_param { resize_mode: WARP height: 8 width: 9 }",
            Preprocessing("warp", (8, 9), SIZES),
            None,
        ),
        (
            "resize_param { resize_mode: FIT_SMALL_SIZE height: 8 width: 8 }",
            Preprocessing("warp", SIZES),
            None,
        ),
    ],
    ids=[
        "scale", "means", "one mean", "crop", "color", "Intel's rgb", "SSD's warp", "SSD's other",
    ],
)  # fmt: skip
def test_what_a_data_layer_tells(transform, expected, mean):
    built = data_layer(transform)
    image, found = only(built)
    assert image.__dict__ == {**expected.__dict__, "unknown": image.unknown}
    assert found == mean
    known = expected.size != SIZES
    assert image.unknown == (() if known else ("images are warped to 5 x 7",))
    notes = resolved(built)[1]
    assert notes == ([] if known else [
        "input 'data': its preprocessing is assumed in part: images are warped to 5 x 7 "
        "(--preprocess tells it)"
    ])  # fmt: skip


def test_image_files_are_warped_to_their_new_size():
    text = "image_data_param { new_height: 9 new_width: 8 }"
    image, mean = only(data_layer("crop_size: 5", "ImageData", text, (5, 5)))
    assert image == Preprocessing("warp", (9, 8), (5, 5))
    assert mean is None
    # Told of another input's size: --input-shape was given.
    image, _ = only(data_layer("crop_size: 5", "ImageData", text, (10, 7)))
    assert (image.size, image.unknown) == ((10, 7), ("images are warped to 10 x 7",))


def test_a_gray_net():
    image, mean = only(data_layer("force_gray: true mean_value: 33", channels=1))
    assert image == Preprocessing("warp", SIZES, None, "gray", 1.0, image.unknown)
    assert mean == [33]
    with pytest.raises(
        UsageError, match="--preprocess vgg16: channels is 'bgr', input 'data' has 1"
    ):
        only(build(inputs(data=(1, 1, 5, 7)), layer("TanH")), "vgg16")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("mean_value: 1 mean_value: 2", "transform_param: a mean of 2 channels"),
        ("mean_value: nan", "transform_param: a number is expected, found nan"),
        ("scale: inf", "transform_param: a number is expected, found inf"),
    ],
)
def test_a_transform_that_caffe_would_refuse(transform, message):
    with pytest.raises(MalformedModel, match=message):
        only(data_layer(transform))


def test_a_mean_file_is_not_looked_for(tmp_path, monkeypatch):
    """A prototxt names no file that is read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mean.npy").write_bytes(numpy_bytes(np.float32([1, 2, 3])))
    built = data_layer("mean_file: 'mean.npy' scale: 2")
    found, notes = resolved(built)
    assert found.means == {}
    assert found.images["data"].unknown[0] == (
        "the mean in 'mean.npy' is not known, and none is subtracted"
    )
    assert notes[0].endswith("'mean.npy', which is not known: pass it with --mean")
    assert "mean.npy" not in notes[1]
    found, notes = resolved(built, (), ["mean.npy"])
    assert found.means["data"].tolist() == [1, 2, 3]
    assert found.images["data"].unknown == ("images are warped to 5 x 7",)
    assert len(notes) == 1


def test_a_mean_file_of_what_is_no_image():
    _, notes = resolved(data_layer("mean_file: 'm' scale: 2", channels=4))
    assert len(notes) == 1
    assert notes[0].endswith("which is not known: pass it with --mean")


# What wins


def test_options_win_over_the_prototxt_and_mean_over_all(toml):
    built = data_layer("scale: 0.5 mean_value: 7 bgr2rgb: true")
    path = toml('resize = "short_side"\nsize = 9\nscale = 0.25')
    expected = Preprocessing("short_side", (9, 9), SIZES, "rgb", 0.25)
    assert only(built, path) == (expected, [7] * 3)
    assert only(built, path, means=["1,2,3"]) == (expected, [1, 2, 3])
    assert only(built, toml("mean = 9", "mean.toml"))[1] == [9] * 3
    image, mean = only(data_layer("scale: 0.5 mean_value: 7"), toml('resize = "none"'))
    assert (image, mean) == (Preprocessing("none", scale=0.5), [7] * 3)


def test_with_a_mean_alone_the_rest_is_assumed_and_said():
    found, notes = resolved(build(*NET), (), ["1,2,3"])
    image = found.images["data"]
    assert image == Preprocessing("warp", SIZES, unknown=image.unknown)
    assert image.unknown == (
        "images are warped to 5 x 7",
        "the order of the channels is BGR",
        "values stay in the range of 0 to 255",
    )
    assert notes == [
        f"input 'data': its preprocessing is assumed in part: {'; '.join(image.unknown)} "
        "(--preprocess tells it)"
    ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 9), Preprocessing("warp", (8, 9), SIZES)),
        ((5, 7), Preprocessing("warp", (5, 7))),
        ((5, 9), Preprocessing("warp", (5, 9), SIZES)),
    ],
    ids=["larger", "the input's", "wider"],
)
def test_a_mean_image_tells_the_size(size, expected, toml):
    mean = np.ones((3, *size), np.float32)
    image, _ = only(build(*NET), means=[toml(numpy_bytes(mean), "mean.npy")])
    assert image.__dict__ == {**expected.__dict__, "unknown": image.unknown}


@pytest.mark.parametrize("size", [(4, 7), (5, 6), (1, 1)], ids=str)
def test_a_mean_image_that_is_smaller_than_the_input(size, toml):
    mean = toml(numpy_bytes(np.ones((3, *size), np.float32)), "mean.npy")
    with pytest.raises(MalformedModel, match=r"a mean image of . x ., input 'data' takes 5 x 7"):
        resolved(build(*NET), (), [mean])


@pytest.mark.parametrize(("size", "said"), [(8, False), (9, True)], ids=["same", "another"])
def test_a_mean_image_of_another_size_than_the_images(size, said, toml):
    """Caffe refuses it (data_transformer.cpp); what a user may want is its centre."""
    mean = toml(numpy_bytes(np.ones((3, 8, 8), np.float32)), "mean.npy")
    image, _ = only(build(*NET), toml(f'resize = "warp"\nsize = {size}'), means=[mean])
    assert ("the mean image, of 8 x 8, is of other images: its centre is taken"
            in image.unknown) is said  # fmt: skip


def test_another_crop_than_the_nets(toml):
    with pytest.raises(UsageError, match="crop is 4 x 4, input 'data' takes 5 x 7"):
        only(build(*NET), toml("crop = 4"))


# Inputs


def test_inputs_by_name(toml):
    built = build(
        inputs(a=(2, 3, 5, 7), b=(2, 1, 4, 6)), layer("TanH", "a"), layer("ReLU", "b", "o")
    )
    gray = toml('channels = "gray"\nmean = 5')
    found, _ = resolved(built, ["a=googlenet", f"b={gray}"])
    assert {key: image.channels for key, image in found.images.items()} == {"a": "bgr", "b": "gray"}
    assert found.means["b"].tolist() == [5]
    with pytest.raises(UsageError, match="--preprocess: which input is meant.*'a', 'b'"):
        resolved(built, ["vgg16"])
    with pytest.raises(UsageError, match="--preprocess: there is no input 'c' .*'a', 'b'"):
        resolved(built, ["c=vgg16"])
    with pytest.raises(UsageError, match="--preprocess is given twice for input 'a'"):
        resolved(built, ["a=vgg16", f"a={gray}"])


def test_a_file_with_an_equals_sign(toml):
    image, _ = only(build(*NET), toml("scale = 3", "a=b.toml"))
    assert image.scale == 3


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (2, 5), (2, 3, 5)], ids=str)
def test_what_is_no_image_has_no_preprocessing(shape):
    built = build(inputs(data=shape), layer("TanH"))
    with pytest.raises(
        UsageError, match="--preprocess vgg16: images have 1 or 3 channels, input 'data' has shape"
    ):
        resolved(built, ["data=vgg16"])
    means = ",".join("1" * shape[1])
    found, notes = resolved(built, (), [f"data={means}"])
    assert found.images == {}
    assert found.means["data"].tolist() == [1] * shape[1]
    assert notes == []


# Labels


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"tench\ngoldfish\n", ("tench", "goldfish")),
        (b"n01440764 tench, Tinca tinca\r\nn01443537 goldfish\r\n\r\n \n",
         ("n01440764 tench, Tinca tinca", "n01443537 goldfish")),
        (b"n01440764\ttench", ("n01440764 tench",)),
        ("\ufeffM\u00fccke\nB\u00e4r".encode(), ("M\u00fccke", "B\u00e4r")),
        ("M\u00fccke\nB\u00e4r".encode("latin-1"), ("M\u00fccke", "B\u00e4r")),
        (b"  a  \n b", ("a", "b")),
        ("\u72d7 \u200d\n\U0001f415".encode(), ("\u72d7 \u200d", "\U0001f415")),
    ],
    ids=["lines", "synset words", "tab", "UTF-8 with a mark", "Latin-1", "blanks", "far scripts"],
)  # fmt: skip
def test_labels(data, expected, toml):
    assert labels.read(toml(data, "labels.txt")) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "label 0 is empty"),
        (b"a\n\nc\n", "label 1 is empty"),
        (b"a\nb\x1b[31m\n", r"label 1 has control characters: 'b\\x1b\[31m'"),
        (b"a\rb", r"label 0 has control characters: 'a\\rb'"),
        ("a\u2028b".encode(), r"label 0 has control characters: 'a\\u2028b'"),
        (b"a\n" + b"x" * 1025, "label 1 has 1,025 characters, more than 1024"),
        (b"x\n" * (MAX_LABELS + 1), "131,073 labels, more than 131,072"),
        (b"x" * 2_100_000, "names of classes take at most 2,097,152 bytes"),
        (b"<!DOCTYPE html><p>404", "names of classes are expected, a line each, found a web page"),
        (b"PK\x03\x04aaa", "names of classes are expected, a line each, found a zip archive"),
    ],
    ids=[
        "empty", "blank", "a line is missing", "an escape", "old line ends", "a separator",
        "a long one", "many", "a large file", "a page", "an archive",
    ],
)  # fmt: skip
def test_what_are_no_labels(data, message, toml):
    with pytest.raises(MalformedModel, match=message):
        labels.read(toml(data, "labels.txt"))


def test_the_longest_labels_are_read(toml):
    assert len(labels.read(toml("x" * MAX_LABEL, "labels.txt"))[0]) == MAX_LABEL


@pytest.mark.parametrize(
    ("shape", "top", "told"),
    [
        (
            (2, 3),
            "TanH",
            "there are 2 labels, and 3 classes in the net: images cannot be classified with them",
        ),
        (
            (2, 3, 1, 1),
            "TanH",
            "there are 2 labels, and 3 classes in the net: images cannot be classified with them",
        ),
        ((2, 2), "TanH", None),
        ((2, 3, 5, 7), "TanH", None),
        ((2, 3), "ArgMax", None),
    ],
    ids=["vector", "1 x 1", "as many", "no classes", "positions"],
)
def test_labels_are_counted(shape, top, told, toml):
    built = build(inputs(data=shape), layer(top))
    found, notes = resolved(built, (), (), toml("a\nb", "labels.txt"))
    assert found.labels == ("a", "b")
    assert notes == ([told] if told else [])


# The whole stage


def test_all_of_it_travels_in_the_interchange_file(toml, tmp_path, capfd):
    mean = np.random.default_rng(3).uniform(90, 130, (3, 9, 11)).astype(np.float32)
    toml(numpy_bytes(mean), "mean.npy")
    net, out = toml("\n".join(NET), "net.prototxt"), str(tmp_path / "net.h5")
    names = toml("n1 a\nn2 b\nn3 c", "names.txt")
    path = toml('resize = "warp"\nchannels = "rgb"\nscale = 0.5\nmean = "mean.npy"')
    assert worker.main([net, "-o", out, "--preprocess", path, "--labels", names]) == 0
    assert capfd.readouterr().err == ""
    content = interchange.read(tmp_path / "net.h5")
    assert content.images == {"data": Preprocessing("warp", (9, 11), SIZES, "rgb", 0.5)}
    np.testing.assert_array_equal(content.means["data"], mean)
    assert content.labels == ("n1 a", "n2 b", "n3 c")
    assert [(each.role, each.name) for each in content.sources] == [
        ("prototxt", "net.prototxt"),
        ("preprocess", "images.toml"),
        ("mean", "mean.npy"),
        ("labels", "names.txt"),
    ]
    assert [each.bytes for each in content.sources][3] == 14


def test_nothing_that_is_read_is_overwritten(toml, capfd):
    net, names = toml("\n".join(NET), "net.prototxt"), toml("a\nb\nc", "names.txt")
    assert worker.main([net, "-o", names, "--labels", names]) == 2
    assert "-o would overwrite this input" in capfd.readouterr().err
    assert labels.read(names) == ("a", "b", "c")


def test_a_mistake_in_the_options_is_found_before_the_net_is_read(toml, tmp_path, capfd):
    net = toml("no net at all {", "net.prototxt")
    assert worker.main([net, "-o", str(tmp_path / "o.h5"), "--preprocess", toml("sise = 3")]) == 3
    assert "'sise' is not known here" in capfd.readouterr().err
