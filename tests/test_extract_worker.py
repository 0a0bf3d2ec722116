"""Stage 1 as a command: exit codes, one-line errors, nothing half-written, equal bytes, events.

Long for being tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from schemas import events, interchange, memory
from stage_extract import network, worker
from tests import caffe_bytes as cb
from tests.paths import GOLDENS, ROOT, needs_shared
from tests.prototxts import inputs, layer

FORMATS = GOLDENS / "formats"
NET = [
    'name: "small"',
    inputs(data=(2, 3, 5, 7)),
    layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"),
    layer("ReLU", "conv", "conv", name="relu"),
    layer("InnerProduct", "conv", "ip", "inner_product_param { num_output: 6 }"),
    layer("Softmax", "ip", "prob"),
]
SHAPES = {"conv": [(4, 3, 3, 3), (4,)], "ip": [(6, 60), (6,)]}


def arrays(shapes=None):
    rng = np.random.default_rng(1)
    return {
        name: [rng.standard_normal(shape, np.float32) for shape in own]
        for name, own in (shapes or SHAPES).items()
    }


def caffemodel(blobs):
    return b"".join(cb.layer(name, *map(cb.blob, own)) for name, own in blobs.items())


@pytest.fixture
def model(tmp_path):
    """A folder with net.prototxt and net.caffemodel, the working directory of the test."""
    (tmp_path / "net.prototxt").write_text("\n".join(NET))
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(arrays()))
    return tmp_path


@pytest.fixture
def run(model, capfd, monkeypatch):
    """Runs the worker in the model's folder; (exit code, the lines on stderr)."""
    monkeypatch.chdir(model)
    monkeypatch.delenv("USE_PYCAFFE", raising=False)

    def call(*argv):
        try:
            code = worker.main([str(each) for each in argv])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        out, err = capfd.readouterr()
        assert out == ""
        return code, err.splitlines()

    return call


@pytest.fixture
def refused(run, model):
    """Runs what must fail: its one line on stderr, after nothing was left behind."""

    def call(code, *argv):
        before = sorted(model.rglob("*"))
        found, lines = run(*argv)
        assert found == code, lines
        *warnings, error = lines
        assert all(line.startswith("warning: ") for line in warnings)
        assert error.startswith("error: ")
        assert sorted(model.rglob("*")) == before
        return error[len("error: ") :]

    return call


