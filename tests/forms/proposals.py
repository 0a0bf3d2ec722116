"""Region proposals."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form

# Two ratios by three scales.
ANCHORS = "ratio: 0.5 ratio: 2 scale: 1 scale: 2 scale: 3"
SETTINGS = "'feat_stride': 16, 'scales': [1, 2, 3], 'ratios': [0.5, 2]"
SCORES, DELTAS = (1, 12, 4, 7), (1, 24, 4, 7)


def given(info, seed=11):
    rng = np.random.default_rng(seed)
    return {
        # Few values, so that many are equal.
        "scores": (rng.integers(0, 40, SCORES) / 40).astype(np.float32),
        "deltas": rng.uniform(-0.6, 0.6, DELTAS).astype(np.float32),
        "info": np.array([info], np.float32),
    }


def proposals(id_, parameters, info, tops="rois values", type_="Proposal", then=()):
    text = nets.layer(type_, "scores deltas info", tops, parameters, name="found")
    values = given(info)
    inputs = {name: value.shape for name, value in values.items()}
    return Form(f"{type_}-{id_}", (text, *then), inputs, values)


def proposal(id_, parameters, info=(64, 112, 1, 1), **more):
    return proposals(id_, f"proposal_param {{ {ANCHORS} {parameters} }}", info, **more)


def proposal_layer(id_, settings=SETTINGS, info=(64, 112, 1), **more):
    parameters = (
        'python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" '
        f'param_str: "{settings}" }}'
    )
    return proposals(id_, parameters, info, type_="Python", **more)


# What comes after goes by the number of rows that were found.
POOLED = (
    nets.layer(
        "ROIPooling",
        "deltas rois",
        "pool",
        "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.0625 }",
    ),
    nets.layer("InnerProduct", "pool", "fc", "inner_product_param { num_output: 5 }"),
    nets.layer("Softmax", "fc", "prob"),
)

POSITION_SENSITIVE = (
    nets.layer(
        "Convolution", "deltas", "maps", "convolution_param { num_output: 45 kernel_size: 1 }"
    ),
    nets.layer(
        "PSROIPooling",
        "maps rois",
        "psroi",
        "psroi_pooling_param { spatial_scale: 0.0625 output_dim: 5 group_size: 3 }",
    ),
    nets.layer("Pooling", "psroi", "ave", "pooling_param { pool: AVE kernel_size: 3 stride: 3 }"),
    nets.layer("Softmax", "ave", "prob"),
    nets.layer("Reshape", "prob", "cls_prob", "reshape_param { shape { dim: -1 dim: 5 } }"),
)

FORMS = [
    proposal("ties", "min_size: 4"),
    proposal("small", "min_size: 40 nms_thresh: 0.5", (64, 112, 1.1, 0.6)),
    proposal("limits", "pre_nms_topn: 30 post_nms_topn: 9 nms_thresh: 0.3 feat_stride: 8"),
    proposal("one-top", "base_size: 10", tops="rois"),
    proposal_layer("ties"),
    proposal_layer("small", info=(64, 112, 1.7)),
    proposal_layer("nothing-left", info=(64, 112, 9)),
    proposal_layer("one-top", tops="rois"),
    proposal_layer("pooled", then=POOLED),
    proposal_layer("position-sensitive", then=POSITION_SENSITIVE),
    proposal_layer("pooled-nothing", info=(64, 112, 9), then=POOLED),
]

SAVED = [
    proposal("saved", "min_size: 4", then=POOLED),
    proposal_layer("saved", then=POOLED),
]

# Which boxes are found has no gradient.
FLAT = ["Proposal", "ProposalLayer"]
