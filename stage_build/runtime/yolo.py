"""What YOLO found (MobileNet-YOLO), and its maps (caffe-yolov2)."""

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered
from stage_build.runtime.detection import Detector, even_exp, jaccard, without_overlaps

# Of a box: x, y, w, h, whether it holds something; then its classes.
FIXED = 5


class YoloCalls(Calls):
    def yolo_detection_output(
        self, maps, *, num_classes, anchors, name, confidence_threshold=0.01, nms_threshold=0.45
    ):
        """The boxes of YOLO v2's maps: rows of 0, label, score, left, top, right, bottom.

        `anchors` are width and height, in cells, of each box of a cell.
        """
        layer = YoloDetectionOutput(
            num_classes, anchors, confidence_threshold, nms_threshold, name=name
        )
        return self.add(layer, maps)

    def unsorted_detection_output(
        self, x, *, num_classes, anchors, name, confidence_threshold=0.01, nms_threshold=0.45
    ):
        """The boxes of a YOLO v2 map as caffe-yolov2 has them: rows of 0, label, score, x, y, w, h.

        Of boxes that overlap, the first in the map is left, not the best.
        """
        layer = UnsortedDetectionOutput(
            num_classes, anchors, confidence_threshold, nms_threshold, name=name
        )
        return self.add(layer, x)

    def yolov3_detection_output(
        self,
        maps,
        *,
        num_classes,
        anchors,
        scales,
        name,
        confidence_threshold=0.01,
        nms_threshold=0.45,
    ):
        """The boxes of YOLO v3's maps: rows of 0, label, score, left, top, right, bottom.

        For each map, `anchors` are width and height of each box of a cell, and `scales` is the side
        of a cell, in pixels.
        """
        layer = Yolov3DetectionOutput(
            num_classes, anchors, scales, confidence_threshold, nms_threshold, name=name
        )
        return self.add(layer, maps)

    def region(self, x, *, classes, name, softmax=False):
        """A YOLO v2 map with its scores made probabilities, in memory box after box."""
        return self.add(Region(classes, softmax, name=name), x)


class YoloDetector(Detector):
    """One list of boxes for all maps and all images, whose number is always 0."""

    def call(self, maps):
        maps = maps if isinstance(maps, (list, tuple)) else [maps]
        found = [self.found(x, place) for place, x in enumerate(maps)]
        found = [tf.concat(parts, 0) for parts in zip(*found, strict=True)]
        order = tf.argsort(found[-1], direction="DESCENDING", stable=True)
        found = [tf.gather(part, order) for part in found]
        boxes, labels, scores = self.thinned(found, found[0], box_iou)
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        first = tf.stack([tf.zeros_like(scores), tf.cast(labels + 1, scores.dtype), scores], 1)
        rows = tf.concat([first, middle - half, middle + half], 1)
        return self.listed(rows, tf.shape(maps[0])[0])

    def thinned(self, found, boxes, overlaps):
        """What is left of boxes, labels and scores after suppression by `overlaps` of `boxes`."""
        everyone = tf.ones([1, tf.shape(boxes)[0]], "bool")
        threshold = self.settings["nms_threshold"]
        kept = without_overlaps(boxes[None], everyone, overlaps, tf.less, threshold)[0]
        return [tf.boolean_mask(part, kept) for part in found]

    def found(self, x, place):
        """The boxes (M, 4) of x, y, w, h of one map that count, their labels and their scores."""
        raise NotImplementedError


def cells_of(x, boxes, values):
    """A map as (N, H, W, boxes, values or more)."""
    height, width, channels = x.shape[1:]
    return tf.reshape(x[..., : values * boxes], [-1, height, width, boxes, values])


def region_boxes(cells, anchors, unit):
    """x, y, w, h of each box of `cells`; `unit` is the image's width and height in the anchors'."""
    _, height, width, _, _ = cells.shape
    column = tf.range(width, dtype=cells.dtype)[:, None]
    row = tf.range(height, dtype=cells.dtype)[:, None, None]
    anchors = tf.constant(anchors, cells.dtype)
    return tf.stack(
        [
            (column + logistic(cells[..., 0])) / width,
            (row + logistic(cells[..., 1])) / height,
            even_exp(cells[..., 2]) * anchors[:, 0] / unit[0],
            even_exp(cells[..., 3]) * anchors[:, 1] / unit[1],
        ],
        -1,
    )


def logistic(x):
    """1 / (1 + exp(-x)), in double precision but for the exponential, as the forks have it."""
    return tf.cast(1 / (1 + tf.cast(even_exp(-x), "float64")), x.dtype)


