"""What model.tflite and model.pb can hold: one form of every layer, and what is declared."""

from __future__ import annotations

from collections import defaultdict

import pytest

from schemas.errors import UnsupportedModel
from stage_build import verify
from stage_build.artefacts import frozen, lite, models
from stage_build.artefacts.served import serve
from stage_build.delivery import Delivery
from stage_build.lowering.registry import lower, registered, require_held
from tests import nets
from tests.test_runtime_layers import FORMS

FORMATS = {"tflite": (lite.write, lite.LiteRunner), "pb": (frozen.write, frozen.FrozenRunner)}
LOWERED = registered()
KEYS = sorted(LOWERED)


@pytest.fixture(scope="module")
def contents():
    """(type, dialect) -> the net of each form that has such a layer."""
    found = defaultdict(list)
    for form in FORMS:
        content = form.content()
        for key in {(layer.type, layer.dialect) for layer in content.net.layers}:
            found[key].append(content)
    return found


def unheld(content):
    """The formats that cannot hold a layer of the net."""
    return {name for item in lower(content.net, content.weights) for name in item.call.unheld}


def failure(content, folder, name):
    """What goes wrong, as text, when the net is written in this format, loaded and compared."""
    write, runner = FORMATS[name]
    recorded, net = content.reference, content.net
    want = {key: recorded.blobs[key] for key in net.outputs}
    undefined = verify.undefined_blobs(net, want, recorded.blobs)
    with models.imported(nets.package(content, folder)) as package:
        served = serve(package.load())
        try:
            write(folder, served, Delivery(("class", name)))
            outcome = verify.check(
                net, runner(folder), recorded.inputs, want, verify.NET_TOLERANCE, undefined
            )
        # Of TensorFlow Lite, whose errors have no type of their own in its public names.
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "" if outcome.passed else str(outcome.first_failure)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_a_layer_is_held_or_declared(contents, key, name, tmp_path):
    alike = [other for other in KEYS if LOWERED[other] is LOWERED[key]]
    tried = contents[key] or [content for other in alike for content in contents[other]]
    held = [content for content in tried if name not in unheld(content)]
    refused = [content for content in tried if name in unheld(content)]
    assert held or refused, "no form of this layer is tried"
    if held:
        assert not failure(held[0], tmp_path / "held", name)
    # The last are the odd ones.
    failures = (failure(net, tmp_path / f"{i}", name) for i, net in enumerate(reversed(refused)))
    assert not refused or any(failures), "it is declared as not held, and works"


def two_of_three():
    return nets.net(
        nets.inputs(x=(5, 2, 3), cont=(5, 2)),
        nets.layer("LSTM", "x cont", "lstm", "recurrent_param { num_output: 4 }"),
        nets.layer("TanH", "lstm", "curve"),
        nets.layer("RNN", "curve cont", "rnn", "recurrent_param { num_output: 4 }"),
        record=False,
    )


def test_what_a_format_cannot_hold_is_refused_all_at_once():
    content = two_of_three()
    lowered = lower(content.net, content.weights)
    with pytest.raises(
        UnsupportedModel,
        match=r"layer 'lstm' \(LSTM, line \d+\): tflite cannot hold this layer: .*; "
        r"layer 'rnn' \(RNN, line \d+\): tflite cannot hold this layer: "
        r".*\(leave tflite out of --formats\)",
    ) as caught:
        require_held(lowered, ("class", "saved_model", "tflite", "pb"))
    assert "curve" not in str(caught.value)


def test_other_formats_do_not_refuse_it():
    content = two_of_three()
    require_held(lower(content.net, content.weights), ("class", "keras", "saved_model", "pb"))