def process(*argv, cwd, **options):
    """``python -m stage_extract ...`` as the driver starts it."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), **options.pop("environment", {}))
    environment.pop("USE_PYCAFFE", None)
    return subprocess.run(
        [sys.executable, "-m", "stage_extract", *map(str, argv)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


BOTH = ("net.prototxt", "net.caffemodel")


# ---- What is written -----------------------------------------------------------------------------


def test_an_extraction(run, model):
    assert run(*BOTH, "-o", "net.h5") == (0, [])
    assert sorted(path.name for path in model.iterdir()) == sorted([*BOTH, "net.h5"])
    content = interchange.read(model / "net.h5")
    assert content.net.name == "small"
    assert [each.name for each in content.net.layers] == ["conv", "relu", "ip", "prob"]
    assert content.net.outputs == ("prob",)
    assert set(content.weights) == {"conv/0", "conv/1", "ip/0", "ip/1"}
    for name, own in arrays().items():
        for place, array in enumerate(own):
            np.testing.assert_array_equal(content.weights[f"{name}/{place}"], array)
    for source, role in zip(content.sources, ("prototxt", "weights")):  # noqa: B905  Python 3.8
        data = (model / source.name).read_bytes()
        assert (source.role, source.bytes) == (role, len(data))
        assert source.sha256 == hashlib.sha256(data).hexdigest()
    assert content.notes == ()
    assert content.reference.recorder == "numpy"
    assert content.reference.seed == 20151115
    assert content.reference.inputs["data"].shape == (1, 3, 5, 7)
    assert set(content.reference.blobs) == set(content.net.blobs)
    prob = content.reference.blobs["prob"]
    assert prob.sum() == pytest.approx(1, rel=1e-5)


def test_without_a_reference(run, model):
    assert run(*BOTH, "-o", "net.h5", "--no-reference") == (0, [])
    assert interchange.read(model / "net.h5").reference is None


def test_a_net_without_weights(run, model):
    Path("bare.prototxt").write_text(inputs(data=(2, 3)) + layer("TanH"))
    assert run("bare.prototxt", "-o", "net.h5") == (0, [])
    content = interchange.read(model / "net.h5")
    assert len(content.weights) == 0
    assert [source.role for source in content.sources] == ["prototxt"]
    code, lines = run("bare.prototxt", "net.caffemodel", "-o", "net.h5")
    assert code == 0
    assert lines == ["warning: 2 layers of the weights are not in the net: 'conv', 'ip'"]


@needs_shared
@pytest.mark.parametrize("path", sorted(FORMATS.glob("*.caffemodel*")), ids=lambda path: path.name)
def test_every_form_of_weights(path, run, model):
    for source, out in (("v2_packed.caffemodel", "a.h5"), (path.name, "b.h5")):
        assert run(FORMATS / "net.prototxt", FORMATS / source, "-o", out) == (0, [])
    expected, found = (interchange.read(model / name) for name in ("a.h5", "b.h5"))
    assert found.net == expected.net
    assert set(found.weights) == {"conv1/0", "conv1/1", "fc/0", "fc/1"}
    for key in found.weights:
        assert found.weights[key].tobytes() == expected.weights[key].tobytes()
    for key, blob in found.reference.blobs.items():
        assert blob.tobytes() == expected.reference.blobs[key].tobytes()


def test_shared_parameters_in_caffes_hdf5(run, model):
    """Which stores them with their owner alone."""
    shared = "param { name: 'w' } convolution_param { num_output: 3 kernel_size: 3 pad: 1 }"
    text = [
        inputs(data=(2, 3, 5, 7)),
        layer("Convolution", "data", "a", shared),
        layer("Convolution", "a", "b", shared),
    ]
    Path("shared.prototxt").write_text("\n".join(text))
    own = arrays({"a": [(3, 3, 3, 3), (3,)], "b": [(3,)]})
    with h5py.File("shared.caffemodel.h5", "w") as file:
        for key, values in (("a/0", own["a"][0]), ("a/1", own["a"][1]), ("b/1", own["b"][0])):
            file[f"data/{key}"] = values
    (model / "whole.caffemodel").write_bytes(
        caffemodel({"a": own["a"], "b": [own["a"][0], *own["b"]]})
    )
    contents = []
    for weights in ("shared.caffemodel.h5", "whole.caffemodel"):
        assert run("shared.prototxt", weights, "-o", "net.h5") == (0, [])
        content = interchange.read(model / "net.h5")
        assert set(content.weights) == {"a/0", "a/1", "b/1"}
        contents.append(content.reference.blobs["b"])
    np.testing.assert_array_equal(*contents)
    with h5py.File("shared.caffemodel.h5", "a") as file:
        del file["data/a/1"]
    code, lines = run("shared.prototxt", "shared.caffemodel.h5", "-o", "net.h5")
    assert code == 3
    assert "layer 'a': 2 blobs expected, found 1" in lines[-1]


def test_a_seed(run, model):
    for seed, out in ((1, "a.h5"), (2, "b.h5")):
        assert run(*BOTH, "-o", out, "--seed", seed) == (0, [])
    a, b = (interchange.read(model / name) for name in ("a.h5", "b.h5"))
    assert (a.reference.seed, b.reference.seed) == (1, 2)
    assert not np.array_equal(a.reference.blobs["prob"], b.reference.blobs["prob"])


def test_an_input_shape(run, model):
    given = ("--input-shape", "data=7,3,5,7")
    assert run(*BOTH, "-o", "net.h5", *given) == (0, [])
    assert interchange.read(model / "net.h5").net.blobs["prob"].shape == (7, 6)


def test_outputs(run, model):
    assert run(*BOTH, "-o", "net.h5", "--outputs", "ip,conv") == (0, [])
    content = interchange.read(model / "net.h5")
    assert content.net.outputs == ("conv", "ip")
    assert "prob" not in content.net.blobs
    code, lines = run(*BOTH, "-o", "net.h5", "--outputs", "conv")
    assert (code, lines) == (0, ["warning: 1 layers of the weights are not in the net: 'ip'"])
    assert set(interchange.read(model / "net.h5").weights) == {"conv/0", "conv/1"}


def test_phase_stage_and_level(run, model):
    rules = ("include { phase: TRAIN }", "include { stage: 'a' }", "include { min_level: 3 }")
    text = [layer("TanH", "data", f"t{i}", rule) for i, rule in enumerate(rules)]
    Path("rules.prototxt").write_text("\n".join([inputs(data=(2, 3)), *text, layer("TanH")]))
    for options, expected in (
        ((), {"out"}),
        (("--phase", "TRAIN"), {"out", "t0"}),
        (("--stage", "b", "--stage", "a"), {"out", "t1"}),
        (("--level", "3"), {"out", "t2"}),
    ):
        assert run("rules.prototxt", "-o", "net.h5", *options) == (0, [])
        assert set(interchange.read(model / "net.h5").net.outputs) == expected


def test_shared_parameters_in_part(run, model):
    """A parameter that another layer owns is written once."""
    params = "param { name: 'w' } inner_product_param { num_output: 5 }"
    text = [inputs(data=(2, 5)), layer("InnerProduct", "data", "a", params)]
    text.append(layer("InnerProduct", "a", "b", params))
    Path("shared.prototxt").write_text("\n".join(text))
    blobs = arrays({"a": [(5, 5), (5,)], "b": [(5, 5), (5,)]})
    Path("shared.caffemodel").write_bytes(caffemodel(blobs))
    assert run("shared.prototxt", "shared.caffemodel", "-o", "net.h5") == (0, [])
    content = interchange.read(model / "net.h5")
    assert set(content.weights) == {"a/0", "a/1", "b/1"}
    np.testing.assert_array_equal(content.weights["b/1"], blobs["b"][1])


def test_notes_are_told_and_kept(run, model):
    text = [
        "input: 'data' input: 'label' input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7",
        "input_dim: 2 input_dim: 1 input_dim: 1 input_dim: 1",
        *NET[2:5],
        layer("SoftmaxWithLoss", "ip label", "loss"),
    ]
    Path("loss.prototxt").write_text("\n".join(text))
    more = caffemodel(dict(arrays(), extra=[np.ones((2, 2), np.float32)]))
    Path("more.caffemodel").write_bytes(more)
    code, lines = run("loss.prototxt", "more.caffemodel", "-o", "net.h5")
    assert code == 0
    content = interchange.read(model / "net.h5")
    assert lines == ["warning: " + note for note in content.notes]
    assert content.notes == (
        "layer 'loss' (SoftmaxWithLoss, line 6): its Softmax stays, and makes 'prob'",
        "dropped (training and scoring only): layer 'loss' (SoftmaxWithLoss, line 6)",
        "1 layers of the weights are not in the net: 'extra'",
    )


LOSS = (
    "input: 'data' input: 'label' input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7",
    "input_dim: 2 input_dim: 1 input_dim: 1 input_dim: 1",
    *NET[2:5],
)


def test_losses_are_kept(run, model):
    """And the labels that the reference is recorded with are classes."""
    text = [
        *LOSS,
        layer("SoftmaxWithLoss", "ip label", "loss"),
        layer("Accuracy", "ip label", "top1"),
        layer("EuclideanLoss", "ip ip", [], name="unnamed"),
    ]
    Path("loss.prototxt").write_text("\n".join(text))
    code, lines = run("loss.prototxt", BOTH[1], "-o", "net.h5", "--keep-losses")
    assert (code, lines[0]) == (
        0,
        "warning: layer 'unnamed' (EuclideanLoss, line 8): it names no top, called 'unnamed' here",
    )
    content = interchange.read(model / "net.h5")
    assert content.net.inputs == ("data", "label")
    assert content.net.outputs == ("loss", "top1", "unnamed")
    blobs = content.reference.blobs
    assert [blobs[key].shape for key in content.net.outputs] == [(), (), ()]
    assert blobs["unnamed"] == 0
    assert set(content.reference.inputs["label"].ravel()) <= set(range(blobs["ip"].shape[1]))


def test_a_loss_without_an_exact_form_is_refused_when_it_is_kept(run, model):
    text = [*LOSS, layer("CtcLoss", "ip label", "loss", "ctc_loss_param { blank_label: 1 }")]
    Path("loss.prototxt").write_text("\n".join(text))
    assert run("loss.prototxt", BOTH[1], "-o", "net.h5")[0] == 0
    code, lines = run("loss.prototxt", BOTH[1], "-o", "net.h5", "--keep-losses")
    assert code == 4
    assert "layer 'loss' (CtcLoss, line 6): it is dropped, and cannot be kept" in lines[0]
    assert "alignment of label sequences" in lines[0]


def test_a_dialect_is_asked_for(run, model):
    """Which of SmoothL1Loss's two meanings holds is forced, and told in the notes."""
    text = [*LOSS, layer("SmoothL1Loss", "ip label", "loss")]
    Path("loss.prototxt").write_text("\n".join(text))
    asked = ("--dialect", "faster-rcnn", "--dialect", "segnet")
    assert run("loss.prototxt", BOTH[1], "-o", "net.h5", *asked)[0] == 0
    notes = interchange.read(model / "net.h5").notes
    assert "dialect faster-rcnn: SmoothL1Loss 'loss' (asked for)" in notes
    code, lines = run("loss.prototxt", BOTH[1], "-o", "net.h5", "--dialect", "cafe")
    assert (code, "no dialect 'cafe' is known" in lines[0]) == (2, True)


