"""DetectionOutput by hand.

The rules are those of detection_output_layer.cpp and util/bbox_util.cpp in weiliu89/caffe, branch
ssd, and in sfzhang15/RefineDet.
"""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from stage_extract.dialects import settle
from tests.meanings import close, infer, values

# Overlap of A and B: 0.4 / 0.6 = 2 / 3; of A and D: 0.25 / 0.5 = 1 / 2; of B and E: 0.4 / 0.6.
A, B, C, D, E = (
    [0.0, 0, 0.5, 1],
    [0.1, 0, 0.6, 1],
    [0.6, 0, 1.0, 1],
    [0.25, 0, 0.5, 1],
    [0.2, 0, 0.7, 1],
)


def start(boxes, variances=None):
    variances = [[0.1, 0.1, 0.2, 0.2]] * len(boxes) if variances is None else variances
    return np.array([boxes, variances], np.float32).reshape(1, 2, -1)


def found(boxes, scores, loc=None, dialect="ssd", others=(), variances=None, **param):
    """Rows (M, 7) of boxes that stay where they start unless `loc` moves them.

    Args:
        scores: images x boxes x classes.
    """
    scores = np.array(scores, np.float32)
    images, count, classes = scores.shape
    loc = np.zeros((images, count * 4)) if loc is None else np.array(loc)
    bottoms = [
        loc.astype(np.float32).reshape(images, -1),
        scores.reshape(images, -1),
        start(boxes, variances),
        *others,
    ]
    made, weights, shapes = infer(
        "DetectionOutput",
        {"num_classes": classes, **param},
        [bottom.shape for bottom in bottoms],
        dialect=dialect,
    )
    assert not weights
    assert shapes == [(1, 1, 1, 7)]
    before = [bottom.copy() for bottom in bottoms]
    (top,) = made.forward(bottoms, [], 1)
    for index, bottom in enumerate(bottoms):
        np.testing.assert_array_equal(bottom, before[index])
    assert top.dtype == np.float32
    assert top.shape[:2] == (1, 1)
    return top[0, 0]


def of_class_1(*scores):
    """Scores of one image and two classes, of which 0 is the background."""
    return [[[0, score] for score in scores]]


