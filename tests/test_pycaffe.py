"""PyCaffe as the reader: the same net, weights and numbers as the protobuf reader gives.

Two Caffes stand for it: the double under `standin_caffe`, everywhere, and a real one where one can
be imported (tests marked `pycaffe`).
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from schemas import interchange
from schemas.graph_json import net_document
from stage_extract import (
    descriptors,
    network,
    prototxt,
    pycaffe,
    reference,
    schema,
    upgrade,
    worker,
)
from tests import caffe_bytes as cb
from tests import goldens
from tests.paths import GOLDENS, ROOT, SHARED, needs_shared
from tests.prototxts import build, inputs, layer, values

STANDIN = ROOT / "tests" / "standin_caffe"
TOLERANCE = 1e-5
NONE = "not run: no caffe module"
GLOG = re.compile(r"[IWEF]\d{4} |\*\*\* ")  # a line of Caffe's log


def is_real():
    """Whether a real PyCaffe can be imported; a mere folder of that name is none."""
    found = importlib.util.find_spec("caffe")
    return found is not None and found.origin is not None


@pytest.fixture
def standin(monkeypatch):
    """`import caffe` gives the double, which here fails the test where it would end the process."""

    def abort():
        raise AssertionError("Caffe would abort")

    monkeypatch.setattr(os, "abort", abort)
    monkeypatch.syspath_prepend(str(STANDIN))
    with forgotten():
        yield importlib.import_module("caffe")


@contextmanager
def forgotten():
    """No module of a Caffe is loaded at first, and those that are then are not kept."""

    def loaded():
        return {name: each for name, each in sys.modules.items() if name.split(".")[0] == "caffe"}

    before = loaded()
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture
def no_caffe(monkeypatch):
    """`import caffe` fails, whatever is installed."""
    monkeypatch.setitem(sys.modules, "caffe", None)


CAFFES = [
    "standin",
    pytest.param(
        "real", marks=[pytest.mark.pycaffe, pytest.mark.skipif(not is_real(), reason=NONE)]
    ),
]


@pytest.fixture(params=CAFFES)
def caffe(request):
    """The double, and the real one where there is one."""
    if request.param == "standin":
        return request.getfixturevalue("standin")
    return importlib.import_module("caffe")


def extract(folder, out, *argv):
    code = worker.main([*map(str, argv), "-o", str(folder / out)])
    assert code == 0
    return interchange.read(folder / out)


def both(folder, *argv):
    """The contents by either reader, protobuf's first."""
    return [
        extract(folder, f"{reader}.h5", *argv, "--reader", reader)
        for reader in ("protobuf", "pycaffe")
    ]


def assert_same(ours, caffes):
    """Equal graphs, bytes of weights, notes; activations within the tolerance."""
    assert net_document(caffes.net) == net_document(ours.net)
    assert set(caffes.weights) == set(ours.weights)
    for key in ours.weights:
        assert caffes.weights[key].tobytes() == ours.weights[key].tobytes(), key
    assert caffes.notes == ours.notes
    assert caffes.sources == ours.sources
    assert caffes.preprocessing == ours.preprocessing
    assert (ours.reference.recorder, caffes.reference.recorder) == ("numpy", "caffe")
    assert ours.reference.seed == caffes.reference.seed
    for key in ours.net.inputs:
        fed = ours.reference.inputs[key]
        assert caffes.reference.inputs[key].tobytes() == fed.tobytes()
    assert set(caffes.reference.blobs) == set(ours.reference.blobs) == set(ours.net.blobs)
    for key, blob in ours.reference.blobs.items():
        limit = TOLERANCE * np.abs(blob).max() + 1e-6
        found = caffes.reference.blobs[key]
        assert found.shape == blob.shape, key
        assert np.abs(found - blob).max() <= limit, key


# ---- Both readers --------------------------------------------------------------------------------

FOLDERS = sorted(file.parent for file in (SHARED / "models").glob("*/deploy.prototxt"))
MODELS = [
    pytest.param(
        folder, marks=pytest.mark.slow if folder.name == "wechat-qr-sr" else (), id=folder.name
    )
    for folder in FOLDERS
]
CASES = (
    "inplace-chain", "split", "bn-scale-relu-inplace", "shared-weights", "two-inputs-two-outputs",
    "v0-layers", "v1-layers", "legacy-input-dim", "legacy-input-shape", "blob-names-odd",
    "layer-name-differs-from-top", "phase-rules", "silence", "dropout-inplace",
    "shuffle-by-reshape", "reshape-then-conv", "concat-legacy-dim", "slice-points",
    "ip-chain-after-pool", "deconv-group", "scale-two-bottoms-bias", "batchnorm",
    "conv-multi-bottom",
)  # fmt: skip


# A golden of `../shared/models` holds the blobs of fewer values than this, and the outputs.
GOLDEN_LIMIT = 20000


def require_types(caffe, folder):
    """Skips where a real Caffe was built without a layer of the net."""
    layers = upgrade.upgrade(prototxt.read(folder / "deploy.prototxt")).fields["layer"]
    lacking = {each.fields["type"] for each in layers}.difference(caffe.layer_type_list())
    if lacking:
        pytest.skip(f"not run: this Caffe has no {', '.join(sorted(lacking))}")


def use_golden(caffe, path):
    """The double takes shapes, and the values for the golden's own input, from what Caffe gave."""
    if hasattr(caffe, "golden"):
        caffe.golden.use(str(path))


