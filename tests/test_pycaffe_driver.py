"""Converting with PyCaffe through the real driver: Caffe's log, its numbers, and its death.

The double under `standin_caffe` stands for Caffe, in a worker of its own.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from driver import doctor
from schemas import interchange
from stage_extract import pycaffe
from tests.cli import orchestrate
from tests.paths import ROOT
from tools.pythons import environment

STANDIN = ROOT / "tests" / "standin_caffe"
NET = """
layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 3 dim: 5 } } }
layer { name: 't' type: 'TanH' bottom: 'data' top: 't' }
"""
MIX = """
layer { name: 'm' type: 'Mix' bottom: 't' top: 'm' mix_param { scale: 2 offset: 3 offset: 4 } }
"""
# A blob that is rewritten in place after two have read it: Caffe knows no such net.
REFUSED = """
layer { name: 's' type: 'Sigmoid' bottom: 't' top: 's' }
layer { name: 'r' type: 'ReLU' bottom: 't' top: 't' }
"""
PLUGIN = {
    "meaning.py": """
from typing import Tuple

from schemas.layers.registry import Meaning, layer


@layer("Mix", message="mix_param")
class Mix(Meaning):
    scale: float = 1.0
    offset: Tuple[int, ...] = ()

    def shapes(self, bottoms, tops):
        return [bottoms[0]]
""",
    "lowering.py": """
from stage_build.lowering.registry import Call, lowering


@lowering("Mix")
def mix(site):
    return Call("mix", {"scale": site.meaning.scale, "offset": sum(site.meaning.offset)})
""",
    "runtime.py": """
import keras

from stage_build.runtime.base import Calls


class MixCalls(Calls):
    def mix(self, x, *, name, scale, offset):
        return self.add(keras.layers.Rescaling(scale, offset, name=name), x)
""",
}


def convert(folder, text, *argv, command="convert", out="out", **variables):
    """The driver's run on a prototxt of this text, with the double as PyCaffe."""
    (folder / "net.prototxt").write_text(text)
    env = dict(os.environ, USE_PYCAFFE="1", PYTHONPATH=str(STANDIN), **variables)
    return orchestrate(command, "net.prototxt", "-o", out, *argv, cwd=folder, env=env)


def test_driver_and_worker_take_the_same_words_for_no():
    assert doctor.OFF == pycaffe.OFF


def test_the_class_is_verified_against_caffes_numbers(tmp_path):
    """A layer that only this Caffe computes: the plug-in has no forward pass of its own."""
    plugin = tmp_path / "mix"
    plugin.mkdir()
    for name, text in PLUGIN.items():
        (plugin / name).write_text(text)
    done = convert(tmp_path, NET + MIX, "--plugin", "mix")
    assert done.returncode == 0, done.stderr
    assert "Creating Layer" not in done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["status"], report["reference"]) == ("ok", "caffe")
    assert report["artefacts"]["class"]["passed"]


@pytest.mark.slow
def test_other_numbers_of_caffes_fail_the_verification(tmp_path):
    """They are what the class is held to, and not what we would have computed."""
    done = convert(tmp_path, NET, command="extract", out="net.h5")
    assert done.returncode == 0, done.stderr
    blobs = interchange.read(tmp_path / "net.h5").reference.blobs
    played = {"input:data": blobs["data"], "blob:t": blobs["t"] + np.float32(0.01)}
    np.savez(tmp_path / "caffes.npz", **played)
    golden = str(tmp_path / "caffes.npz")
    done = convert(tmp_path, NET, STANDIN_CAFFE_GOLDEN=golden)
    assert done.returncode == 5, done.stderr
    report = json.loads((tmp_path / "out.failed" / "report.json").read_text())
    assert report["worst"]["blob"] == "t"


def test_caffes_abort_is_told_with_its_last_words(tmp_path):
    done = convert(tmp_path, NET + REFUSED)
    assert done.returncode == 6
    error, *lines = done.stderr[done.stderr.index("error:") :].splitlines()
    assert error.startswith("error: extract: the extract worker was killed by SIGABRT")
    assert "during 'caffe'" in error
    assert any("Top blob 't' produced by multiple sources." in line for line in lines)
    assert "  | *** Check failure stack trace: ***" in lines
    assert lines[-1] == "logs and report: out.failed"
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"net.prototxt", "out.failed"}
    assert "Creating Layer t" in (tmp_path / "out.failed" / "logs" / "extract.log").read_text()
    report = json.loads((tmp_path / "out.failed" / "report.json").read_text())
    assert (report["status"], report["exit_code"]) == ("failed", 6)


def test_caffes_abort_costs_a_batch_one_model(tmp_path):
    """A fresh worker takes over, with Caffe in it again."""
    (tmp_path / "good.prototxt").write_text(NET)
    (tmp_path / "bad.prototxt").write_text(NET + REFUSED)
    names = {"first": "good", "second": "bad", "third": "good"}
    (tmp_path / "models.toml").write_text(
        "".join(
            f'[[model]]\nname = "{name}"\nprototxt = "{net}.prototxt"\nformats = "class"\n'
            for name, net in names.items()
        )
    )
    env = dict(os.environ, USE_PYCAFFE="1", PYTHONPATH=str(STANDIN))
    done = orchestrate("batch", "models.toml", "-o", "out", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 6, done.stderr
    models = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert {name: model["exit_code"] for name, model in models.items()} == {
        "first": 0,
        "second": 6,
        "third": 0,
    }
    assert "was killed by SIGABRT" in models["second"]["error"]
    for name in ("first", "third"):
        report = json.loads((tmp_path / "out" / name / "report.json").read_text())
        assert (report["status"], report["reference"]) == ("ok", "caffe")
    made = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert made == {"first", "second.failed", "third"}
    log = (tmp_path / "out" / "second.failed" / "logs" / "extract.log").read_text()
    assert "Top blob 't' produced by multiple sources." in log
    assert log.count("Initializing net") == 1, "the log is the failed model's alone"
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"good.prototxt", "bad.prototxt", "models.toml", "out"}


@pytest.mark.slow
def test_caffe_may_live_in_a_python_3_8_with_three_packages(tmp_path):
    python = environment("3.8")
    if python is None:
        pytest.skip("not run: no Python 3.8")
    arguments = ("--extract-python", python)
    done = convert(tmp_path, NET, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["reference"] == "caffe"
    done = convert(tmp_path, NET + REFUSED, *arguments, out="bad")
    assert done.returncode == 6
    assert "Top blob 't' produced by multiple sources." in done.stderr
