"""The binary caffemodel reader: every form and every refusal; protobuf's parser is a witness."""

from __future__ import annotations

import gzip
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from schemas.errors import ConversionError, MalformedModel, UnsupportedModel, UsageError
from stage_extract import wire
from stage_extract.caffemodel import open_model, read_blob
from stage_extract.descriptors import message_class
from tests import caffe_bytes as cb
from tests.paths import GOLDENS, ROOT, SHARED, needs_shared

NET_PARAMETER = message_class("NetParameter")
FORMATS = GOLDENS / "formats"
FORMS = {
    "v0_legacy": ("conv", True, "<f4"),
    "v1_legacy": (4, True, "<f4"),
    "v1_packed": (4, False, "<f4"),
    "v2": ("Convolution", False, "<f4"),
    "v2_chunks": ("Convolution", False, "<f4"),
    "v2_diff": ("Convolution", False, "<f4"),
    "v2_double": ("Convolution", False, "<f8"),
    "v2_fp16": ("Convolution", False, "<f2"),
    "v2_legacy": ("Convolution", True, "<f4"),
    "v2_packed": ("Convolution", False, "<f4"),
    "v2_unknown": ("Convolution", False, "<f4"),
    "v2_unpacked": ("Convolution", False, "<f4"),
}
VALUES = np.arange(2 * 3 * 5 * 7, dtype="<f4").reshape(2, 3, 5, 7) / 8 - 11


@pytest.fixture
def written(tmp_path):
    """Writes bytes to a file and gives its path."""

    def write(data):
        path = tmp_path / "net.caffemodel"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def read(written):
    """Opens bytes as a caffemodel."""
    models = []

    def open_bytes(data):
        models.append(open_model(written(data)))
        return models[-1]

    yield open_bytes
    for model in models:
        model.close()


def weights(path):
    """{layer: [flat float32 values of each blob]} of the layers that have blobs."""
    with open_model(path) as model:
        return {
            layer.name: [blob.array().ravel() for blob in layer.blobs]
            for layer in model.layers
            if layer.blobs
        }


def equal_bits(found, expected):
    return found.keys() == expected.keys() and all(
        [blob.tobytes() for blob in found[name]] == [blob.tobytes() for blob in expected[name]]
        for name in expected
    )


# Forms


@needs_shared
@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_weights(form):
    path = FORMATS / f"{form}.caffemodel"
    assert equal_bits(weights(path), weights(FORMATS / "v2_packed.caffemodel"))
    with open_model(path) as model:
        conv = next(layer for layer in model.layers if layer.name == "conv1")
        assert all(blob.array().dtype == blob.dtype == np.float32 for blob in conv.blobs)
    type_, legacy, dtype = FORMS[form]
    assert conv.type == type_
    assert [blob.legacy for blob in conv.blobs] == [legacy] * 2
    assert [blob.stored_dtype.str for blob in conv.blobs] == [dtype] * 2
    assert [blob.shape for blob in conv.blobs] == [(6, 3, 3, 3), (1, 1, 1, 6) if legacy else (6,)]


@needs_shared
def test_every_good_file_is_tested():
    assert {path.stem for path in FORMATS.glob("*.caffemodel")} == set(FORMS)


def witnessed(net):
    """Name, type, bottoms, tops and blobs of each layer, as protobuf parsed them."""
    for old in net.layers:
        inner = old.layer if old.HasField("layer") else None
        name, type_ = (inner.name, inner.type) if inner else (old.name, old.type)
        yield name, type_, old.bottom, old.top, inner.blobs if inner else old.blobs
    for new in net.layer:
        yield new.name, new.type, new.bottom, new.top, new.blobs


def witnessed_blob(blob):
    with np.errstate(all="ignore"):
        values = np.array(blob.double_data or blob.data, "<f4")
    old = [blob.HasField(name) for name in ("num", "channels", "height", "width")]
    legacy = (blob.num, blob.channels, blob.height, blob.width)
    return (legacy if any(old) else tuple(blob.shape.dim)), plain_bytes(values)


def plain_bytes(values):
    """Bytes to compare by, with one NaN for all: Python's floats do not keep their bits."""
    return np.where(np.isnan(values), np.float32(np.nan), values).tobytes()


