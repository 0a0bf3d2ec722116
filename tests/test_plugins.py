"""Plug-ins: the one that docs/adding-a-layer.md shows, and what is said of broken ones."""

from __future__ import annotations

import re

import numpy as np
import pytest

from schemas import plugins
from schemas.errors import MalformedModel, UnsupportedModel, UsageError
from schemas.layers import registry
from stage_build.lowering.registry import lower, plugged_in
from tests import cli, nets
from tests.paths import ROOT

GAIN = nets.layer(
    "Python",
    parameters='python_param { module: "vision.layers" layer: "GainLayer" param_str: "2.5" }',
)
NET = (nets.inputs(data=(2, 3, 4, 5)), GAIN)


@pytest.fixture
def gain(tmp_path):
    """The folder that the page tells the reader to write."""
    page = (ROOT / "docs" / "adding-a-layer.md").read_text("utf-8")
    written = re.findall(r"`gain/(\w+\.py)`.*?```python\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in written] == ["meaning.py", "lowering.py", "runtime.py"]
    folder = tmp_path / "gain"
    folder.mkdir()
    for name, text in written:
        (folder / name).write_text(text, "utf-8")
    return folder


def test_a_python_layer_is_converted_and_verified(gain, tmp_path):
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text("\n".join(NET), "utf-8")
    done = cli.orchestrate("convert", prototxt, "-o", tmp_path / "out", "--plugin", gain)
    assert done.returncode == 0, done.stderr
    assert "out = self.gain(data, 2.5, " in (tmp_path / "out" / "model.py").read_text()
    assert "class GainCalls(Calls):" in (tmp_path / "out" / "caffe_layers.py").read_text()
    assert not list(gain.glob("__pycache__"))


@pytest.mark.slow
def test_a_plug_in_is_known_to_whoever_checks_other_sizes(gain, tmp_path):
    lowering = gain / "lowering.py"
    text = lowering.read_text("utf-8")
    assert text.count("@lowering(") == 1
    lowering.write_text(re.sub(r"(@lowering\(.*)\)", r"\1, any_size=True)", text), "utf-8")
    prototxt, out = tmp_path / "net.prototxt", tmp_path / "out"
    prototxt.write_text("\n".join(NET), "utf-8")
    asked = ("--plugin", gain)
    done = cli.orchestrate("convert", prototxt, "-o", out, "--dynamic-size", *asked)
    assert done.returncode == 0, done.stderr
    assert '"data": (None, None, None, 3)' in (out / "model.py").read_text()
    done = cli.orchestrate("verify", out, *asked)
    assert done.returncode == 0, done.stderr


def test_without_its_plugin_a_python_layer_is_unsupported(tmp_path):
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text("\n".join(NET), "utf-8")
    done = cli.orchestrate("convert", prototxt, "-o", tmp_path / "out")
    assert done.returncode == 4
    assert "layer type 'Python' (vision.layers.GainLayer) is not supported" in done.stderr
    assert "'out' (line 2)" in done.stderr


def test_plugins_are_known_only_while_they_are_asked_for(gain):
    with plugged_in([gain]):
        content = nets.net(*NET)
        blobs = content.reference.blobs
        np.testing.assert_array_equal(blobs["out"], blobs["data"] * np.float32(2.5))
        assert lower(content.net, {})[0].family == "gain"
    with pytest.raises(UnsupportedModel):
        nets.net(*NET)
    with plugins.meanings([gain]), plugged_in([]):
        assert "vision.layers.GainLayer" in registry.dialects("Python")


OWN_TYPE = """
from typing import Optional, Tuple

from schemas.layers.registry import Meaning, layer


@layer("Mix", message="mix_param")
class Mix(Meaning):
    \"\"\"scale * x + the sum of the offsets, squared where the mode says so.\"\"\"

    scale: float = 1.0
    mode: str = "PLAIN"
    offset: Tuple[int, ...] = ()
    note: Optional[str] = None
    choices = {"mode": ("PLAIN", "SQUARED")}

    def shapes(self, bottoms, tops):
        return [bottoms[0]]

    def forward(self, bottoms, weights, tops):
        x = bottoms[0] * bottoms[0].dtype.type(self.scale) + sum(self.offset)
        return [x * x if self.mode == "SQUARED" else x]
"""


@pytest.fixture
def mix(tmp_path):
    folder = tmp_path / "mix"
    folder.mkdir()
    (folder / "meaning.py").write_text(OWN_TYPE, "utf-8")
    return folder


def test_a_type_of_the_user_s_own_has_its_own_parameters(mix):
    """(2 x + 3 + 4)^2, whatever caffe.proto knows of the message."""
    parameters = 'mix_param { scale: 2 mode: SQUARED offset: [3, 4] note: "any" }'
    text = (nets.inputs(data=(2, 3)), nets.layer("Mix", parameters=parameters))
    with plugins.meanings([mix]):
        blobs = nets.net(*text).reference.blobs
        np.testing.assert_array_equal(blobs["out"], (2 * blobs["data"] + 7) ** 2)
    with pytest.raises(UnsupportedModel, match="unknown field: mix_param of layer 'out' .line 3"):
        nets.net(*text)


@pytest.mark.parametrize(
    "parameters, error, said",
    [
        ("mode: CUBED", MalformedModel, "one of PLAIN, SQUARED for 'mode'"),
        ("scale: wide", MalformedModel, "a number for 'scale'"),
        ("offset: 1.5", MalformedModel, "an integer for 'offset'"),
        ("width: 3", UnsupportedModel, "unknown field: mix_param.width of layer"),
    ],
    ids=["choice", "decimal", "whole", "unknown"],
)
def test_the_user_s_own_parameters_are_checked(mix, parameters, error, said):
    text = nets.layer("Mix", parameters=f"mix_param {{ {parameters} }}")
    with plugins.meanings([mix]), pytest.raises(error, match=said):
        nets.net(nets.inputs(data=(2, 3)), text)


def broken(gain, **texts):
    for part, text in texts.items():
        (gain / f"{part}.py").write_text(text, "utf-8")
    return gain


@pytest.mark.parametrize("part", ["meaning", "lowering", "runtime"])
def test_a_missing_piece_is_named(part, gain):
    (gain / f"{part}.py").unlink()
    with pytest.raises(UsageError, match=f"the folder holds no {part}.py"), plugged_in([gain]):
        pass


@pytest.mark.parametrize(
    "text, said",
    [
        ("def", "meaning.py cannot be loaded: SyntaxError"),
        ("import nothing_of_that_name", "cannot be loaded: ModuleNotFoundError"),
        (
            "from schemas.layers.registry import Meaning, layer\n"
            "@layer('ReLU')\nclass Mine(Meaning):\n    pass\n",
            "layer type 'ReLU' .* is registered twice",
        ),
    ],
    ids=["syntax", "import", "taken"],
)
def test_what_cannot_be_loaded_is_told_in_a_line(text, said, gain):
    before = registry.registered()
    with pytest.raises(UsageError, match=said) as caught, plugged_in([broken(gain, meaning=text)]):
        pass
    assert "\n" not in str(caught.value)
    assert registry.registered() == before


def test_a_family_that_there_is_already_is_refused(gain):
    other = gain.rename(gain.with_name("pooling"))
    with (
        pytest.raises(UsageError, match="there is a family 'pooling' already"),
        plugged_in([other]),
    ):
        pass
    with (
        pytest.raises(UsageError, match="must be a Python name, not 'no name'"),
        plugged_in([other.rename(other.with_name("no name"))]),
    ):
        pass
