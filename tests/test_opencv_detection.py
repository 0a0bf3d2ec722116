"""OpenCV's DNN module as a second reader of PriorBox and DetectionOutput."""

from __future__ import annotations

import numpy as np
import pytest

from tests import nets
from tests.forms import detection, priors

cv2 = pytest.importorskip("cv2")


def both(form):
    """(OpenCV's output, NumPy's) of a form."""
    text = "\n".join((nets.inputs(**form.inputs), *form.layers))
    network = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    content = form.content()
    for key, value in content.reference.inputs.items():
        network.setInput(value, key)
    return network.forward(), content.reference.blobs[content.net.outputs[0]]


# img_size, img_h and img_w are not among these: OpenCV ignores them.
@pytest.mark.parametrize(
    "parameters",
    [
        "min_size: 12 flip: true clip: false",
        "min_size: 30 flip: true clip: true",
        "min_size: [12, 20] max_size: [15, 33] flip: true clip: false",
        "min_size: 12 aspect_ratio: [2, 3] flip: true clip: false",
        "min_size: 12 aspect_ratio: [2, 3] flip: false clip: false",
        "min_size: 12 step: 8 offset: 0.3 flip: true clip: false",
        "min_size: 12 step_h: 8 step_w: 9 flip: true clip: false",
    ],
)
def test_opencv_agrees_on_boxes_to_start_from(parameters):
    form = priors.priors("opencv", f"{parameters} variance: [0.1, 0.2, 0.3, 0.4]")
    found, expected = both(form)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


DEFAULTS = {
    "share_location": "true",
    "background_label_id": 0,
    "code_type": "CENTER_SIZE",
    "variance_encoded_in_target": "false",
    "keep_top_k": 60,
    "confidence_threshold": 0.2,
    "nms_param": "{ nms_threshold: 0.45 top_k: 30 }",
}


# Not among these: what OpenCV does not know (CORNER_SIZE), reads of other bottoms (variances that
# are encoded in the target) or fails on (keep_top_k -1, background_label_id -1).
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"code_type": "CORNER"},
        {"share_location": "false"},
        {"background_label_id": 2},
        {"confidence_threshold": -1},
        {"keep_top_k": 5},
        {"nms_param": "{ nms_threshold: 0.6 top_k: 4 }"},
        {"nms_param": "{ nms_threshold: 0.2 }"},
    ],
    ids=lambda changed: " ".join(f"{key}-{value}" for key, value in changed.items()) or "plain",
)
def test_opencv_agrees_on_what_is_found(changed):
    """In another order, and with rows of 0 up to `keep_top_k` for each image."""
    given = {**DEFAULTS, **changed}
    parameters = " ".join(
        f"{key} {value}" if key == "nms_param" else f"{key}: {value}"
        for key, value in given.items()
    )
    shared = given["share_location"] == "true"
    found, expected = both(detection.found("opencv", parameters, shared=shared))
    found, expected = (rows[0, 0][np.lexsort(rows[0, 0].T)] for rows in (found, expected))
    found = found[found[:, 2] != 0]
    assert len(expected) > 5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