def same_as_protobuf(path):
    net = NET_PARAMETER.FromString(path.read_bytes())
    with open_model(path) as model:
        ours = [
            (*layer[:4], [(blob.shape, blob.array().tobytes()) for blob in layer.blobs])
            for layer in model.layers
        ]
    theirs = [
        (name, type_, tuple(bottoms), tuple(tops), [witnessed_blob(blob) for blob in blobs])
        for name, type_, bottoms, tops, blobs in witnessed(net)
    ]
    return ours == theirs


@needs_shared
@pytest.mark.parametrize("form", sorted(set(FORMS) - {"v2_fp16"}))  # no schema knows raw_data
def test_protobuf_reads_the_same(form):
    assert same_as_protobuf(FORMATS / f"{form}.caffemodel")


@needs_shared
@pytest.mark.parametrize("folder", ["models", "goldens/layers", "goldens/random", "goldens/ssd"])
def test_protobuf_reads_the_same_in_real_files(folder):
    files = sorted((SHARED / folder).glob("*/*.caffemodel"))
    assert files
    assert [path for path in files if not same_as_protobuf(path)] == []


def test_what_protobuf_writes_is_read(written):
    net = NET_PARAMETER(name="n")
    rng = np.random.default_rng(3)
    for i in range(20):
        layer = net.layer.add(name=f"é/{i}", type="Scale", bottom=["a", f"b{i}"], top=["c"])
        for axes in range(i % 4):
            blob = layer.blobs.add()
            dims = [int(size) for size in rng.integers(1, 5, axes)]
            blob.shape.dim.extend(dims)
            blob.data.extend(rng.standard_normal(int(np.prod(dims)), np.float32).tolist())
            blob.diff.extend([1.0, 2.0])
    assert same_as_protobuf(written(net.SerializeToString()))


FLAT = VALUES.ravel()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(cb.packed(5, FLAT[:9]) + cb.unpacked(5, FLAT[9:]), id="packed-unpacked"),
        pytest.param(cb.unpacked(5, FLAT[:1]) + cb.packed(5, FLAT[1:]), id="one-unpacked-packed"),
        pytest.param(
            cb.packed(5, FLAT[:0])
            + cb.unpacked(5, FLAT[:70])
            + cb.number(99, 1)
            + cb.unpacked(5, FLAT[70:71])
            + cb.packed(5, FLAT[71:]),
            id="five-pieces",
        ),
        pytest.param(b"".join(b"\xad\x00" + value.tobytes() for value in FLAT), id="two-byte-tags"),
        pytest.param(cb.unpacked(8, FLAT.astype("<f8")), id="unpacked-doubles"),
        pytest.param(
            cb.packed(8, FLAT[:100].astype("<f8")) + cb.unpacked(8, FLAT[100:].astype("<f8")),
            id="doubles-in-chunks",
        ),
        pytest.param(
            cb.packed(5, -FLAT) + cb.packed(8, FLAT.astype("<f8")), id="doubles-go-before-floats"
        ),
        pytest.param(
            cb.unpacked(6, FLAT) + cb.packed(5, FLAT) + cb.unpacked(9, FLAT.astype("<f8")),
            id="diffs-around",
        ),
        pytest.param(cb.number(10, 2) + cb.packed(12, FLAT.astype("<f2")), id="raw-half"),
        pytest.param(cb.packed(12, FLAT) + cb.number(10, 1), id="raw-float"),
        pytest.param(cb.number(10, 0) + cb.packed(12, FLAT.astype("<f8")), id="raw-double"),
        pytest.param(
            cb.field(10, b"\x01") + cb.field(12, b"abc") + cb.packed(5, FLAT), id="opencl-stride"
        ),
    ],
)
@pytest.mark.parametrize("before", [True, False], ids=["shape-first", "shape-last"])
def test_pieces(read, content, before):
    dims = cb.shape(2, 3, 5, 7)
    blob = read(cb.layer("a", dims + content if before else content + dims)).layers[0].blobs[0]
    assert blob.shape == (2, 3, 5, 7)
    assert blob.array().shape == (2, 3, 5, 7)
    np.testing.assert_array_equal(blob.array(), VALUES)
    for limit in (1, 4, 40, 1 << 20):
        parts = list(blob.slices(limit))
        assert {(part.dtype, part.ndim) for part in parts} == {(np.dtype("f4"), 1)}
        assert max(part.nbytes for part in parts) <= max(4, limit)
        np.testing.assert_array_equal(np.concatenate(parts), FLAT)