# ---- Equal bytes ---------------------------------------------------------------------------------


def test_equal_inputs_give_equal_bytes(model):
    """Whatever the hash seed and the name of the result; views and shared memory make sets."""
    text = [
        *NET[:4],
        layer("Split", "conv", "b a"),
        layer("Flatten", "a", "f"),
        layer("ReLU", "f", "f", name="r"),
        *NET[4:],
        layer("TanH", "b", "t"),
    ]
    (model / "net.prototxt").write_text("\n".join(text))
    for seed in ("1", "2"):
        done = process(*BOTH, "-o", f"{seed}.h5", cwd=model, environment={"PYTHONHASHSEED": seed})
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (model / "1.h5").read_bytes() == (model / "2.h5").read_bytes()


def test_an_old_result_is_replaced(run, model):
    Path("net.h5").write_bytes(b"old")
    assert run(*BOTH, "-o", "net.h5") == (0, [])
    assert interchange.read(model / "net.h5").net.name == "small"


# ---- Usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "a prototxt and -o net.h5 are needed (see --help)"),
        (("net.prototxt",), "a prototxt and -o net.h5 are needed"),
        (("-o", "net.h5"), "a prototxt and -o net.h5 are needed"),
        (("no.prototxt", "-o", "net.h5"), "no.prototxt: no such file or directory (check the "
         "path)"),
        (("net.prototxt", "no.caffemodel", "-o", "net.h5"), "no.caffemodel: no such file"),
        ((".", "-o", "net.h5"), ".: is a directory (check the path)"),
        (("net.prototxt", ".", "-o", "net.h5"), ".: is a directory"),
        ((*BOTH, "-o", "no/such/net.h5"), "no/such/net.h5: no such file or directory"),
        ((*BOTH, "-o", "."), ".: -o takes a file, this is a directory"),
        ((*BOTH, "-o", "net.caffemodel"), "net.caffemodel: -o would overwrite this input"),
        ((*BOTH, "-o", "./net.prototxt"), "net.prototxt: -o would overwrite this input"),
        (("pipe", "-o", "net.h5"), "pipe: not a regular file"),
        (("net.prototxt", "pipe", "-o", "net.h5"), "pipe: not a regular file"),
        (("/dev/zero", "-o", "net.h5"), "/dev/zero: not a regular file"),
        (("--inspect", "pipe"), "pipe: not a regular file"),
        (("--inspect", "no.h5"), "no.h5: no such file or directory"),
        (("--inspect", "net.prototxt", "net.caffemodel"), "--inspect takes one file"),
        ((*BOTH, "-o", "net.h5", "--outputs", "prbo"), "--outputs: the net has no blob 'prbo' (did "
         "you mean 'prob'?)"),
        ((*BOTH, "-o", "net.h5", "--input-shape", "dta=1,3,5,7"), "no input 'dta'"),
        *[((*BOTH, "-o", "net.h5", "--input-shape", text), "--input-shape takes NAME=N,C,H,W")
          for text in ("data", "=1,2", "data=", "data=a", "data=1,,2", "data=0,3", "data=-1,3")],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_usage(argv, message, refused, model):
    os.mkfifo(model / "pipe")
    assert message in refused(2, *argv)


