"""YOLO's detections and maps: each parameter once at a value that is not its default."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form

ANCHORS = (0.8, 1.1, 2.4, 1.9)
PIXELS = (10, 14, 23, 27, 37, 58, 81, 82)


def numbers(name, values):
    return " ".join(f"{name}: {value}" for value in values)


def maps(*shapes, levels=0):
    """Values of maps of these shapes; `levels` is how many values there are in a unit."""
    rng = np.random.default_rng(12)
    values = [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]
    if levels:
        values = [np.round(value * levels) / np.float32(levels) for value in values]
    return dict(zip("ab", values, strict=False))


def detector(id_, type_, message, parameters, values):
    layer = nets.layer(type_, " ".join(values), "out", f"{message} {{ {parameters} }}")
    shapes = {name: value.shape for name, value in values.items()}
    return Form(f"{type_}-{id_}", (layer,), shapes, values)


def second(id_, parameters, *shapes, **options):
    """YOLO v2: two boxes, three classes."""
    text = f"num_classes: 3 num_box: 2 {numbers('biases', ANCHORS)} {parameters}"
    values = maps(*(shapes or [(2, 16, 5, 5)]), **options)
    return detector(id_, "YoloDetectionOutput", "yolo_detection_output_param", text, values)


def third(id_, parameters, *shapes, **options):
    """YOLO v3: two boxes, three classes."""
    text = f"num_classes: 3 num_box: 2 {numbers('biases', PIXELS)} {parameters}"
    values = maps(*shapes, **options)
    return detector(id_, "Yolov3DetectionOutput", "yolov3_detection_output_param", text, values)


def unsorted(id_, parameters, shape=(1, 16, 5, 5), **options):
    """YOLO v2 of caffe-yolov2: two boxes, three classes, 5 x 5 cells."""
    text = f"side: 5 num_box: 2 {numbers('biases', ANCHORS)} {parameters}"
    return detector(
        f"unsorted-{id_}", "DetectionOutput", "detection_output_param", text, maps(shape, **options)
    )


def region(id_, parameters):
    text = f"classes: 3 boxes_of_each_grid: 2 {parameters}"
    return detector(id_, "Region", "region_param", text, maps((2, 16, 5, 7)))


ONE = f"mask_group_num: 1 {numbers('mask', (2, 0))} anchors_scale: 16"
TWO = f"{numbers('mask', (2, 3, 0, 1))} {numbers('anchors_scale', (32, 16))}"

FORMS = [
    second("default", ""),
    second("confidence", "confidence_threshold: 0.3"),
    second("nms", "nms_threshold: 0.2"),
    second("more-channels", "", (2, 20, 5, 5)),
    second("two-maps", "confidence_threshold: 0.2", (2, 16, 3, 3), (2, 16, 5, 5)),
    second("ties", "nms_threshold: 0.3", levels=1),
    second("nothing", "confidence_threshold: 1"),
    third("one-map", ONE, (2, 16, 5, 7)),
    third("two-maps", TWO, (2, 16, 3, 4), (2, 17, 6, 8)),
    third("confidence", f"{ONE} confidence_threshold: 0.4", (2, 16, 5, 7)),
    third("nms", f"{ONE} nms_threshold: 0.1", (2, 16, 5, 7)),
    third("ties", ONE, (2, 16, 5, 7), levels=1),
    third("nothing", f"{ONE} confidence_threshold: 1", (2, 16, 5, 7)),
    unsorted("default", "num_classes: 3"),
    unsorted("classes", "classes: 3 confidence_threshold: 0.2 nms_threshold: 0.2"),
    unsorted("nothing", "num_classes: 3 confidence_threshold: 1"),
    region("default", ""),
    region("softmax", "softmax: true"),
]

SAVED = [
    second("saved", "confidence_threshold: 0.1 nms_threshold: 0.4", (2, 16, 3, 3), (2, 16, 5, 5)),
    third("saved", TWO + " confidence_threshold: 0.1", (2, 16, 3, 4), (2, 16, 6, 8)),
    unsorted("saved", "num_classes: 3 confidence_threshold: 0.1"),
    region("saved", "softmax: true"),
]