@pytest.mark.parametrize(
    ("content", "shape", "legacy"),
    [
        pytest.param(cb.legacy(6, 1, 1, 1), (6, 1, 1, 1), True, id="legacy"),
        pytest.param(
            cb.number(4, 6) + cb.number(1, 1) + cb.number(3, 1) + cb.number(2, 1),
            (1, 1, 1, 6),
            True,
            id="legacy-in-disorder",
        ),
        pytest.param(cb.legacy(1, 1, 2, 3) + cb.shape(7), (1, 1, 2, 3), True, id="legacy-wins"),
        pytest.param(cb.shape(3, 1, 2), (3, 1, 2), False, id="shape"),
        pytest.param(cb.field(7, b"\x08\x03\x08\x02"), (3, 2), False, id="unpacked-dims"),
        pytest.param(cb.shape(3) + cb.shape(2), (3, 2), False, id="shape-in-two-messages"),
        pytest.param(cb.shape(*[1] * 31, 6), (*[1] * 31, 6), False, id="32-axes"),
    ],
)
def test_shapes(read, content, shape, legacy):
    blob = read(cb.layer("a", content + cb.packed(5, FLAT[:6]))).layers[0].blobs[0]
    assert (blob.shape, blob.legacy) == (shape, legacy)
    assert blob.array().shape == shape
    assert blob.size == 6


def test_scalar_and_empty_blobs(read):
    scalar, empty = (
        read(cb.layer("a", cb.packed(5, FLAT[:1]), cb.shape(0, 2**31 - 1) + cb.packed(5, FLAT[:0])))
        .layers[0]
        .blobs
    )
    assert (scalar.shape, scalar.array().shape) == ((), ())
    assert scalar.array() == FLAT[0]
    assert empty.array().shape == (0, 2**31 - 1)
    assert list(empty.slices()) == []


def test_layers_of_all_ages_in_one_file(read):
    one = cb.blob(FLAT[:2])
    model = read(
        cb.v0_layer("a", one) + cb.layer("c", one, one) + cb.field(1, "net") + cb.v1_layer("b", one)
    )
    assert [layer[:2] for layer in model.layers] == [("a", "conv"), ("c", "Convolution"), ("b", 4)]
    assert [layer[2:4] for layer in model.layers] == [(("data",), ("a",)), ((), ()), ((), ())]
    assert [len(layer.blobs) for layer in model.layers] == [1, 2, 1]


def test_the_last_name_counts_and_latin_1_is_read(read):
    content = cb.field(1, "x") + cb.field(1, "gr\xfcn".encode("latin-1")) + cb.field(2, "T")
    assert read(cb.field(100, content)).layers[0].name == "gr\xfcn"


def test_values_beyond_float_become_infinite(read):
    values = np.array([1e300, -1e300, np.nan, 0.1], "<f8")
    blob = read(cb.layer("a", cb.shape(4) + cb.packed(8, values))).layers[0].blobs[0]
    np.testing.assert_array_equal(blob.array(), np.array([np.inf, -np.inf, np.nan, 0.1], "f4"))


# Memory


def test_packed_floats_are_a_view_that_survives_closing(written):
    path = written(cb.layer("a", cb.blob(VALUES)))
    with open_model(path) as model:
        blob = model.layers[0].blobs[0]
        array = blob.array()
        assert not array.flags.owndata
        assert not array.flags.writeable
    np.testing.assert_array_equal(array, VALUES)
    np.testing.assert_array_equal(blob.reshaped((210,)).array(), FLAT)  # the view keeps the mapping
    model.close()


def test_a_closed_file_cannot_be_read(written):
    with open_model(written(cb.layer("a", cb.blob(VALUES)))) as model:
        blob = model.layers[0].blobs[0]
    with pytest.raises(ValueError, match="closed"):
        blob.array()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and sparse files")