@pytest.mark.parametrize(
    "argv",
    [("--phase", "DEPLOY"), ("--level", "high"), ("--seed", "-1"), ("--seed", "x"), ("--foo",),
     ("--reader", "caffe"), ("a", "b", "c"), ("--events", "99")],
    ids=" ".join,
)  # fmt: skip
def test_options_that_are_none(argv, run, model):
    code, lines = run(*argv, "-o", "net.h5")
    assert code == 2
    assert lines[0].startswith("usage: ")
    assert lines[-1].startswith("stage_extract: error: ")
    assert not (model / "net.h5").exists()


# ---- Malformed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NET[:3] + ["layer { name: 'x' type: }"], "net.prototxt:4:25: expected"),
        (NET[:3] + ["layer { name: 'x' "], "net.prototxt:4:"),
        (NET[:2] + [layer("TanH", "dta", "t")], "net.prototxt, layer 't' (TanH, line 3): bottom "
         "'dta' is the top of no earlier layer (did you mean 'data'?)"),
        (NET[:2] + [layer("Pooling", "data", "p", "pooling_param { pool: MAX kernel_size: 9 }")],
         "net.prototxt, layer 'p' (Pooling, line 3): "),
        ([""], "net.prototxt:1:1: the file is empty"),
        (["<html>"], "net.prototxt:1:1: expected a prototxt, found a web page"),
        (["net: 'train.prototxt'", "base_lr: 0.1"], "this is a solver's file"),
    ],
    ids=["syntax", "open", "bottom", "shape", "empty", "page", "solver"],
)  # fmt: skip
def test_a_malformed_prototxt(text, message, refused):
    Path("net.prototxt").write_text("\n".join(text))
    assert message in refused(3, *BOTH, "-o", "net.h5")


