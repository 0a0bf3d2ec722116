"""The stages on two machines: one without TensorFlow, one without Caffe's schema."""

from __future__ import annotations

import json
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

# What runs at the start of every Python of the second machine: our code gets no protobuf.
NO_PROTOBUF = """
import sys

ROOT = {root!r}


class Refusing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[:2] != ["google", "protobuf"]:
            return None
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame.f_code.co_filename.startswith(ROOT):
            with open(ROOT + "/asked", "a") as asked:
                print(name, frame.f_code.co_filename, file=asked)
            raise ImportError(name + " is not for our code")


sys.meta_path.insert(0, Refusing)
"""


def clean(**more):
    """An environment with nothing of the project on the path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, **more}


def run(command, cwd):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def piped(first, second, folder):
    """``first | second`` on two machines; the second one's protobuf is not for our code.

    Args:
        first, second: (command, current folder).
        folder: of the second machine.
    """
    hooks = folder / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(NO_PROTOBUF.format(root=str(folder)))
    here, there = (list(map(str, command)) for command, _ in (first, second))
    with subprocess.Popen(
        here, cwd=first[1], env=clean(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as sender:
        done = subprocess.run(
            there,
            cwd=second[1],
            env=clean(PYTHONPATH=str(hooks)),
            stdin=sender.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        said = sender.stderr.read().decode()
    assert (sender.returncode, done.returncode) == (0, 0), said + done.stderr
    assert not (folder / "asked").exists(), (folder / "asked").read_text()
    return done


def build_machine(folder):
    """Stage 2 and the rooms it speaks through, and nothing of Caffe's."""
    shutil.copytree(ROOT / "stage_build", folder / "stage_build")
    no_schema = shutil.ignore_patterns("caffe.proto", "caffe.desc")
    shutil.copytree(ROOT / "schemas", folder / "schemas", ignore=no_schema)


def driver(folder):
    """The command line beside the stage that is there."""
    shutil.copytree(ROOT / "driver", folder / "driver")
    shutil.copy(ROOT / "orchestrate.py", folder)


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
    second.mkdir()
    build_machine(second)
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


FILES = ("model.py", "caffe_layers.py", "weights.npz", "names.json", "net.h5")


def same(one, other, names=FILES):
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


def test_the_stages_through_a_pipe(built, caffe_machine, tmp_path):
    there, _ = built
    archive = there.parent.parent / "first" / "stage_extract.pyz"
    second = tmp_path / "second"
    build_machine(second)
    piped(
        ([caffe_machine, archive, *NET, "-o", "-"], tmp_path),
        ([sys.executable, "-m", "stage_build", "-", "-o", "digits"], second),
        second,
    )
    assert same(second / "digits", there) == []
    made = {path.name for path in second.iterdir()} - {"__pycache__"}
    assert made == {"stage_build", "schemas", "hooks", "digits"}


def test_the_driver_through_a_pipe(built, caffe_machine, tmp_path):
    """Each machine has the driver and one of the stages."""
    there, _ = built
    first, second = tmp_path / "first", tmp_path / "second"
    for room in ("schemas", "stage_extract"):
        shutil.copytree(ROOT / room, first / room)
    build_machine(second)
    for folder in (first, second):
        driver(folder)
    extract = [sys.executable, "orchestrate.py", "extract", *NET, "-o", "-", "-q"]
    done = piped(
        ([*extract, "--extract-python", caffe_machine], first),
        ([sys.executable, "orchestrate.py", "build", "-", "-o", "digits", "--json"], second),
        second,
    )
    assert json.loads(done.stdout)["worst"]["error"] < 1e-4
    assert same(second / "digits", there) == []
    assert not [path for path in second.iterdir() if path.name.startswith(".")]


def test_the_second_machine_refuses_protobuf_to_our_code(tmp_path):
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(NO_PROTOBUF.format(root=str(tmp_path)))
    (tmp_path / "ours.py").write_text("import google.protobuf.message\n")
    done = subprocess.run(
        [sys.executable, "-m", "ours"],
        cwd=tmp_path,
        env=clean(PYTHONPATH=str(tmp_path / "hooks")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "google.protobuf is not for our code" in done.stderr
    assert (tmp_path / "asked").exists()


@pytest.mark.parametrize("command", [["orchestrate.py", "build"], ["-m", "stage_build"]])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "stdin: net.h5 was expected, nothing came"),
        (b"Traceback", "stdin: net.h5 was expected, something else came"),
        ("half", "stdin: net.h5 was cut off: "),
        ("damaged", "does not match its digest"),
    ],
    ids=["nothing", "text", "half", "damaged"],
)
def test_what_does_not_arrive_whole_leaves_nothing(command, content, said, built, tmp_path):
    whole = (built[0] / "net.h5").read_bytes()
    if content == "half":
        content = whole[: len(whole) // 2]
    elif content == "damaged":
        content = bytearray(whole)
        content[len(whole) // 2] ^= 1
    done = subprocess.run(
        [sys.executable, *command, "-", "-o", tmp_path / "out"],
        cwd=ROOT,
        env=clean(),
        input=bytes(content),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert said in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []
