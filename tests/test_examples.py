"""The examples do what they say, run as their first lines tell."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.cli import orchestrate
from tests.paths import ROOT

EXAMPLES = ROOT / "examples"
DIGITS = EXAMPLES / "digits"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "held_out")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The digits example in every form that a script takes."""
    out = tmp_path_factory.mktemp("out") / "digits"
    net = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
    done = orchestrate("convert", *net, "-o", out, "--formats", "class,keras,saved_model,tflite")
    assert done.returncode == 0, done.stderr
    return out


def figures(script, folder, tmp_path):
    """The numbers in the last line that a script prints."""
    ran = subprocess.run(
        [sys.executable, EXAMPLES / f"{script}.py", folder],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [float(number) for number in re.findall(r"[\d.]+(?=%| )", ran.stdout.splitlines()[-1])]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["serve_saved_model", "run_tflite"])
def test_the_digits_are_known(script, converted, tmp_path):
    assert figures(script, converted, tmp_path) == [358, 360]


@pytest.mark.slow
def test_features_tell_digits_apart(converted, tmp_path):
    same, of = figures("extract_features", converted, tmp_path)
    assert of == 360 and 345 <= same <= 360


@pytest.mark.slow
def test_a_new_last_layer_learns(converted, tmp_path):
    before, after = figures("fine_tune", converted, tmp_path)
    assert before < 75 and after > 93


def test_every_script_is_in_the_list_and_tested():
    listed = re.findall(r"^\| `(\w+)\.py` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == SCRIPTS
    assert SCRIPTS == ["extract_features", "fine_tune", "run_tflite", "serve_saved_model"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_how_it_is_run(script):
    text = (EXAMPLES / f"{script}.py").read_text()
    assert f"python examples/{script}.py [out/digits" in text
