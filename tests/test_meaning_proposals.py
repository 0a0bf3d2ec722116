"""Region proposals, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.layers.proposals import Limits, thinned, yaml_numbers
from tests.meanings import close, infer

PYTHON = "rpn.proposal_layer.ProposalLayer"
ONE = "'feat_stride': 16\n'scales': [1]\n'ratios': [1]"


def found(type_, param, dialect, scores, info, deltas=None, tops=2):
    """The tops for one anchor on a map of one row."""
    scores = np.array([[[[-1] * len(scores)], [list(scores)]]], np.float32)
    moved = np.zeros((1, 4, 1, scores.shape[3]), np.float32)
    for place, values in (deltas or {}).items():
        moved[0, :, 0, place] = values
    bottoms = [scores, moved, np.array([info], np.float32)]
    made, _, shapes = infer(type_, param, [b.shape for b in bottoms], tops, dialect)
    results = made.forward(bottoms, [], tops)
    assert all(top.dtype == np.float32 for top in results)
    assert [top.shape[1:] for top in results] == [shape[1:] for shape in shapes]
    return results


def proposal(scores, info=(16, 64, 1, 1), deltas=None, tops=2, **param):
    param = dict(dict(ratio=[1], scale=[1]), **param)
    return found("Proposal", param, "pvanet", scores, info, deltas, tops)


def layer(scores, info=(16, 64, 1), deltas=None, tops=2, text=ONE):
    return found("Python", dict(param_str=text), PYTHON, scores, info, deltas, tops)


# ---- What the layers share -----------------------------------------------------------------------

BOTH = pytest.mark.parametrize("run", [proposal, layer], ids=["pvanet", "py-faster-rcnn"])


@BOTH
def test_boxes_come_best_first(run):
    """The anchors are (0, 0) to (15, 15), 16 apart. Unmoved, their middle is 8 and 8 on each side
    makes them 0 to 16, clipped to 15 in y. The first value, the image, is always 0."""
    rois, scores = run((0.2, 0.9, 0.5), *((16, 64, 1, 1)[: 4 if run is proposal else 3],))
    close(rois, [[0, 16, 0, 32, 15], [0, 32, 0, 48, 15], [0, 0, 0, 16, 15]])
    close(scores.reshape(-1), [0.9, 0.5, 0.2])
    assert scores.shape == ((3,) if run is proposal else (3, 1))


@BOTH
def test_boxes_are_moved_and_clipped(run):
    """dx 0.25 of 16 moves the middle from 8 to 12, dy -0.125 from 8 to 6; ln 2 makes it 32 wide and
    ln 0.5 8 high: 12 -/+ 16 and 6 -/+ 4, clipped to [0, 63] and [0, 15]. -4 becomes 0."""
    info = (16, 64, 0.25, 0.25) if run is proposal else (16, 64, 0.25)
    rois, _ = run((1,), info, {0: (0.25, -0.125, np.log(2), np.log(0.5))})
    close(rois, [[0, 0, 2, 28, 10]])
    info = (8, 20) + info[2:]
    rois, _ = run((1,), info, {0: (0.25, -0.125, np.log(2), np.log(0.5))})
    close(rois, [[0, 0, 2, 19, 7]])


@BOTH
def test_one_top_is_the_boxes_alone(run):
    (rois,) = run((0.5,), tops=1)
    close(rois, [[0, 0, 0, 16, 15]])


def test_boxes_that_overlap_a_better_one_are_thinned():
    """Squares of 16: 2 apart they share 14 of 18 columns, 0.78; 4 apart 12 of 20, 0.6; 6 apart 10
    of 22, 0.45. Over 0.7 the second is dropped, which alone overlaps the third so much."""
    boxes = np.array([[x, 0, x + 15, 15] for x in (0, 2, 6, 40)], np.float32)
    np.testing.assert_array_equal(thinned(boxes, Limits(9, 9, 0.7)), [0, 2, 3])
    np.testing.assert_array_equal(thinned(boxes, Limits(9, 9, 0.5)), [0, 2, 3])
    np.testing.assert_array_equal(thinned(boxes, Limits(9, 9, 0.4)), [0, 3])
    np.testing.assert_array_equal(thinned(boxes, Limits(9, 9, 0.8)), [0, 1, 2, 3])
    np.testing.assert_array_equal(thinned(boxes, Limits(3, 9, 0.7)), [0, 2])
    np.testing.assert_array_equal(thinned(boxes, Limits(9, 2, 0.7)), [0, 2])
    assert thinned(boxes[:0], Limits(9, 9, 0.7)).size == 0


def test_an_overlap_that_equals_the_threshold_is_allowed():
    """2 of 4 pixels, 0.5."""
    boxes = np.array([[0, 0, 3, 0], [0, 0, 1, 0]], np.float32)
    np.testing.assert_array_equal(thinned(boxes, Limits(9, 9, 0.5)), [0, 1])


# ---- PVANet's ------------------------------------------------------------------------------------


def test_pvanet_anchors():
    """proposal_layer.cpp, base 10: ratio 0.5 is int(sqrt(200) + 0.5) = 14 by int(7 + 0.5) = 7,
    ratio 2 int(sqrt(50) + 0.5) = 7 by 14; the middle is 4.5, half a side (14 * scale - 1) / 2."""
    param = dict(base_size=10, ratio=[0.5, 2], scale=[1, 2])
    shapes = [(1, 8, 3, 5), (1, 16, 3, 5), (1, 4)]
    made, _, tops = infer("Proposal", param, shapes, 2, "pvanet")
    close(made.anchors()[0], [4.5 - 6.5, 4.5 - 3, 4.5 + 6.5, 4.5 + 3])
    close(made.anchors()[1], [4.5 - 13.5, 4.5 - 6.5, 4.5 + 13.5, 4.5 + 6.5])
    close(made.anchors()[2], [4.5 - 3, 4.5 - 6.5, 4.5 + 3, 4.5 + 6.5])
    assert tops == [(300, 5), (300,)]


def test_pvanet_rounds_a_half_up():
    """Base 5: ratio 1.5 is int(sqrt(25 / 1.5) + 0.5) = 4 by 6; ratio 0.5 is 7 by 3.5, made 4."""
    made, _, _ = infer(
        "Proposal",
        dict(base_size=5, ratio=[1.5, 0.5], scale=[1]),
        [(1, 4, 3, 5), (1, 8, 3, 5), (1, 4)],
        dialect="pvanet",
    )
    sides = made.anchors()[:, 2:] - made.anchors()[:, :2] + 1
    close(sides, [[4, 6], [7, 4]])


def test_pvanet_small_boxes_score_0():
    """The least height is 4 * 3 = 12, the least width 4 * 2 = 8, ends counted. Place 1 is clipped
    to 16 to 22, 7 wide. Places 2 and 3 are moved to x 0 to 16; their heights are 10.5 + 1 and
    11.5 + 1, the middle of 3 is 8 + 2.25 * 16 = 44."""
    rois, scores = proposal(
        (0.3, 0.9, 0.8, 0.7),
        (64, 23, 3, 2),
        {2: (-2, 1, 0, np.log(10.5 / 16)), 3: (-3, 2.25, 0, np.log(11.5 / 16))},
        min_size=4,
        nms_thresh=0.9,
    )
    close(scores, [0.7, 0.3, 0, 0])
    close(rois[0], [0, 0, 38.25, 16, 49.75])
    close(rois[2:, 1], [16, 0])


def test_pvanet_parameters():
    """feat_stride 8 and base_size 8: 9 pixels wide, 8 apart, none under 8. The best 3 are
    candidates, of which 2 are kept."""
    rois, scores = proposal(
        (0.1, 0.4, 0.3, 0.2),
        feat_stride=8,
        base_size=8,
        min_size=8,
        pre_nms_topn=3,
        post_nms_topn=2,
    )
    close(rois, [[0, 8, 0, 16, 8], [0, 16, 0, 24, 8]])
    close(scores, [0.4, 0.3])


def test_pvanet_overlaps():
    """feat_stride 4: 17 wide, 13 of 21 columns shared: 0.619."""
    rois, _ = proposal((0.4, 0.3, 0.2, 0.1), feat_stride=4, nms_thresh=0.5)
    close(rois[:, 1], [0, 8])
    rois, _ = proposal((0.4, 0.3, 0.2, 0.1), feat_stride=4, nms_thresh=0.62)
    close(rois[:, 1], [0, 4, 8, 12])


def test_pvanet_equal_scores_keep_their_order():
    rois, _ = proposal((0.5, 0.5, 0.7, 0.5))
    close(rois[:, 1], [32, 0, 16, 48])


# ---- py-faster-rcnn's ----------------------------------------------------------------------------


def test_python_anchors():
    """generate_anchors.py with its defaults, as listed in its own head (less 1, counted from 0)."""
    shapes = [(1, 18, 3, 5), (1, 36, 3, 5), (1, 3)]
    param = dict(param_str="'feat_stride': 16", module="rpn.proposal_layer", layer="ProposalLayer")
    made, _, tops = infer("Python", param, shapes, 2, PYTHON)
    close(
        made.anchors(),
        [
            [-84, -40, 99, 55],
            [-176, -88, 191, 103],
            [-360, -184, 375, 199],
            [-56, -56, 71, 71],
            [-120, -120, 135, 135],
            [-248, -248, 263, 263],
            [-36, -80, 51, 95],
            [-80, -168, 95, 183],
            [-168, -344, 183, 359],
        ],
    )
    assert tops == [(1, 5), (1, 1)]
    assert made.limits() == Limits(6000, 300, 0.7)


def test_python_settings():
    """'scales' and 'ratios' in place of the defaults; NumPy rounds 12.5 to 12."""
    text = "{'feat_stride': 8, 'scales': !!python/tuple [4, 8], \"ratios\": [0.5]}"
    shapes = [(1, 4, 3, 5), (1, 8, 3, 5), (1, 3)]
    made, _, _ = infer("Python", dict(param_str=text), shapes, 1, PYTHON)
    close(made.anchors(), [[7.5 - 45.5, 7.5 - 23.5, 7.5 + 45.5, 7.5 + 23.5], [-84, -40, 99, 55]])
    assert made.stride() == 8


def test_python_small_boxes_are_dropped():
    """Under 16 * 0.75 = 12: place 1 is clipped to 16 to 26, 11 wide; to 27 it is 12."""
    rois, _ = layer((0.2, 0.9), (16, 27, 0.75))
    close(rois, [[0, 0, 0, 16, 15]])
    rois, _ = layer((0.2, 0.9), (16, 28, 0.75))
    close(rois, [[0, 16, 0, 27, 15], [0, 0, 0, 16, 15]])
    rois, scores = layer((0.2, 0.9), (16, 64, 2))
    assert rois.shape == (0, 5) and scores.shape == (0, 1)


def test_python_of_equal_scores_the_last_is_the_best():
    rois, _ = layer((0.5, 0.5, 0.7, 0.5))
    close(rois[:, 1], [32, 48, 16, 0])


def test_python_limits():
    """7000 boxes of rising scores, 16 apart, none overlapping: the last 300, best first."""
    scores = np.arange(7000) / 7000
    rois, values = layer(scores, (16, 200000, 1))
    assert len(rois) == 300
    close(rois[:, 1], 16 * np.arange(6999, 6699, -1))
    close(values[:, 0], scores[:6699:-1])


def test_python_thins_at_07():
    """4 apart 13 / 21 = 0.619 is allowed, 2 apart 15 / 19 = 0.789 is not."""
    text = "'feat_stride': {}\n'scales': [1]\n'ratios': [1]"
    assert len(layer((0.4, 0.3), text=text.format(4))[0]) == 2
    assert len(layer((0.4, 0.3), text=text.format(2))[0]) == 1


def test_only_the_6000_best_are_thinned():
    """All boxes lie on one another but the last, which is the 6001st: it is never looked at."""
    scores = np.linspace(1, 0.1, 6001)
    text = "'feat_stride': 0\n'scales': [1]\n'ratios': [1]"
    rois, _ = layer(scores, deltas={6000: (2, 0, 0, 0)}, text=text)
    close(rois, [[0, 0, 0, 16, 15]])
    rois, _ = layer(scores[:6000], deltas={5999: (2, 0, 0, 0)}, text=text)
    close(rois, [[0, 0, 0, 16, 15], [0, 32, 0, 48, 15]])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", {}),
        ("{}", {}),
        ("'feat_stride': 16", {"feat_stride": [16]}),
        ('{"feat_stride": 16}', {"feat_stride": [16]}),
        (" feat_stride : 16 ", {"feat_stride": [16]}),
        (
            "'feat_stride': 16 \n'scales': !!python/tuple [4, 8.5, 1e1]",
            {"feat_stride": [16], "scales": [4, 8.5, 10]},
        ),
        (
            "{scales: [8,16 , 32,], feat_stride: -.5}",
            {"scales": [8, 16, 32], "feat_stride": [-0.5]},
        ),
    ],
)
def test_param_str(text, expected):
    assert yaml_numbers(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "'feat_stride': __import__('os')",
        "!!python/object/apply:os.system ['ls']",
        "'feat_stride': 16 'scales': [8]",
        "'scales':\n- 8\n- 16",
        "'scales': []",
        "16",
        "'feat_stride': [16",
        "'use': true",
        "a: 1, " * 3 + "b",
        "'scales': [" + "1, " * 10000 + "x]",
    ],
)
def test_a_param_str_that_is_not_understood(text):
    with pytest.raises(UnsupportedModel, match="param_str is not understood from"):
        yaml_numbers(text)


SHAPES = [(1, 2, 3, 5), (1, 4, 3, 5), (1, 4)]
LAYERS = {
    "Proposal": (dict(ratio=[1], scale=[1]), "pvanet"),
    "Python": (dict(param_str=ONE), PYTHON),
}


@pytest.mark.parametrize("type_", LAYERS)
def test_the_rows_vary(type_):
    param, dialect = LAYERS[type_]
    made, _, tops = infer(type_, param, SHAPES, 2, dialect)
    assert made.batch_axes(SHAPES, [0, 0, 0], tops) == [None, None]
    assert made.varying(SHAPES, [None, None, None], tops) == [0, 0]
    with pytest.raises(UnsupportedModel, match="depends on the data"):
        made.varying(SHAPES, [None, 0, None], tops)


@pytest.mark.parametrize("type_", LAYERS)
@pytest.mark.parametrize(
    "shape, expected",
    [
        ((1, 4), [[48, 80, 1, 1]]),
        ((1, 6), [[48, 80, 1, 1, 1, 1]]),
        ((4, 1, 1), [[[48]], [[80]], [[1]], [[1]]]),
    ],
    ids=str,
)
def test_the_example_of_im_info_is_the_image_of_the_map(type_, shape, expected):
    """3 by 5 places, 16 pixels apart, at a scale of 1."""
    param, dialect = LAYERS[type_]
    made, _, _ = infer(type_, param, [*SHAPES[:2], shape], 2, dialect)
    examples = made.examples([*SHAPES[:2], shape])
    assert list(examples) == [2]
    assert examples[2].dtype == np.float32
    np.testing.assert_array_equal(examples[2], expected)


@pytest.mark.parametrize("type_", LAYERS)
@pytest.mark.parametrize(
    "shapes, message",
    [
        ([(2, 2, 3, 5), (2, 4, 3, 5), (1, 4)], "only a batch of 1 is possible, found 2"),
        ([(1, 4, 3, 5), (1, 4, 3, 5), (1, 4)], "1 anchors need bottoms of shapes"),
        ([(1, 2, 3, 5), (1, 4, 3, 6), (1, 4)], "1 anchors need bottoms of shapes"),
        ([(1, 2, 3), (1, 4, 3, 5), (1, 4)], "should have 4 axes"),
        ([(1, 2, 3, 5), (1, 4, 3, 5), (1, 2)], "im_info should have . values"),
    ],
)
def test_shapes_that_are_malformed(type_, shapes, message):
    param, dialect = LAYERS[type_]
    with pytest.raises(MalformedModel, match=message):
        infer(type_, param, shapes, 1, dialect)


@pytest.mark.parametrize(
    "param, message",
    [
        (dict(scale=[1]), "ratio and scale should be given"),
        (dict(ratio=[1]), "ratio and scale should be given"),
        (dict(ratio=[0], scale=[1]), "should be positive"),
        (dict(ratio=[1], scale=[1], pre_nms_topn=0), "should be positive"),
        (dict(ratio=[1], scale=[1], post_nms_topn=0), "should be positive"),
        (dict(ratio=[float("nan")], scale=[1]), "no finite anchors"),
        (dict(ratio=[1], scale=[3e38]), "no finite anchors"),
    ],
)
def test_pvanet_parameters_that_are_malformed(param, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Proposal", param, SHAPES, 1, "pvanet")


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("'scales': [8]", MalformedModel, "whole number 'feat_stride'"),
        ("'feat_stride': 1.5", MalformedModel, "whole number 'feat_stride'"),
        ("'feat_stride': [16, 8]", MalformedModel, "whole number 'feat_stride'"),
        ("'feat_stride': 16\n'scales': [0]", MalformedModel, "'scales' .* positive"),
        ("'feat_stride': 16\n'ratios': [-1]", MalformedModel, "'ratios' .* positive"),
        ("'feat_stride': 16\n'top': 3", UnsupportedModel, "'top', which is not understood"),
        ("'feat_stride': 1e999", MalformedModel, "whole number 'feat_stride'"),
        ("'feat_stride': 1e300", MalformedModel, "whole number 'feat_stride'"),
        ("'feat_stride': 16\n'scales': [1e300]", MalformedModel, "no finite anchors"),
        ("'feat_stride': 16\n'ratios': [1e-999]", MalformedModel, "'ratios' .* positive"),
    ],
)
def test_python_settings_that_are_refused(text, error, message):
    with pytest.raises(error, match=message):
        infer("Python", dict(param_str=text), SHAPES, 1, PYTHON)
