"""stage_extract.pyz: one file, equal bytes everywhere, one line for a too old interpreter."""

import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from schemas import interchange
from tests.paths import ROOT
from tools.pythons import environment, find

TOO_OLD = ("2.7", "3.6", "3.7")
DIGITS = ROOT / "examples" / "digits"
NET = (str(DIGITS / "deploy.prototxt"), str(DIGITS / "digits.caffemodel"))


def build(root, out):
    subprocess.run([sys.executable, root / "tools" / "build_pyz.py", "-o", out], check=True)
    return out


def run(python, *arguments, cwd):
    """Runs away from the project, so that only the archive can answer."""
    return subprocess.run(
        [python, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("pyz") / "stage_extract.pyz")


@pytest.fixture(scope="module")
def python38():
    python = environment("3.8")
    if python is None:
        pytest.skip("not run: no Python 3.8")
    return python


def test_the_same_sources_give_the_same_bytes(pyz, tmp_path):
    """Whatever the files' dates, and wherever they lie."""
    copy = tmp_path / "copy"
    for room in ("schemas", "stage_extract", "tools"):
        shutil.copytree(ROOT / room, copy / room, copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / "LICENSE", copy / "LICENSE")
    assert build(copy, tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()


def test_it_holds_the_rooms_and_nothing_else(pyz):
    rooms = [
        path.relative_to(ROOT).as_posix()
        for room in ("schemas", "stage_extract")
        for path in (ROOT / room).rglob("*.py")
    ]
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
    assert sorted(names) == sorted([*rooms, "schemas/caffe.desc", "LICENSE", "__main__.py"])


@pytest.mark.parametrize("version", TOO_OLD)
def test_an_old_interpreter_gets_one_line(version, pyz, tmp_path):
    python = find(version)
    if python is None:
        pytest.skip(f"not run: no Python {version}")
    ran = run(python, pyz, *NET, "-o", "net.h5", cwd=tmp_path)
    assert ran.returncode == 7
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"stage_extract needs Python 3.8 or newer, this is {version}.")
    assert ran.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(pyz, tmp_path):
    """`-S` hides site-packages."""
    ran = run(sys.executable, "-S", pyz, *NET, "-o", "net.h5", cwd=tmp_path)
    assert ran.returncode == 7
    assert "numpy" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_under_python_3_8(pyz, python38, tmp_path):
    ran = run(python38, pyz, "--help", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage:")


@pytest.mark.slow
def test_it_extracts_under_python_3_8_as_the_checkout_does_here(pyz, python38, tmp_path):
    for python, module, out in (
        (python38, [pyz], "old.h5"),
        (sys.executable, [build(ROOT, tmp_path / "here.pyz")], "new.h5"),
    ):
        ran = run(python, *module, *NET, "-o", out, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
    old, new = (interchange.read(tmp_path / name) for name in ("old.h5", "new.h5"))
    assert old.net == new.net
    assert old.sources == new.sources
    assert set(old.weights) == set(new.weights)
    for key in new.weights:
        np.testing.assert_array_equal(old.weights[key], new.weights[key], err_msg=key)
    assert set(old.reference.blobs) == set(new.reference.blobs) != set()
    for key, blob in new.reference.blobs.items():
        limit = 1e-5 * np.abs(blob).max() + 1e-6
        assert np.abs(old.reference.blobs[key] - blob).max() <= limit, key
