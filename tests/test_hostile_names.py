"""A net in which every name attacks: it converts, its class runs, nothing else is touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests import caffe_bytes as cb
from tests.cli import orchestrate
from tests.nets import layer, quoted
from tests.paths import ROOT

# What would show that a name was run: a path with this in its name.
CANARY = "pwned"

INPUTS = ['"); open("pwned", "w") #', "self"]
NET = '"""\n__import__("os").mkdir("pwned") #'
NAMES = [
    # code
    "'); open('pwned', 'w') #",
    '"""; import os; os.mkdir("pwned") #',
    "'''",
    "__import__('os').mkdir('pwned')",
    "{__import__('os').mkdir('pwned')}",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    # paths
    "../../pwned",
    "/etc/passwd",
    "/tmp/pwned",
    "..",
    ".",
    "/",
    "C:\\pwned",
    "-o",
    "con",
    # markup
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[red]rich[/red]",
    "[link=file:///etc/passwd]x[/link]",
    "| a | b |",
    # formats
    "{}",
    "{0}",
    "{name}",
    "{{7*7}}",
    "%s",
    "%(x)s",
    "%n%n",
    # what a terminal obeys
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066\u200b\ufeff",
    "\r\n\terror: not an error",
    "\x7f\x08",
    "null\0byte",
    "\u2028\u2029",
    # text
    "",
    " ",
    "n" * 1000,
    "\N{LATIN SMALL LETTER E WITH ACUTE}" * 300,
    "\N{GRINNING FACE}",
    "\u53d8\u91cf",
    "quote\"'",
    "back\\slash\\",
    "ends in \\",
    # equal once mangled
    "a b",
    "a/b",
    "a.b",
    "a_b",
    "A_B",
    "a_b_2",
    "\N{FULLWIDTH LATIN SMALL LETTER A}_b",
    # what the class, Keras and TensorFlow use themselves
    "class",
    "None",
    "lambda",
    "match",
    "__init__",
    "__class__",
    "inputs",
    "outputs",
    "model",
    "graph",
    "names",
    "blob",
    "load",
    "keras",
    "tf",
    "np",
    "call",
    "build",
    "weights",
    "trainable",
    "dtype",
    "name",
    "kwargs",
    "serving_default",
    "training",
    # our own marks
    "self@relu",
    "self/0",
    "input:data",
    "blob:data",
    "..%2F",
    "conv:0",
    "^conv",
    "\N{LATIN SMALL LETTER Y WITH DIAERESIS}\N{LATIN SMALL LETTER THORN}",
]
NOT_UTF8 = NAMES[-1]
"""Written as its Latin-1 bytes, which are no UTF-8."""

SHARED = ['"); import os #', "../../pwned", "\x1b[2J"]
"""Names of parameters, each that of two layers."""

VALUES = np.array([[1, -2, 3], [0.5, 4, -6]], np.float32)
PRINTABLE = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202e\u2066\ufeff]*")


def weights(place):
    return np.float32(np.arange(9).reshape(3, 3) + place) / 8


def raised(name):
    """The blob of a shared parameter's layers; a name like all others."""
    return name + " shared"


def prototxt():
    """Inputs, layers that each add a number of their own, shared parameters, in-place layers."""
    shape = "input_param { shape { dim: 2 dim: 3 } }"
    layers = [
        layer("Input", [], [top], shape, name=name)
        for top, name in zip(INPUTS, reversed(INPUTS), strict=True)
    ]
    for place, top in enumerate(NAMES):
        name = NAMES[(place + 1) % len(NAMES)]
        layers.append(
            layer("Power", [INPUTS[place % 2]], [top], f"power_param {{ shift: {place} }}", name)
        )
    for name in SHARED:
        parameters = f"param {{ name: {quoted(name)} }} inner_product_param {{ num_output: 3 "
        parameters += "bias_term: false }"
        for top in (raised(name), raised(name) * 2):
            layers.append(layer("InnerProduct", [INPUTS[0]], [top], parameters))
    for name in SHARED:
        over = layer("AbsVal", [raised(name)], [raised(name)], name=f"over {name}")
        layers.append(over)
    text = "\n".join([f"name: {quoted(NET)}", *layers])
    return text.replace(quoted(NOT_UTF8)[1:-1], r"\377\376")


def caffemodel():
    stored = [
        cb.layer(top, cb.blob(weights(place)), type="InnerProduct")
        for place, name in enumerate(SHARED)
        for top in (raised(name), raised(name) * 2)
    ]
    unused = cb.layer("unused \x1b[31m\n<script>", cb.blob(weights(0)))
    return b"".join([*stored, unused])


