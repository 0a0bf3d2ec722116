"""What YOLO's detectors found, and their maps (MobileNet-YOLO, caffe-yolov2)."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import need_axes
from schemas.layers.boxes import (
    COLUMNS,
    Detections,
    best_first,
    detections,
    jaccard,
    without_overlaps,
)
from schemas.layers.registry import Meaning, layer

# Of a box: x, y, w, h, whether it holds something; then its classes.
FIXED = 5


class YoloDetections(Detections):
    """One list of boxes for all bottoms and all images, whose number is always 0.

    Boxes are sorted by falling score (those of one score keep their order, which C++'s sort leaves
    open), and one whose share of a better one is `nms_threshold` or more is dropped, whatever
    their classes and images. A row's box may reach past the image.
    """

    num_classes: Optional[int]
    num_box: int
    confidence_threshold: float
    nms_threshold: float

    bottom_count: Tuple[int, Optional[int]] = (1, None)

    def check(self) -> None:
        if not self.count() or self.num_box < 1:
            raise MalformedModel(
                f"positive num_classes and num_box expected, found {self.count()} and "
                f"{self.num_box}"
            )

    def count(self) -> int:
        """How many classes there are."""
        return self.num_classes or 0

    def anchors(self, bottom: int) -> np.ndarray:
        """Width and height of each box of a cell: (num_box, 2)."""
        raise NotImplementedError

    def cells(self, map_: np.ndarray) -> np.ndarray:
        """A bottom as (N, H, W, num_box, 5 + num_classes)."""
        values = FIXED + self.count()
        by_cell = map_.transpose(0, 2, 3, 1)
        step = self.stride(map_.shape[1])
        return by_cell[..., : step * self.num_box].reshape(
            by_cell.shape[:3] + (self.num_box, step)
        )[..., :values]

    def stride(self, channels: int) -> int:
        """How many channels lie between two boxes of a cell."""
        return FIXED + self.count()

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        for place, shape in enumerate(bottoms):
            need_axes(shape, 4)
            needed = self.stride(shape[1]) * self.num_box
            if shape[0] != bottoms[0][0] or shape[1] < needed:
                raise MalformedModel(
                    f"bottom {place} should have the {bottoms[0][0]} images of the first and at "
                    f"least {needed} channels for {self.num_box} boxes of {self.count()} "
                    f"classes, found {list(shape)}"
                )
        return [(1, 1, 1, COLUMNS)]

    def kept(
        self, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, images: int
    ) -> List[np.ndarray]:
        """The top, from boxes (M, 4) of x, y, w, h, their labels and scores."""
        order = best_first(scores, len(scores))
        boxes, labels, scores = boxes[order], labels[order], scores[order]
        everyone = np.ones((1, len(boxes)), bool)
        (left,) = without_overlaps(boxes[None], everyone, box_iou, np.less, self.nms_threshold)
        middle, half = boxes[left, :2], boxes[left, 2:] / 2
        first = np.stack([np.zeros(left.sum()), labels[left] + 1, scores[left]], axis=1)
        return [detections(np.concatenate([first, middle - half, middle + half], axis=1), images)]


def exponential(x: np.ndarray) -> np.ndarray:
    """exp(x), rounded once."""
    return np.exp(x, dtype=np.float64).astype(np.float32)


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), in double precision but for the exponential, as the forks have it."""
    return (1 / (1 + exponential(-x).astype(np.float64))).astype(np.float32)


