"""Nets in the manner of the forks' published ones, converted by the command and used."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from schemas.errors import UnsupportedModel
from schemas.graph import Layer, Net
from schemas.interchange import read
from stage_build import verify
from stage_build.artefacts import opening
from stage_extract import network, prototxt, reference, upgrade
from stage_extract.dialects import OWN
from tests import caffe_bytes, fork_nets
from tests.cli import run_batch

NETS = {net.name: net for net in fork_nets.all_nets()}


# Refused, and told why


def refused(net: fork_nets.ForkNet, **options) -> str:
    """What is said of a net that cannot be converted."""
    message = upgrade.upgrade(prototxt.parse(net.text, "net.prototxt"))
    with pytest.raises(UnsupportedModel) as caught:
        network.build(message, network.Options(**options))
    return str(caught.value)


def test_a_crf_is_refused_and_can_be_cut_off():
    net = fork_nets.deeplab(crf=True)
    assert refused(net) == (
        "net.prototxt: DenseCRF filters in a lattice in a hash table made anew from each image, of "
        "which there is no exact form in TensorFlow's operations: 'crf_inf' (line 24) "
        "(--outputs cuts the net before what you do not need)"
    )
    message = upgrade.upgrade(prototxt.parse(net.text, "net.prototxt"))
    built = network.build(message, network.Options(outputs=("fc8_interp",)))
    assert built.net.outputs == ("fc8_interp",)


def test_a_crop_of_the_old_branch_must_be_chosen():
    text = refused(fork_nets.hed())
    assert text == (
        "net.prototxt: layer 'crop' (Crop, line 11), layer 'crop#2' (Crop, line 13): layer type "
        "'Crop' means something else in bvlc, fcn-future, and nothing tells which is meant "
        "(choose with --dialect bvlc or fcn-future)"
    )


def test_python_layers_that_nobody_knows_are_named():
    text = refused(fork_nets.detectnet())
    named = "layer type 'Python' (caffe.layers.detectnet.clustering.ClusterDetections)"
    assert f"{named} is not supported: 'bbox-list' (line 17)" in text


# Converted


def values(layer: Layer, place: int, count: int, shape: tuple[int, ...], generator):
    """One parameter blob that keeps the blobs after it near their bottoms' size."""
    normal = generator.standard_normal(shape).astype(np.float32)
    if layer.type in ("BN", "BatchNorm", "Scale", "Normalize", "PReLU"):
        order = {
            ("BatchNorm", 3): "mean variance factor",
            ("BatchNorm", 5): "mean variance factor scale mean",
            ("BN", 4): "scale mean mean variance",
            ("PReLU", 1): "variance",
        }.get((layer.type, count), "scale mean")
        if layer.dialect == "nvidia15":
            order = "scale mean mean variance factor"
        return {
            "mean": 0.1 * normal,
            "scale": 1 + 0.2 * normal,
            "variance": 0.5 + np.abs(normal) / 4,
            "factor": np.ones_like(normal),
        }[order.split()[place]]
    return normal * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1 * normal


def caffemodel(net: fork_nets.ForkNet) -> bytes:
    """Seeded weights of the net, as Caffe stores them."""
    given = net.options
    dialects = (*given.get("dialect", ()), *filter(None, [net.stored]))
    shapes = [text.partition("=") for text in given.get("input_shape", ())]
    options = network.Options(
        phase=given.get("phase", "TEST"),
        outputs=tuple(filter(None, given.get("outputs", "").split(","))),
        input_shapes={name: tuple(map(int, sizes.split(","))) for name, _, sizes in shapes},
        dialects=dialects,
        keep_losses=given.get("keep_losses", False),
    )
    built = network.build(upgrade.upgrade(prototxt.parse(net.text, "net.prototxt")), options)
    generator = np.random.default_rng(11)
    layers = {layer.name: layer for layer in built.net.layers}
    stored = []
    for name, wanted in built.weight_shapes.items():
        blobs = [
            caffe_bytes.blob(values(layers[name], place, len(wanted), shape, generator))
            for place, shape in enumerate(wanted)
        ]
        stored.append(caffe_bytes.layer(name, *blobs, type=layers[name].type))
    return b"".join(stored)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Every net, converted by one batch: (folder, name -> result)."""
    folder = tmp_path_factory.mktemp("forks")
    entries = []
    for name, net in NETS.items():
        (folder / f"{name}.prototxt").write_text(net.text)
        (folder / f"{name}.caffemodel").write_bytes(caffemodel(net))
        files = {"prototxt": f"{name}.prototxt", "weights": f"{name}.caffemodel"}
        entries.append({"name": name, **files, **net.options})
    return folder / "out", run_batch(entries, folder)


def named(note: str) -> set[tuple[str, str]]:
    """(dialect, type) of all that a note names."""
    found = re.fullmatch(r"dialect (\S+): (.*?) \((.*)\)", note)
    if found is None:
        return set()
    dialect, types, why = found.groups()
    return {(dialect, each) for each in (types.split(", ") if why == OWN else types.split()[:1])}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_net_is_converted_and_its_dialects_are_named(converted, name):
    out, results = converted
    assert results[name]["exit_code"] == 0, results[name]["error"]
    report = json.loads((out / name / "report.json").read_text())
    assert set(report["artefacts"]) == {"class", "keras", "saved_model"}
    assert all(artefact["passed"] for artefact in report["artefacts"].values())
    told = {pair for note in report["notes"] for pair in named(note)}
    assert told == NETS[name].told
    assert report["rounding"] == {}


def other_inputs(net: Net, scale: float) -> dict[str, np.ndarray]:
    """Inputs that the conversion never saw, two samples where the net takes any number."""
    generator = np.random.default_rng(29)
    found = {}
    for key in net.inputs:
        blob = net.blobs[key]
        batch = blob.batch if net.dynamic_batch else None
        shape = [2 if axis == batch else size for axis, size in enumerate(blob.shape)]
        if key == "im_info":
            found[key] = np.array([[80, 112, 1.25]], np.float32)
        elif key == "label" or "sentence" in key:
            found[key] = generator.integers(0, 2, shape).astype(np.float32)
        else:
            found[key] = generator.standard_normal(shape).astype(np.float32) * np.float32(scale)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 0], ids=["other", "zeros"])
@pytest.mark.parametrize("name", NETS)
def test_the_class_and_the_saved_model_take_other_inputs(converted, name, scale):
    if name == "segnet_train" and not scale:
        pytest.skip("its BN divides by the batch's own deviation, which is nothing but rounding")
    folder = converted[0] / name
    content = read(folder / "net.h5")
    inputs = other_inputs(content.net, scale)
    want = reference.forward(content.net, content.weights, inputs)
    for artefact in ("class", "saved_model"):
        with opening.opened(folder, artefact) as runner:
            got = runner(inputs, content.net.outputs)
        for key in content.net.outputs:
            limit = verify.NET_TOLERANCE
            compared = verify.compare(key, got[key], want[key], limit)
            assert compared.passed, (artefact, compared)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, net in NETS.items() if net.rows])
def test_how_many_rows_there_are_depends_on_the_data(converted, name):
    content = read(converted[0] / name / "net.h5")
    counts: set[tuple[int, ...]] = set()
    for scale in (0, 1, 5):
        blobs = reference.forward(content.net, content.weights, other_inputs(content.net, scale))
        counts.update(blobs[key].shape for key in content.net.outputs[:1])
    assert len(counts) > 1, counts
