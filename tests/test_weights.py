"""Caffe's HDF5 weights, and matching weights of either format with a net."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest

from schemas.errors import MalformedModel, UsageError
from stage_extract import hdf5_weights
from stage_extract.caffemodel import open_model
from stage_extract.hdf5_weights import open_hdf5
from stage_extract.weights import match, open_weights
from tests import caffe_bytes as cb
from tests.paths import GOLDENS, needs_shared

FORMATS = GOLDENS / "formats"
NET = {"conv1": [(6, 3, 3, 3), (6,)], "fc": [(7, 120), (7,)]}
VALUES = np.arange(2 * 3 * 5, dtype="<f4").reshape(2, 3, 5) / 8 - 1


@pytest.fixture
def stored(tmp_path):
    """Writes a file (bytes, or what a function puts into an HDF5 file) and opens it."""
    models = []

    def store(content):
        path = tmp_path / "weights"
        if callable(content):
            with h5py.File(path, "w") as file:
                content(file)
        else:
            path.write_bytes(content)
        models.append(open_weights(path))
        return models[-1]

    yield store
    for model in models:
        model.close()


def refusal(stored, content, kind=MalformedModel):
    with pytest.raises(kind) as caught:
        stored(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Either format


@needs_shared
@pytest.mark.parametrize("path", sorted(FORMATS.glob("*.caffemodel*")), ids=lambda path: path.name)
def test_every_form_fits_the_net_with_the_same_weights(path):
    with open_weights(FORMATS / "v2_packed.caffemodel") as model:
        expected = {layer.name: [blob.array() for blob in layer.blobs] for layer in model.layers}
    with open_weights(path) as model:
        found = match(model.layers, NET)
        assert found.unused == ()
        assert found.blobs.keys() == NET.keys()
        for name, shapes in NET.items():
            stored = list(found.blobs[name].values())
            ours = [blob.array() for blob in stored]
            assert [array.shape for array in ours] == shapes == [blob.shape for blob in stored]
            assert [array.tobytes() for array in ours] == [
                array.tobytes() for array in expected[name]
            ]


@needs_shared
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing_layer", "layer 'conv1' is missing"),
        (
            "wrong_shape",
            r"layer 'conv1', blob 0: shape \[6, 3, 3, 3\] expected, found \[6, 3, 5, 5\]; "
            "layer 'fc' is missing",
        ),
    ],
)
def test_weights_of_another_net_are_refused(name, message):
    path = FORMATS / "bad" / f"{name}.caffemodel"
    with open_weights(path) as model, pytest.raises(MalformedModel, match=message) as caught:
        match(model.layers, NET, str(path))
    assert str(caught.value).startswith(str(path))


@needs_shared
def test_values_that_are_no_numbers_are_legal():
    with open_weights(FORMATS / "bad" / "nan.caffemodel") as model:
        blobs = match(model.layers, NET).blobs
        assert not all(
            np.isfinite(blob.array()).all() for name in NET for blob in blobs[name].values()
        )


# Matching

SIX = VALUES.ravel()[:6]


@pytest.mark.parametrize(
    ("content", "shape", "fits"),
    [
        pytest.param(cb.legacy(1, 1, 1, 6), (6,), True, id="bias"),
        pytest.param(cb.legacy(1, 1, 2, 3), (2, 3), True, id="matrix"),
        pytest.param(cb.legacy(1, 1, 2, 3), (1, 2, 3), True, id="three-axes"),
        pytest.param(cb.legacy(1, 1, 2, 3), (1, 1, 2, 3), True, id="four-axes"),
        pytest.param(cb.legacy(1, 1, 2, 3), (1, 1, 1, 2, 3), False, id="five-axes"),
        pytest.param(cb.legacy(1, 1, 2, 3), (6,), False, id="flattened"),
        pytest.param(cb.legacy(1, 1, 2, 3), (3, 2), False, id="transposed"),
        pytest.param(cb.legacy(2, 3, 1, 1), (2, 3), False, id="left-aligned"),
        pytest.param(cb.shape(6), (6,), True, id="equal"),
        pytest.param(cb.shape(1, 6), (6,), False, id="ones-before-a-shape"),
        pytest.param(cb.shape(6), (1, 6), False, id="ones-wanted"),
        pytest.param(cb.shape(2, 3), (3, 2), False, id="other-order"),
    ],
)
def test_shapes_fit_as_in_caffe(stored, content, shape, fits):
    layers = stored(cb.layer("a", content + cb.packed(5, SIX))).layers
    if fits:
        array = match(layers, {"a": [shape]}).blobs["a"][0].array()
        np.testing.assert_array_equal(array, SIX.reshape(shape))
    else:
        with pytest.raises(MalformedModel, match=re.escape(f"shape {list(shape)} expected")):
            match(layers, {"a": [shape]})


def test_a_legacy_scalar_fits_a_scalar(stored):
    layers = stored(cb.layer("a", cb.legacy(1, 1, 1, 1) + cb.packed(5, SIX[:1]))).layers
    assert match(layers, {"a": [()]}).blobs["a"][0].array().shape == ()


def test_layers_that_nobody_wants_are_listed(stored):
    one = cb.blob(SIX)
    layers = stored(
        cb.layer("z", one) + cb.layer("a", one) + cb.layer("relu") + cb.layer("b", one, one)
    ).layers
    found = match(layers, {"a": [(6,)], "drop": []})
    assert list(found.blobs) == ["a"]
    assert found.unused == ("z", "b")


def test_the_last_of_equal_names_counts(stored):
    layers = stored(cb.layer("a", cb.blob(SIX)) + cb.layer("a", cb.blob(-SIX))).layers
    np.testing.assert_array_equal(match(layers, {"a": [(6,)]}).blobs["a"][0].array(), -SIX)
    layers = stored(cb.layer("a", cb.blob(SIX[:5])) + cb.layer("a", cb.blob(SIX))).layers
    with pytest.raises(MalformedModel, match=r"shape \[6\] expected, found \[5\]"):
        match(layers, {"a": [(6,)]})


@pytest.mark.parametrize("wanted", [[], [(6,)], [(6,)] * 3], ids=["none", "fewer", "more"])
def test_the_number_of_blobs_must_be_equal(stored, wanted):
    layers = stored(cb.layer("a", cb.blob(SIX), cb.blob(SIX))).layers
    with pytest.raises(MalformedModel, match=f"layer 'a': {len(wanted)} blobs expected, found 2"):
        match(layers, {"a": wanted})


def test_all_problems_are_told_at_once_and_briefly(stored):
    layers = stored(
        b"".join(cb.layer(f"old{i}", cb.blob(SIX)) for i in range(7)) + cb.layer("a", cb.blob(SIX))
    ).layers
    wanted = {"a": [(5,)], **{f"new{i}": [(6,)] for i in range(30)}}
    with pytest.raises(MalformedModel) as caught:
        match(layers, wanted, "net.caffemodel")
    assert str(caught.value) == (
        "net.caffemodel: the weights do not fit the net: layer 'a', blob 0: shape [5] expected, "
        "found [6]; layer 'new0' is missing; layer 'new1' is missing; layer 'new2' is missing; "
        "layer 'new3' is missing; and 26 more (--allow-missing fills what is missing; layers in "
        "the file that the net lacks: 'old0', 'old1', 'old2', 'old3', 'old4', and 2 more)"
    )
    table = caught.value.table
    assert table["columns"] == ["layer", "blob", "the net's shape", "the file's shape"]
    assert table["rows"][:2] == [["a", "0", "5", "6"], ["new0", "0", "6", "none"]]
    assert ["old6", "0", "none", "6"] in table["rows"]
    assert len(table["rows"]) == 1 + 30 + 7


def test_what_is_missing_can_be_allowed_and_what_is_mis_shaped_not(stored):
    layers = stored(cb.layer("a", cb.blob(SIX)) + cb.layer("empty")).layers
    wanted = {"a": [(6,)], "empty": [(2, 3)], "b": [(2,), (3,)], "none": []}
    found = match(layers, wanted, allow_missing=True)
    assert (list(found.blobs), found.missing, found.unused) == (["a"], ("empty", "b"), ())
    with pytest.raises(MalformedModel, match="layer 'empty': 1 blobs expected, found 0"):
        match(layers, wanted)
    with pytest.raises(MalformedModel, match="shape .5. expected, found .6.") as caught:
        match(layers, dict(wanted, a=[(5,)]), allow_missing=True)
    assert "missing" not in str(caught.value)


# HDF5


def put(group, name, values=VALUES, **options):
    return group.create_dataset(f"data/{name}", data=values, **options)


@needs_shared
def test_caffes_own_hdf5_is_read():
    with open_hdf5(FORMATS / "weights.caffemodel.h5") as model:
        layers = {layer.name: [blob.shape for blob in layer.blobs] for layer in model.layers}
        blob = next(layer for layer in model.layers if layer.name == "fc").blobs[0]
        array = blob.array()
        assert not array.flags.owndata
        np.testing.assert_array_equal(np.concatenate(list(blob.slices(100))), array.ravel())
    assert layers == {**NET, "data": [], "pool1": [], "prob": [], "relu1": []}


def test_nested_names_doubles_and_all_shapes(stored):
    def fill(file):
        put(file, "conv1/7x7_s2/0")
        put(file, "conv1/7x7_s2/1", VALUES.astype("<f8"))
        put(file, "scalar/0", np.float32(0.5))
        put(file, "empty/0", np.zeros((0, 3), "f4"))
        for i in range(12):
            put(file, f"many/{i}", np.float32(i))
        put(file, "many/below/0")
        file.create_group("data/relu")
        file.create_group("diff/relu")

    layers = {layer.name: layer for layer in stored(fill).layers}
    assert sorted(layers) == ["conv1/7x7_s2", "empty", "many", "many/below", "relu", "scalar"]
    first, second = layers["conv1/7x7_s2"].blobs
    assert [first.stored_dtype.str, second.stored_dtype.str] == ["<f4", "<f8"]
    assert first.array().tobytes() == second.array().tobytes() == VALUES.tobytes()
    assert layers["scalar"].blobs[0].array() == np.float32(0.5)
    assert layers["scalar"].blobs[0].shape == ()
    assert layers["empty"].blobs[0].array().shape == (0, 3)
    assert [float(blob.array()) for blob in layers["many"].blobs] == list(range(12))
    assert layers["relu"][1:] == ("", (), (), (), ())


def test_names_are_decoded_as_in_a_caffemodel(stored):
    def fill(file):
        h5py.h5g.create(h5py.h5g.create(file.id, b"data"), "gr\xfcn".encode("latin-1"))

    assert [layer.name for layer in stored(fill).layers] == ["gr\xfcn"]


def low_level(file, space, plist=None, kind=h5py.h5t.IEEE_F32LE):
    group = h5py.h5g.create(h5py.h5g.create(file.id, b"data"), b"a")
    return h5py.h5d.create(group, b"0", kind, space, plist)


def compact(file):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    low_level(file, h5py.h5s.create_simple((3,)), plist)


def virtual(file):
    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3,))
    file.create_virtual_dataset("data/a/0", layout)


def odd_float(file):
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(126)
    low_level(file, h5py.h5s.create_simple((3,)), kind=kind)


def loop(file):
    group = file.create_group("data/a")
    group["b"] = group


HOSTILE = [
    ("no-data", lambda f: f.create_group("model_weights"), "no group 'data'"),
    ("solver-state", lambda f: f.create_group("history"), "no group 'data'.*solver state"),
    ("data-is-a-dataset", lambda f: f.create_dataset("data", data=VALUES), "a group is expected"),
    ("dataset-in-data", lambda f: put(f, "0"), "'/data/0': only layers"),
    ("soft-link", lambda f: f.__setitem__("data/a/0", h5py.SoftLink("/x")), "soft or external"),
    (
        "external-link",
        lambda f: f.__setitem__("data/a", h5py.ExternalLink("/etc/hostname", "/")),
        "'/data/a': a soft or external link",
    ),
    ("data-is-linked", lambda f: f.__setitem__("data", h5py.SoftLink("/x")), "soft or external"),
    ("chunked", lambda f: put(f, "a/0", chunks=(2, 3, 5)), "contiguous.*h5repack"),
    ("compressed", lambda f: put(f, "a/0", compression="gzip"), "contiguous.*h5repack"),
    ("compact", compact, "contiguous"),
    ("virtual", virtual, "contiguous"),
    (
        "external-storage",
        lambda f: f.create_dataset(
            "data/a/0", (30,), "<f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        ),
        "contiguous",
    ),
    ("never-written", lambda f: low_level(f, h5py.h5s.create_simple((3,))), "needs 12 bytes"),
    (
        "huge-and-never-written",
        lambda f: low_level(f, h5py.h5s.create_simple((1 << 15, 1 << 15))),
        "needs 4294967296 bytes",
    ),
    (
        "impossible-shape",
        lambda f: low_level(f, h5py.h5s.create_simple((0, 1 << 31))),
        r"no blob can have shape \[0, 2147483648\]",
    ),
    ("null", lambda f: low_level(f, h5py.h5s.create(h5py.h5s.NULL)), "no shape"),
    ("integers", lambda f: put(f, "a/0", VALUES.astype("i4")), "little-endian floats"),
    ("big-endian", lambda f: put(f, "a/0", VALUES.astype(">f4")), "little-endian floats"),
    ("half", lambda f: put(f, "a/0", VALUES.astype("f2")), "little-endian floats"),
    ("odd-float", odd_float, "little-endian floats"),
    ("text", lambda f: put(f, "a/0", b"abc"), "little-endian floats"),
    ("bad-index", lambda f: (put(f, "a/0"), put(f, "a/01")), "called by their index"),
    ("named-blob", lambda f: put(f, "a/w"), r"by their index, found \['w'\]"),
    ("type", lambda f: f.__setitem__("data/a/0", np.dtype("f4")), "only layers"),
    ("deep", lambda f: f.create_group("data" + "/x" * 40), "nested more than 32 deep"),
    ("loop", loop, "nested more than 32 deep"),
]


@pytest.mark.parametrize(
    ("fill", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_what_caffe_never_writes_is_refused(stored, fill, message):
    text = refusal(stored, fill)
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("stored_places", "shared", "fits"),
    [
        ([1], [0], True),
        ([0], [1], True),
        ([], [0, 1], True),
        ([0, 1], [0], True),
        ([1], [], False),
        ([0], [0], False),
        ([0, 1, 2], [0], False),
    ],
    ids=["first", "last", "all", "stored all the same", "owned", "another", "too many"],
)
def test_what_another_layer_owns_is_not_stored(stored_places, shared, fits, tmp_path):
    """Net::ToHDF5 leaves it out, and Net::CopyTrainedLayersFromHDF5 does not miss it."""
    path = tmp_path / "net.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file.create_group("data/a")
        for place in stored_places:
            put(file, f"a/{place}", VALUES)
    wanted = {"a": [VALUES.shape, VALUES.shape]}
    with open_weights(path) as model:
        if fits:
            found = match(model.layers, wanted, shared={"a": shared}).blobs["a"]
            assert sorted(found) == stored_places
            for blob in found.values():
                np.testing.assert_array_equal(blob.array(), VALUES)
        else:
            with pytest.raises(MalformedModel, match="layer 'a': 2 blobs expected, found"):
                match(model.layers, wanted, shared={"a": shared})


def test_a_caffemodel_stores_what_is_shared_as_well(stored):
    layers = stored(cb.layer("a", cb.blob(SIX))).layers
    with pytest.raises(MalformedModel, match="layer 'a': 2 blobs expected, found 1"):
        match(layers, {"a": [(6,), (6,)]}, shared={"a": [1]})


def test_members_are_bounded(stored, monkeypatch):
    monkeypatch.setattr(hdf5_weights, "MAX_MEMBERS", 10)

    def fill(count):
        return lambda file: [put(file, f"a/{i}") for i in range(count)]

    assert len(stored(fill(9)).layers) == 1
    assert "more than 10 groups and datasets" in refusal(stored, fill(10))


def whole_file(tmp_path):
    path = tmp_path / "whole.h5"
    with h5py.File(path, "w") as file:
        put(file, "a/0")
    return path.read_bytes()


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.99])
def test_cut_hdf5_files_are_refused(stored, tmp_path, part):
    data = whole_file(tmp_path)
    assert "the HDF5 file is damaged" in refusal(stored, data[: max(8, int(len(data) * part))])


def test_values_beyond_the_files_end_are_refused(stored, tmp_path):
    data = whole_file(tmp_path)
    with h5py.File(tmp_path / "whole.h5", "r") as file:
        offset = file["data/a/0"].id.get_offset()
    address = offset.to_bytes(8, "little")
    assert data.count(address) == 1
    forged = data.replace(address, (len(data) - 4).to_bytes(8, "little"))
    # Newer versions of libhdf5 see it themselves.
    assert re.search("needs 120 bytes|invalid dataset size", refusal(stored, forged))


def test_missing_files(tmp_path):
    for reader in (open_weights, open_hdf5, open_model):
        with pytest.raises(UsageError):
            reader(tmp_path / "missing.caffemodel.h5")
