"""Real Caffe's numbers: the NumPy forward, on every blob of every case."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.layers import registry
from stage_extract import network, prototxt, reference, upgrade, weights
from tests.conftest import golden_results
from tests.known_gaps import EXACT_TYPES, WAITING
from tests.paths import GOLDENS, needs_shared

pytestmark = needs_shared


def cases(folder):
    return [path.parent for path in sorted((GOLDENS / folder).glob("*/net.prototxt"))]


def waits_for(case, message):
    """What the case waits for, or nothing: see known_gaps."""
    name = f"{case.parent.name}/{case.name}"
    types = {layer.fields["type"] for layer in message.fields["layer"]}
    return WAITING.get(name) or ", ".join(sorted(types & set(WAITING)))


def check(case, tolerance):
    """Every blob is Caffe's, and where samples are said to stay apart, one alone gives its row."""
    message = upgrade.upgrade(prototxt.read(case / "net.prototxt"))
    waits = waits_for(case, message)
    golden_results["NumPy forward"].append((case.name, waits))
    if waits:
        with pytest.raises((UnsupportedModel, MalformedModel, KeyError)):
            forward(case, message)
        pytest.skip(f"waiting for {waits}")
    net, inputs, values, golden, blobs = forward(case, message)
    expected = {key[5:]: value for key, value in golden.items() if key.startswith("blob:")}
    dropped = {
        blob
        for layer in message.fields["layer"]
        if registry.registered()[layer.fields["type"], ""].role in ("loss", "sink")
        for blob in layer.fields.get("bottom", []) + layer.fields.get("top", [])
    }
    assert set(expected) - set(net.names) <= dropped
    exact = len(net.layers) == 1 and net.layers[0].type in EXACT_TYPES
    for blob in set(expected) & set(net.names):
        key = net.names[blob]
        limit = 0 if exact or net.blobs[key].index else tolerance
        assert_close(values[key], expected[blob], limit, blob)
    if net.dynamic_batch:
        alone = reference.forward(net, blobs, {key: x[:1] for key, x in inputs.items()})
        for key, value in alone.items():
            assert_close(value, values[key][:1], tolerance, f"{key} at batch 1")


def forward(case, message):
    """The net, its inputs, what the NumPy forward makes of them, the golden, the weights."""
    built = network.build(message, network.Options())
    blobs = {}
    if built.weight_shapes:
        with weights.open_weights(case / "net.caffemodel") as stored:
            match = weights.match(stored.layers, built.weight_shapes)
            for owner, arrays in match.blobs.items():
                for index, blob in enumerate(arrays):
                    blobs[f"{owner}/{index}"] = np.array(blob.array())
    with np.load(case / "blobs.npz") as file:
        golden = {key.replace("%2F", "/"): file[key] for key in file.files}
    net = built.net
    inputs = {key: golden["input:" + net.blobs[key].name] for key in net.inputs}
    return net, inputs, reference.forward(net, blobs, inputs), golden, blobs


def assert_close(actual, expected, tolerance, name):
    assert actual.shape == expected.shape, name
    limit = tolerance * np.abs(expected).max() + 1e-6 if tolerance else 0
    assert np.abs(actual - expected).max() <= limit, name


@pytest.mark.parametrize("case", cases("layers"), ids=lambda case: case.name)
def test_layers(case):
    check(case, 1e-5)


@pytest.mark.parametrize("case", cases("random"), ids=lambda case: case.name)
def test_random_nets(case):
    check(case, 1e-4)
