"""Detections of SSD and RefineDet: each parameter once at another value than its default."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form

IMAGES, BOXES, CLASSES = 2, 24, 3


def bottoms(shared=True, levels=0):
    """Locations, scores and boxes to start from; `levels` is how many scores there are."""
    rng = np.random.default_rng(11)
    first = rng.uniform(0, 0.6, (BOXES, 2))
    corners = np.concatenate([first, first + rng.uniform(0.2, 0.5, (BOXES, 2))], 1)
    variances = rng.uniform(0.1, 0.4, (BOXES, 4))
    locations = rng.normal(0, 0.4, (IMAGES, BOXES * 4 * (1 if shared else CLASSES)))
    scores = rng.uniform(0, 1, (IMAGES, BOXES * CLASSES))
    if levels:
        scores = np.ceil(scores * levels) / levels
    prior = np.stack([corners, variances]).reshape(1, 2, -1)
    return {
        "loc": locations.astype(np.float32),
        "conf": scores.astype(np.float32),
        "prior": prior.astype(np.float32),
    }


def found(id_, parameters="", reshaped=None, read="loc conf prior", **options):
    values = bottoms(**options)
    for name, shape in (reshaped or {}).items():
        values[name] = values[name].reshape(shape)
    text = f"detection_output_param {{ num_classes: {CLASSES} {parameters} }}"
    layer = nets.layer("DetectionOutput", read, "out", text)
    shapes = {name: value.shape for name, value in values.items()}
    return Form(f"DetectionOutput-{id_}", (layer,), shapes, values)


def refined(id_, parameters="", arms=("arm_conf", "arm_loc")):
    """RefineDet: boxes that were judged, and perhaps moved, before."""
    rng = np.random.default_rng(13)
    values = {
        **bottoms(),
        "arm_conf": rng.uniform(0, 1, (IMAGES, BOXES * 2)).astype(np.float32),
        "arm_loc": rng.normal(0, 0.4, (IMAGES, BOXES * 4)).astype(np.float32),
    }
    values = {name: values[name] for name in ("loc", "conf", "prior", *arms)}
    text = f"detection_output_param {{ num_classes: {CLASSES} {parameters} }}"
    layer = nets.layer("DetectionOutput", " ".join(values), "out", text)
    shapes = {name: value.shape for name, value in values.items()}
    return Form(f"DetectionOutput-{id_}", (layer,), shapes, values)


CODES = [
    found(
        f"{code}{'-encoded' if encoded else ''}".lower().replace("_", "-"),
        f"code_type: {code} variance_encoded_in_target: {str(encoded).lower()} "
        "confidence_threshold: 0.4",
    )
    for code in ("CORNER", "CENTER_SIZE", "CORNER_SIZE")
    for encoded in (False, True)
]

SUPPRESSION = "nms_param { nms_threshold: 0.2 } confidence_threshold: 0.2"

FORMS = [
    *CODES,
    found("default"),
    found("own-locations", f"share_location: false {SUPPRESSION}", shared=False),
    found("background", f"background_label_id: 2 {SUPPRESSION}"),
    found("no-background", f"background_label_id: -1 {SUPPRESSION}"),
    found("nms-0", "nms_param { nms_threshold: 0 }"),
    found("top-k", "nms_param { top_k: 4 nms_threshold: 0.6 }"),
    found("top-k-0", "nms_param { top_k: 0 }"),
    found("top-k-over", "nms_param { top_k: 99 }"),
    found("eta", "nms_param { nms_threshold: 0.9 eta: 0.8 }"),
    found("keep-top-k", "keep_top_k: 5"),
    found("keep-top-k-0", "keep_top_k: 0"),
    found("keep-top-k-over", "keep_top_k: 99"),
    found("keep-top-k-ties", "keep_top_k: 5", levels=3),
    found("top-k-ties", "nms_param { top_k: 5 nms_threshold: 0.6 }", levels=3),
    found("nothing", "confidence_threshold: 1"),
    # A fourth bottom is drawn on.
    found("drawn", "visualize: true", read="loc conf prior conf"),
    found(
        "rank-4",
        "code_type: CENTER_SIZE",
        reshaped={
            "loc": (IMAGES, BOXES * 4, 1, 1),
            "conf": (IMAGES, BOXES * CLASSES, 1, 1),
            "prior": (1, 2, BOXES * 4, 1),
        },
    ),
    refined("judged", "objectness_score: 0.5", arms=("arm_conf",)),
    refined("moved", "code_type: CENTER_SIZE"),
    refined("moved-background", "background_label_id: 2 objectness_score: 0.4 keep_top_k: 20"),
]

SAVED = [
    found(
        "saved",
        "share_location: false code_type: CENTER_SIZE background_label_id: 1 keep_top_k: 9 "
        "confidence_threshold: 0.1 nms_param { nms_threshold: 0.8 top_k: 20 eta: 0.9 }",
        shared=False,
    ),
    refined("refined-saved", "code_type: CENTER_SIZE confidence_threshold: 0.1"),
]

# Whether a box holds something is only compared.
MOVED = [("DetectionOutput", 3)]