def expected():
    """Blob -> value, by hand."""
    found = {name: VALUES for name in INPUTS}
    found.update({name: VALUES + place for place, name in enumerate(NAMES)})
    for place, name in enumerate(SHARED):
        plain = VALUES @ weights(place).T
        found.update({raised(name): np.abs(plain), raised(name) * 2: plain})
        found[overwritten(name)] = plain
    return found


def overwritten(name):
    """The key of the value that a layer in place has replaced."""
    return f"{raised(name)}@{raised(name)}"


# ---- One conversion ------------------------------------------------------------------------------

# In a fresh process, from another folder: argv is OUT and the inputs' values.
USE = """
import importlib, json, sys
from pathlib import Path

out = Path(sys.argv[1])
sys.path.insert(0, str(out.parent))
net = importlib.import_module(out.name).load()
import keras, numpy as np, tensorflow as tf

values = np.float32(json.loads(sys.argv[2]))
inputs = {here: values for here in net.names["inputs"].values()}
blobs = {name: net.blob(name)(inputs).numpy().tolist() for name in net.names["blobs"]}
model = keras.models.load_model(out / "model.keras", compile=False)
served = tf.saved_model.load(str(out / "saved_model")).signatures["serving_default"]
tensors = {name: tf.constant(value) for name, value in inputs.items()}
found = {"class": net(inputs), "keras": model(inputs), "saved_model": served(**tensors)}
outputs = {
    kind: {name: result[here].numpy().tolist() for name, here in net.names["outputs"].items()}
    for kind, result in found.items()
}
print(json.dumps({"blobs": blobs, "outputs": outputs}))
"""


def listing(root, *without):
    """Path -> size and time of change of every file, None of every folder."""
    found: dict[str, tuple[int, int] | None] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) not in without]
        found.update({os.path.join(folder, name): None for name in folders})
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


@dataclass
class Conversion:
    """The hostile net, converted and used; its surroundings before and after."""

    net: Path
    weights: Path
    out: Path
    done: subprocess.CompletedProcess[str]
    used: subprocess.CompletedProcess[str]
    before: dict
    after: dict

    @property
    def names(self):
        return json.loads((self.out / "names.json").read_text("ascii"))