@needs_shared
@pytest.mark.parametrize("folder", MODELS)
def test_models(folder, caffe, tmp_path):
    require_types(caffe, folder)
    use_golden(caffe, folder / "golden.npz")
    assert_same(*both(tmp_path, folder / "deploy.prototxt", folder / "weights.caffemodel"))


@needs_shared
@pytest.mark.parametrize("folder", MODELS)
def test_the_recorded_activations_are_caffes(folder, caffe):
    """On the golden's own input: the very values that Caffe has, for each blob of the golden."""
    require_types(caffe, folder)
    use_golden(caffe, folder / "golden.npz")
    text, stored = folder / "deploy.prototxt", folder / "weights.caffemodel"
    built = network.build(upgrade.upgrade(prototxt.read(text)), network.Options())
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        arrays = {name.replace("%2F", "/"): file[name] for name in file.files}
    fed = {key: arrays["input:" + built.net.blobs[key].name] for key in built.net.inputs}
    session = pycaffe.Session(caffe, text, stored, network.Options(), built)
    recorded = session.forward(fed)
    compared = 0
    for name, key in built.net.names.items():
        expected = arrays.get("blob:" + name)
        if expected is None:
            continue
        compared += 1
        if hasattr(caffe, "golden"):
            assert recorded[key].tobytes() == expected.tobytes(), name
        else:
            limit = goldens.NET_TOLERANCE * np.abs(expected).max() + 1e-6
            assert np.abs(recorded[key] - expected).max() <= limit, name
    assert compared >= len(arrays["outputs"])


@needs_shared
def test_the_double_has_its_shapes_from_the_goldens(standin):
    """All that they hold, and those of all parameters; those of larger blobs alone are computed."""
    told = collections.Counter()
    for folder in FOLDERS:
        use_golden(standin, folder / "golden.npz")
        net = standin.Net(
            str(folder / "deploy.prototxt"),
            standin.TEST,
            weights=str(folder / "weights.caffemodel"),
        )
        told.update(standin.golden.told)
        golden = standin.golden.used()
        for name, blob in net.blobs.items():
            known = golden.blob(name)
            assert blob.count >= GOLDEN_LIMIT if known is None else blob.shape == [*known.shape]
    assert told["parameters: weights"] > 300
    assert told["parameters: computed"] == 0
    assert told["tops: golden"] > told["tops: computed"] > 0


def test_what_caffe_gives_is_what_is_recorded(standin, tmp_path):
    """Where Caffe's values are other than ours, Caffe's are in the file."""
    files = written(tmp_path, DATA, layer("TanH", "data", "t"), layer("ReLU", "t", "r"))
    net = build(*(line for line in Path(files[0]).read_text().splitlines())).net
    fed = reference.seeded_inputs(net, reference.SEED)["data"]
    rng = np.random.default_rng(5)
    played = {name: rng.standard_normal(fed.shape, np.float32) for name in ("t", "r")}
    npz = tmp_path / "golden.npz"
    np.savez(npz, **{"input:data": fed}, **{"blob:" + name: each for name, each in played.items()})
    use_golden(standin, npz)
    blobs = extract(tmp_path, "net.h5", *files, "--reader", "pycaffe").reference.blobs
    for name, values_ in played.items():
        np.testing.assert_array_equal(blobs[name], values_)


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_goldens(case, caffe, tmp_path):
    folder = GOLDENS / "layers" / case
    files = [folder / "net.prototxt"]
    if (folder / "net.caffemodel").is_file():
        files.append(folder / "net.caffemodel")
    assert_same(*both(tmp_path, *files))


@needs_shared
@pytest.mark.parametrize(
    "name", ["v2.caffemodel", "v2_packed.caffemodel", "v2_unpacked.caffemodel",
             "v2_chunks.caffemodel", "v2_legacy.caffemodel", "v2_unknown.caffemodel",
             "v2_double.caffemodel", "v2_diff.caffemodel", "v1_packed.caffemodel",
             "v1_legacy.caffemodel", "v0_legacy.caffemodel", "weights.caffemodel.h5"]
)  # fmt: skip
def test_forms_of_weights(name, caffe, tmp_path):
    formats = GOLDENS / "formats"
    assert_same(*both(tmp_path, formats / "net.prototxt", formats / name))


@needs_shared
@pytest.mark.parametrize("case", ["split", "two-inputs-two-outputs", "bn-scale-relu-inplace"])
def test_the_double_computes_as_caffe_did(case, standin):
    """The double's own forward pass, held to real Caffe's numbers."""
    folder = GOLDENS / "layers" / case
    files = [str(folder / "net.prototxt")]
    if (folder / "net.caffemodel").is_file():
        files.append(str(folder / "net.caffemodel"))
    net = standin.Net(*files, standin.TEST)
    with np.load(folder / "blobs.npz", allow_pickle=False) as blobs:
        for name in net.inputs:
            net.blobs[name].data[...] = blobs["input:" + name]
        found = net.forward()
        assert sorted(found) == sorted(map(str, blobs["outputs"]))
        for key in blobs.files:
            if key.startswith("blob:"):
                expected = blobs[key]
                limit = TOLERANCE * np.abs(expected).max() + 1e-6
                assert np.abs(net.blobs[key[5:]].data - expected).max() <= limit, key


