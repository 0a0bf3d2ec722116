"""A short run of the fuzzer, and what it and its making found, one case each."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest

from schemas import interchange, plain_hdf5
from schemas.errors import ConversionError, MalformedModel, UnsupportedModel
from stage_extract import alignment, caffemodel, hdf5_weights, network, prototxt, upgrade
from tests import caffe_bytes as cb
from tests.fuzz import engine, hdf5, processes
from tests.make_interchange_v1 import content
from tests.paths import ROOT
from tests.prototxts import inputs, layer

EXECUTIONS = {
    "caffemodel": 1000,
    "embedded net": 500,
    "prototxt": 1000,
    "interchange": 400,
    "hdf5 weights": 400,
}


def test_a_short_run_finds_nothing():
    found = processes.fuzz(EXECUTIONS, seed=1)
    for name, figures in found.items():
        assert not figures.findings, name
        assert figures.executions == EXECUTIONS[name]
        assert figures.past / figures.executions > 0.3, name
        assert figures.outcomes["read"] and figures.outcomes["MalformedModel"], name


@pytest.mark.parametrize("name", EXECUTIONS)
def test_a_case_can_be_made_again(tmp_path, name):
    once, again = (processes.reader(name, tmp_path) for _ in range(2))
    mutants = [once.mutant(engine.case_rng(once, 5, case)) for case in range(60)]
    for case in reversed(range(60)):
        assert again.mutant(engine.case_rng(again, 5, case)) == mutants[case]
    assert len(set(mutants)) > 40


class Faulty:
    """A reader that does what the engine must see; even cases are fine."""

    name = "faulty"
    modules = ()
    memory = 50_000_000

    def __init__(self, fault):
        self.fault = fault

    def mutant(self, rng):
        return b""

    def read(self, data, past):
        past()
        self.fault()


def spin():
    while True:
        pass


def fail(error):
    def raising():
        raise error

    return raising


# Only Linux bounds a process's memory so; elsewhere its peak is looked at when it is over.
TOO_MUCH = (
    ("other error", "MemoryError")
    if sys.platform == "linux"
    else ("read", "peak of memory grew by")
)


@pytest.mark.parametrize(
    ("fault", "outcome", "found"),
    [
        (lambda: None, "read", ""),
        (fail(MalformedModel("damage")), "MalformedModel", ""),
        (fail(UnsupportedModel("a fork's")), "UnsupportedModel", ""),
        (fail(KeyError("x")), "other error", "KeyError: 'x'"),
        (fail(ConversionError("of no kind")), "other error", "of no kind"),
        (lambda: bytearray(400_000_000), *TOO_MUCH),
        (spin, "too slow", "took more than 0.05 s"),
    ],
    ids=["fine", "malformed", "unsupported", "key", "kindless", "memory", "slow"],
)
def test_the_engine_sees(fault, outcome, found):
    figures = engine.run(Faulty(fault), 1, [7], seconds=0.05)
    assert figures.outcomes == {outcome: 1}
    assert (figures.executions, figures.past) == (1, 1)
    assert [found in finding.what for finding in figures.findings] == [True] * bool(found)
    assert all(each.seed == 1 and each.case in (7, -1) for each in figures.findings)


# What was found: texts


def many(what: str, count: int) -> str:
    return what * count


TEXTS = {
    # The product of a million sizes takes hours.
    "sizes": (
        "input: 'x' input_shape { " + many("dim: 9223372036854775807 ", 20_000) + "}",
        "input_param.shape has 20000 axes, at most 32",
    ),
    "sizes-of-reshape": (
        inputs(data=(1, 2))
        + layer("Reshape", parameters="reshape_param { shape { " + many("dim: 7 ", 33) + "} }"),
        "reshape_param.shape has 33 axes, at most 32",
    ),
    # The pieces of a string were one field, however many they are.
    "pieces": ("name: " + many("'' ", 200_002), "more than 200000 fields"),
    "pieces-of-unknown": ("mine: " + many("'' ", 200_002), "more than 200000 fields"),
    "long-string": ("name: '" + many("a", 70_000) + "'", "a string has more than 65536 bytes"),
    "long-in-pieces": ("name: " + many("'aaaa' ", 17_000), "a string has more than 65536 bytes"),
    "escapes": ("name: '" + many("\\x41", 20_000) + "'", "a string has more than 65536 bytes"),
    # What follows takes memory and time by the layer.
    "layers": (
        inputs(data=(1, 2)) + many("layer { type: 'ReLU' bottom: 'data' top: 'data' }", 20_001),
        "the net has 20,002 layers, at most 20,000",
    ),
    "old-layers": (many("layers { }", 20_001), "the net has 20,001 layers, at most 20,000"),
}


def built(text):
    return network.build(upgrade.upgrade(prototxt.parse(text, "net.prototxt")), network.Options())


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_bounded(name, monkeypatch):
    monkeypatch.setattr(prototxt, "MAX_FIELDS", 200_000)
    text, message = TEXTS[name]
    text += "" if "layer" in text else layer("ReLU", "x")
    with pytest.raises((MalformedModel, UnsupportedModel), match=message):
        built(text)


def test_lines_are_counted_over_many_comments():
    with pytest.raises(MalformedModel) as caught:
        prototxt.parse("# a comment\n \n" * 3000 + "layer { } }", "net.prototxt")
    assert caught.value.where == "net.prototxt:6001:11"


@pytest.mark.parametrize("far", [False, True])
def test_a_crop_walks_back_so_far(monkeypatch, far):
    """Each of a net's Crops may walk over all of its layers."""
    monkeypatch.setattr(alignment, "MAX_WAY", 5 if far else 8)
    chain = [layer("ReLU", f"x{i}", f"x{i + 1}") for i in range(6)]
    text = "\n".join([inputs(x0=(1, 2, 5, 5)), *chain, layer("Crop", "x6 x0", "out")])
    message = upgrade.upgrade(prototxt.parse(text, "net.prototxt"))
    options = network.Options(dialects=("fcn-future",))
    if not far:
        assert len(network.build(message, options).net.layers) == 7
        return
    with pytest.raises(MalformedModel, match="leads to both"):
        network.build(message, options)


