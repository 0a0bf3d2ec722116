"""A net's constants in what is built: any batch and length, in every artefact, and who is to
blame."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.interchange import Interchange, Reference, write
from stage_build.artefacts import check, export, models
from stage_build.verify import NET_TOLERANCE
from stage_extract import reference
from tests import nets
from tests.forms.constants import IN_PLACE, TIME_MAJOR, dummy

IMAGES = dummy("images", "shape { dim: 2 dim: 3 dim: 5 dim: 7 }", (2, 3, 5, 7))


@pytest.mark.parametrize(
    "form, shape",
    [(IMAGES, (4, 3, 5, 7)), (TIME_MAJOR, (6, 5, 2, 7))],
    ids=["batch", "time and batch"],
)
def test_constants_are_as_large_as_the_input(form, shape, tmp_path):
    content = form.content()
    net = content.net
    assert net.dynamic_batch
    nets.package(content, tmp_path)
    list(export.handle(str(tmp_path), ["keras", "saved_model"]))
    data = np.random.default_rng(2).standard_normal(shape, np.float32)
    want = reference.forward(net, content.weights, {"data": data})
    for runner in (models.load_keras(tmp_path), models.SavedRunner(tmp_path)):
        got = runner({"data": data}, list(net.outputs))
        for key in net.outputs:
            value = got[key]
            assert value.shape == want[key].shape
            np.testing.assert_allclose(value, want[key], rtol=1e-5, atol=1e-6)


def test_the_reference_is_recorded_at_the_prototxts_batch():
    """Caffe makes the constant that large, whatever is fed."""
    net = IMAGES.content().net
    assert reference.reference_shapes(net) == {"data": (2, 3, 5, 7)}


def test_a_wrong_parameter_is_to_blame(tmp_path):
    content = IN_PLACE.content()
    nets.package(content, tmp_path)
    blobs = {**content.reference.blobs, "own": content.reference.blobs["own"] + np.float32(1)}
    blobs["out"] = np.concatenate([blobs["data"], blobs["own"]], 1)
    changed = Reference("numpy", 1, content.reference.inputs, blobs)
    write(tmp_path / "net.h5", Interchange(content.net, content.weights, reference=changed))
    result = check.check_artefact(tmp_path, tmp_path / "net.h5", "class", NET_TOLERANCE)
    assert (result["culprit"]["layer"], result["culprit"]["type"]) == ("own", "Parameter")
