"""The stages on two machines: one without TensorFlow, one without Caffe's schema."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.cli import orchestrate
from tests.paths import ROOT
from tools.pythons import environment

pytestmark = pytest.mark.slow

DIGITS = ROOT / "examples" / "digits"
NET = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")


def run(command, cwd):
    """Runs with nothing of the project on the path."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def caffe_machine():
    """A Python 3.8 with numpy, h5py and protobuf 3.20, and no TensorFlow."""
    python = environment("3.8")
    if python is None:
        pytest.skip("not run: no Python 3.8")
    found = subprocess.run([python, "-c", "import tensorflow"], capture_output=True, check=False)
    assert found.returncode != 0
    return python


@pytest.fixture(scope="module")
def built(caffe_machine, tmp_path_factory):
    """The file that travelled, the result of the second machine, and what convert makes here."""
    folder = tmp_path_factory.mktemp("machines")
    first, second = folder / "first", folder / "second"
    first.mkdir()
    run([sys.executable, ROOT / "tools" / "build_pyz.py", "-o", first / "stage_extract.pyz"], ROOT)
    run([caffe_machine, "stage_extract.pyz", *NET, "-o", "net.h5"], first)
    # The second machine has stage 2 and the rooms it speaks through, and nothing of Caffe's.
    second.mkdir()
    shutil.copytree(ROOT / "stage_build", second / "stage_build")
    no_schema = shutil.ignore_patterns("caffe.proto", "caffe.desc")
    shutil.copytree(ROOT / "schemas", second / "schemas", ignore=no_schema)
    shutil.copyfile(first / "net.h5", second / "net.h5")
    run([sys.executable, "-m", "stage_build", "net.h5", "-o", "digits"], second)
    done = orchestrate("convert", *NET, "-o", folder / "here", "-q")
    assert done.returncode == 0, done.stderr
    return second / "digits", folder / "here"


@pytest.mark.parametrize("name", ["model.py", "caffe_layers.py", "weights.npz", "names.json"])
def test_same_result_as_convert(built, name):
    there, here = built
    assert (there / name).read_bytes() == (here / name).read_bytes()


def test_the_second_machine_verifies_again(built):
    there, _ = built
    run([sys.executable, "-m", "stage_build", "digits", "--verify"], there.parent)
