"""Every form in which one net's weights are stored, and every damaged file, as a user has them."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tests.cli import orchestrate, run_batch
from tests.measured import measured
from tests.paths import GOLDENS, needs_shared

pytestmark = needs_shared

FORMATS = GOLDENS / "formats"
NET = FORMATS / "net.prototxt"
GOOD = sorted(FORMATS.glob("*.caffemodel*"))
OLD = "net_v1"
"""The entry whose prototxt is of the old format as well."""

SECONDS, BYTES = 5, 200 << 20
"""A refusal takes 0.3 s and 50 MB; machines that are shared may take longer."""

DAMAGED = "(the file is damaged: download or copy it again)"
CUT = "byte 732: the file is cut off: NetParameter.layer has 3427 bytes, {} are left " + DAMAGED
# After the path: the place, the cause and what to do.
BAD = {
    "empty": ": the file is empty (download or copy it again)",
    "html": ": a binary Caffe file is expected, found a web page (download the raw file, not the "
    "page that shows it)",
    "length_overflow": ", byte 40, layer 'conv1', blob 0: the message ends within a number "
    + DAMAGED,
    "lfs_pointer": ": a binary Caffe file is expected, found a Git LFS pointer (run `git lfs "
    "pull`)",
    "missing_layer": ": the weights do not fit the net: layer 'conv1' is missing (",
    "odd_bytes": ", byte 32, layer 'conv1', blob 0: 23 bytes are no whole number of 4-byte values "
    + DAMAGED,
    "shape_huge": ", byte 25, layer 'conv1', blob 0: no blob can have shape [1099511627776, "
    "1099511627776] " + DAMAGED,
    "shape_lies": ", byte 25, layer 'conv1', blob 0: shape [6, 3, 3, 3] is announced, 10 values "
    "follow " + DAMAGED,
    "shape_negative": ", byte 25, layer 'conv1', blob 0: no blob can have shape [-1, 3, 3, 3] "
    + DAMAGED,
    "truncated_half": ", " + CUT.format(1347),
    "truncated_last": ", " + CUT.format(3424),
    "varint_endless": ", byte 4161: a number has more than 64 bits " + DAMAGED,
    "wrong_shape": ": the weights do not fit the net: layer 'conv1', blob 0: shape [6, 3, 3, 3] "
    "expected, found [6, 3, 5, 5]",
    "zeros": ": a binary Caffe file is expected, found 4096 zero bytes at its start (download or "
    "copy it again)",
}


def test_every_file_is_tested():
    assert len(GOOD) == 13
    assert {path.stem for path in (FORMATS / "bad").glob("*")} == {*BAD, "nan"}


# ---- Good files ----------------------------------------------------------------------------------


def entry(path, **options):
    return {"name": path.name.partition(".")[0], "prototxt": NET, "weights": path, **options}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Every good file, and the one with a NaN, converted by one batch: (folder, name -> result)."""
    folder = tmp_path_factory.mktemp("formats")
    proof = {"reference": FORMATS / "blobs.npz", "tolerance": 1e-5, "formats": "class"}
    entries = [entry(path, **proof) for path in GOOD]
    old = {"name": OLD, "prototxt": FORMATS / "net_v1.prototxt"}
    entries.append({**entry(FORMATS / "v1_legacy.caffemodel", **proof), **old})
    entries.append(entry(FORMATS / "bad" / "nan.caffemodel"))
    return folder / "out", run_batch(entries, folder)


def weights(folder):
    with np.load(folder / "weights.npz") as file:
        return [file[str(place)] for place in range(len(file.files))]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(path.name.partition(".")[0] for path in GOOD), OLD])
def test_a_good_file(name, converted):
    out, results = converted
    assert (results[name]["exit_code"], results[name]["warnings"]) == (0, [])
    report = json.loads((out / name / "report.json").read_text())
    compared = {blob["name"] for blob in report["user_reference"]["blobs"]}
    with np.load(FORMATS / "blobs.npz") as golden:
        assert compared == {key[5:] for key in golden.files if key.startswith("blob:")}
    assert report["user_reference"]["passed"]
    assert not report["skipped"]
    ours, packed = weights(out / name), weights(out / "v2_packed")
    assert [array.size for array in ours] == [6 * 3 * 3 * 3, 6, 7 * 6 * 4 * 5, 7]
    assert [array.tobytes() for array in ours] == [array.tobytes() for array in packed]


@pytest.mark.slow
def test_a_nan_is_told(converted):
    out, results = converted
    told = "layer 'fc', blob 1: 1 of 7 weights are NaN or infinite"
    assert results["nan"]["exit_code"] == 0
    assert told in results["nan"]["warnings"]
    report = json.loads((out / "nan" / "report.json").read_text())
    assert report["status"] == "ok"
    assert set(report["artefacts"]) == {"class", "keras", "saved_model"}
    assert told in report["notes"]
    assert [int(np.isnan(array).sum()) for array in weights(out / "nan")] == [0, 0, 0, 1]


# ---- Bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_is_refused_at_once(name, tmp_path):
    path = FORMATS / "bad" / f"{name}.caffemodel"
    done = measured("-m", "stage_extract", NET, path, "-o", "net.h5", cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(f"error: {path}{BAD[name]}")
    assert done.err.count("\n") == 1
    assert done.seconds < SECONDS
    assert done.peak < BYTES
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_ends_a_conversion(name, tmp_path):
    path = FORMATS / "bad" / f"{name}.caffemodel"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = orchestrate(
        *("convert", NET, path, "-o", "out", "--quiet"),
        cwd=tmp_path,
        env=dict(os.environ, TMPDIR=str(temporary)),
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: extract: {path}{BAD[name]}")
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == [temporary]