def test_an_error_is_bounded():
    error = MalformedModel("x" * 10**6)
    assert len(error.message) < 10**5
    assert str(error).endswith("x...")


# Binary caffemodels

BLOBS = cb.field(7, cb.legacy(0))


@pytest.mark.parametrize(
    "content",
    [
        cb.field(100, cb.field(1, "a") + BLOBS * (1 << 17)),
        cb.layer("a", cb.shape(1 << 18) + cb.packed(5, np.zeros(1, "<f4")) * (1 << 18)),
        cb.layer("a", cb.number(9, 1) * (1 << 18)),
        cb.layer("a") * (1 << 17),
    ],
    ids=["empty-blobs", "single-values", "unknown-fields", "layers"],
)
def test_fields_are_bounded(tmp_path, content):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(MalformedModel, match="more than 262144 fields"):
        caffemodel.open_model(path)


# HDF5

OPEN = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from schemas import interchange
from stage_extract import hdf5_weights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    interchange.read(__import__("pathlib").Path(sys.argv[2])) if sys.argv[2].endswith("net.h5") \\
        else hdf5_weights.open_hdf5(sys.argv[2])
except Exception as error:
    print(type(error).__name__)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
@pytest.mark.parametrize(("name", "dataset"), [("w.h5", "data/conv/0"), ("net.h5", "data/0")])
def test_a_header_of_gigabytes_is_not_read(tmp_path, name, dataset):
    path = tmp_path / name
    if name == "net.h5":
        interchange.write(path, content())
    else:
        path.write_bytes(hdf5.caffes(tmp_path)[0])
    with h5py.File(path) as file:
        header = h5py.h5o.get_info(file[dataset].id).addr
    data = bytearray(path.read_bytes())
    assert data[header] == 1  # the version; at 8 the header's size
    data[header + 8 : header + 12] = struct.pack("<I", 0xF0000000)
    path.write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-c", OPEN, str(ROOT), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    kind, kilobytes = ran.stdout.split()
    assert kind == "MalformedModel"
    assert int(kilobytes) < 400_000