@pytest.mark.parametrize(
    "code, encoded, corners",
    [
        # xmin 0.2 + 0.1 * 1, ymin 0.2 + 0.2 * 2, xmax 0.6 + 0.3 * -1, ymax 0.4 + 0.4 * 0.5
        ("CORNER", False, [0.3, 0.6, 0.3, 0.6]),
        ("CORNER", True, [1.2, 2.2, -0.4, 0.9]),
        # times the width 0.4 or the height 0.2: 0.2 + 0.1 * 1 * 0.4, 0.2 + 0.2 * 2 * 0.2, ...
        ("CORNER_SIZE", False, [0.24, 0.28, 0.48, 0.44]),
        ("CORNER_SIZE", True, [0.6, 0.6, 0.2, 0.5]),
        # middle 0.4 + 0.1 * 1 * 0.4, 0.3 + 0.2 * 2 * 0.2; half sides e^-0.3 * 0.2, e^0.2 * 0.1
        (
            "CENTER_SIZE",
            False,
            [0.2918363, 0.2578597, 0.5881636, 0.5021403],
        ),
        # middle 0.4 + 1 * 0.4, 0.3 + 2 * 0.2; half sides e^-1 * 0.2, e^0.5 * 0.1
        (
            "CENTER_SIZE",
            True,
            [0.7264241, 0.5351279, 0.8735759, 0.8648721],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, (str, bool)) else "",
)
def test_code_type(code, encoded, corners):
    rows = found(
        [[0.2, 0.2, 0.6, 0.4]],
        of_class_1(0.9),
        loc=[1, 2, -1, 0.5],
        variances=[[0.1, 0.2, 0.3, 0.4]],
        code_type=code,
        variance_encoded_in_target=encoded,
    )
    close(rows, [[0, 1, 0.9, *corners]])


def test_a_box_that_overlaps_a_better_one_goes():
    """B overlaps A by 2 / 3 > 0.45; C touches B and counts as apart. Corners are as they were."""
    rows = found([C, B, A], of_class_1(0.7, 0.8, 0.9), nms_param={"nms_threshold": 0.45})
    close(rows, [[0, 1, 0.9, *A], [0, 1, 0.7, *C]])


def test_the_threshold_is_0_3_by_default():
    """A and a box of overlap 0.5 * 0.6 / (0.5 + 0.5 - 0.3) = 3 / 7, and of 0.1 / 0.9 = 1 / 9."""
    rows = found([A, [0.2, 0, 0.7, 1], [0.4, 0, 0.9, 1]], of_class_1(0.9, 0.8, 0.7))
    close(rows[:, 2], [0.9, 0.7])


@pytest.mark.parametrize("threshold, left", [(0.5, [0.9, 0.8]), (0.499, [0.9])])
def test_an_overlap_of_just_the_threshold_is_allowed(threshold, left):
    rows = found([A, D], of_class_1(0.9, 0.8), nms_param={"nms_threshold": threshold})
    close(rows[:, 2], left)


def test_boxes_without_area_do_not_overlap():
    """Turned over, or flat: the intersection has no positive side."""
    flat, turned = [0.5, 0, 0.5, 1], [0.5, 0, 0.1, 1]
    rows = found([flat, flat, turned, A], of_class_1(0.9, 0.8, 0.7, 0.6))
    assert len(rows) == 4


@pytest.mark.parametrize(
    "eta, left",
    [
        # 0.9 * 0.8 = 0.72 after A: B (2 / 3) stays. 0.72 * 0.8 = 0.576 after B: E (2 / 3) goes.
        (0.8, [0.9, 0.8]),
        (1.0, [0.9, 0.8, 0.7]),
        # 0.45 after A: B goes; it is not above 0.5 and stays 0.45: E (3 / 7 of A) stays.
        (0.5, [0.9, 0.7]),
    ],
)
def test_eta_lowers_the_threshold_after_each_kept_box(eta, left):
    param = {"nms_threshold": 0.9, "eta": eta}
    close(found([A, B, E], of_class_1(0.9, 0.8, 0.7), nms_param=param)[:, 2], left)


def test_a_score_has_to_be_above_the_threshold():
    rows = found([A, C], of_class_1(0.5, 0.50001), confidence_threshold=0.5)
    close(rows[:, 2], [0.50001])


def test_without_a_threshold_every_score_counts():
    rows = found([A, C], of_class_1(-5, -1e30))
    close(rows[:, 2], [-5, -1e30])


def test_top_k_goes_before_suppression():
    """B is cut off by A, and no other takes its place."""
    param = {"top_k": 2, "nms_threshold": 0.45}
    close(found([A, B, C], of_class_1(0.9, 0.8, 0.7), nms_param=param)[:, 2], [0.9])


def test_equal_scores_keep_their_order():
    rows = found([B, A, C], of_class_1(0.5, 0.5, 0.5), nms_param={"top_k": 2})
    close(rows, [[0, 1, 0.5, *B]])


CLASSES = [
    [[0.9, 0.1, 0.3], [0.8, 0.2, 0.6]],
    [[0.7, 0.5, 0.4], [0.6, 0.05, 0.05]],
]


def test_rows_stand_by_image_class_and_score():
    rows = found([A, C], CLASSES)
    close(
        rows[:, :3],
        [
            [0, 1, 0.2],
            [0, 1, 0.1],
            [0, 2, 0.6],
            [0, 2, 0.3],
            [1, 1, 0.5],
            [1, 1, 0.05],
            [1, 2, 0.4],
            [1, 2, 0.05],
        ],
    )
    close(rows[[0, 2], 3:], [C, C])


def test_keep_top_k_is_of_all_classes_of_an_image():
    """Image 0: 0.6, 0.3, 0.2; image 1: 0.5, 0.4, and of the two 0.05 that of the first class."""
    rows = found([A, C], CLASSES, keep_top_k=3)
    expected = [
        [0, 1, 0.2],
        [0, 2, 0.6],
        [0, 2, 0.3],
        [1, 1, 0.5],
        [1, 1, 0.05],
        [1, 2, 0.4],
    ]
    close(rows[:, :3], expected)


@pytest.mark.parametrize(
    "background, labels", [(0, [1, 2]), (2, [0, 1]), (-1, [0, 1, 2]), (7, [0, 1, 2])]
)
def test_background_label_id(background, labels):
    rows = found([A], [[[0.3, 0.2, 0.1]]], background_label_id=background)
    close(rows[:, 1], labels)


def test_locations_of_each_class():
    """Box 0 of class 1 moves by 0.1 * 1 at xmin, of class 2 by 0.1 * 2 at ymin."""
    loc = [[[[0] * 4, [1, 0, 0, 0], [0, 2, 0, 0]]]]
    rows = found([A], [[[0, 0.5, 0.4]]], loc=loc, share_location=False)
    close(rows, [[0, 1, 0.5, 0.1, 0, 0.5, 1], [0, 2, 0.4, 0, 0.2, 0.5, 1]])


@pytest.mark.parametrize(
    "param",
    [dict(confidence_threshold=0.95), dict(keep_top_k=0), dict(nms_param={"top_k": 0})],
    ids=["no-score", "keep_top_k-0", "top_k-0"],
)
def test_where_nothing_is_found_each_image_has_a_row(param):
    rows = found([A, C], CLASSES, background_label_id=0, **param)
    close(rows, [[0] + [-1] * 6, [1] + [-1] * 6])


def test_an_image_without_boxes_has_no_row_where_another_has():
    rows = found([A, C], CLASSES, confidence_threshold=0.55)
    close(rows[:, :3], [[0, 2, 0.6]])


def test_what_is_written_and_drawn_changes_nothing():
    beside = dict(
        save_output_param={"output_directory": "results"},
        visualize=True,
        visualize_threshold=0.9,
        save_file="film.avi",
    )
    np.testing.assert_array_equal(found([A, C], CLASSES, **beside), found([A, C], CLASSES))


JUDGED = np.array([[0.9, 0.1, 0.2, 0.8]], np.float32)


def test_refined_boxes_that_hold_nothing_score_nothing():
    """The first box's 0.1 < 0.5: its scores become 1, 0; class 0 is not asked for."""
    rows = found(
        [A, C],
        of_class_1(0.9, 0.8),
        dialect="refinedet",
        others=[JUDGED],
        objectness_score=0.5,
        confidence_threshold=0.0,
    )
    close(rows, [[0, 1, 0.8, *C]])
    rows = found([A, C], of_class_1(0.9, 0.8), dialect="refinedet", others=[JUDGED])
    close(rows[:, 2], [0.9, 0.8])


def test_refined_boxes_of_class_0():
    """Where another class is the background, class 0 shows its 1."""
    rows = found(
        [A, C],
        [[[0.3, 0.9], [0.4, 0.8]]],
        dialect="refinedet",
        others=[JUDGED],
        objectness_score=0.5,
        background_label_id=1,
    )
    close(rows, [[0, 0, 1, *A], [0, 0, 0.4, *C]])


def test_refined_boxes_are_moved_twice():
    """CORNER_SIZE, variance 0.1: A starts at 0 + 0.1 * 1 * 0.5 = 0.05, width 0.45; then
    0.05 + 0.1 * 2 * 0.45 = 0.14."""
    rows = found(
        [A],
        of_class_1(0.9),
        loc=[2, 0, 0, 0],
        dialect="refinedet",
        others=[values((1, 2), 0, 1), values((1, 4), 1, 0, 0, 0)],
        code_type="CORNER_SIZE",
    )
    close(rows[0, 3:], [0.14, 0, 0.5, 1])


def test_refined_boxes_with_the_parameters_of_all():
    """Each class has its locations, which hold the variance: box 0 of class 1 moves by 0.05 at
    xmin, of class 2 by 0.25 at ymin. Of 0.5, 0.4, 0.3, 0.2 the best 3 are kept; with top_k 1, the
    best of each class."""
    beside = dict(
        loc=[[[[0] * 4, [0.05, 0, 0, 0], [0, 0.25, 0, 0]], [[0] * 4] * 3]],
        dialect="refinedet",
        others=[values((1, 4), 0, 1, 0, 1)],
        share_location=False,
        variance_encoded_in_target=True,
        keep_top_k=3,
    )
    given = [A, C], [[[0.1, 0.5, 0.4], [0.1, 0.2, 0.3]]]
    first = [[0, 1, 0.5, 0.05, 0, 0.5, 1], [0, 2, 0.4, 0, 0.25, 0.5, 1]]
    close(found(*given, **beside), [*first, [0, 2, 0.3, *C]])
    close(found(*given, nms_param={"top_k": 1}, **beside), first)


SHAPES = [(2, 8), (2, 6), (1, 2, 8)]


@pytest.mark.parametrize(
    "param, shapes, message",
    [
        ({}, SHAPES, "num_classes should be given"),
        (dict(num_classes=3, nms_param={"nms_threshold": -0.1}), SHAPES, "nms_threshold"),
        (dict(num_classes=3, nms_param={"eta": 0.0}), SHAPES, "eta should be above 0"),
        (dict(num_classes=3, nms_param={"eta": 1.1}), SHAPES, "eta should be above 0"),
        (dict(num_classes=2), SHAPES, "bottom 1 should have shape 2 4"),
        (dict(num_classes=3, share_location=False), SHAPES, "bottom 0 should have shape 2 24"),
        (dict(num_classes=3), [(2, 8), (1, 6), (1, 2, 8)], "bottom 1 should have shape 2 6"),
        (dict(num_classes=3), [(2, 8), (2, 6), (1, 8)], "bottom 2 should have shape 1 2"),
        (dict(num_classes=3), SHAPES[:2], "3 to 4 bottoms expected"),
    ],
)
def test_what_caffe_refuses(param, shapes, message):
    with pytest.raises(MalformedModel, match=message):
        infer("DetectionOutput", param, shapes, dialect="ssd")


@pytest.mark.parametrize(
    "more, param, message",
    [
        ([(2, 3)], {}, "bottom 3 should have shape"),
        ([(2, 4), (2, 6)], {}, "bottom 4 should have shape"),
        ([(2, 4), (2, 8)], dict(share_location=False), "share_location should be true"),
    ],
)
def test_what_refinedet_refuses(more, param, message):
    shapes = [(2, 24), *SHAPES[1:]] if param else SHAPES
    with pytest.raises(MalformedModel, match=message):
        infer("DetectionOutput", {"num_classes": 3, **param}, [*shapes, *more], dialect="refinedet")


@pytest.mark.parametrize("field", ["ratio_permute", "tflite_detection", "objectness_score"])
def test_other_forks_fields_are_refused(field):
    with pytest.raises(UnsupportedModel, match=f"{field} is set"):
        infer("DetectionOutput", {"num_classes": 3, field: True}, SHAPES, dialect="ssd")


def test_rows_vary_and_images_mix():
    made, _, tops = infer("DetectionOutput", dict(num_classes=3), SHAPES, dialect="ssd")
    assert made.batch_axes(SHAPES, [0, 0, None], tops) == [None]
    assert made.varying(SHAPES, [None] * 3, tops) == [2]
    with pytest.raises(UnsupportedModel, match="number of rows"):
        made.varying(SHAPES, [0, None, None], tops)


@pytest.mark.parametrize(
    "bottoms, param, dialects",
    [
        ("l c p", dict(num_classes=3, nms_param={"eta": 0.5}), ["ssd"]),
        ("l c p i", dict(num_classes=3, visualize=True), ["ssd"]),
        ("l c p a b", dict(num_classes=3), ["refinedet"]),
        ("l c p a", dict(num_classes=3, objectness_score=0.1), ["refinedet"]),
        # An image to draw on, or whether boxes hold something: nothing tells.
        ("l c p a", dict(num_classes=3), ["refinedet", "ssd"]),
        ("m", dict(num_classes=3, biases=[1.0, 2.0]), ["caffe-yolov2"]),
        ("m", dict(classes=3), ["caffe-yolov2"]),
    ],
)
def test_whose_layer_it_is(bottoms, param, dialects):
    fields = {"detection_output_param": param}
    layer = Layer("out", "DetectionOutput", tuple(bottoms.split()), ("out",), fields)
    settled = settle([layer], (), dict, [])
    if len(dialects) == 1:
        assert [layer.dialect for layer in settled.layers] == dialects
    else:
        assert f"means something else in {', '.join(dialects)}" in settled.ambiguous["out"]
