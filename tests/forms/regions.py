"""Regions of interest."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form

IMAGES = (2, 12, 8, 11)
# image, x1, y1, x2, y2: whole, small, a pixel, reversed, half outside, beside, of no image.
BOXES = np.array(
    [
        [0, 0, 0, 43, 31],
        [1, 7.5, 3, 21, 18],
        [1, 8, 8, 8, 8],
        [0, 30, 20, 10, 5],
        [1, -20, 10, 30, 60],
        [0, 90, 90, 120, 99],
        [7, 2, 5, 40, 26],
    ],
    np.float32,
)


def regions(id_, type_, parameters, boxes=BOXES):
    text = nets.layer(type_, "images boxes", "out", parameters)
    inputs = dict(images=IMAGES, boxes=boxes.shape)
    return Form(f"{type_}-{id_}", (text,), inputs, {"boxes": boxes})


def pooled(parameters, name="roi_pooling_param"):
    return f"{name} {{ spatial_scale: 0.25 {parameters} }}"


FORMS = [
    regions("grid", "ROIPooling", pooled("pooled_h: 3 pooled_w: 5")),
    regions("one-cell", "ROIPooling", pooled("pooled_h: 1 pooled_w: 1")),
    regions("four-axes", "ROIPooling", pooled("pooled_h: 2 pooled_w: 3"),
            BOXES.reshape(-1, 5, 1, 1)),
    regions("cubic", "ROIAlign", pooled("pooled_h: 3 pooled_w: 5")),
    regions("linear", "ROIAlign", pooled("pooled_h: 3 pooled_w: 5 bi_type: 0")),
    regions("pad", "ROIAlign", pooled("pooled_h: 4 pooled_w: 2 pad_ratio: 0.3")),
    regions("group", "PSROIPooling", pooled("output_dim: 3 group_size: 2", "psroi_pooling_param")),
    regions("one-cell", "PSROIPooling",
            pooled("output_dim: 12 group_size: 1", "psroi_pooling_param")),
    regions("group", "PSROIAlign", pooled("output_dim: 3 group_size: 2", "psroi_align_param")),
    regions("samples", "PSROIAlign",
            pooled("output_dim: 3 group_size: 2 sample_num: 5", "psroi_align_param")),
]  # fmt: skip

SAVED = [
    Form(
        "regions",
        tuple(
            nets.layer(type_, "images boxes", type_.lower(), parameters)
            for type_, parameters in (
                ("ROIPooling", pooled("pooled_h: 3 pooled_w: 2")),
                ("ROIAlign", pooled("pooled_h: 3 pooled_w: 2")),
                ("PSROIPooling", pooled("output_dim: 3 group_size: 2", "psroi_pooling_param")),
                ("PSROIAlign", pooled("output_dim: 3 group_size: 2", "psroi_align_param")),
            )
        ),
        dict(images=IMAGES, boxes=BOXES.shape),
        {"boxes": BOXES},
    )
]

# The boxes have no gradient: that of the images is tried in tests/test_runtime_regions.py.
FLAT = ["ROIPooling", "ROIAlign", "PSROIPooling", "PSROIAlign"]
