"""YOLO's detections and maps by hand.

The rules are those of yolo_detection_output_layer.cpp and yolov3_detection_output_layer.cpp in
eric612/MobileNet-YOLO; detection_output_layer.cpp and util/bbox_util.hpp in gklz1982/caffe-yolov2;
region_layer.cpp in caffe_yolo_v2.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, run, values

# What the logistic function makes 0.8 of.
LN4 = math.log(4)
NOTHING = -60.0


def map_of(shape, boxes):
    """A map (N, boxes * 7, H, W) of two classes: (image, box, row, column) -> 7 values."""
    images, count, height, width = shape
    made = np.zeros((images, count, 7, height, width), np.float32)
    made[:, :, 4] = NOTHING
    for (image, box, row, column), given in boxes.items():
        made[image, box, :, row, column] = given
    return made.reshape(images, count * 7, height, width)


def found(type_, maps, dialect="yolo", **param):
    """Rows (M, 7) of boxes of two classes."""
    if "classes" not in param:
        param = {"num_classes": 2, **param}
    shapes = [map_.shape for map_ in maps]
    made, weights, tops = infer(type_, param, shapes, dialect=dialect)
    assert (weights, tops) == ([], [(1, 1, 1, 7)])
    assert made.batch_axes(shapes, [0] * len(maps), tops) == [None]
    assert made.varying(shapes, [None] * len(maps), tops) == [2]
    before = [map_.copy() for map_ in maps]
    (top,) = made.forward(maps, [], 1)
    for index, map_ in enumerate(maps):
        np.testing.assert_array_equal(map_, before[index])
    assert top.dtype == np.float32
    assert top.shape[:2] == (1, 1)
    return top[0, 0]


def second(*maps, **param):
    return found("YoloDetectionOutput", maps, **{"num_box": 1, "biases": [0.4, 0.2], **param})


def test_one_box():
    """Middle 0.5, sides e^0 times the bias; 0.8 times 3 / (3 + 1), of the first class."""
    one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [0, 0, 0, 0, LN4, math.log(3), 0]})
    close(second(one), [[0, 1, 0.6, 0.3, 0.4, 0.7, 0.6]])


def test_where_a_box_stands():
    """Row 1, column 2 of 4 cells: (2 + 0.5) / 4, (1 + 0.8) / 4; sides e^ln2 * 0.4 / 4, 0.2 / 4."""
    given = [0, LN4, math.log(2), 0, LN4, 0, math.log(3)]
    one = map_of((1, 1, 4, 4), {(0, 0, 1, 2): given})
    close(second(one), [[0, 2, 0.6, 0.525, 0.425, 0.725, 0.475]])


def test_each_box_of_a_cell_has_its_biases():
    """0.8 / 2 and 0.6 / 2 wide, 0.1 and 0.2 high."""
    given = [0, 0, 0, 0, LN4, 0, 0]
    one = map_of((1, 2, 2, 2), {(0, 0, 0, 0): given, (0, 1, 1, 1): given})
    rows = second(one, num_box=2, biases=[0.8, 0.2, 0.6, 0.4])
    close(rows[:, 3:], [[0.05, 0.2, 0.45, 0.3], [0.6, 0.65, 0.9, 0.85]])


def test_of_equal_classes_the_first_is_taken():
    one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [0, 0, 0, 0, LN4, 3, 3]})
    close(second(one)[:, :3], [[0, 1, 0.4]])


@pytest.mark.parametrize("threshold, label", [(0.25, 1), (0.2500001, -1)])
def test_a_score_may_be_just_the_threshold(threshold, label):
    """0.5 * 0.5; where there is none, a row of -1."""
    one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [0] * 7})
    assert second(one, confidence_threshold=threshold)[0, 1] == label


def test_the_least_score_is_0_01_by_default():
    """0.02 / (1 + 0.02) / 2 is just below 0.0099, 0.03 / 1.03 / 2 above 0.0145."""
    for odds, label in ((0.02, -1), (0.03, 1)):
        one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [0, 0, 0, 0, math.log(odds), 0, 0]})
        assert second(one)[0, 1] == label


@pytest.mark.parametrize("threshold, left", [(0.5, 1), (0.51, 2)])
def test_an_overlap_of_just_the_threshold_is_too_much(threshold, left):
    """Sides 0.5 and 0.25 by 0.5 around one middle: 0.125 / 0.25; whatever the class."""
    one = map_of(
        (1, 2, 1, 1),
        {(0, 0, 0, 0): [0] * 5 + [9, 0], (0, 1, 0, 0): [0, 0, 0, 0, LN4, 0, 9]},
    )
    rows = second(one, num_box=2, biases=[0.5, 0.5, 0.25, 0.5], nms_threshold=threshold)
    assert rows[:, 1].tolist() == [2, 1][:left]


def test_all_images_make_one_list():
    """The same box in the second image, which scores more, drops that of the first; image 0."""
    boxes = {
        (0, 0, 0, 0): [0, 0, 0, 0, 0, 0, 0],
        (1, 0, 0, 0): [0, 0, 0, 0, LN4, 0, 9],
        (1, 0, 1, 1): [0, 0, 0, 0, -1, 9, 0],
    }
    rows = second(map_of((2, 1, 2, 2), boxes))
    assert rows[:, :2].tolist() == [[0, 2], [0, 1]]


def test_two_maps_share_the_biases():
    """0.4 / 2 and 0.4 / 1 wide."""
    given = [0, 0, 0, 0, LN4, 0, 0]
    maps = [map_of((1, 1, 2, 2), {(0, 0, 0, 0): given}), map_of((1, 1, 1, 1), {(0,) * 4: given})]
    rows = second(*maps)
    close(rows[:, 5] - rows[:, 3], [0.2, 0.4])


def test_where_nothing_is_found_each_image_has_a_row():
    close(second(map_of((3, 1, 2, 2), {})), [[image] + [-1] * 6 for image in range(3)])


def test_what_the_fork_does_not_use():
    one = map_of((1, 1, 2, 2), {(0, 0, 1, 0): [0, 0, 0, 0, LN4, 0, 9]})
    rows = second(one, side=13, coords=7, label_map_file="names.prototxt")
    np.testing.assert_array_equal(rows, second(one))


def third(*maps, **param):
    given = {
        "num_box": 1,
        "biases": [16.0, 8.0],
        "mask": [0],
        "mask_group_num": 1,
        "anchors_scale": [32],
    }
    return found("Yolov3DetectionOutput", maps, **{**given, **param})


def test_every_class_that_scores_gives_a_box():
    """0.8 * 0.8 and 0.8 * 0.5, at the same place: with a high threshold both stay.

    Middle 0.5; 16 / (1 * 32) wide, 8 / 32 high.
    """
    one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [0, 0, 0, 0, LN4, 0, LN4]})
    place = [0.25, 0.375, 0.75, 0.625]
    expected = [[0, 2, 0.64, *place], [0, 1, 0.4, *place]]
    close(third(one, nms_threshold=1.1), expected)
    close(third(one), expected[:1])


@pytest.mark.parametrize("threshold, label", [(0.25, -1), (0.2499, 1)])
def test_a_score_has_to_be_above_the_threshold(threshold, label):
    """0.5 * 0.5"""
    one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [0] * 6 + [NOTHING]})
    assert third(one, confidence_threshold=threshold)[0, 1] == label


def test_each_map_has_its_mask_and_scale():
    """Maps of 2 x 4 and 1 x 2 cells of 8 and 16 pixels: the image is 32 wide and 16 high.

    Bottom 0 takes place 1 (4 by 8 pixels), bottom 1 place 0 (8 by 2).
    """
    given = [0, 0, 0, 0, LN4, 0, NOTHING]
    maps = [map_of((1, 1, 2, 4), {(0, 0, 1, 2): given}), map_of((1, 1, 1, 2), {(0,) * 4: given})]
    rows = third(
        *maps,
        biases=[8.0, 2.0, 4.0, 8.0],
        mask=[1, 0],
        mask_group_num=2,
        anchors_scale=[8, 16],
    )
    # Middles 2.5 / 4, 1.5 / 2 and 0.5 / 2, 0.5; sides 4 / 32, 8 / 16 and 8 / 32, 2 / 16.
    expected = [[0.5625, 0.5, 0.6875, 1], [0.125, 0.4375, 0.375, 0.5625]]
    close(rows, [[0, 1, 0.4, *corners] for corners in expected])


def test_boxes_of_a_cell_have_the_next_places_of_the_mask():
    """Places 2 and 0: 12 and 4 pixels of 32."""
    given = [0, 0, 0, 0, LN4, 0, NOTHING]
    one = map_of((1, 2, 1, 1), {(0, 0, 0, 0): given, (0, 1, 0, 0): given})
    rows = third(one, num_box=2, biases=[4.0, 8, 0, 0, 12, 8], mask=[2, 0])
    close(rows[:, 5] - rows[:, 3], [0.375, 0.125])


def unsorted(map_, **param):
    side = map_.shape[2]
    given = {"side": side, "num_box": 1, "biases": [0.4, 0.2]}
    return found("DetectionOutput", [map_], "caffe-yolov2", **{**given, **param})


def test_unsorted_boxes_are_x_y_w_h_of_classes_from_0():
    one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [0, 0, 0, 0, LN4, math.log(3), 0]})
    close(unsorted(one), [[0, 0, 0.6, 0.5, 0.5, 0.4, 0.2]])
    close(unsorted(one, classes=2), unsorted(one))


def test_unsorted_boxes_keep_the_first_not_the_best():
    """Two boxes of one cell; a third, apart, comes before them and scores least."""
    one = map_of(
        (1, 2, 2, 2),
        {
            (0, 0, 0, 0): [0, 0, 0, 0, -1, 9, 0],
            (0, 0, 1, 1): [0, 0, 0, 0, 0, 9, 0],
            (0, 1, 1, 1): [0, 0, 0, 0, LN4, 0, 9],
        },
    )
    rows = unsorted(one, num_box=2, biases=[0.4, 0.2] * 2)
    np.testing.assert_allclose(rows[:, 2], [1 / (1 + math.e), 0.5], rtol=1e-3)


@pytest.mark.parametrize("threshold, left", [(0.6, 1), (1.1, 2)])
def test_unsorted_boxes_are_cut_to_the_image_before_they_are_compared(threshold, left):
    """Widths 2 and 1: 0.5 of each other as they are, the same once they are cut."""
    one = map_of((1, 2, 1, 1), {(0, b, 0, 0): [0, 0, 0, 0, 0, 0, 0] for b in (0, 1)})
    rows = unsorted(one, num_box=2, biases=[2.0, 1, 1, 1], nms_threshold=threshold)
    close(rows[:, 5], [2, 1][:left])


def test_unsorted_boxes_where_nothing_is_found():
    close(unsorted(map_of((1, 1, 2, 2), {}), confidence_threshold=0.5), [[0] + [-1] * 6])


@pytest.mark.parametrize("softmax", [False, True])
def test_region(softmax):
    """Box after box of row after row; the fifth value of each is 0.8, of the classes ln3 and 0."""
    one = map_of(
        (2, 2, 1, 3),
        {
            (image, box, 0, column): [10 * image + box, column, 2, 3, LN4, math.log(3), 0]
            for image in range(2)
            for box in range(2)
            for column in range(3)
        },
    )
    param = dict(classes=2, boxes_of_each_grid=2, softmax=softmax)
    (top,) = run("Region", param, [one], dialect="caffe-yolov2")
    classes = [0.75, 0.25] if softmax else [math.log(3), 0]
    boxes = [
        [10 * image + box, column, 2, 3, 0.8, *classes]
        for image in range(2)
        for column in range(3)
        for box in range(2)
    ]
    close(top, np.array(boxes, np.float32).reshape(2, 14, 1, 3))


def test_region_s_own_numbers_of_boxes_and_classes():
    """5 * (4 + 1 + 20) channels."""
    assert infer("Region", {}, [(2, 125, 3, 4)], dialect="caffe-yolov2")[2] == [(2, 125, 3, 4)]
    with pytest.raises(MalformedModel, match="125 channels expected"):
        infer("Region", {}, [(2, 120, 3, 4)], dialect="caffe-yolov2")
    with pytest.raises(UnsupportedModel, match="coords is 5"):
        infer("Region", dict(coords=5), [(2, 130, 3, 4)], dialect="caffe-yolov2")


V2 = dict(num_classes=2, num_box=1, biases=[1.0, 1.0])
V3 = dict(**V2, mask=[0], mask_group_num=1, anchors_scale=[8])


@pytest.mark.parametrize(
    "type_, param, shapes, message",
    [
        ("YoloDetectionOutput", {**V2, "num_classes": 0}, [(1, 7, 2, 2)], "positive num_classes"),
        ("YoloDetectionOutput", {**V2, "num_box": 2}, [(1, 14, 2, 2)], "biases should hold"),
        ("YoloDetectionOutput", V2, [(1, 6, 2, 2)], "at least 7 channels"),
        ("YoloDetectionOutput", V2, [(1, 7, 2, 2), (2, 7, 2, 2)], "the 1 images of the first"),
        ("Yolov3DetectionOutput", {**V3, "mask": [1]}, [(1, 7, 2, 2)], "biases should hold"),
        ("Yolov3DetectionOutput", {**V3, "mask": []}, [(1, 7, 2, 2)], "1 places in mask"),
        ("Yolov3DetectionOutput", {**V3, "anchors_scale": []}, [(1, 7, 2, 2)], "anchors_scale"),
        ("Yolov3DetectionOutput", V3, [(1, 7, 2, 2)] * 2, "1 bottoms"),
        ("Yolov3DetectionOutput", V3, [(1, 6, 2, 2)], "at least 7 channels"),
    ],
)
def test_what_the_fork_refuses(type_, param, shapes, message):
    with pytest.raises(MalformedModel, match=message):
        infer(type_, param, shapes, dialect="yolo")


@pytest.mark.parametrize(
    "type_, dialect, param, shape, message",
    [
        ("YoloDetectionOutput", "yolo", V2, (1, 7, 2, 3), "as high as wide"),
        (
            "YoloDetectionOutput",
            "yolo",
            {**V2, "num_box": 2, "biases": [1.0] * 4},
            (1, 15, 2, 2),
            "as many channels for each of 2 boxes",
        ),
        ("Yolov3DetectionOutput", "yolo", {**V3, "gaussian_box": True}, (1, 7, 2, 2), "never sets"),
        ("DetectionOutput", "caffe-yolov2", V2, (1, 7, 2, 2), "side is 13 and the map 2 x 2"),
    ],
)
def test_what_is_not_supported(type_, dialect, param, shape, message):
    with pytest.raises(UnsupportedModel, match=message):
        infer(type_, param, [shape], dialect=dialect)


def test_unsorted_boxes_are_of_one_image():
    with pytest.raises(MalformedModel, match="one image expected"):
        infer("DetectionOutput", {**V2, "side": 2}, [(2, 7, 2, 2)], dialect="caffe-yolov2")
    with pytest.raises(MalformedModel, match="both given"):
        infer("DetectionOutput", {**V2, "classes": 2}, [(1, 7, 2, 2)], dialect="caffe-yolov2")


def test_values_are_rounded_as_the_fork_rounds_them():
    """The logistic function of float32 -0.7: exp is float32, the rest is double precision."""
    one = map_of((1, 1, 1, 1), {(0, 0, 0, 0): [-0.7, 0, 0, 0, 0, 0, 0]})
    raised = np.float32(math.exp(np.float32(0.7)))
    middle = np.float32(1 / (1 + float(raised)))
    rows = second(one, biases=[0.0, 0.0])
    assert rows[0, 3] == middle
    close(values((1,), middle), [0.3318122])