BAD = sorted(path for path in (FORMATS / "bad").glob("*") if path.stem != "nan")


@needs_shared
@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
@pytest.mark.parametrize("more", [(), ("--no-reference",)], ids=["reference", "no-reference"])
def test_bad_weights(path, more, refused):
    message = refused(3, FORMATS / "net.prototxt", path, "-o", "net.h5", *more)
    assert message.startswith(str(path))


def test_files_in_the_wrong_order(refused):
    message = refused(3, "net.caffemodel", "net.prototxt", "-o", "net.h5")
    assert message == (
        "net.prototxt: a binary Caffe file is expected, found text "
        "(the prototxt comes first, the weights second)"
    )
    message = refused(3, "net.prototxt", "net.prototxt", "-o", "net.h5")
    assert "a binary Caffe file is expected, found text" in message


def test_weights_of_another_net(refused):
    Path("net.caffemodel").write_bytes(caffemodel({"conv": arrays()["conv"][:1]}))
    message = refused(3, *BOTH, "-o", "net.h5")
    assert "layer 'conv': 2 blobs expected, found 1; layer 'ip' is missing" in message


def test_weights_for_a_layer_that_takes_none(refused):
    """Caffe refuses that, too."""
    blobs = dict(arrays(), relu=[np.ones(4, np.float32)])
    Path("net.caffemodel").write_bytes(caffemodel(blobs))
    message = refused(3, *BOTH, "-o", "net.h5")
    assert "layer 'relu': 0 blobs expected, found 1" in message


def test_an_old_result_survives_a_failure(run, model):
    Path("net.h5").write_bytes(b"old")
    Path("net.caffemodel").write_bytes(caffemodel(arrays())[:-9])
    code, _ = run(*BOTH, "-o", "net.h5")
    assert code == 3
    assert Path("net.h5").read_bytes() == b"old"


# ---- Other exit codes ----------------------------------------------------------------------------


def test_unsupported(refused):
    text = [*NET, layer("Warp", "prob", "w"), layer("Curl", "w", "c", "foo: 1")]
    Path("net.prototxt").write_text("\n".join(text))
    message = refused(4, *BOTH, "-o", "net.h5")
    assert "unknown field: foo of layer 'c' (line 8)" in message
    assert "layer type 'Warp' is not supported: 'w' (line 7)" in message
    assert "layer type 'Curl' is not supported: 'c' (line 8)" in message


def test_unsupported_goes_before_missing_weights(refused):
    Path("net.prototxt").write_text("\n".join([*NET, layer("Warp", "prob", "w")]))
    assert "'Warp'" in refused(4, "net.prototxt", "-o", "net.h5")