def written(folder, *text, weights=()):
    """A net.prototxt of these lines, and its weights (name, shapes), as arguments."""
    (folder / "net.prototxt").write_text("\n".join(text))
    rng = np.random.default_rng(3)
    data = b"".join(
        cb.layer(name, *(cb.blob(rng.standard_normal(shape, np.float32)) for shape in shapes))
        for name, shapes in weights
    )
    (folder / "net.caffemodel").write_bytes(data)
    return [folder / "net.prototxt", *([folder / "net.caffemodel"] if data else [])]


DATA = inputs(data=(2, 3, 5, 7))
CONV = "convolution_param { num_output: 4 kernel_size: 3 }"
IP = "inner_product_param { num_output: 4 }"


def test_state(caffe, tmp_path):
    """Caffe is told what the prototxt's own state adds, too: by itself it forgets the level."""
    files = written(
        tmp_path,
        "state { level: 3 stage: 'a' }",
        DATA,
        layer("ReLU", "data", "r", "include { min_level: 3 stage: 'a' }"),
        layer("Power", "data", "p", "include { stage: 'b' } power_param { power: 2 }"),
        layer("TanH", "data", "t", "exclude { stage: 'b' }"),
        layer("InnerProduct", "data", "ip", IP),
        weights=[("ip", [(4, 105), (4,)])],
    )
    ours, caffes = both(tmp_path, *files, "--stage", "b")
    assert [each.name for each in ours.net.layers] == ["r", "p", "ip"]
    assert_same(ours, caffes)


def test_a_cut(caffe, tmp_path):
    files = written(
        tmp_path, DATA, layer("Split", "data", "a b"), layer("ReLU", "a", "a", name="r"),
        layer("TanH", "b", "t"), layer("Sigmoid", "t", "s"), layer("Power", "t", "p"),
    )  # fmt: skip
    ours, caffes = both(tmp_path, *files, "--outputs", "t")
    assert ours.net.outputs == ("t",)
    assert_same(ours, caffes)


def test_views_that_only_our_graph_spells_out(caffe, tmp_path):
    files = written(
        tmp_path, DATA, layer("TanH", "data", "x"), layer("Flatten", "x", "f"),
        layer("ReLU", "f", "f", name="r"), layer("Sigmoid", "x", "y"),
    )  # fmt: skip
    ours, caffes = both(tmp_path, *files)
    assert "x@r" in [each.name for each in ours.net.layers]
    assert_same(ours, caffes)


def test_repeated_and_missing_layer_names(caffe, tmp_path):
    files = written(
        tmp_path, DATA, layer("Power", "data", "a", "power_param { shift: 1 }", name="x"),
        layer("Power", "a", "b", "power_param { scale: 2 }", name="x"),
        "layer { type: 'TanH' bottom: 'b' top: 'c' }",
        "layer { type: 'ReLU' bottom: 'c' top: 'd' }",
        layer("Convolution", "d", "e", CONV),
        weights=[("e", [(4, 3, 3, 3), (4,)])],
    )  # fmt: skip
    ours, caffes = both(tmp_path, *files)
    assert [each.name for each in ours.net.layers] == ["x", "x#2", "TanH", "ReLU", "e"]
    assert_same(ours, caffes)


def test_parameters_shared_in_part(caffe, tmp_path):
    shared = f"param {{ name: 'w' }} {CONV}"
    files = written(
        tmp_path, inputs(a=(2, 3, 5, 7), b=(2, 3, 5, 7)),
        layer("Convolution", "a", "ca", shared), layer("Convolution", "b", "cb", shared),
        weights=[("ca", [(4, 3, 3, 3), (4,)]), ("cb", [(4, 3, 3, 3), (4,)])],
    )  # fmt: skip
    content = extract(tmp_path, "net.h5", *files, "--reader", "pycaffe")
    assert set(content.weights) == {"ca/0", "ca/1", "cb/1"}


def test_losses_are_left_to_caffe(caffe, tmp_path):
    files = written(
        tmp_path, inputs(data=(2, 3, 5, 7), label=(2,)), layer("InnerProduct", "data", "ip", IP),
        layer("SoftmaxWithLoss", "ip label", "loss"), layer("Softmax", "ip", "prob"),
        weights=[("ip", [(4, 105), (4,)])],
    )  # fmt: skip
    ours, caffes = both(tmp_path, *files)
    assert ours.net.outputs == ("prob",)
    assert_same(ours, caffes)


def test_a_head_is_computed_of_what_caffe_gives(caffe, tmp_path):
    """Caffe has no layer for it: the Softmax is within the loss."""
    files = written(
        tmp_path, inputs(data=(2, 3, 5, 7), label=(2,)), layer("InnerProduct", "data", "ip", IP),
        layer("SoftmaxWithLoss", "ip label", "loss"),
        weights=[("ip", [(4, 105), (4,)])],
    )  # fmt: skip
    ours, caffes = both(tmp_path, *files)
    assert ours.net.outputs == ("prob",)
    assert_same(ours, caffes)


def test_losses_are_kept(caffe, tmp_path):
    """Those that name no top are told apart, though Caffe gives all of them one name."""
    files = written(
        tmp_path, inputs(data=(2, 3, 5, 7), label=(2,)), layer("InnerProduct", "data", "ip", IP),
        layer("SoftmaxWithLoss", "ip label", "loss prob"),
        layer("HingeLoss", "ip label", [], name="hinge"),
        layer("EuclideanLoss", "ip prob", [], name="distance"),
        layer("Accuracy", "ip label", "top1"),
        weights=[("ip", [(4, 105), (4,)])],
    )  # fmt: skip
    ours, caffes = both(tmp_path, *files, "--keep-losses")
    assert ours.net.outputs == ("distance", "hinge", "loss", "top1")
    assert_same(ours, caffes)
    assert len({float(ours.reference.blobs[name]) for name in ("distance", "hinge", "loss")}) == 3