@pytest.mark.parametrize("unpacked", [False, True], ids=["packed", "unpacked"])
def test_a_large_file_takes_little_memory(tmp_path, unpacked):
    count = (24 if unpacked else 64) << 20
    if unpacked:
        data = np.zeros(count, [("tag", "u1"), ("value", "<f4")])
        data["tag"] = 5 << 3 | cb.FIXED32
        values = data.tobytes()
    else:
        values = cb.tag(5, cb.BYTES) + cb.varint(4 * count)
    size = len(values) if unpacked else len(values) + 4 * count
    dims = cb.shape(count)
    blob = cb.tag(7, cb.BYTES) + cb.varint(len(dims) + size) + dims
    path = tmp_path / "large.caffemodel"
    with open(path, "wb") as stream:
        stream.write(cb.tag(100, cb.BYTES) + cb.varint(len(blob) + size) + blob + values)
        stream.truncate(stream.tell() + (0 if unpacked else 4 * count))
    assert path.stat().st_size > 120e6
    # Not ru_maxrss: a child starts with its parent's.
    program = (
        "import re, sys\n"
        "from stage_extract.caffemodel import open_model\n"
        "def peak():\n"
        "    return int(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "with open_model(sys.argv[1]) as model:\n"
        "    values = sum(part.size for part in model.layers[0].blobs[0].slices())\n"
        "print(values, peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    read_values, kilobytes = done.stdout.split()
    assert int(read_values) == count
    assert int(kilobytes) < 70_000  # one slice of 16 MB and, unpacked, what it is copied from


def test_a_run_of_values_is_one_field(read, monkeypatch):
    monkeypatch.setattr(wire, "MAX_FIELDS", 16)
    values = np.arange(300_000, dtype="<f4")
    blob = read(cb.layer("a", cb.shape(300_000) + cb.unpacked(5, values))).layers[0].blobs[0]
    np.testing.assert_array_equal(blob.array(), values)


def test_fields_are_bounded(read, monkeypatch):
    monkeypatch.setattr(wire, "MAX_FIELDS", 1000)
    assert len(read(cb.number(9, 0) + cb.field(100, b"") * 999).layers) == 999
    with pytest.raises(MalformedModel, match="more than 1000 fields"):
        read(cb.field(100, cb.number(99, 5) * 1000))


# Refusals

BAD = {
    "empty": "empty",
    "html": "web page",
    "length_overflow": "byte 40, layer 'conv1', blob 0: the message ends within a number",
    "lfs_pointer": "Git LFS pointer.*git lfs pull",
    "odd_bytes": "byte 32, layer 'conv1', blob 0: 23 bytes are no whole number of 4-byte values",
    "shape_huge": r"layer 'conv1', blob 0: no blob can have shape \[1099511627776, 1099511627776\]",
    "shape_lies": r"layer 'conv1', blob 0: shape \[6, 3, 3, 3\] is announced, 10 values follow",
    "shape_negative": r"layer 'conv1', blob 0: no blob can have shape \[-1, 3, 3, 3\]",
    "truncated_half": "byte 732: the file is cut off.*1347 are left.*download",
    "truncated_last": "byte 732: the file is cut off.*3424 are left.*download",
    "varint_endless": "byte 4161: a number has more than 64 bits",
    "zeros": "4096 zero bytes",
}
FINE_HERE = {"nan", "missing_layer", "wrong_shape"}  # refused, if at all, when they meet a net


def refusal(path):
    with pytest.raises(MalformedModel) as caught:
        open_model(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_shared
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(name):
    message = refusal(FORMATS / "bad" / f"{name}.caffemodel")
    assert re.search(BAD[name], message), message


@needs_shared
@pytest.mark.parametrize("name", sorted(FINE_HERE))
def test_files_that_only_a_net_can_refuse_are_read(name):
    assert weights(FORMATS / "bad" / f"{name}.caffemodel")


@needs_shared
def test_every_bad_file_is_tested():
    assert {path.stem for path in (FORMATS / "bad").glob("*")} == FINE_HERE | set(BAD)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(gzip.compress(b"x" * 999), "gzip archive.*unpack", id="gzip"),
        pytest.param(b"PK\x03\x04" + b"x" * 99, "zip archive.*unpack", id="zip"),
        pytest.param(b"\x89HDF\r\n\x1a\n\0\0", "HDF5.*caffemodel.h5", id="hdf5"),
        pytest.param(b"\n  <HTML lang=en>\xff", "web page", id="html"),
        pytest.param(b"<?xml version='1.0'?><Error/>", "web page", id="xml"),
        pytest.param(b'name: "LeNet"\r\nlayer {\r\n}\r\n', "text.*prototxt.*first", id="prototxt"),
        pytest.param('name: "Netz für é"\n'.encode("latin-1"), "text.*prototxt", id="latin-1"),
        pytest.param(b"\0" * 5, "5 zero bytes", id="zeros"),
        pytest.param(cb.legacy(1, 3, 4, 5), "name cannot.*mean images", id="mean-image"),
        pytest.param(cb.field(1, "net") + cb.number(7, 1), "no layers", id="no-layers"),
    ],
)
def test_mistaken_files_are_named(written, data, message):
    assert re.search(message, refusal(written(data)))


