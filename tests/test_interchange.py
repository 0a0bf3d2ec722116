"""The interchange file: what is written is read, damage is refused, version 1 stays readable."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest

from schemas import interchange
from schemas.errors import EnvironmentProblem, MalformedModel, UnsupportedModel, UsageError
from schemas.preprocessing import Preprocessing
from tests.make_interchange_v1 import content
from tests.paths import ROOT

V1 = ROOT / "tests" / "data" / "interchange_v1.h5"


def assert_same(read, made):
    assert read.net == made.net
    assert read.sources == made.sources
    assert dict(read.preprocessing) == dict(made.preprocessing)
    assert read.notes == made.notes
    assert (read.reference.recorder, read.reference.seed) == (
        made.reference.recorder,
        made.reference.seed,
    )
    for ours, theirs in (
        (read.weights, made.weights),
        (read.reference.inputs, made.reference.inputs),
        (read.reference.blobs, made.reference.blobs),
    ):
        assert list(ours) == list(theirs)
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key], strict=True)


def test_version_1_is_read():
    assert_same(interchange.read(V1), content())


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_what_is_written_is_read(tmp_path, mapped):
    interchange.write(tmp_path / "net.h5", content())
    found = interchange.read(tmp_path / "net.h5", mapped)
    assert_same(found, content())
    assert_same(found, content())
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


def test_a_link_in_the_way_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / f".net.h5.{os.getpid()}.partial").symlink_to(other)
    interchange.write(tmp_path / "net.h5", content())
    assert other.read_text() == "mine"
    assert not (tmp_path / "net.h5").is_symlink()


IMAGE = Preprocessing("short_side", (8, 8), (5, 6), "rgb", 0.5, ("the scale is assumed",))


def with_images():
    """The content with a mean image, preprocessing and labels."""
    mean = np.arange(126, dtype=np.float32).reshape(3, 6, 7)
    return replace(
        content(),
        means={"data": mean},
        images={"data": IMAGE},
        labels=("n01440764 tench", "é \u72d7"),
    )


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        Preprocessing("warp", (5, 6)),
        Preprocessing("warp", (5, 7), (5, 6), "bgr", -1e30),
        Preprocessing("none"),
        Preprocessing("none", None, (5, 6)),
    ],
    ids=["short side", "warp", "warp and crop", "as it is", "only a crop"],
)
def test_preprocessing_travels(tmp_path, image):
    made = replace(with_images(), images={"data": image})
    interchange.write(tmp_path / "net.h5", made)
    read = interchange.read(tmp_path / "net.h5")
    assert_same(read, made)
    assert read.images == made.images
    assert read.labels == made.labels
    np.testing.assert_array_equal(read.means["data"], made.means["data"], strict=True)


def test_older_files_have_no_preprocessing():
    read = interchange.read(V1)
    assert (read.images, read.means, read.labels) == ({}, {}, ())


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        interchange.write(tmp_path / name, content())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("shape", [(), (1,), (2, 0, 3), (5,), (1, 2, 3, 4, 5)], ids=str)
def test_any_rank(tmp_path, shape):
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    made = replace(content(), weights={**content().weights, "extra/0": array})
    interchange.write(tmp_path / "net.h5", made)
    read = interchange.read(tmp_path / "net.h5").weights["extra/0"]
    np.testing.assert_array_equal(read, array, strict=True)


def test_an_array_that_is_used_twice_is_stored_once(tmp_path):
    made = content()
    shared = made.weights["conv/1/0"]
    interchange.write(
        tmp_path / "net.h5", replace(made, weights={**made.weights, "again/0": shared})
    )
    with h5py.File(tmp_path / "net.h5") as file:
        index = json.loads(file["index"][()].tobytes())
    assert index["weights"]["again/0"] == index["weights"]["conv/1/0"]


def test_parameters_may_be_infinite(tmp_path):
    made = content()
    layers = (made.net.layers[0], replace(made.net.layers[1], fields={"x_param": {"max": np.inf}}))
    interchange.write(tmp_path / "net.h5", replace(made, net=replace(made.net, layers=layers)))
    read = interchange.read(tmp_path / "net.h5").net.layers[1]
    assert read.fields == {"x_param": {"max": np.inf}}


class Sliced:
    """A weight that is never whole in memory."""

    shape, dtype = (7, 3), np.dtype(np.float32)

    def slices(self, limit):
        yield from np.arange(21, dtype=np.float32).reshape(7, 3)


def test_weights_may_come_in_slices(tmp_path):
    interchange.write(
        tmp_path / "net.h5", replace(content(), weights={**content().weights, "s/0": Sliced()})
    )
    read = interchange.read(tmp_path / "net.h5").weights["s/0"]
    np.testing.assert_array_equal(read, np.arange(21, dtype=np.float32).reshape(7, 3))


def rewrite(path, change):
    """Applies `change` to the index and puts the digest right again."""
    with h5py.File(path, "r+") as file:
        index = json.loads(file["index"][()].tobytes())
        change(index)
        data = json.dumps(index).encode()
        for name, values in (("index", data), ("index_sha256", hashlib.sha256(data).digest())):
            del file[name]
            file.create_dataset(name, data=np.frombuffer(values, np.uint8))


def chunked(file, name):
    values = file[name][()]
    del file[name]
    file.create_dataset(name, data=values, chunks=values.shape)


def compressed(file, name):
    values = file[name][()]
    del file[name]
    file.create_dataset(name, data=values, compression="gzip")


def soft_link(file, name):
    file.move(name, "data/elsewhere")
    file[name] = h5py.SoftLink("/data/elsewhere")


def external_link(file, name):
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", "/data/0")


def external_storage(file, name):
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "<f4", external=[("/etc/passwd", 0, 4 * int(np.prod(shape)))])


def virtual(file, name):
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "data/0", shape)
    file.create_virtual_dataset(name, layout)


def a_group(file, name):
    del file[name]
    file.create_group(name)


def strings(file, name):
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, h5py.string_dtype())


def missing(file, name):
    del file[name]


@pytest.mark.parametrize(
    "change",
    [
        chunked,
        compressed,
        soft_link,
        external_link,
        external_storage,
        virtual,
        a_group,
        strings,
        missing,
    ],
    ids=lambda change: change.__name__,
)
def test_only_plain_datasets_are_read(tmp_path, change):
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    with h5py.File(path, "r+") as file:
        change(file, "data/0")
    with pytest.raises(MalformedModel, match="data/0"):
        interchange.read(path).weights["conv/1/0"]


def layer(index):
    return index["net"]["layer"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(format="other"), "not a caffe-orchestrate"),
        (lambda i: i.update(version="1"), "version should be int"),
        (lambda i: i.update(version=True), "version should be int"),
        (lambda i: i.pop("arrays"), "arrays should be list"),
        (lambda i: i["arrays"][0].update(shape=[2, -3]), "not a shape"),
        (lambda i: i["arrays"][0].update(shape=[1] * 40), "not a shape"),
        (lambda i: i["arrays"][0].update(dataset="data/../index"), "data/../index"),
        (lambda i: i["arrays"][0].update(shape=[3, 2, 1, 1]), "the index says"),
        (lambda i: i["arrays"][0].update(dtype="|O"), "the index says"),
        (lambda i: i["arrays"][0].update(sha256="00"), "does not match its digest"),
        (lambda i: i["weights"].update({"conv/1/0": 99}), "no such array"),
        (lambda i: i["weights"].update({"conv/1/0": -1}), "no such array"),
        (lambda i: i["weights"].pop("conv/1/1"), "has no array"),
        (lambda i: i.update(net=[]), "net is not an object"),
        (lambda i: layer(i).update(bottom=["nowhere"]), "before it is written"),
        (lambda i: layer(i).update(bottom="data"), "bottom should be list"),
        (lambda i: layer(i).update(top=["data"]), "written twice"),
        (lambda i: layer(i).update(name="relu"), "two layers"),
        (lambda i: i["net"]["blobs"].pop("c"), "no shape is known"),
        (lambda i: i["net"].update(outputs=["nowhere"]), "written by no layer"),
        (lambda i: i["reference"].update(blobs=3), "blobs is not an object"),
        (lambda i: i.update(notes=[3]), "list of strings"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, change, message):
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    rewrite(path, change)
    with pytest.raises(MalformedModel, match=message):
        interchange.read(path).weights["conv/1/0"]


def image(index):
    return index["images"]["data"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(images=[]), "index.images is not an object"),
        (lambda i: i.update(images={"data": 3}), "images.data is not an object"),
        (lambda i: i.update(images={"c": image(i)}), "images.c the net has no such input of rgb"),
        (lambda i: i.update(images={"x": image(i)}), "images.x the net has no such input of rgb"),
        (lambda i: image(i).update(channels="gray"), "the net has no such input of gray images"),
        (lambda i: image(i).update(channels="bgra"), "channels is one of bgr, rgb, gray, found"),
        (lambda i: image(i).update(channels=3), "channels should be str, found 3"),
        (lambda i: image(i).update(resize="stretch"), "resize is one of warp, short_side, none"),
        (
            lambda i: image(i).update(size=[8, 8, 8]),
            r"size is not a height and a width: \(8, 8, 8\)",
        ),
        (lambda i: image(i).update(size=[8, 9]), "the shorter side has one length"),
        (lambda i: image(i).update(size=[10**9, 10**9]), "size is a height and a width, each from"),
        (lambda i: image(i).update(size=8), "size should be list, found 8"),
        (lambda i: image(i).update(size=None), "resize is 'short_side', and size None"),
        (lambda i: image(i).update(crop=[5, 5]), r"gives images of \(5, 5\), the input takes"),
        (
            lambda i: image(i).update(crop=None, resize="warp"),
            r"gives images of \(8, 8\), the input takes \(5, 6\)",
        ),
        (lambda i: image(i).update(crop=[5, True]), "crop is not a shape"),
        (lambda i: image(i).update(scale="1"), "scale should be a number, found '1'"),
        (lambda i: image(i).update(scale=True), "scale should be a number, found True"),
        (lambda i: image(i).update(scale=float("nan")), "scale is nan"),
        (lambda i: image(i).update(scale=10**390), "images.data: "),
        (lambda i: image(i).update(unknown="a"), "unknown should be list"),
        (lambda i: image(i).update(unknown=["a"] * 65), "unknown has 65 texts, more than 64"),
        (lambda i: i.update(means={"data": 99}), "no such array"),
        (lambda i: i.update(means={"data": i["weights"]["conv/1/0"]}), "is no mean of an input"),
        (lambda i: i.update(means={"data": i["weights"]["conv/1/1"]}), "is no mean of an input"),
        (lambda i: i.update(means={"c": i["means"]["data"]}), "means.c is no mean of an input"),
        (lambda i: i.update(preprocessing={"data": "abc"}), "preprocessing.data is not an object"),
        (lambda i: i.update(labels="ab"), "labels should be list"),
        (lambda i: i.update(labels=["a", 3]), "labels should be a list of strings"),
        (lambda i: i.update(labels=["a", ""]), "are not names of classes: label 1 is empty"),
        (lambda i: i.update(labels=["a\nb"]), "label 0 has control characters"),
        (lambda i: i.update(labels=["\u2028"]), "label 0 is empty"),
        (lambda i: i.update(labels=["a\u2028b"]), "label 0 has control characters"),
        (lambda i: i.update(labels=["a" * 1025]), "label 0 has 1,025 characters"),
        (lambda i: i.update(labels=["a"] * 131_073), "131,073 labels, more than 131,072"),
    ],
)
def test_wrong_preprocessing_is_refused(tmp_path, change, message):
    path = tmp_path / "net.h5"
    interchange.write(path, with_images())
    rewrite(path, change)
    with pytest.raises(MalformedModel, match=message):
        interchange.read(path)


@pytest.mark.parametrize("shape", [(3,), (3, 6, 7)], ids=str)
@pytest.mark.parametrize("value", [np.nan, -np.inf], ids=str)
def test_a_mean_that_is_not_finite(tmp_path, shape, value):
    """It becomes a constant of the class, and NaN is no Python."""
    path = tmp_path / "net.h5"
    mean = np.ones(shape, np.float32)
    mean.reshape(-1)[-1] = value
    interchange.write(path, replace(with_images(), means={"data": mean}))
    with pytest.raises(MalformedModel, match="means.data is larger than .* or not finite"):
        interchange.read(path)


def test_a_mean_that_takes_more_than_its_share(tmp_path, monkeypatch):
    path = tmp_path / "net.h5"
    interchange.write(path, with_images())
    monkeypatch.setattr(interchange, "MAX_MEAN", 125)
    with pytest.raises(MalformedModel, match="means.data is larger than 125 numbers"):
        interchange.read(path)


def test_a_mean_image_that_does_not_fill_the_input(tmp_path):
    path = tmp_path / "net.h5"
    interchange.write(path, replace(with_images(), means={"data": np.ones((3, 9, 5), np.float32)}))
    with pytest.raises(MalformedModel, match=r"has a mean image of \(9, 5\), the input takes"):
        interchange.read(path)


def test_a_newer_version_is_refused_by_name(tmp_path):
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    rewrite(path, lambda index: index.update(version=2))
    with pytest.raises(UnsupportedModel, match="version 2 is newer than 1"):
        interchange.read(path)


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_every_flipped_byte_of_data_is_found(tmp_path, mapped):
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    data = bytearray(path.read_bytes())
    place = data.index(content().weights["conv/1/0"].tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(MalformedModel, match="'conv/1/0' does not match its digest"):
        interchange.read(path, mapped).weights["conv/1/0"]


def test_a_damaged_index_is_found(tmp_path):
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    data = path.read_bytes().replace(b"negative_slope", b"positive_slope")
    path.write_bytes(data)
    with pytest.raises(MalformedModel, match="index does not match its digest"):
        interchange.read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an HDF5"),
        (b"text", "not an HDF5"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 500, "damaged HDF5"),
    ],
    ids=["empty", "text", "signature-only"],
)
def test_other_files_are_refused(tmp_path, data, message):
    path = tmp_path / "net.h5"
    path.write_bytes(data)
    with pytest.raises(MalformedModel, match=message):
        interchange.read(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(MalformedModel):
        interchange.read(path)


def test_a_missing_file_is_the_command_lines_fault(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        interchange.read(tmp_path / "nothing.h5")


def test_nothing_is_left_where_writing_fails(tmp_path):
    class Breaks(Sliced):
        def slices(self, limit):
            yield np.zeros(3, np.float32)
            raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentProblem, match="no space left"):
        interchange.write(tmp_path / "net.h5", replace(content(), weights={"s/0": Breaks()}))
    assert list(tmp_path.iterdir()) == []
