"""What YOLO's detectors found, and their maps."""

from __future__ import annotations

import numpy as np

from stage_build.lowering.registry import Call, Site, lowering

_UNHELD = {"tflite": "it computes a sigmoid in float64, which TensorFlow Lite does not"}


def _anchors(anchors: np.ndarray) -> list[list[float]]:
    """As the shortest decimals that are the same float32."""
    return [[float(str(side)) for side in pair] for pair in anchors]


@lowering("YoloDetectionOutput", dialect="yolo")
def yolo_detection_output(site: Site) -> Call:
    made = site.meaning
    return Call(
        "yolo_detection_output",
        {
            "num_classes": made.num_classes,
            "anchors": _anchors(made.anchors(0)),
            "confidence_threshold": made.confidence_threshold,
            "nms_threshold": made.nms_threshold,
        },
        unheld=_UNHELD,
    )


@lowering("DetectionOutput", dialect="caffe-yolov2")
def unsorted_detection_output(site: Site) -> Call:
    made = site.meaning
    return Call(
        "unsorted_detection_output",
        {
            "num_classes": made.count(),
            "anchors": _anchors(made.anchors(0)),
            "confidence_threshold": made.confidence_threshold,
            "nms_threshold": made.nms_threshold,
        },
        unheld=_UNHELD,
    )


@lowering("Yolov3DetectionOutput", dialect="yolo")
def yolov3_detection_output(site: Site) -> Call:
    made, bottoms = site.meaning, len(site.bottoms)
    return Call(
        "yolov3_detection_output",
        {
            "num_classes": made.num_classes,
            "anchors": [_anchors(made.anchors(bottom)) for bottom in range(bottoms)],
            "scales": list(made.anchors_scale[:bottoms]),
            "confidence_threshold": made.confidence_threshold,
            "nms_threshold": made.nms_threshold,
        },
        unheld=_UNHELD,
    )


@lowering("Region", dialect="caffe-yolov2")
def region(site: Site) -> Call:
    made = site.meaning
    arguments = {"classes": made.classes, "softmax": made.softmax}
    return Call("region", arguments, unheld=_UNHELD)