def ids(table):
    return [re.sub(r"\\.?|[^\w]+", "-", message) for _, message in table]


ONE = cb.blob(FLAT[:6])
A = cb.field(1, "a")


DAMAGED_LAYERS = [
    (cb.tag(9, 3) + cb.tag(9, 4), "field 9 has wire type 3"),
    (cb.tag(9, 4), "field 9 has wire type 4"),
    (cb.tag(9, 6), "field 9 has wire type 6"),
    (cb.tag(9, 7), "field 9 has wire type 7"),
    (cb.number(0, 1), "a field has number 0"),
    (cb.number(1 << 29, 1), "a field has number 536870912"),
    (b"\xff" * 9 + b"\x01", "a field has number"),
    (b"\xff" * 10 + b"\x01", "more than 64 bits"),
    (cb.tag(9, 0) + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    (cb.tag(9, 0) + b"\x80" * 9, "ends within a number"),
    (b"\x80", "ends within a number"),
    (cb.tag(9, 2), "ends within a number"),
    (cb.tag(9, 2) + cb.varint(1), "field 9 has 1 bytes, 0 are left"),
    (cb.tag(9, 2) + cb.varint(1 << 63), "field 9 has 9223372036854775808 bytes"),
    (cb.tag(9, 2) + cb.varint(-1), "field 9 has 18446744073709551615 bytes"),
    (cb.tag(9, 5) + b"abc", "field 9 has 4 bytes, 3 are left"),
    (cb.tag(9, 1) + b"abcdefg", "field 9 has 8 bytes, 7 are left"),
    (cb.tag(9, 5) + b"abcd" + cb.tag(9, 5) + b"abc", "field 9 has 4 bytes, 3 are left"),
    (cb.number(1, 1), "LayerParameter.name cannot have wire type 0"),
    (cb.tag(2, 5) + b"abcd", "LayerParameter.type cannot have wire type 5"),
    (cb.number(7, 1), "LayerParameter.blobs cannot have wire type 0"),
    (cb.field(1, "n" * 5000), "name of 5000 bytes"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED_LAYERS, ids=ids(DAMAGED_LAYERS))
def test_damaged_layers_are_refused(written, content, message):
    text = refusal(written(cb.layer("b", ONE) + cb.field(100, A + content)))
    assert re.search(rf"byte \d+, layer '\w+': .*{message}", text), text


DAMAGED_BLOBS = [
    (b"", r"shape \[\] is announced, 0 values follow"),
    (cb.shape(2, 3), r"shape \[2, 3\] is announced, 0 values follow"),
    (cb.shape(2, 3) + cb.packed(5, FLAT[:7]), r"\[2, 3\] is announced, 7 values follow"),
    (cb.packed(5, FLAT[:6]), r"shape \[\] is announced, 6 values follow"),
    (cb.legacy(2, 3) + cb.packed(5, FLAT[:6]), r"\[2, 3, 0, 0\] is announced, 6 values"),
    (cb.shape(0, 5) + cb.packed(5, FLAT[:5]), r"\[0, 5\] is announced, 5 values"),
    (cb.shape(-1, -6) + cb.packed(5, FLAT[:6]), r"no blob can have shape \[-1, -6\]"),
    (
        cb.legacy(1, 1, -2, -3) + cb.packed(5, FLAT[:6]),
        r"no blob can have shape \[1, 1, -2, -3\]",
    ),
    (cb.shape(0, 1 << 31), r"no blob can have shape \[0, 2147483648\]"),
    (cb.shape(0, *[1 << 30] * 31), "no blob can have shape"),
    (cb.shape(*[1] * 33) + cb.packed(5, FLAT[:1]), "more than 32 axes"),
    (cb.field(7, cb.field(1, b"\x80")), "ends within a number"),
    (cb.field(7, cb.tag(1, 5) + b"abcd"), "BlobShape.dim cannot have wire type 5"),
    (cb.field(5, b"abc"), "3 bytes are no whole number of 4-byte values"),
    (cb.field(8, b"abcd"), "4 bytes are no whole number of 8-byte values"),
    (cb.number(10, 2) + cb.field(12, b"abc"), "3 bytes are no whole number of 2-byte values"),
    (cb.field(12, b"abcd"), "0 values follow"),
    (cb.number(5, 3), "values are expected, found a number"),
    (cb.tag(5, 1) + bytes(8), "BlobProto.data cannot have wire type 1"),
    (cb.tag(8, 5) + bytes(4), "BlobProto.double_data cannot have wire type 5"),
    (cb.tag(5, 2) + cb.varint(1 << 40), "BlobProto.data has 1099511627776 bytes, 0 are left"),
    (cb.field(1, b""), "BlobProto.num cannot have wire type 2"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED_BLOBS, ids=ids(DAMAGED_BLOBS))
@pytest.mark.parametrize("make", [cb.layer, cb.v1_layer, cb.v0_layer])
def test_damaged_blobs_are_refused(written, make, content, message):
    text = refusal(written(make("a", ONE, content)))
    assert re.search(rf"byte \d+, layer 'a', blob 1: .*{message}", text), text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            b"".join(cb.number(i, 2) for i in range(1, 6)) + cb.packed(6, FLAT[:32]),
            "C3D 1.0",
            id="c3d",
        ),
        pytest.param(
            cb.shape(4) + cb.field(11, b"abcd") + cb.number(13, 1), "opencl branch", id="opencl"
        ),
        pytest.param(
            cb.shape(1) + cb.number(10, 3) + cb.field(12, b"abcd"), "raw_data has type 3", id="int"
        ),
    ],
)
def test_forks_values_that_we_cannot_read(written, content, message):
    with pytest.raises(UnsupportedModel, match=message) as caught:
        open_model(written(cb.layer("a", content)))
    assert "layer 'a', blob 0" in caught.value.where


