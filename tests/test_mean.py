"""Means of inputs: Caffe's .binaryproto, NumPy's .npy, a value for each channel."""

from __future__ import annotations

import io

import numpy as np
import pytest

from schemas import interchange
from schemas.errors import MalformedModel, UsageError
from stage_extract import mean, worker
from tests import caffe_bytes as cb
from tests.paths import GOLDENS, needs_shared
from tests.prototxts import build, inputs, layer

FORMATS = GOLDENS / "formats"
NET = build(inputs(data=(2, 3, 5, 7)), layer("TanH")).net
IMAGE = np.random.default_rng(3).uniform(90, 130, (3, 5, 7)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    def write(data, name="mean"):
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


def numpy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (cb.legacy(1, 3, 5, 7) + cb.packed(5, IMAGE), IMAGE),
        (cb.blob(IMAGE[np.newaxis]), IMAGE),
        (cb.blob(IMAGE), IMAGE),
        (cb.shape(3) + cb.unpacked(5, IMAGE[:, 0, 0]), IMAGE[:, 0, 0]),
        (cb.shape(1, 3, 5, 7) + cb.packed(8, IMAGE.astype("<f8")), IMAGE),
        (numpy_bytes(IMAGE.astype(np.float64)), IMAGE),
        (numpy_bytes(IMAGE[np.newaxis]), IMAGE),
        (numpy_bytes(np.array([1, 2, 3], np.uint8)), np.array([1, 2, 3], np.float32)),
        (numpy_bytes(np.asfortranarray(IMAGE)), IMAGE),
    ],
    ids=[
        "legacy shape", "current shape", "three axes", "channels", "doubles",
        "npy", "npy of one image", "npy of bytes", "npy in Fortran order",
    ],
)  # fmt: skip
def test_a_file(data, expected, file):
    (found,) = mean.read([file(data)], NET).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@needs_shared
def test_caffes_own(file):
    (found,) = mean.read([str(FORMATS / "mean.binaryproto")], build(
        inputs(data=(2, 3, 5, 7)), layer("TanH")).net).values()  # fmt: skip
    assert found.shape[0] == 3
    assert np.isfinite(found).all()


@pytest.mark.parametrize("text", ["104,117,123", "104, 117.0 ,1.23e2", "data=104,117,123"])
def test_values(text):
    found = mean.read([text], NET)
    assert list(found) == ["data"]
    assert found["data"].tolist() == [104, 117, 123]
    assert mean.path_of(text, ["data"]) is None


def test_inputs_by_name(file):
    net = build(inputs(a=(2, 3, 5, 7), b=(2, 1, 4, 6)), layer("TanH", "a"), layer("ReLU", "b")).net
    path = file(numpy_bytes(np.float32([7])))
    found = mean.read(["a=1,2,3", f"b={path}"], net)
    assert {key: value.tolist() for key, value in found.items()} == {"a": [1, 2, 3], "b": [7]}
    assert mean.path_of(f"b={path}", ["a", "b"]) == path
    with pytest.raises(UsageError, match="which input is meant.*'a', 'b'"):
        mean.read(["1,2,3"], net)
    with pytest.raises(UsageError, match="given twice for input 'a'"):
        mean.read(["a=1,2,3", "a=1,2,3"], net)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (numpy_bytes(np.ones((4, 5, 7), np.float32)), "a mean of 4 channels, input 'data'"),
        (numpy_bytes(np.ones((3, 5), np.float32)), r"a mean of shape \[3, 5\]"),
        (numpy_bytes(np.ones((2, 3, 5, 7), np.float32)), r"a mean of shape \[2, 3, 5, 7\]"),
        (numpy_bytes(np.ones((3, 0, 7), np.float32)), r"a mean of shape \[3, 0, 7\]"),
        (numpy_bytes(np.array(["a"] * 3)), "numbers are expected, found <U1"),
        (numpy_bytes(np.array([None] * 3, object)), "the .npy file is damaged: "),
        (numpy_bytes(IMAGE)[:-9], "the .npy file is damaged: "),
        (numpy_bytes(IMAGE)[:40], "the .npy file is damaged: "),
        (
            numpy_bytes(np.ones(3)).replace(b"(3,)", b"(3" + b"0" * 14 + b",)"),
            "the .npy file is damaged: ",
        ),
        (numpy_bytes(np.array([1, np.nan, 2])), "the mean has NaNs or infinities"),
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>", "found a web page"),
        (cb.legacy(1, 3, 5, 7) + cb.packed(5, IMAGE[0]), "is announced, 35 values follow"),
    ],
    ids=[
        "channels", "two axes", "two images", "nothing", "texts", "objects", "cut off",
        "header cut off", "a size that lies", "NaN", "empty", "a page", "cut off proto",
    ],
)  # fmt: skip
def test_what_is_no_mean(data, message, file):
    with pytest.raises(MalformedModel, match=message):
        mean.read([file(data)], NET)


def test_values_for_an_impossible_shape_are_not_read(tmp_path):
    path = tmp_path / "mean.npy"
    np.lib.format.open_memmap(str(path), "w+", np.uint8, (3, 40_000, 40_000))  # a sparse file
    with pytest.raises(MalformedModel, match=r"a mean of shape \[3, 40000, 40000\]"):
        mean.read([str(path)], NET)


def test_no_such_file():
    with pytest.raises(UsageError, match="no such file"):
        mean.read(["no.binaryproto"], NET)


def test_it_travels_in_the_interchange_file(file, tmp_path, capfd):
    text = (
        layer("Data", "", "data", "data_param { batch_size: 2 } transform_param { "
              "crop_size: 5 scale: 0.5 mean_file: 'lost.binaryproto' }")
        + layer("TanH")
    )  # fmt: skip
    net = file(text.encode(), "net.prototxt")
    path = file(numpy_bytes(IMAGE), "mean.npy")
    out = str(tmp_path / "net.h5")
    shape = ["--input-shape", "data=2,3,5,5"]
    assert worker.main([net, "-o", out, *shape]) == 0
    assert (
        "warning: input 'data': the prototxt subtracts the mean in 'lost.binaryproto', "
        "which is not known: pass it with --mean" in capfd.readouterr().err
    )
    assert worker.main([net, "-o", out, *shape, "--mean", path]) == 0
    assert capfd.readouterr().err == (
        "warning: input 'data': its preprocessing is assumed in part: images are warped to 5 x 7 "
        "(--preprocess tells it)\n"
    )
    content = interchange.read(tmp_path / "net.h5")
    np.testing.assert_array_equal(content.means["data"], IMAGE)
    assert [source.role for source in content.sources] == ["prototxt", "mean"]
    assert content.preprocessing["data"]["scale"] == 0.5
    assert worker.main([net, "-o", out, *shape, "--mean", "1,2"]) == 3
    assert "--mean 1,2: a mean of 2 channels" in capfd.readouterr().err
