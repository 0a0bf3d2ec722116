"""What `--inspect` says of each kind of file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from schemas.errors import ConversionError, MalformedModel, UsageError
from schemas.events import Events
from stage_extract import worker
from stage_extract.inspection import inspect
from tests import caffe_bytes as cb
from tests.paths import ROOT
from tests.prototxts import inputs, layer

TEXT = [
    'name: "small"',
    inputs(data=(2, 3, 5, 7)),
    layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"),
    layer("ReLU", "conv", "conv", name="relu"),
    layer("TanH", "conv", "out", "include { phase: TRAIN }"),
]
WEIGHTS = [np.full((4, 3, 3, 3), 0.5, np.float32), np.zeros(4, np.float32)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The same model in every form, the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text("\n".join(TEXT))
    Path("net.caffemodel").write_bytes(
        cb.layer("data", type="Input") + cb.layer("conv", *map(cb.blob, WEIGHTS))
    )
    with h5py.File("net.caffemodel.h5", "w") as file:
        for place, values in enumerate(WEIGHTS):
            file[f"data/conv/{place}"] = values
        file.create_group("data/relu")
    assert worker.main(["net.prototxt", "net.caffemodel", "-o", "net.h5"]) == 0
    return tmp_path


def shown(name):
    return inspect(Path(name), Events())


def size(path):
    return f"{path.stat().st_size:,} bytes"


def test_a_prototxt(folder):
    assert shown("net.prototxt") == {
        "kind": "prototxt",
        "title": "net.prototxt",
        "facts": {
            "size": size(folder / "net.prototxt"),
            "net": "small",
            "outputs": "conv",
            "weights": "112 numbers",
        },
        "columns": ["line", "layer", "type", "bottoms", "tops", "known as"],
        "rows": [
            [2, "data", "Input", "", "data", "bvlc"],
            [3, "conv", "Convolution", "data", "conv", "bvlc"],
            [4, "relu", "ReLU", "conv", "conv", "bvlc"],
            [5, "out", "TanH", "conv", "out", "bvlc"],
        ],
    }


def test_a_forks_layer(folder):
    """What the type may be, by fork; which it is, the fields and the weights tell."""
    Path("net.prototxt").write_text(
        "\n".join([*TEXT, layer("Normalize", "conv", "n"), layer("Warp", "n", "w")])
    )
    known = {row[2]: row[5] for row in shown("net.prototxt")["rows"]}
    assert set(known["Normalize"].split(", ")) >= {"ssd", "happynear"}
    assert known["Warp"] == "no"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (layer("Warp", "conv", "w"), "layer type 'Warp' is not supported: 'w' (line 6)"),
        (layer("TanH", "cnov", "w"), "layer 'w' (TanH, line 6): bottom 'cnov' is the top of no"),
        (layer("HDF5Data", "", "more"), "give it with --input-shape more=N,C,H,W"),
    ],
    ids=["unsupported", "malformed", "shapeless"],
)
def test_a_prototxt_with_a_problem(line, problem, folder):
    Path("net.prototxt").write_text("\n".join([*TEXT, line]))
    found = shown("net.prototxt")
    assert problem in found["facts"]["problem"]
    assert len(found["rows"]) == 5
    assert found["rows"][-1][-1] == ("no" if "Warp" in line else "bvlc")


def test_weights(folder):
    assert shown("net.caffemodel") == {
        "kind": "caffemodel",
        "title": "net.caffemodel",
        "facts": {
            "size": size(folder / "net.caffemodel"),
            "layers": "2 (1 with weights)",
            "weights": "112 numbers",
        },
        "columns": ["layer", "type", "blobs"],
        "rows": [["conv", "Convolution", "4x3x3x3, 4"]],
    }


def test_hdf5_weights(folder):
    assert shown("net.caffemodel.h5") == {
        "kind": "hdf5 weights",
        "title": "net.caffemodel.h5",
        "facts": {
            "size": size(folder / "net.caffemodel.h5"),
            "layers": "2 (1 with weights)",
            "weights": "112 numbers",
        },
        "columns": ["layer", "type", "blobs"],
        "rows": [["conv", "", "4x3x3x3, 4"]],
    }


def test_an_interchange_file(folder):
    found = shown("net.h5")
    facts = found.pop("facts")
    assert found == {
        "kind": "interchange",
        "title": "net.h5",
        "columns": ["layer", "type", "bottoms", "tops", "shape"],
        "rows": [
            ["conv", "Convolution", "data", "conv@conv", "2x4x3x5"],
            ["relu", "ReLU", "conv@conv", "conv", "2x4x3x5"],
        ],
    }
    sources = facts.pop("sources")
    assert sources.startswith("net.prototxt (sha256 ")
    assert ", net.caffemodel (sha256 " in sources
    assert facts == {
        "size": size(folder / "net.h5"),
        "net": "small",
        "inputs": "data 2x3x5x7",
        "outputs": "conv",
        "batch": "any size",
        "reference": "numpy",
    }


def test_an_untrained_interchange_file_with_a_mean(folder):
    assert worker.main(["net.prototxt", "-o", "net.h5", "--mean", "1,2,3"]) == 0
    facts = shown("net.h5")["facts"]
    assert facts["untrained"] == "2 of 2 blobs"
    assert facts["means"] == "data 3"


def test_an_interchange_file_with_preprocessing(folder):
    Path("names.txt").write_text("n1 cat\nn2 dog\n" * 500)
    Path("images.toml").write_text("resize='short_side'\nsize=9\nmean=[1, 2.5, 3]\nscale=0.5")
    options = ["--preprocess", "images.toml", "--labels", "names.txt"]
    assert worker.main(["net.prototxt", "-o", "net.h5", *options]) == 0
    facts = shown("net.h5")["facts"]
    assert facts["preprocessing of data"] == (
        "shorter side resized to 9, centre of 5x7, bgr, minus mean (1, 2.5, 3), times 0.5"
    )
    assert facts["assumed for data"] == "the order of the channels is BGR"
    assert facts["labels"] == "1,000, from 'n1 cat' to 'n2 dog'"
    np.save("mean.npy", np.ones((3, 8, 9), np.float32))
    assert worker.main(["net.prototxt", "-o", "net.h5", "--mean", "mean.npy"]) == 0
    facts = shown("net.h5")["facts"]
    assert facts["preprocessing of data"] == (
        "warped to 8x9, centre of 5x7, bgr, minus mean image of 3x8x9"
    )
    assert "labels" not in facts


def test_a_mean(folder):
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    Path("mean.binaryproto").write_bytes(cb.legacy(1, 2, 3, 4) + cb.packed(5, values))
    Path("new.binaryproto").write_bytes(cb.blob(values[0]))
    np.save("mean.npy", values)
    for name in ("mean.binaryproto", "new.binaryproto", "mean.npy"):
        assert shown(name) == {
            "kind": "mean",
            "title": name,
            "facts": {"size": size(folder / name), "shape": "2x3x4"},
            "columns": ["channel", "mean", "least", "largest"],
            "rows": [[0, 5.5, 0.0, 11.0], [1, 17.5, 12.0, 23.0]],
        }


def test_a_damaged_interchange_file_is_not_taken_for_weights(folder):
    data = bytearray(Path("net.h5").read_bytes())
    place = data.index(b'"format"')
    data[place : place + 8] = b'"farmot"'
    Path("net.h5").write_bytes(data)
    with pytest.raises(MalformedModel, match="does not match its digest"):
        shown("net.h5")


GARBAGE = {
    "empty": b"",
    "zeros": bytes(5000),
    "random": bytes(range(256)) * 20,
    "text": b"Dear reader,\nthis is a letter.\n",
    "page": b"<!DOCTYPE html><html></html>",
    "archive": b"PK\x03\x04" + bytes(100),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "hdf5 alone": b"\x89HDF\r\n\x1a\n",
    "hdf5 forged": b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 20,
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage(case, tmp_path):
    path = tmp_path / "what"
    path.write_bytes(GARBAGE[case])
    with pytest.raises(ConversionError) as caught:
        inspect(path, Events())
    assert type(caught.value) is MalformedModel
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message


def test_other_hdf5_is_named(tmp_path):
    with h5py.File(tmp_path / "history.h5", "w") as file:
        file["history/0"] = np.ones(3, np.float32)
    with pytest.raises(MalformedModel, match="no group 'data'.*this is a solver state"):
        inspect(tmp_path / "history.h5", Events())


@pytest.mark.parametrize("name", ["missing", "."])
def test_no_file(name, tmp_path):
    with pytest.raises(UsageError):
        inspect(tmp_path / name, Events())


def test_of_a_caffemodel_little_is_imported(folder):
    code = "import sys; from stage_extract.worker import main; assert 'numpy' not in sys.modules; "
    code += "assert main(sys.argv[1:]) == 0; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--inspect", str(Path("net.caffemodel").resolve())],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    assert "numpy" in imported
    assert not imported & {"h5py", "google.protobuf", "schemas.layers.convolution"}