def test_messages_stay_on_one_line(written):
    assert r"layer 'a\n\x1b[2J'" in refusal(written(cb.layer("a\n\x1b[2J", cb.shape(2))))


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        with pytest.raises(UsageError):
            open_model(path)


def test_every_cut_is_refused_unless_between_layers(written):
    layers = [cb.layer("a", ONE, cb.shape(1) + cb.unpacked(5, FLAT[:1])), cb.v1_layer("b", ONE)]
    data = b"".join(layers)
    for size in range(2, len(data)):
        path = written(data[:size])
        if size == len(layers[0]):
            assert list(weights(path)) == ["a"]
        else:
            assert "cut off" in refusal(path)


def stored_values(path):
    """The bytes of each blob's values in the file's order, or None where the file is refused."""
    try:
        with open_model(path) as model:
            return [plain_bytes(blob.array()) for layer in model.layers for blob in layer.blobs]
    except ConversionError:
        return None


def protobufs_values(data):
    """The same as protobuf sees it, or None where protobuf refuses what we step over."""
    try:
        layers = [*witnessed(NET_PARAMETER.FromString(data))]
    except (DecodeError, UnicodeDecodeError, SystemError):  # the last: protobuf 3.20, bad UTF-8
        return None
    return [witnessed_blob(blob)[1] for layer in layers for blob in layer[-1]]


def test_damaged_bytes_are_refused_or_read_as_protobuf_reads_them(written):
    half = cb.shape(3) + cb.number(10, 2) + cb.packed(12, FLAT[:3].astype("<f2"))
    unpacked = cb.shape(70) + cb.unpacked(5, FLAT[:70])
    doubles = cb.legacy(1, 1, 1, 3) + cb.packed(8, FLAT[:3].astype("<f8"))
    whole = cb.v0_layer("a", ONE, half) + cb.v1_layer("b", unpacked) + cb.layer("c", ONE, doubles)
    rng = random.Random(2)
    refused = compared = 0
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            data[rng.randrange(len(data))] = rng.choice(
                (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
            )
        ours = stored_values(written(bytes(data)))
        theirs = protobufs_values(bytes(data))
        if ours is None:
            refused += 1
        elif theirs is not None:
            compared += 1
            assert len(ours) == len(theirs)
            # No schema knows raw_data, so protobuf finds no values there.
            assert all(theirs[i] in (ours[i], b"") for i in range(len(ours)))
    assert refused > 300
    assert compared > 300


# Mean images


@needs_shared
def test_a_mean_image_is_read():
    path = FORMATS / "mean.binaryproto"
    blob = message_class("BlobProto").FromString(path.read_bytes())
    shape, values = witnessed_blob(blob)
    mean = read_blob(path)
    assert (mean.shape, mean.tobytes()) == (shape, values)
    assert mean.flags.owndata


def test_a_cut_mean_image_is_refused(written):
    with pytest.raises(MalformedModel, match="cut off"):
        read_blob(written((cb.legacy(1, 1, 2, 3) + cb.packed(5, FLAT[:6]))[:-1]))
