"""What a detector found (DetectionOutput of SSD and RefineDet)."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import count
from schemas.layers.boxes import (
    COLUMNS,
    Detections,
    best_first,
    detections,
    jaccard,
    without_overlaps,
)
from schemas.layers.registry import layer

_SHOWN = "draws the boxes on a screen or into a film; the top stays as it is"
_SAVED = "writes the boxes to files as well; the top stays as it is"


@layer(
    "DetectionOutput",
    message="detection_output_param",
    dialect="ssd",
    harmless={
        "save_output_param": _SAVED,
        "visualize": _SHOWN,
        "visualize_threshold": _SHOWN,
        "save_file": _SHOWN,
    },
)
class DetectionOutput(Detections):
    """The boxes that are left of every image and class (SSD's detection_output_layer.cpp).

    Bottoms: locations (N, boxes * 4), of each class where not `share_location`; scores
    (N, boxes * num_classes); boxes to start from (1, 2, boxes * 4), see PriorBox; perhaps the
    image, for drawing alone. `code_type` says how a location moves its box.

    Of each image and class but ``background_label_id`` (-1: of every class, as SSD's GPU code has
    it), the boxes that score above `confidence_threshold` are sorted, cut to ``nms_param.top_k``
    and thinned to those that overlap no better one by more than ``nms_param.nms_threshold``; of
    each image the `keep_top_k` best are kept. Rows stand by image, class and falling score. Boxes
    of one score keep their order: what C++ leaves open for `keep_top_k` is decided so.
    """

    num_classes: Optional[int] = None
    share_location: bool = True
    background_label_id: int = 0
    nms_param: Optional[Mapping[str, Any]] = None
    code_type: str = "CORNER"
    keep_top_k: int = -1
    variance_encoded_in_target: bool = False
    confidence_threshold: Optional[float] = None

    choices = {"code_type": ("CORNER", "CENTER_SIZE", "CORNER_SIZE")}
    bottom_count = (3, 4)

    def check(self) -> None:
        if not self.num_classes:
            raise MalformedModel("num_classes should be given")
        if not self.nms("nms_threshold") >= 0:
            raise MalformedModel(
                f"nms_threshold should not be negative, found {self.nms('nms_threshold')}"
            )
        if not 0 < self.nms("eta") <= 1:
            raise MalformedModel(f"eta should be above 0 and at most 1, found {self.nms('eta')}")

    def nms(self, name: str) -> Any:
        """A field of nms_param, or its default; a `top_k` of -1 is none."""
        return {"nms_threshold": 0.3, "top_k": -1, "eta": 1.0, **(self.nms_param or {})}[name]

    def least(self) -> np.float32:
        """What a score has to be above."""
        given = self.confidence_threshold
        return np.float32(np.finfo(np.float32).min if given is None else given)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        loc, conf, prior = (tuple(shape) for shape in bottoms[:3])
        if len(prior) < 3 or prior[1] != 2 or prior[2] % 4 or count(prior[3:]) != 1:
            raise MalformedModel(f"bottom 2 should have shape 1 2 boxes*4, found {list(prior)}")
        boxes, classes = prior[2] // 4, self.num_classes or 0
        for place, (shape, values) in enumerate(
            ((loc, 4 if self.share_location else 4 * classes), (conf, classes))
        ):
            if shape[1:2] != (boxes * values,) or count(shape[2:]) != 1 or shape[0] != loc[0]:
                raise MalformedModel(
                    f"bottom {place} should have shape {loc[0]} {boxes * values} for the {boxes} "
                    f"boxes of bottom 2, found {list(shape)}"
                )
        return [(1, 1, 1, COLUMNS)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        loc, conf, prior = bottoms[:3]
        images, classes = len(loc), self.num_classes or 0
        prior, variance = prior[0].reshape(2, -1, 1, 4)
        boxes = self.decoded(
            self.start(prior, variance, bottoms[3:]),
            variance,
            loc.reshape(images, len(prior), -1, 4),
        )
        scores = self.scored(conf.reshape(images, len(prior), classes), bottoms[3:])
        boxes, scores = self._sorted(boxes, scores.transpose(0, 2, 1))
        kept = self._kept(boxes, scores)
        image, label, _ = np.nonzero(kept)
        rows = np.concatenate([np.stack([image, label, scores[kept]], axis=1), boxes[kept]], axis=1)
        return [detections(rows, images)]

    def _sorted(self, boxes: np.ndarray, scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """The best of each image and class: boxes (N, classes, `top_k`, 4), and their scores.

        Scores that do not count are -inf.
        """
        counted = scores > self.least()
        if 0 <= self.background_label_id < scores.shape[1]:
            counted[:, self.background_label_id] = False
        scores = np.where(counted, scores, np.float32(-np.inf))
        most = self.nms("top_k")
        order = best_first(scores, most if most >= 0 else scores.shape[2])
        image, label = (place[..., None] for place in np.ogrid[: len(scores), : scores.shape[1]])
        return boxes[image, order, label if boxes.shape[2] > 1 else 0], scores[image, label, order]

    def _kept(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Whether each box is left after suppression, and is one of an image's `keep_top_k`."""
        images, classes, places = scores.shape
        kept = without_overlaps(
            boxes.reshape(images * classes, places, 4),
            scores.reshape(images * classes, places) > -np.inf,
            jaccard,
            np.less_equal,
            self.nms("nms_threshold"),
            self.nms("eta"),
        ).reshape(images, -1)
        if self.keep_top_k >= 0:
            left = np.where(kept, scores.reshape(images, -1), -np.inf)
            kept &= best_first(left, left.shape[1]).argsort(axis=1) < self.keep_top_k
        return kept.reshape(scores.shape)

    def start(
        self, prior: np.ndarray, variance: np.ndarray, others: Sequence[np.ndarray]
    ) -> np.ndarray:
        """The boxes (..., boxes, 1, 4) that locations move, given the bottoms after the third."""
        return prior

    def scored(self, scores: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
        """The scores (N, boxes, classes) that count, given the bottoms after the third."""
        return scores

    def decoded(self, prior: np.ndarray, variance: np.ndarray, loc: np.ndarray) -> np.ndarray:
        """The boxes (..., 4) that locations make of `prior` (DecodeBBox in SSD's bbox_util.cpp)."""
        moved = loc if self.variance_encoded_in_target else variance * loc
        if self.code_type == "CORNER":
            return prior + moved
        first, last = prior[..., :2], prior[..., 2:]
        size = last - first
        if self.code_type == "CORNER_SIZE":
            return prior + moved * np.concatenate([size, size], axis=-1)
        middle = moved[..., :2] * size + (first + last) / 2
        half = np.exp(moved[..., 2:], dtype=np.float64).astype(np.float32) * size / 2
        return np.concatenate([middle - half, middle + half], axis=-1)


@layer(
    "DetectionOutput",
    message="detection_output_param",
    dialect="refinedet",
    harmless={"save_output_param": _SAVED},
)
class RefinedDetectionOutput(DetectionOutput):
    """SSD's, of boxes that were judged and moved before (RefineDet's detection_output_layer.cpp).

    Bottom 3, of shape (N, boxes * 2), says whether a box holds something: where its second value is
    below `objectness_score`, class 0 scores 1 and every other 0. Bottom 4, (N, boxes * 4), moves
    the boxes to start from, as locations do.
    """

    objectness_score: float = 0.01

    bottom_count = (4, 5)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        top = super().shapes(bottoms, tops)
        for place, (shape, values) in enumerate(zip(bottoms[3:], (2, 4)), start=3):
            expected = (bottoms[0][0], bottoms[2][2] // 4 * values)
            if tuple(shape[:2]) != expected or count(shape[2:]) != 1:
                raise MalformedModel(
                    f"bottom {place} should have shape {list(expected)}, found {list(shape)}"
                )
        if len(bottoms) == 5 and not self.share_location:
            raise MalformedModel("share_location should be true where bottom 4 moves the boxes")
        return top

    def start(
        self, prior: np.ndarray, variance: np.ndarray, others: Sequence[np.ndarray]
    ) -> np.ndarray:
        if len(others) == 1:
            return prior
        return self.decoded(prior, variance, others[1].reshape(len(others[1]), -1, 1, 4))

    def scored(self, scores: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
        empty = others[0].reshape(len(scores), -1, 2)[..., 1:] < np.float32(self.objectness_score)
        nothing = (np.arange(scores.shape[2]) == 0).astype(np.float32)
        return np.where(empty, nothing, scores)