def reindexed(path, text):
    """Gives the interchange file at `path` another index, as text."""
    with h5py.File(path, "r+") as file:
        for name, values in (("index", text), ("index_sha256", hashlib.sha256(text).digest())):
            del file[name]
            file.create_dataset(name, data=np.frombuffer(values, np.uint8))


def written(tmp_path, change):
    """A file whose index's text `change` has made another."""
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    with h5py.File(path) as file:
        text = file["index"][()].tobytes()
    reindexed(path, change(text))
    return path


def respelt(before, after):
    def change(text):
        assert before in text
        return text.replace(before, after, 1)

    return change


def edited(**members):
    def change(text):
        return json.dumps({**json.loads(text), **members}).encode()

    return change


def part(name, value):
    def change(text):
        document = json.loads(text)
        document["net"][name] = value
        return json.dumps(document).encode()

    return change


def recorded(name, value):
    def change(text):
        document = json.loads(text)
        document["reference"][name] = value
        return json.dumps(document).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Under Python 3.8 a number of a million digits takes minutes.
        (respelt(b'"seed":7', b'"seed":' + b"7" * 10**6), "a number has 1,000,000 digits"),
        (respelt(b'"seed":7', b'"seed":7,"seed":8'), "two members of one name"),
        (respelt(b'"seed":7', b'"seed":' + b"[" * 90 + b"]" * 90), "nested more than 64 deep"),
        (respelt(b'"seed":7', b'"seed":' + b"[" * 10**6), "not JSON as expected"),
        (respelt(b"a note", b"\\ud800"), "surrogates not allowed"),
        (respelt(b'"version":1', b'"version":0'), "no format version 0"),
        (respelt(b'"data/0"', b'"' + b"a/" * 10**6 + b'"'), "name has 2,000,000 characters"),
        (edited(arrays=[{"dataset": "data/0"}] * 65_537), "more than 65,536 arrays"),
        (part("layer", []), "index.net.layer is empty"),
        (part("inputs", []), "index.net.inputs is empty"),
        (part("outputs", []), "index.net.outputs is empty"),
        (recorded("blobs", {"elsewhere": 2}), "the net has no such blob"),
        (recorded("inputs", {}), "input 'data' is missing"),
        (recorded("inputs", {"data": 0}), "the array has shape"),
        (respelt(b'"conv/1/0":0', b'"a\\nb":99'), r"weights\['a\\nb'\] there is no such array"),
    ],
    ids=[
        "digits", "twice", "depth", "open-brackets", "surrogate", "version", "long-name", "arrays",
        "no-layers", "no-inputs", "no-outputs", "unknown-blob", "no-input", "shape", "line-break",
    ],
)  # fmt: skip
def test_the_index_is_bounded(tmp_path, change, message):
    path = written(tmp_path, change)
    with pytest.raises(MalformedModel, match=message):
        interchange.read(path)


def test_the_index_has_a_size(tmp_path, monkeypatch):
    path = written(tmp_path, lambda text: text.ljust(interchange.MAX_INDEX + 1))
    with pytest.raises(MalformedModel, match="index should have at most 16,777,216 bytes"):
        interchange.read(path)
    monkeypatch.setattr(interchange, "MAX_INDEX", 1000)
    with pytest.raises(UnsupportedModel, match="the limit is 1,000"):
        interchange.write(tmp_path / "again.h5", content())
    assert not (tmp_path / "again.h5").exists()


def test_empty_arrays_have_sensible_sizes(tmp_path):
    path = tmp_path / "net.h5"
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.create_dataset("a", (2**62, 0, 2**62), "<f4")
    path.write_bytes(image.getvalue())
    with pytest.raises(MalformedModel, match="no array can"), plain_hdf5.File(path) as file:
        file.find(["a"])


def test_arrays_are_found_before_any_is_read(tmp_path):
    path = tmp_path / "net.h5"
    interchange.write(path, content())
    read = interchange.read(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MalformedModel, match="became shorter"):
        read.weights["conv/1/0"]


def test_walks_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_weights, "MAX_MEMBERS", 3)
    path = tmp_path / "w.h5"
    path.write_bytes(hdf5.caffes(tmp_path)[0])
    with pytest.raises(MalformedModel, match="more than 3 groups and datasets"):
        hdf5_weights.open_hdf5(path)