def region_boxes(cells: np.ndarray, anchors: np.ndarray, unit: Tuple[int, int]) -> np.ndarray:
    """x, y, w, h of each box of `cells` (N, H, W, boxes, ...), as fractions of the image.

    Args:
        anchors: (boxes, 2), width and height.
        unit: width and height of the image in what the anchors are measured in.
    """
    height, width = (np.float32(size) for size in cells.shape[1:3])
    column = np.arange(width, dtype=np.float32)[:, None]
    row = np.arange(height, dtype=np.float32)[:, None, None]
    return np.stack(
        [
            (column + logistic(cells[..., 0])) / width,
            (row + logistic(cells[..., 1])) / height,
            exponential(cells[..., 2]) * anchors[:, 0] / np.float32(unit[0]),
            exponential(cells[..., 3]) * anchors[:, 1] / np.float32(unit[1]),
        ],
        axis=-1,
    )


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) of x, y, w, h, broadcast.

    -1 where it is not a number: to the fork's comparison such boxes do not overlap.
    """
    middles, halves = (first[..., :2], second[..., :2]), (first[..., 2:] / 2, second[..., 2:] / 2)
    sides = np.minimum(middles[0] + halves[0], middles[1] + halves[1]) - np.maximum(
        middles[0] - halves[0], middles[1] - halves[1]
    )
    both = np.where((sides < 0).any(axis=-1), np.float32(0), sides[..., 0] * sides[..., 1])
    with np.errstate(all="ignore"):
        share = both / (first[..., 2] * first[..., 3] + second[..., 2] * second[..., 3] - both)
    return np.where(np.isnan(share), np.float32(-1), share)


def _pairs(biases: Sequence[float], places: Sequence[int]) -> np.ndarray:
    """Width and height that `biases` hold at each of the places."""
    if 2 * places[-1] + 1 >= len(biases) or 2 * max(places) + 1 >= len(biases):
        raise MalformedModel(
            f"biases should hold a width and a height for each box, found {len(biases)} numbers"
        )
    return np.array(biases, np.float32)[[[2 * place, 2 * place + 1] for place in places]]


@layer(
    "YoloDetectionOutput",
    message="yolo_detection_output_param",
    dialect="yolo",
    harmless={
        "side": "the fork takes the width of the map instead",
        "coords": "the fork reads it and does not use it",
        "label_map_file": "names for labels, which the top does not have",
    },
)
class YoloDetectionOutput(YoloDetections):
    """Boxes of YOLO v2's maps (MobileNet-YOLO's yolo_detection_output_layer.cpp).

    Each box has the likeliest of its softmaxed classes, and scores that times whether it holds
    something; it counts from `confidence_threshold` on. `biases` are width and height of each box
    in cells. Maps are square.
    """

    num_classes: Optional[int] = None
    num_box: int = 5
    confidence_threshold: float = 0.01
    nms_threshold: float = 0.45
    biases: Tuple[float, ...] = ()

    bottom_count = (1, 2)

    def check(self) -> None:
        super().check()
        self.anchors(0)

    def anchors(self, bottom: int) -> np.ndarray:
        return _pairs(self.biases, range(self.num_box))

    def stride(self, channels: int) -> int:
        return max(channels // self.num_box, FIXED + self.count())

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        top = super().shapes(bottoms, tops)
        for shape in bottoms:
            if shape[2] != shape[3] or shape[1] % self.num_box:
                raise UnsupportedModel(
                    f"a map should be as high as wide and have as many channels for each of "
                    f"{self.num_box} boxes, found {list(shape)}: the fork misreads any other"
                )
        return top

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        boxes, labels, scores = [], [], []
        for place, map_ in enumerate(bottoms):
            cells = self.cells(map_)
            size = (map_.shape[3], map_.shape[2])
            boxes.append(region_boxes(cells, self.anchors(place), size).reshape(-1, 4))
            classes = _softmax(cells[..., FIXED:])
            labels.append(classes.argmax(axis=-1).reshape(-1))
            scores.append((logistic(cells[..., 4]) * classes.max(axis=-1)).reshape(-1))
        score = np.concatenate(scores)
        counted = score >= np.float32(self.confidence_threshold)
        return self.kept(
            np.concatenate(boxes)[counted],
            np.concatenate(labels)[counted],
            score[counted],
            len(bottoms[0]),
        )


def _softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, summed in the fork's order."""
    raised = exponential(x - x.max(axis=-1, keepdims=True))
    return raised / np.add.accumulate(raised, axis=-1)[..., -1:]