def test_smaller_inputs_where_large_ones_overflow(caffe, tmp_path):
    files = written(tmp_path, DATA, layer("Exp", "data", "e", "exp_param { scale: 200 }"))
    ours, caffes = both(tmp_path, *files)
    assert ours.reference.inputs["data"].std() == pytest.approx(0.1, rel=0.1)
    assert_same(ours, caffes)


def test_without_a_reference(caffe, tmp_path):
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    content = extract(tmp_path, "net.h5", *files, "--reader", "pycaffe", "--no-reference")
    assert content.reference is None


def test_in_phase_train_numpy_records(caffe, tmp_path):
    """Caffe's own pass would drop out at random."""
    files = written(tmp_path, DATA, layer("Dropout", "data", "d"), layer("TanH", "d", "t"))
    content = extract(tmp_path, "net.h5", *files, "--reader", "pycaffe", "--phase", "TRAIN")
    assert content.reference.recorder == "numpy"
    data = content.reference.inputs["data"]
    np.testing.assert_array_equal(content.reference.blobs["d"], data)


# ---- Weights that do not fit ---------------------------------------------------------------------


def failed(capfd, code, *argv):
    """The one line of a run that failed, Caffe's log left out."""
    assert worker.main([str(each) for each in argv]) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if not GLOG.match(line)]
    assert len(lines) == 1, lines
    return lines[0]


def test_missing_weights_are_not_left_to_caffes_fillers(caffe, tmp_path, capfd):
    """Ours are as random, but the same in every run: those of the double are zeros."""
    filled = "inner_product_param { num_output: 4 weight_filler { type: 'xavier' } }"
    text = [
        DATA, layer("InnerProduct", "data", "ip", filled), layer("InnerProduct", "ip", "also", IP),
    ]  # fmt: skip
    for weights, argv in (([], ()), ([("also", [(4, 4), (4,)])], ("--allow-missing",))):
        ours, caffes = both(tmp_path, *written(tmp_path, *text, weights=weights), *argv)
        assert_same(ours, caffes)
        assert caffes.filled == ours.filled != ()
        assert caffes.weights["ip/0"].any()
        assert caffes.reference.blobs["ip"].any()
    files = written(tmp_path, *text, weights=[("other", [(4, 105)])])
    end = ("-o", tmp_path / "net.h5", "--reader", "pycaffe")
    capfd.readouterr()
    assert "layer 'ip' is missing" in failed(capfd, 3, *files, *end)
    assert not (tmp_path / "net.h5").exists()


@pytest.mark.parametrize("shapes", [[(4, 106), (4,)], [(4, 105)]], ids=["shape", "count"])
def test_a_misfit_is_told_before_caffe_aborts(shapes, caffe, tmp_path, capfd):
    files = written(
        tmp_path, DATA, layer("InnerProduct", "data", "ip", IP), weights=[("ip", shapes)]
    )
    message = failed(capfd, 3, *files, "-o", tmp_path / "net.h5", "--reader", "pycaffe")
    assert "the weights do not fit the net: layer 'ip'" in message


def test_other_shapes_in_caffe_are_refused(standin, tmp_path, capfd, monkeypatch):
    files = written(
        tmp_path, DATA, layer("InnerProduct", "data", "ip", IP), weights=[("ip", [(4, 105), (4,)])]
    )
    make = standin.Net.__init__

    def reshaped(net, *arguments):
        make(net, *arguments)
        net.params["ip"][0].reshape(105, 4)

    monkeypatch.setattr(standin.Net, "__init__", reshaped)
    message = failed(capfd, 3, *files, "-o", tmp_path / "net.h5", "--reader", "pycaffe")
    assert message == (
        "error: layer 'ip': shapes [[4, 105], [4]] expected, Caffe has [[105, 4], [4]] "
        "(try --reader protobuf)"
    )


# ---- Which reader --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), ("", False), (" ", False), ("0", False), ("false", False), ("False", False),
     ("no", False), ("NO", False), ("off", False), (" off ", False), ("1", True), ("yes", True),
     ("true", True), ("2", True)],
)  # fmt: skip
def test_use_pycaffe(value, expected, standin, tmp_path, monkeypatch):
    monkeypatch.delenv("USE_PYCAFFE", raising=False)
    if value is not None:
        monkeypatch.setenv("USE_PYCAFFE", value)
    assert pycaffe.wanted() is expected
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    content = extract(tmp_path, "net.h5", *files)
    assert content.reference.recorder == ("caffe" if expected else "numpy")


def test_the_protobuf_reader_can_be_insisted_on(standin, tmp_path, monkeypatch):
    monkeypatch.setenv("USE_PYCAFFE", "1")
    monkeypatch.setattr(standin, "Net", None)
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    content = extract(tmp_path, "net.h5", *files, "--reader", "protobuf")
    assert content.reference.recorder == "numpy"