def summed_softmax(x):
    """Over the last axis, summed from the first class to the last."""
    raised = even_exp(x - tf.reduce_max(x, -1, keepdims=True))
    return raised / tf.cumsum(raised, -1)[..., -1:]


def box_iou(first, second):
    """Intersection over union of boxes of x, y, w, h.

    -1 where it is not a number: to the fork's comparison such boxes do not overlap.
    """
    one, other = (
        (box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2)
        for box in (first, second)
    )
    sides = tf.minimum(one[1], other[1]) - tf.maximum(one[0], other[0])
    both = tf.where(tf.reduce_any(sides < 0, -1), 0.0, sides[..., 0] * sides[..., 1])
    share = both / (first[..., 2] * first[..., 3] + second[..., 2] * second[..., 3] - both)
    return tf.where(tf.math.is_nan(share), -1.0, share)


@registered
class YoloDetectionOutput(YoloDetector):
    """Boxes of YOLO v2's maps (MobileNet-YOLO's yolo_detection_output_layer.cpp)."""

    def __init__(self, num_classes, anchors, confidence_threshold, nms_threshold, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "num_classes": num_classes,
            "anchors": anchors,
            "confidence_threshold": confidence_threshold,
            "nms_threshold": nms_threshold,
        }

    def found(self, x, place):
        anchors, classes = self.settings["anchors"], self.settings["num_classes"]
        cells = cells_of(x, len(anchors), x.shape[3] // len(anchors))
        boxes = region_boxes(cells, anchors, (x.shape[2], x.shape[1]))
        likely = summed_softmax(cells[..., FIXED : FIXED + classes])
        best = tf.reduce_max(likely, -1)
        # The first of equal ones, which argmax does not promise.
        label = tf.reduce_min(tf.where(likely == best[..., None], tf.range(classes), classes), -1)
        score = logistic(cells[..., 4]) * best
        counted = score >= self.settings["confidence_threshold"]
        return tuple(tf.boolean_mask(part, counted) for part in (boxes, label, score))


@registered
class UnsortedDetectionOutput(YoloDetectionOutput):
    """Boxes of a YOLO v2 map of one image (caffe-yolov2's detection_output_layer.cpp)."""

    def call(self, x):
        found = self.found(x, 0)
        middle, half = found[0][:, :2], found[0][:, 2:] / 2
        inside = tf.concat([tf.maximum(middle - half, 0), tf.minimum(middle + half, 1)], 1)
        boxes, labels, scores = self.thinned(found, inside, jaccard)
        first = tf.stack([tf.zeros_like(scores), tf.cast(labels, scores.dtype), scores], 1)
        return self.listed(tf.concat([first, boxes], 1), 1)


@registered
class Yolov3DetectionOutput(YoloDetector):
    """Boxes of YOLO v3's maps (MobileNet-YOLO's yolov3_detection_output_layer.cpp)."""

    def __init__(self, num_classes, anchors, scales, confidence_threshold, nms_threshold, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "num_classes": num_classes,
            "anchors": anchors,
            "scales": scales,
            "confidence_threshold": confidence_threshold,
            "nms_threshold": nms_threshold,
        }

    def found(self, x, place):
        anchors, scale = self.settings["anchors"][place], self.settings["scales"][place]
        cells = cells_of(x, len(anchors), FIXED + self.settings["num_classes"])
        boxes = region_boxes(cells, anchors, (x.shape[2] * scale, x.shape[1] * scale))
        score = logistic(cells[..., FIXED:]) * logistic(cells[..., 4:5])
        places = tf.where(score > self.settings["confidence_threshold"])
        label = tf.cast(places[:, -1], "int32")
        return tf.gather_nd(boxes, places[:, :-1]), label, tf.gather_nd(score, places)


@registered
class Region(CaffeLayer):
    """A YOLO v2 map, box after box in Caffe's memory (caffe_yolo_v2's region_layer.cpp)."""

    def __init__(self, classes, softmax, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"classes": classes, "softmax": softmax}

    def call(self, x):
        values = FIXED + self.settings["classes"]
        _, height, width, channels = x.shape
        boxes = tf.reshape(x, [-1, height * width * channels // values, values])
        place, score, classes = tf.split(boxes, [4, 1, self.settings["classes"]], -1)
        if self.settings["softmax"]:
            classes = summed_softmax(classes)
        boxes = tf.concat([place, logistic(score), classes], -1)
        return tf.transpose(tf.reshape(boxes, [-1, channels, height, width]), [0, 2, 3, 1])
