"""Caffemodels beyond 2 and 4 GB, which protobuf cannot read: sparse files with values in places."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from schemas import interchange
from tests import caffe_bytes as cb
from tests.measured import measured
from tests.prototxts import inputs, layer

pytestmark = pytest.mark.slow

GIB = 1 << 30
PEAK = 200 << 20
ROWS, COLUMNS = 12000, 12500  # 600 MB of floats
FOUR = [f"ip{i}" for i in range(4)]  # of these: 2.4 GB


def blob_head(shape):
    """A BlobProto of packed floats, up to the first of them, and how many bytes they have."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    head = cb.shape(*shape) + cb.tag(5, cb.BYTES) + cb.varint(size)
    return cb.tag(7, cb.BYTES) + cb.varint(len(head) + size) + head, size


def write_sparse(path, layers):
    """Writes a caffemodel of zeros, as holes, but for each blob's first and last value.

    Args:
        layers: name -> shapes of the layer's blobs.

    Returns:
        Name -> (first value, last value, byte of the last one) of each blob.
    """
    written: dict[str, list[tuple[float, float, int]]] = {}
    number = 0
    with open(path, "wb") as stream:
        for name, shapes in layers.items():
            title = cb.field(1, name) + cb.field(2, "InnerProduct")
            heads = [blob_head(shape) for shape in shapes]
            total = len(title) + sum(len(head) + size for head, size in heads)
            stream.write(cb.tag(100, cb.BYTES) + cb.varint(total) + title)
            written[name] = []
            for head, size in heads:
                number += 1
                first, last = np.array([number, -number / 4], np.float32)
                stream.write(head + first.tobytes())
                stream.seek(size - 8, 1)
                written[name].append((float(first), float(last), stream.tell()))
                stream.write(last.tobytes())
    return written


@pytest.fixture
def folder(tmp_path):
    """A folder with room for the largest file, should holes take room here; emptied again."""
    free = shutil.disk_usage(str(tmp_path)).free
    if free < 16 * GIB:
        pytest.skip(f"not run: {free >> 20} MB are free in {tmp_path}, {16 * GIB >> 20} are needed")
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()


READ = """
import json, sys
from stage_extract.caffemodel import open_model

found = {}
with open_model(sys.argv[1]) as model:
    for layer in model.layers:
        ends = found[layer.name] = []
        for blob in layer.blobs:
            values = blob.array().reshape(-1)
            ends.append([list(blob.shape), float(values[0]), float(values[-1])])
    total = sum(float(part.sum()) for part in model.layers[-1].blobs[-1].slices())
print(json.dumps([found, total]))
"""


def test_reading(folder):
    """A layer whose own length is beyond 2^31, layers beyond 2^32, and one blob as large as Caffe
    can count: 2^31 - 1 values."""
    half_gib = (1 << 14, 1 << 13)
    layers: dict[str, list[tuple[int, ...]]] = {"many": [half_gib] * 5, "a": [half_gib]}
    layers["b"] = [half_gib, (7,)]
    layers["most"] = [(2**31 - 1,)]
    layers["end"] = [half_gib]
    path = folder / "large.caffemodel"
    written = write_sparse(path, layers)
    assert [written[name][-1][-1] // GIB for name in layers] == [2, 3, 3, 11, 12]
    assert path.stat().st_size > 12 * GIB

    done = measured("-c", READ, path, cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert done.peak < PEAK
    found, total = json.loads(done.out)
    assert found == {
        name: [
            [list(shape), first, last]
            for shape, (first, last, _) in zip(shapes, written[name])  # noqa: B905  Python 3.8
        ]
        for name, shapes in layers.items()
    }
    first, last, _ = written["end"][0]
    assert total == first + last


INSPECT = """
import sys
from pathlib import Path
from schemas.events import Events
from stage_extract.inspection import inspect

print(inspect(Path(sys.argv[1]), Events())["rows"])
"""


def test_inspecting(folder):
    path = folder / "large.caffemodel"
    write_sparse(path, {name: [(ROWS, COLUMNS)] for name in FOUR})
    done = measured("-c", INSPECT, path, cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert done.peak < PEAK
    rows = [[name, "InnerProduct", f"{ROWS}x{COLUMNS}"] for name in FOUR]
    assert done.out == f"{rows}\n"


def test_extracting(folder):
    written = write_sparse(folder / "net.caffemodel", {name: [(ROWS, COLUMNS)] for name in FOUR})
    assert (folder / "net.caffemodel").stat().st_size > 2 * GIB
    parameters = f"inner_product_param {{ num_output: {ROWS} bias_term: false }}"
    text = [layer("InnerProduct", "data", name, parameters) for name in FOUR]
    (folder / "net.prototxt").write_text("\n".join([inputs(data=(1, COLUMNS)), *text]))
    argv = ("net.prototxt", "net.caffemodel", "-o", "net.h5", "--no-reference")
    done = measured("-m", "stage_extract", *argv, cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert done.peak < PEAK
    assert {path.name for path in folder.iterdir()} == {"net.prototxt", "net.caffemodel", "net.h5"}
    stored = interchange.read(folder / "net.h5").weights
    assert set(stored) == {f"{name}/0" for name in FOUR}
    values = stored["ip3/0"].reshape(-1)
    first, last, byte = written["ip3"][0]
    assert byte > 2 * GIB
    assert (values.size, values[0], values[-1]) == (ROWS * COLUMNS, first, last)
    assert np.count_nonzero(values) == 2