def test_wanted_but_not_there(no_caffe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("USE_PYCAFFE", "1")
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    content = extract(tmp_path, "net.h5", *files)
    (note,) = content.notes
    assert note.startswith("USE_PYCAFFE is set but import caffe failed (")
    assert note.endswith("): the protobuf reader is used")
    assert capfd.readouterr().err == f"warning: {note}\n"
    assert content.reference.recorder == "numpy"


def test_insisted_on_but_not_there(no_caffe, tmp_path, capfd):
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    message = failed(capfd, 7, *files, "-o", tmp_path / "net.h5", "--reader", "pycaffe")
    assert message.startswith("error: --reader pycaffe: import caffe failed: ")
    assert message.endswith("(set PYTHONPATH to Caffe's python folder)")
    assert not (tmp_path / "net.h5").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "has no attribute 'set_mode_cpu'"),
        ("raise TypeError('Descriptors cannot be created directly.')", "Descriptors cannot be"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
    ids=["a folder", "an old caffe_pb2", "a missing package"],
)
def test_a_caffe_that_cannot_be_used(content, reason, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "caffe"
    folder.mkdir()
    if content:
        (folder / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    with forgotten():
        message = failed(capfd, 7, *files, "-o", tmp_path / "net.h5", "--reader", "pycaffe")
    assert reason in message


# ---- Caffe's process -----------------------------------------------------------------------------


def process(folder, *argv):
    return subprocess.run(
        [sys.executable, "-m", "stage_extract", *map(str, argv)],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=f"{ROOT}:{STANDIN}", USE_PYCAFFE="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_as_a_command_with_caffes_log_on_stderr(tmp_path):
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    done = process(tmp_path, *files, "-o", "net.h5")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Creating Layer t" in done.stderr
    assert interchange.read(tmp_path / "net.h5").reference.recorder == "caffe"


def test_caffe_aborts_on_what_we_would_take(tmp_path):
    """A blob that is rewritten in place after two have read it: Caffe knows no such net."""
    files = written(
        tmp_path, DATA, layer("TanH", "data", "x"), layer("Sigmoid", "x", "early"),
        layer("ReLU", "x", "x", name="r"), layer("TanH", "x", "late"),
    )  # fmt: skip
    done = process(tmp_path, *files, "-o", "net.h5")
    assert done.returncode == -signal.SIGABRT
    assert "Top blob 'x' produced by multiple sources." in done.stderr
    assert not list(Path(tmp_path).glob("*.h5*"))
    done = process(tmp_path, *files, "-o", "net.h5", "--reader", "protobuf")
    assert (done.returncode, done.stderr) == (0, "")


# ---- Layers that only this Caffe knows -----------------------------------------------------------

MIX = """
from typing import Any, Mapping, Optional, Tuple

from schemas.layers.registry import Meaning, layer


@layer("Mix", message="mix_param", harmless={"comment": "for the reader"})
class Mix(Meaning):
    scale: float = 1.0
    mode: str = "PLAIN"
    offset: Tuple[int, ...] = ()
    curve: Optional[Mapping[str, Any]] = None
    choices = {"mode": ("PLAIN", "NEGATED")}

    def shapes(self, bottoms, tops):
        return [bottoms[0]]

    def forward(self, bottoms, weights, tops):
        value = bottoms[0] * bottoms[0].dtype.type(self.scale) + sum(self.offset)
        value = value ** (self.curve or {}).get("power", 1)
        return [-value if self.mode == "NEGATED" else value]


@layer("ReLU", message="relu_param", dialect="capped")
class Capped(Meaning):
    ceiling: float = 6.0

    def shapes(self, bottoms, tops):
        return [bottoms[0]]

    def forward(self, bottoms, weights, tops):
        return [bottoms[0].clip(0, self.ceiling)]
"""
MIXED = 'scale: 2 mode: NEGATED offset: [3, 4] curve { power: 2 } comment: "own"'


@pytest.fixture
def mix(tmp_path):
    """The folder of a plug-in that knows what the double's own layers mean."""
    folder = tmp_path / "mix"
    folder.mkdir()
    (folder / "meaning.py").write_text(MIX)
    return folder


def own_layers(folder, parameters=MIXED, ceiling="relu_param { ceiling: 0.5 }"):
    return written(
        folder, DATA, layer("Mix", "data", "m", f"mix_param {{ {parameters} }}"),
        layer("ReLU", "m", "r", ceiling),
    )  # fmt: skip


def test_layers_that_only_this_caffe_knows(standin, mix, tmp_path, capfd):
    """Its caffe_pb2 says what their fields are, a plug-in what they mean; the numbers are its."""
    files = own_layers(tmp_path)
    argv = (*files, "--plugin", mix, "--reader", "pycaffe")
    content = extract(tmp_path, "net.h5", *argv)
    first, second = content.net.layers
    assert first.fields["mix_param"] == {
        "scale": 2, "mode": "NEGATED", "offset": [3, 4], "curve": {"power": 2}, "comment": "own",
    }  # fmt: skip
    assert (second.fields, second.dialect) == ({"relu_param": {"ceiling": 0.5}}, "capped")
    assert content.reference.recorder == "caffe"
    blobs = content.reference.blobs
    expected = -((2 * blobs["data"] + 7) ** 2)
    np.testing.assert_allclose(blobs["m"], expected, rtol=1e-6)
    np.testing.assert_array_equal(blobs["r"], np.clip(blobs["m"], 0, np.float32(0.5)))
    capfd.readouterr()
    message = failed(capfd, 4, *argv[:-1], "protobuf", "-o", tmp_path / "other.h5")
    assert "unknown field: layer[1].mix_param.curve" in shown(message)
    assert "only the Caffe" not in message


def shown(message):
    """An error's text with unknown fields as paths, in whichever of the ways they are written."""
    return re.sub(r"(mix_param\S*|relu_param\S*) of layer 'm'", r"layer[1].\1", message)


@pytest.mark.parametrize(
    "parameters, code, said",
    [
        ("offset: 1.5", 3, "an integer for 'offset'"),
        ("mode: CUBED", 3, "one of PLAIN, NEGATED for 'mode'"),
        ("curve { power: -1 }", 3, "'power' is -1, but must be from 0"),
        ("curve { bend: 1 }", 4, "mix_param.curve.bend"),
        ("width: 3", 4, "mix_param.width"),
    ],
    ids=["decimal", "enum", "nested", "unknown in a nested one", "unknown"],
)
def test_its_fields_are_checked_by_its_schema(
    parameters, code, said, standin, mix, tmp_path, capfd
):
    files = own_layers(tmp_path, parameters)
    argv = (*files, "--plugin", mix, "--reader", "pycaffe", "-o", tmp_path / "net.h5")
    message = failed(capfd, code, *argv)
    assert said in message
    assert "only the Caffe" not in message


@pytest.mark.parametrize(
    "text, names",
    [
        (layer("Mix", "data", "m", "mix_param { scale: 2 }"), "'Mix', mix_param"),
        (layer("Mix", "data", "m"), "'Mix'"),
        (layer("TanH", "data", "m", "mix_param { scale: 2 }"), "mix_param"),
        (layer("ReLU", "data", "m", "relu_param { ceiling: 1 }"), "ceiling"),
    ],
    ids=["layer", "layer without parameters", "message", "field"],
)
def test_without_a_plugin_they_are_refused(text, names, standin, tmp_path, capfd):
    files = written(tmp_path, DATA, text)
    end = ("-o", tmp_path / "net.h5", "--reader")
    message = failed(capfd, 4, *files, *end, "pycaffe")
    advice = (
        f"(only the Caffe in use knows {names}: write a plug-in that says what it computes, "
        "see docs/adding-a-layer.md; "
    )
    assert advice in message
    assert not (tmp_path / "net.h5").exists()
    assert "only the Caffe" not in failed(capfd, 4, *files, *end, "protobuf")
    assert (ROOT / "docs" / "adding-a-layer.md").is_file()


def test_what_no_caffe_knows_is_not_said_to_be_known(standin, tmp_path, capfd):
    files = written(tmp_path, DATA, layer("Blend", "data", "m", "blend_param { scale: 2 }"))
    argv = (*files, "-o", tmp_path / "net.h5", "--reader", "pycaffe")
    assert "only the Caffe" not in failed(capfd, 4, *argv)


def test_an_old_type_that_only_this_caffe_knows(standin, tmp_path, capfd):
    """It is no misspelling there (exit 3), but nothing tells what it is called today."""
    files = written(
        tmp_path, "input: 'data' input_dim: [2, 3, 5, 7]",
        "layers { name: 'm' type: MIX bottom: 'data' top: 'm' mix_param { scale: 2 } }",
    )  # fmt: skip
    end = ("-o", tmp_path / "net.h5", "--reader")
    assert "layer type MIX of the old format" in failed(capfd, 4, *files, *end, "pycaffe")
    assert "a known name for 'type'" in failed(capfd, 3, *files, *end, "protobuf")


def altered(caffe_pb2, change):
    """NetParameter of a build whose caffe.proto was changed."""
    file = descriptor_pb2.FileDescriptorProto()
    caffe_pb2.DESCRIPTOR.CopyToProto(file)
    messages = {message.name: message for message in file.message_type}
    change(messages)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName("caffe.NetParameter")


def test_what_we_know_stays_as_it_is(standin):
    """Whatever a build says of the same fields."""

    def change(messages):
        fields = {each.name: each for each in messages["ConvolutionParameter"].field}
        fields["num_output"].type = fields["num_output"].TYPE_STRING
        fields["num_output"].ClearField("default_value")
        fields["kernel_h"].label = fields["kernel_h"].LABEL_REPEATED
        fields["stride_h"].label = fields["stride_h"].LABEL_REQUIRED
        enums = {each.name: each for each in messages["PoolingParameter"].enum_type}
        methods = enums["PoolMethod"]
        for value in methods.value:
            value.number += 1
        methods.value.add(name="MEDIAN", number=77)
        flag = messages["LayerParameter"].field.add(name="own_flag", number=60000)
        flag.type, flag.label = flag.TYPE_BOOL, flag.LABEL_OPTIONAL

    plain = schema.Schemas()
    joined = schema.Schemas(altered(standin.proto.caffe_pb2, change))
    for name in descriptors.pool().FindFileByName("caffe.proto").message_types_by_name:
        for ours in plain[name].fields.values():
            theirs = joined[name].fields[ours.name]
            assert dataclasses.replace(theirs, enum=ours.enum) == ours
            assert list(theirs.enum.items())[: len(ours.enum)] == list(ours.enum.items())
        assert joined[name].required == plain[name].required
        assert set(joined[name].fields) == set(plain[name].fields)
    assert joined["PoolingParameter"].fields["pool"].enum["MEDIAN"] == 77
    with pytest.raises(KeyError):
        joined["NoParameter"]


@pytest.mark.parametrize(
    "broken", [None, "raise TypeError('Descriptors cannot be created directly.')"],
    ids=["missing", "too old"],
)  # fmt: skip
def test_a_caffe_without_its_caffe_pb2(broken, standin, tmp_path, monkeypatch, capfd):
    """A real PyCaffe imports it itself; where one comes so far without, it is not needed."""
    if broken:
        (tmp_path / "caffe_pb2.py").write_text(broken)
        monkeypatch.setattr(sys.modules["caffe.proto"], "__path__", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, "caffe.proto.caffe_pb2")
    else:
        monkeypatch.setitem(sys.modules, "caffe.proto.caffe_pb2", None)
    files = written(tmp_path, DATA, layer("TanH", "data", "t"))
    content = extract(tmp_path, "net.h5", *files, "--reader", "pycaffe")
    (note,) = content.notes
    assert note.startswith("import caffe.proto.caffe_pb2 failed (")
    assert note.endswith("): what only this Caffe knows is not read")
    assert content.reference.recorder == "caffe"


# ---- The double ----------------------------------------------------------------------------------


def test_the_double_has_pycaffes_constructors(standin, tmp_path):
    files = [str(path) for path in written(
        tmp_path, DATA, layer("InnerProduct", "data", "ip", IP),
        layer("ReLU", "ip", "r", "include { stage: 'a' }"),
        weights=[("ip", [(4, 105), (4,)])],
    )]  # fmt: skip
    for net in (
        standin.Net(*files, standin.TEST),
        standin.Net(files[0], standin.TEST, weights=files[1]),
        standin.Net(files[0], standin.TEST, 0, ["a"], files[1]),
    ):
        assert net.params["ip"][0].data.any()
    assert net._layer_names == ["data", "ip", "r"]
    assert net.outputs == ["r"]
    assert not standin.Net(files[0], standin.TEST).params["ip"][0].data.any()
    with pytest.raises(standin.ArgumentError):
        standin.Net(*files, standin.TEST, level=1)
    with pytest.raises(RuntimeError, match="Could not open file"):
        standin.Net("no.prototxt", standin.TEST)


def test_the_interface(caffe, tmp_path):
    """What is asked of PyCaffe, of the double and of a real one alike."""
    files = [str(path) for path in written(
        tmp_path, inputs(data=(2, 3, 5, 7), more=(2, 4)), layer("InnerProduct", "data", "ip", IP),
        layer("ReLU", "ip", "ip", name="r"), layer("Eltwise", "ip more", "sum"),
        layer("TanH", "ip", "t"), weights=[("ip", [(4, 105), (4,)])],
    )]  # fmt: skip
    caffe.set_mode_cpu()
    assert (int(caffe.TRAIN), int(caffe.TEST)) == (0, 1)
    assert {"InnerProduct", "ReLU", "Split"} <= set(caffe.layer_type_list())
    net = caffe.Net(*files, caffe.TEST)
    names = ["data", "more", "ip", "r", "ip_r_0_split", "sum", "t"]
    assert list(net._layer_names) == names
    assert [each.type for each in net.layers] == [
        "Input", "Input", "InnerProduct", "ReLU", "Split", "Eltwise", "TanH",
    ]  # fmt: skip
    blobs = ["data", "more", "ip", "ip_r_0_split_0", "ip_r_0_split_1", "sum", "t"]
    assert list(net.blobs) == list(net._blob_names) == blobs
    assert list(net.top_names) == list(net.bottom_names) == names
    assert net.top_names["r"] == net.bottom_names["r"] == ["ip"]
    assert net.bottom_names["sum"] == ["ip_r_0_split_0", "more"]
    assert [list(net._top_ids(i)) for i in range(7)] == [[0], [1], [2], [2], [3, 4], [5], [6]]
    assert [list(net._bottom_ids(i)) for i in range(3, 6)] == [[2], [2], [3, 1]]
    assert (list(net.inputs), list(net.outputs)) == (["data", "more"], ["sum", "t"])
    assert list(net.params) == ["ip"]
    assert [list(blob.shape) for blob in net.params["ip"]] == [[4, 105], [4]]
    assert [blob.data.shape for blob in net.layers[2].blobs] == [(4, 105), (4,)]
    rng = np.random.default_rng(1)
    fed = {"data": rng.random((2, 3, 5, 7), np.float32), "more": rng.random((2, 4), np.float32)}
    found = net.forward(["ip"], **fed)
    assert set(found) == {"ip", "sum", "t"}
    weight, bias = (blob.data for blob in net.params["ip"])
    ip = np.maximum(fed["data"].reshape(2, 105) @ weight.T + bias, 0)
    np.testing.assert_allclose(found["t"], np.tanh(ip), rtol=1e-5, atol=1e-6)
    assert set(net.forward(start="ip", end="r")) == {"ip"}
    net._forward(5, 6)
    np.testing.assert_allclose(net.blobs["sum"].data, ip + fed["more"], rtol=1e-5, atol=1e-6)
    with pytest.raises(Exception, match="Input blob arguments do not match net inputs"):
        net.forward(data=fed["data"])
    net.blobs["data"].reshape(1, 3, 5, 7)
    net.blobs["more"].reshape(1, 4)
    net.reshape()
    assert list(net.blobs["sum"].shape) == [1, 4]
    caffe_pb2 = importlib.import_module("caffe.proto.caffe_pb2")
    stored = caffe_pb2.NetParameter()
    stored.ParseFromString(Path(files[1]).read_bytes())
    assert [each.name for each in stored.layer] == ["ip"]
    assert caffe_pb2.NetParameter.DESCRIPTOR.fields_by_name["layer"].message_type.name == (
        "LayerParameter"
    )


def test_the_double_splits_as_caffe_does(standin, tmp_path):
    files = written(
        tmp_path, DATA, layer("Slice", "data", "a b c", name="cut"), layer("TanH", "b", "t"),
        layer("ReLU", "b", "r"), layer("ReLU", "r", "r", name="again"), layer("Power", "r", "p"),
        layer("Power", "r", "q"),
    )  # fmt: skip
    net = standin.Net(str(files[0]), standin.TEST)
    assert net._layer_names == [
        "data", "cut", "b_cut_1_split", "t", "r", "again", "r_again_0_split", "p", "q",
    ]  # fmt: skip
    assert [each.type for each in net.layers][2] == "Split"
    assert net.top_names["b_cut_1_split"] == ["b_cut_1_split_0", "b_cut_1_split_1"]
    assert net.bottom_names["r"] == ["b_cut_1_split_1"]
    assert net.bottom_names["q"] == ["r_again_0_split_1"]
    assert net.outputs == ["a", "c", "p", "q", "t"]


def test_the_double_shares_memory(standin, tmp_path):
    files = written(
        tmp_path, DATA, layer("Split", "data", "a b", name="split"),
        layer("ReLU", "a", "a", name="r"), layer("Flatten", "b", "f"),
    )  # fmt: skip
    net = standin.Net(str(files[0]), standin.TEST)
    net.blobs["data"].reshape(4, 3, 5, 7)
    net.reshape()
    net.blobs["data"].data[...] = -1
    net.forward()
    for name in ("data", "a", "b", "f"):
        assert np.shares_memory(net.blobs[name].data, net.blobs["data"].data)
        assert not net.blobs[name].data.any()
    assert net.blobs["f"].shape == [4, 105]
    net.blobs["data"].data[...] = 2
    net._forward(net._layer_names.index("split"), net._layer_names.index("r"))
    assert (net.blobs["b"].data == 2).all()


def test_the_session_runs_what_caffe_put_between(standin, tmp_path):
    """Without Caffe's own splits, later layers would read memory of an earlier pass."""
    files = written(
        tmp_path, inputs(data=(8, 3, 5, 7)), layer("TanH", "data", "t"),
        layer("Power", "data", "p", "power_param { scale: 2 }"), layer("Eltwise", "t p", "e"),
    )  # fmt: skip
    ours, caffes = both(tmp_path, *files, "--seed", reference.SEED + 1)
    assert_same(ours, caffes)


# ---- Random nets on shared memory ----------------------------------------------------------------

IN_PLACE = (("ReLU", ""), ("TanH", ""), ("Power", "power_param { shift: 0.25 }"))
VIEWS = (
    ("Split", ""), ("Flatten", ""), ("Concat", ""), ("Slice", ""),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }"),
    ("Reshape", "reshape_param { shape { dim: 6 dim: -1 } }"),
)  # fmt: skip


def random_net(seed):
    """Views, copies and in-place layers on recent blobs; not every such net is one for Caffe."""
    rng = random.Random(seed)
    text, names = [DATA], ["data"]
    for i in range(rng.randint(4, 14)):
        bottom, kind = rng.choice(names[-6:]), rng.random()
        tops = [f"b{i}"]
        if kind < 0.35:
            type_, parameters = rng.choice(IN_PLACE)
            tops = [bottom]
        elif kind < 0.75:
            type_, parameters = rng.choice(VIEWS)
            tops += [f"c{i}"] * (type_ == "Split" and rng.random() < 0.7)
        else:
            type_, parameters = "Power", "power_param { scale: 0.5 shift: 0.125 }"
        text.append(layer(type_, bottom, tops, parameters, name=f"l{i}"))
        names += [top for top in tops if top not in names]
    return text


def test_random_nets_hold_what_the_shared_memory_holds(standin, tmp_path, monkeypatch):
    """Our single-assignment graph against memory that is really shared, by name and by key."""
    monkeypatch.setattr(sys.modules["caffe._caffe"], "log", lambda *line: None)
    path = str(tmp_path / "net.prototxt")
    compared = views = 0
    for seed in range(300):
        text = random_net(seed)
        Path(path).write_text("\n".join(text))
        try:
            net = standin.Net(path, standin.TEST)
        except AssertionError:
            continue  # Caffe refuses it
        built = build(*text)
        ours = values(built)
        fed = {key: ours[key] for key in built.net.inputs}
        session = pycaffe.Session(standin, path, None, network.Options(), built)
        caffes = session.forward(fed)
        assert set(caffes) == set(ours)
        for key, value in ours.items():
            np.testing.assert_allclose(caffes[key], value, rtol=1e-5, atol=1e-6, err_msg=str(seed))
        net.blobs["data"].data[...] = fed[built.net.inputs[0]]
        net.forward()
        for name, key in built.net.names.items():
            held = net.blobs[name].data.ravel()
            np.testing.assert_allclose(ours[key].ravel(), held, rtol=1e-5, atol=1e-6)
        assert sorted({built.net.names[name] for name in net.outputs}) == list(built.net.outputs)
        compared += 1
        views += any("@" in each.name for each in built.net.layers)
    assert compared >= 80
    assert views >= 15