@pytest.fixture(scope="module")
def conversion(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    home, work, elsewhere = (root / name for name in ("home", "deep/er/work", "elsewhere"))
    for folder in (home / ".keras", work, elsewhere, root / "temporary", root / "here"):
        folder.mkdir(parents=True)
    # Keras writes this where it is missing.
    (home / ".keras" / "keras.json").write_text('{"floatx": "float32"}')
    for canary in (root / "x", root / "here" / "passwd", elsewhere / "self.py"):
        canary.write_text("raise SystemExit('a canary was run')")
    odd = "-\N{LATIN SMALL LETTER E WITH ACUTE} '\"$(touch pwned)\x1b[31m\n"
    net, model = work / f"{odd}.prototxt", work / f"{odd}.caffemodel"
    net.write_text(prototxt())
    model.write_bytes(caffemodel())
    out = root / "here" / odd
    environment = dict(os.environ, HOME=str(home), TMPDIR=str(root / "temporary"))
    environment.pop("PYTHONPATH", None)
    before = listing(root, out)
    argv = ("-o", os.path.relpath(out, work), "--", net.name, model.name)
    done = orchestrate("convert", *argv, cwd=work, env=environment, timeout=300)
    used = subprocess.run(
        [sys.executable, "-c", USE, str(out), json.dumps(VALUES.tolist())],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return Conversion(net, model, out, done, used, before, listing(root, out))


def test_it_converts(conversion):
    assert conversion.done.returncode == 0, conversion.done.stderr
    report = json.loads((conversion.out / "report.json").read_text("ascii"))
    assert report["status"] == "ok"
    assert {kind: part["passed"] for kind, part in report["artefacts"].items()} == {
        "class": True,
        "keras": True,
        "saved_model": True,
    }
    assert {blob["name"] for blob in report["artefacts"]["class"]["blobs"]} == set(expected())
    assert report["net"] == NET
    assert report["notes"] == [
        "1 layers of the weights are not in the net: 'unused \\x1b[31m\\n<script>'"
    ]


def test_its_class_runs_elsewhere_under_every_name(conversion):
    assert conversion.used.returncode == 0, conversion.used.stderr
    found = json.loads(conversion.used.stdout.splitlines()[-1])
    want = expected()
    assert set(found["blobs"]) == set(want)
    for name, value in found["blobs"].items():
        np.testing.assert_allclose(value, want[name], rtol=1e-6, err_msg=repr(name))
    for kind, outputs in found["outputs"].items():
        assert set(outputs) == set(want) - set(INPUTS) - {overwritten(name) for name in SHARED}
        for name, value in outputs.items():
            np.testing.assert_allclose(value, want[name], rtol=1e-6, err_msg=f"{kind} {name!r}")


def test_names_lead_both_ways(conversion):
    names = conversion.names
    assert set(names["inputs"]) == set(INPUTS)
    layers = {*NAMES, *(raised(n) for n in SHARED), *(raised(n) * 2 for n in SHARED)}
    layers |= {f"over {name}" for name in SHARED}
    assert set(names["layers"]) == layers - {""} | {"Power"}  # the type, where there is no name
    assert set(names["blobs"]) == set(expected())
    for kind in ("inputs", "outputs", "layers", "blobs"):
        there = [json.dumps(place) for place in names[kind].values()]
        assert len(set(there)) == len(there), kind
        assert all(re.fullmatch(r'"?[A-Za-z]\w*"?|\["[A-Za-z]\w*", 0\]', x, re.A) for x in there)


def test_nothing_else_is_touched(conversion):
    assert conversion.after == conversion.before
    assert not [path for path in conversion.out.rglob("*") if CANARY in path.name]
    assert not Path("/tmp/pwned").exists()
    known = {"__init__.py", "__main__.py", "model.py", "caffe_layers.py", "names.json", "net.h5"}
    known |= {"weights.npz", "report.json", "model.keras", "saved_model", "logs", "__pycache__"}
    known |= {"report.html"}
    assert {path.name for path in conversion.out.iterdir()} <= known


def test_names_stay_out_of_code_and_pages(conversion):
    files = [path for path in conversion.out.rglob("*") if path.suffix in (".py", ".html", ".md")]
    assert len(files) >= 4
    odd = [name for name in (*NAMES, *INPUTS, *SHARED) if re.search(r"[^\w .|/\-{}'\"]", name)]
    assert len(odd) > 30
    for path in files:
        is_page = path.suffix == ".html"
        text = path.read_text("utf-8" if is_page else "ascii")
        found = [name for name in odd if name in text]
        # In a page a name is text: what is no markup may stand there as it is.
        found = [name for name in found if set("<&") & set(name)] if is_page else found
        assert path.name == "caffe_layers.py" or not found


def test_a_terminal_is_not_obeyed(conversion):
    said = conversion.done.stdout + conversion.done.stderr
    assert all(PRINTABLE.fullmatch(line) for line in said.split("\n"))
    assert "warning: 1 layers of the weights are not in the net: 'unused \\x1b" in said
    for log in (conversion.out / "logs").iterdir():
        assert b"\x1b" not in log.read_bytes()


@pytest.mark.parametrize("what", ["net", "weights", "out", "net.h5"])
def test_a_table_holds_every_name_escaped(conversion, what):
    file = conversion.out / "net.h5" if what == "net.h5" else getattr(conversion, what)
    done = orchestrate("inspect", file)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert all(PRINTABLE.fullmatch(line) for line in lines)
    assert not [line for line in lines if line.startswith("error")]


# ---- Errors --------------------------------------------------------------------------------------

EVIL = "\x1b[31m\r\nerror: all is well\u202e\x9b<script>[red]{}%s"
DATA = layer("Input", [], [EVIL], "input_param { shape { dim: 2 dim: 3 } }")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, layer("TanH", [EVIL + "?"], [EVIL])),
        (3, layer("Concat", [EVIL, EVIL], ["x"], "concat_param { axis: 7 }", name=EVIL)),
        (4, layer("Twist", [EVIL], [EVIL], name=EVIL).replace("Twist", quoted(EVIL)[1:-1])),
        (4, layer("TanH", [EVIL], ["x"], "pwned: 1", name=EVIL)),
        (3, layer("Pooling", [EVIL], ["x"], f"pooling_param {{ pool: {quoted(EVIL)} }}")),
        (3, layer("TanH", [EVIL], [EVIL], f"phase: {quoted(EVIL)}")),
        (3, f"layer {{ name: {quoted(EVIL)} \N{GRINNING FACE} }}"),
        (3, f'layer {{ name: "{EVIL[4:5]}" }}'),
    ],
    ids=["bottom", "axis", "type", "field", "enum", "phase", "token", "quote"],
)
def test_an_error_is_one_harmless_line(code, text, tmp_path):
    net = tmp_path / "\x1b[31m\nerror: x\u202e.prototxt"
    net.write_text("\n".join([DATA, text]))
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    for command in (
        [str(ROOT / "orchestrate.py"), "extract", str(net), "-o", "net.h5", "--quiet"],
        ["-m", "stage_extract", str(net), "-o", "net.h5"],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        line, end = done.stderr.split("\n")
        assert (line[:7], end) == ("error: ", "")
        assert PRINTABLE.fullmatch(line)
        assert [path.name for path in tmp_path.iterdir()] == [net.name]
