"""OpenCV's DNN module as a second reader of the regions' layers and of Proposal."""

from __future__ import annotations

import numpy as np
import pytest

from tests import nets
from tests.meanings import infer

cv2 = pytest.importorskip("cv2")

RNG = np.random.default_rng(6)
IMAGES = RNG.standard_normal((2, 12, 9, 13)).astype(np.float32)
BOXES = np.array(
    [[0, 3, 2, 40, 30], [1, 9, 5, 23, 34], [0, 17, 9, 51, 20], [1, 8, 8, 8, 8]], np.float32
)


def opencv(layer, outputs, **bottoms):
    text = "\n".join((nets.inputs(**{k: v.shape for k, v in bottoms.items()}), layer))
    network = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    for name, value in bottoms.items():
        network.setInput(value, name)
    return network.forward(outputs)


def ours(type_, param, dialect, *bottoms, tops=1):
    made, _, _ = infer(type_, param, [bottom.shape for bottom in bottoms], tops, dialect)
    return made.forward(bottoms, [], tops)


@pytest.mark.parametrize("height, width, scale", [(3, 2, 0.25), (1, 1, 0.2), (5, 7, 0.125)])
def test_roi_pooling(height, width, scale):
    param = dict(pooled_h=height, pooled_w=width, spatial_scale=scale)
    text = " ".join(f"{name}: {value}" for name, value in param.items())
    layer = nets.layer("ROIPooling", "images boxes", "out", f"roi_pooling_param {{ {text} }}")
    (top,) = ours("ROIPooling", param, "faster-rcnn", IMAGES, BOXES)
    (want,) = opencv(layer, ["out"], images=IMAGES, boxes=BOXES)
    np.testing.assert_array_equal(top, want)


@pytest.mark.parametrize("group, outputs, scale", [(2, 3, 0.25), (1, 12, 0.125), (2, 3, 0.3)])
def test_psroi_pooling(group, outputs, scale):
    param = dict(group_size=group, output_dim=outputs, spatial_scale=scale)
    text = " ".join(f"{name}: {value}" for name, value in param.items())
    layer = nets.layer("PSROIPooling", "images boxes", "out", f"psroi_pooling_param {{ {text} }}")
    (top,) = ours("PSROIPooling", param, "r-fcn", IMAGES, BOXES)
    (want,) = opencv(layer, ["out"], images=IMAGES, boxes=BOXES)
    np.testing.assert_allclose(top, want, rtol=1e-5, atol=1e-6)


def proposal_of_opencv(param, scores, deltas, info):
    """OpenCV has no min_size, drops what scores 0, and fills up with zeros."""
    text = " ".join(
        f"{name}: {item}"
        for name, value in param.items()
        for item in (value if isinstance(value, list) else [value])
    )
    layer = nets.layer("Proposal", "scores deltas info", "rois", f"proposal_param {{ {text} }}")
    (rois,) = opencv(layer, ["rois"], scores=scores, deltas=deltas, info=info)
    return rois


def random_bottoms(anchors, info, places=(4, 7)):
    """Scores that all differ, deltas and im_info."""
    number = 2 * anchors * places[0] * places[1]
    scores = (1 + RNG.permutation(number).astype(np.float32)) / number
    deltas = RNG.uniform(-0.5, 0.5, (1, 4 * anchors, *places)).astype(np.float32)
    return scores.reshape(1, 2 * anchors, *places), deltas, np.array([info], np.float32)


def same_rois(rois, want):
    # OpenCV computes in parts of the image's size.
    assert 20 <= len(rois) <= len(want)
    np.testing.assert_allclose(rois, want[: len(rois)], atol=1e-4)
    assert not want[len(rois) :].any()


@pytest.mark.parametrize(
    "change, info",
    [
        ({}, (64, 112, 1)),
        (dict(feat_stride=8, base_size=10), (32, 56, 1)),
        (dict(nms_thresh=0.4, pre_nms_topn=50, post_nms_topn=20), (64, 112, 1)),
    ],
    ids=["default", "stride-and-base", "limits"],
)
def test_proposal(change, info):
    param = dict(ratio=[0.5, 2], scale=[1, 2, 3], min_size=1, **change)
    scores, deltas, info = random_bottoms(6, info)
    four = np.concatenate([info, info[:, 2:]], axis=1)
    (rois,) = ours("Proposal", param, "pvanet", scores, deltas, four)
    same_rois(rois, proposal_of_opencv(param, scores, deltas, info))


def test_python_proposal_layer():
    """OpenCV's defaults are py-faster-rcnn's, but for the size of the least box: 16 * 0.05."""
    scores, deltas, info = random_bottoms(9, (320, 480, 0.05), (20, 30))
    dialect = "rpn.proposal_layer.ProposalLayer"
    param = dict(param_str="'feat_stride': 16")
    (rois,) = ours("Python", param, dialect, scores, deltas, info)
    named = dict(ratio=[0.5, 1, 2], scale=[8, 16, 32])
    same_rois(rois, proposal_of_opencv(named, scores, deltas, info))
