"""What stage 1 tells of the files that it read, so that a change of them is seen later."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from stage_extract import sources, worker
from stage_extract.sources import Sources
from tests.prototxts import inputs, layer

CONTENT = b"what is read"


@pytest.fixture(autouse=True)
def old_files(monkeypatch):
    """Files of which nobody need wait to grow old."""
    monkeypatch.setattr(sources, "CLOCK_TICK", -(10**12))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def read(path, between=lambda: None):
    """What is told of a file when something is done to it after it was hashed."""
    with Sources(path.with_name("net.h5")) as read:
        read.add("weights", str(path))
        assert [entry[0] for entry in read.hashed()] == ["weights"]
        between()
        return read.unchanged()


def test_it_tells_what_was_hashed(file):
    status = file.stat()
    assert read(file) == [
        {
            "role": "weights",
            "path": str(file),
            "inode": status.st_ino,
            "size": len(CONTENT),
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
        }
    ]


def test_the_path_is_absolute(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    with Sources(file.with_name("net.h5")) as read:
        read.add("weights", "file")
        (told,) = read.unchanged()
    assert told["path"] == str(file)


def write(path, content):
    path.write_bytes(content)
    os.utime(str(path), ns=(1, 1))


def exchange(path):
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    os.utime(str(other), ns=(path.stat().st_mtime_ns,) * 2)
    os.replace(str(other), str(path))


@pytest.mark.parametrize(
    "between",
    [
        lambda path: write(path, CONTENT),
        lambda path: write(path, CONTENT + b"more"),
        exchange,
        os.remove,
    ],
    ids=["written", "longer", "exchanged", "removed"],
)
def test_nothing_is_told_of_what_changed_meanwhile(between, file):
    assert read(file, lambda: between(file)) is None


def test_nothing_is_told_of_what_changed_before_it_was_hashed(file, monkeypatch):
    """Whatever the clock of its file system says: it may have been read before that."""
    hashed = sources.sha256

    def late(path, failed):
        write(file, CONTENT)
        return hashed(path, failed)

    monkeypatch.setattr(sources, "sha256", late)
    assert read(file) is None


def test_a_file_that_was_written_as_the_job_began_is_not_told_of(file, monkeypatch):
    """It may have been read before it was written, at what the clock takes for the same time."""
    monkeypatch.setattr(sources, "CLOCK_TICK", 10**12)
    assert read(file) is None


def test_every_file_of_an_extraction(tmp_path):
    """Those that a recipe names, too."""
    net, recipe = tmp_path / "net.prototxt", tmp_path / "recipe.toml"
    net.write_text("\n".join([inputs(data=(1, 3, 5, 7)), layer("ReLU", "data", "out")]))
    np.save(str(tmp_path / "mean.npy"), np.ones(3, np.float32))
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    recipe.write_text('mean = "mean.npy"\nlabels = "names.txt"\nscale = 1.0\n')
    options = worker._parser(worker._ServingParser).parse_args(
        [str(net), "-o", str(tmp_path / "net.h5"), f"--preprocess={recipe}", "--allow-missing"]
    )
    result = worker._extract(options, worker.Events())
    told = [(entry["role"], os.path.basename(entry["path"])) for entry in result["files"]]
    assert told == [
        ("prototxt", "net.prototxt"),
        ("preprocess", "recipe.toml"),
        ("mean", "mean.npy"),
        ("labels", "names.txt"),
    ]