@layer("Yolov3DetectionOutput", message="yolov3_detection_output_param", dialect="yolo")
class Yolov3DetectionOutput(YoloDetections):
    """Boxes of YOLO v3's maps (MobileNet-YOLO's yolov3_detection_output_layer.cpp).

    Every class of a box that scores more than `confidence_threshold`, times whether the box holds
    something, gives a box of its own. Bottom t has the next of `mask_group_num` equal parts of
    `mask`, which are places in `biases` (width and height in pixels); its cells are
    `anchors_scale` [t] pixels wide.
    """

    num_classes: Optional[int] = None
    num_box: int = 3
    confidence_threshold: float = 0.01
    nms_threshold: float = 0.45
    biases: Tuple[float, ...] = ()
    anchors_scale: Tuple[int, ...] = ()
    mask_group_num: int = 2
    mask: Tuple[int, ...] = ()
    gaussian_box: bool = False

    def check(self) -> None:
        super().check()
        if self.gaussian_box:
            raise UnsupportedModel(
                "gaussian_box: the fork's CPU code never sets the score it multiplies by"
            )
        for bottom in range(self.mask_group_num):
            self.anchors(bottom)

    def anchors(self, bottom: int) -> np.ndarray:
        start = bottom * (len(self.mask) // self.mask_group_num)
        places = self.mask[start : start + self.num_box]
        if len(places) < self.num_box or bottom >= len(self.anchors_scale):
            raise MalformedModel(
                f"bottom {bottom} should have {self.num_box} places in mask from {start} on and an "
                f"anchors_scale, found {len(self.mask)} and {len(self.anchors_scale)}"
            )
        return _pairs(self.biases, places)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        if len(bottoms) != self.mask_group_num:
            raise MalformedModel(
                f"{self.mask_group_num} bottoms (mask_group_num) expected, found {len(bottoms)}"
            )
        return super().shapes(bottoms, tops)

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        boxes, labels, scores = [], [], []
        for place, map_ in enumerate(bottoms):
            cells = self.cells(map_)
            scale = self.anchors_scale[place]
            size = (map_.shape[3] * scale, map_.shape[2] * scale)
            placed = region_boxes(cells, self.anchors(place), size)
            score = logistic(cells[..., FIXED:]) * logistic(cells[..., 4:5])
            counted = np.nonzero(score > np.float32(self.confidence_threshold))
            boxes.append(placed[counted[:-1]])
            labels.append(counted[-1])
            scores.append(score[counted])
        return self.kept(
            np.concatenate(boxes), np.concatenate(labels), np.concatenate(scores), len(bottoms[0])
        )


@layer(
    "DetectionOutput",
    message="detection_output_param",
    dialect="caffe-yolov2",
    harmless={
        "coords": "the fork reads it and does not use it",
        "label_map_file": "names for labels, which the top does not have",
    },
)
class DetectionOutput(YoloDetectionOutput):
    """Boxes of a YOLO v2 map of one image (caffe-yolov2's detection_output_layer.cpp).

    As YoloDetectionOutput, but boxes are not sorted: of two that overlap, once they are cut to the
    image, the one that comes first in the map is left. Labels count from 0, and a row holds x, y,
    w, h, not cut. `classes` is caffe_yolo_v2's name for `num_classes`.
    """

    side: int = 13
    classes: Optional[int] = None

    bottom_count = (1, 1)

    def check(self) -> None:
        if self.num_classes and self.classes:
            raise MalformedModel("num_classes and classes are both given")
        super().check()

    def count(self) -> int:
        return self.num_classes or self.classes or 0

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        top = super().shapes(bottoms, tops)
        images, _, height, width = bottoms[0]
        if images != 1:
            raise MalformedModel(f"one image expected, found {images}")
        if (height, width) != (self.side, self.side):
            raise UnsupportedModel(
                f"side is {self.side} and the map {height} x {width}: the fork misreads it then"
            )
        return top

    def kept(
        self, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, images: int
    ) -> List[np.ndarray]:
        everyone = np.ones((1, len(boxes)), bool)
        corners = _cut(boxes)[None]
        (left,) = without_overlaps(corners, everyone, jaccard, np.less, self.nms_threshold)
        first = np.stack([np.zeros(left.sum()), labels[left], scores[left]], axis=1)
        return [detections(np.concatenate([first, boxes[left]], axis=1), images)]


def _cut(boxes: np.ndarray) -> np.ndarray:
    """Corners of boxes of x, y, w, h, as far as they lie in the image."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half, 1)
    return np.concatenate([low, high], axis=-1)


@layer(
    "Region",
    message="region_param",
    dialect="caffe-yolov2",
    harmless={"anchors": "the fork declares it and does not read it"},
)
class Region(Meaning):
    """A YOLO v2 map rearranged, box by box (caffe_yolo_v2's region_layer.cpp).

    The values go from N, C, H, W to N, H, W, C order, while the top's shape stays that of the
    bottom; of each box the fifth value goes through the logistic function and, where `softmax`, the
    classes through a softmax. That is what the fork's code and its files mean: the code as
    published forgets to read `softmax`.
    """

    classes: int = 20
    coords: int = 4
    boxes_of_each_grid: int = 5
    softmax: bool = False

    def check(self) -> None:
        if self.coords != 4:
            raise UnsupportedModel(
                f"coords is {self.coords}; the fork takes the fifth value of a box for its score"
            )

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        channels = self.boxes_of_each_grid * (FIXED + self.classes)
        if bottoms[0][1] != channels:
            raise MalformedModel(
                f"{channels} channels expected for {self.boxes_of_each_grid} boxes of "
                f"{self.classes} classes, found {bottoms[0][1]}"
            )
        return [tuple(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        shape = bottoms[0].shape
        boxes = bottoms[0].transpose(0, 2, 3, 1).reshape(shape[0], -1, FIXED + self.classes)
        boxes = boxes.copy()
        boxes[..., 4] = logistic(boxes[..., 4])
        if self.softmax and self.classes:
            boxes[..., FIXED:] = _softmax(boxes[..., FIXED:])
        return [boxes.reshape(shape)]