def test_a_full_disk(refused, monkeypatch):
    full = os.statvfs(".")
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*full[:4], 10, *full[5:])))
    assert "are free (free some space)" in refused(7, *BOTH, "-o", "net.h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="not run: permissions do not hold for root")
def test_a_folder_that_is_not_ours(refused, model):
    (model / "locked").mkdir(mode=0o500)
    assert "permission denied" in refused(7, *BOTH, "-o", "locked/net.h5")


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ZeroDivisionError("x"), 6, "ZeroDivisionError: x (this is a fault of ours"),
        (RecursionError("deep"), 6, "RecursionError: deep"),
        (MemoryError(), 7, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_unexpected(raised, code, message, refused, run, monkeypatch):
    def build(*_):
        raise raised

    monkeypatch.setattr(network, "build", build)
    assert message in refused(code, *BOTH, "-o", "net.h5")
    found, lines = run(*BOTH, "-o", "net.h5", "--verbose")
    assert found == code
    assert lines[0] == "Traceback (most recent call last):"


def test_of_the_weights_the_reference_holds_one_layers_at_a_time(run, model, monkeypatch):
    """8 layers of 4 MB, of which a copy is made that is aligned."""
    build = network.build

    def traced(*arguments):
        tracemalloc.start()
        return build(*arguments)

    monkeypatch.setattr(network, "build", traced)
    names = [f"ip{i}" for i in range(8)]
    param = "inner_product_param { num_output: 1000 bias_term: false }"
    text = [layer("InnerProduct", "data", name, param) for name in names]
    (model / "net.prototxt").write_text("\n".join([inputs(data=(2, 1000)), *text]))
    blobs = arrays({name: [(1000, 1000)] for name in names})
    (model / "net.caffemodel").write_bytes(caffemodel(blobs))
    try:
        assert run(*BOTH, "-o", "net.h5") == (0, [])
        assert 4e6 < tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()
    assert set(interchange.read(model / "net.h5").reference.blobs) == {"data", *names}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told a limit")
def test_what_a_layer_takes_on_its_way_is_bounded(refused, model, monkeypatch):
    """Small blobs, but columns of 210 MB."""
    net = inputs(data=(1, 1, 512, 512)) + layer(
        "Deconvolution", "data", "up", "convolution_param { num_output: 8 kernel_size: 5 pad: 2 }"
    )
    (model / "net.prototxt").write_text(net)
    monkeypatch.setattr(memory, "free", lambda: 64 << 20)
    assert "out of memory" in refused(7, "net.prototxt", "-o", "net.h5")


# ---- NaN and infinity ----------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("more", [(), ("--no-reference",)], ids=["reference", "no-reference"])
def test_real_weights_with_nan(more, run, model):
    path = FORMATS / "bad" / "nan.caffemodel"
    code, lines = run(FORMATS / "net.prototxt", path, "-o", "net.h5", *more)
    assert code == 0
    note = "layer 'fc', blob 1: 1 of 7 weights are NaN or infinite"
    assert "warning: " + note in lines
    content = interchange.read(model / "net.h5")
    assert note in content.notes
    assert np.isnan(content.weights["fc/1"]).sum() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_is_counted(value, run, model):
    blobs = arrays()
    blobs["ip"][1][2:4] = value
    Path("net.caffemodel").write_bytes(caffemodel(blobs))
    code, lines = run(*BOTH, "-o", "net.h5", "--no-reference")
    assert (code, lines) == (
        0,
        ["warning: layer 'ip', blob 1: 2 of 6 weights are NaN or infinite"],
    )
    content = interchange.read(model / "net.h5")
    np.testing.assert_array_equal(content.weights["ip/1"], blobs["ip"][1])


def test_a_reference_that_overflows_is_told(run):
    blobs = arrays()
    blobs["ip"][0][:] = 3e38
    Path("net.caffemodel").write_bytes(caffemodel(blobs))
    code, lines = run(*BOTH, "-o", "net.h5")
    assert (code, lines) == (
        0,
        ["warning: blob 'ip' has infinities or NaNs in the reference"],
    )


def test_a_reference_without_rows_is_told(run, model):
    text = [
        inputs(data=(4, 3), more=(4, 1)),
        layer("Power", "more", "none", "power_param { scale: 0 }"),
        layer("Filter", "data none", "kept"),
        layer("TanH", "kept", "out"),
    ]
    Path("net.prototxt").write_text("\n".join(text))
    note = (
        "nothing is compared of 'kept', 'out': no rows came out in the reference; "
        "pass --reference, activations of your own that have some"
    )
    code, lines = run("net.prototxt", "-o", "net.h5")
    assert (code, lines[1:]) == (0, [f"warning: {note}"])
    assert note in interchange.read(model / "net.h5").notes
    assert run("net.prototxt", "-o", "bare.h5", "--no-reference") == (0, lines[:1])


# ---- Events --------------------------------------------------------------------------------------


def told(folder, *argv):
    """The events of one run, and its exit code; nothing else is printed."""
    reading, writing = os.pipe()
    try:
        done = process(*argv, "--events", writing, cwd=folder, pass_fds=(writing,))
    finally:
        os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        lines = [events.parse(line) for line in stream]
    assert (done.stdout, done.stderr) == ("", "")
    assert lines[0]["event"] == "started"
    assert lines[0]["stage"] == "extract"
    assert isinstance(lines[0]["pid"], int)
    assert [line["event"] for line in lines].count("started") == 1
    ends = [line["event"] in ("result", "error") for line in lines]
    assert ends == [False] * (len(lines) - 1) + [True]
    for line in lines:
        if line["event"] == "progress":
            assert 0 <= line["done"] <= line["total"]
    return done.returncode, lines


def test_events_of_an_extraction(model):
    (model / "more.caffemodel").write_bytes(
        caffemodel(dict(arrays(), extra=[np.ones((2, 2), np.float32)]))
    )
    code, lines = told(model, "net.prototxt", "more.caffemodel", "-o", "net.h5")
    assert code == 0
    tasks = {line["task"] for line in lines if line["event"] == "progress"}
    assert {"open", "opened", "reference", "write"} <= tasks
    warnings = [line["message"] for line in lines if line["event"] == "warning"]
    assert warnings == ["1 layers of the weights are not in the net: 'extra'"]
    result = lines[-1]
    assert result.pop("seconds") > 0
    assert result.pop("peak_bytes") > 10e6
    assert result.pop("notes") == warnings
    assert [(file["role"], file["path"]) for file in result.pop("files") or []] in (
        [],  # of files that were written just now
        [("prototxt", str(model / "net.prototxt")), ("weights", str(model / "more.caffemodel"))],
    )
    assert result == {
        "event": "result",
        "out": "net.h5",
        "net": "small",
        "layers": 4,
        "blobs": 5,
        "weights_bytes": 4 * (4 * 27 + 4 + 6 * 60 + 6),
        "filled": 0,
        "reference": "numpy",
    }


def test_events_of_a_failure(model):
    (model / "net.prototxt").write_text("\n".join([*NET[:2], layer("TanH", "dta", "t")]))
    code, lines = told(model, *BOTH, "-o", "net.h5")
    assert code == 3
    error = lines[-1]
    assert error.pop("traceback").startswith("Traceback (most recent call last):")
    assert error == {
        "event": "error",
        "kind": "MalformedModel",
        "exit_code": 3,
        "message": "bottom 'dta' is the top of no earlier layer",
        "where": "net.prototxt, layer 't' (TanH, line 3)",
        "hint": "did you mean 'data'?",
    }


def test_events_of_an_inspection(model):
    code, lines = told(model, "--inspect", "net.prototxt")
    assert code == 0
    assert lines[-1]["kind"] == "prototxt"


def test_without_a_driver_it_stops(model):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process(*BOTH, "-o", "net.h5", "--events", writing, cwd=model, pass_fds=(writing,))
    finally:
        os.close(writing)
    assert done.returncode == 130
    assert not (model / "net.h5").exists()


def test_as_a_command(model):
    done = process(*BOTH, "-o", "net.h5", cwd=model)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert interchange.read(model / "net.h5").net.name == "small"
    done = process("no.prototxt", "-o", "other.h5", cwd=model)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no.prototxt: no such file or directory (check the path)\n"


# ---- Many jobs in one process --------------------------------------------------------------------


class Serving:
    """``python -m stage_extract --serve`` as the driver keeps it; ends with the block."""

    def __init__(self, folder):
        reading, writing = os.pipe()
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        environment.pop("USE_PYCAFFE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stage_extract", "--serve", "--events", str(writing)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
        )
        os.close(writing)
        self.events = open(reading, encoding="utf-8")  # noqa: SIM115  closed with the block

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.communicate()
        self.events.close()

    def run(self, *argv):
        """The event that ends a job."""
        job = json.dumps({"argv": [str(each) for each in argv]}) + "\n"
        self.process.stdin.write(job.encode())
        self.process.stdin.flush()
        for line in self.events:
            event = events.parse(line)
            if event["event"] in ("result", "error"):
                return event
        raise AssertionError(self.process.communicate()[0])

    def resident(self):
        """Bytes that the process has now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def close(self):
        """Ends it as the driver does; its exit code and what it printed."""
        printed = self.process.communicate(timeout=60)[0]
        return self.process.returncode, printed.decode()


TRIPLE = """
from dataclasses import dataclass

from schemas.layers.registry import Meaning, layer


@layer("Triple")
class Triple(Meaning):
    def shapes(self, bottoms, tops):
        return [bottoms[0]]

    def forward(self, bottoms, blobs, tops):
        return [{factor} * bottoms[0]]
"""
TRIPLED = inputs(data=(2, 3)) + layer("Triple", "data", "out")


@pytest.fixture
def jobs(model):
    """Jobs by their names; those that end well name a file of their own to be written."""
    (model / "tripled.prototxt").write_text(TRIPLED)
    (model / "broken.prototxt").write_text("layer {")
    (model / "labels.txt").write_text("\n".join("abcdef"))
    for folder, factor in (("a", 3), ("b", -3)):
        (model / folder / "triple").mkdir(parents=True)
        (model / folder / "triple" / "meaning.py").write_text(TRIPLE.format(factor=factor))
    return {
        "plain": BOTH,
        "usage": ("--phase", "NEVER"),
        "malformed": ("broken.prototxt",),
        "missing": ("gone.prototxt",),
        "misfit": ("net.prototxt", "net.prototxt"),
        "plugin": ("tripled.prototxt", "--plugin", "a/triple"),
        "other plugin": ("tripled.prototxt", "--plugin", "b/triple"),
        "no plugin": ("tripled.prototxt",),
        "preprocess": (*BOTH, "--mean", "1,2,3", "--labels", "labels.txt"),
        "cut": (*BOTH, "--outputs", "conv", "--seed", "3", "--phase", "TRAIN"),
        "bare": (*BOTH, "--no-reference"),
    }


ORDER = (
    "plain usage plugin no_plugin malformed plain other_plugin missing preprocess plain cut misfit "
    "bare plain plugin usage preprocess"
)


def test_a_job_knows_nothing_of_those_before_it(model, jobs):
    """It ends as in a process of its own: the same bytes, or the same error."""
    order = [name.replace("_", " ") for name in ORDER.split()]
    codes = {}
    with Serving(model) as serving:
        for number, name in enumerate(order):
            end = serving.run(*jobs[name], "-o", f"{number}.h5")
            assert codes.setdefault(name, end.get("exit_code", 0)) == end.get("exit_code", 0)
        assert serving.close() == (0, "")
    assert {name for name, code in codes.items() if not code} == {
        "plain", "plugin", "other plugin", "preprocess", "cut", "bare"
    }  # fmt: skip
    for name in jobs:
        alone = process(*jobs[name], "-o", "alone.h5", cwd=model)
        assert alone.returncode == codes[name]
        served = [model / f"{number}.h5" for number, each in enumerate(order) if each == name]
        if alone.returncode == 0:
            for path in served:
                assert path.read_bytes() == (model / "alone.h5").read_bytes(), name
        else:
            assert not any(path.exists() for path in served)
    assert not [path.name for path in model.iterdir() if path.name.startswith(".")]


def test_a_served_error_says_what_a_process_says(model, jobs):
    with Serving(model) as serving:
        for name in ("usage", "malformed", "missing", "misfit", "no plugin"):
            end = serving.run(*jobs[name], "-o", "net.h5")
            alone = process(*jobs[name], "-o", "net.h5", cwd=model)
            assert end["exit_code"] == alone.returncode
            assert end["message"] in alone.stderr


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="not run: no /proc")
def test_a_served_job_does_not_keep_the_last_ones_arrays(model):
    rows = 3906  # of 4096 floats: 64 MB
    text = [inputs(data=(1, 4096)), layer("InnerProduct", "data", "ip", "inner_product_param { "
            f"num_output: {rows} }}")]  # fmt: skip
    (model / "large.prototxt").write_text("\n".join(text))
    blobs = {"ip": [np.full((rows, 4096), 0.5, "<f4"), np.zeros(rows, np.float32)]}
    (model / "large.caffemodel").write_bytes(caffemodel(blobs))
    with Serving(model) as serving:
        serving.run(*BOTH, "-o", "net.h5")
        before = serving.resident()
        end = serving.run("large.prototxt", "large.caffemodel", "-o", "large.h5")
        assert end["peak_bytes"] > before + 60e6
        assert serving.resident() < before + 16e6


# ---- Memory --------------------------------------------------------------------------------------

MEASURE = """
import sys
from stage_extract.worker import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="not run: no /proc")
def test_large_weights_pass_through_little_memory(tmp_path):
    rows = 3906  # of 4096 floats: 64 MB
    text = [inputs(data=(1, 4096)), layer("InnerProduct", "data", "ip", "inner_product_param { "
            f"num_output: {rows} }}")]  # fmt: skip
    (tmp_path / "net.prototxt").write_text("\n".join(text))
    values = np.full((rows, 4096), 0.5, "<f4")
    (tmp_path / "net.caffemodel").write_bytes(
        caffemodel({"ip": [values, np.zeros(rows, np.float32)]})
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *BOTH, "-o", "net.h5", "--no-reference"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    peak = int(done.stdout.split()[1]) * 1024
    size = (tmp_path / "net.caffemodel").stat().st_size
    assert size > 60e6
    assert peak < size + 60e6
    np.testing.assert_array_equal(interchange.read(tmp_path / "net.h5").weights["ip/0"], values)
