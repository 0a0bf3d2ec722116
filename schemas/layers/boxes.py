"""Boxes that overlap, and the list of those that were found: what the detectors share."""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence

import numpy as np

from schemas.errors import UnsupportedModel
from schemas.graph import Shape
from schemas.layers.registry import Meaning

# Image, label, score, xmin, ymin, xmax, ymax.
COLUMNS = 7


class Detections(Meaning):
    """A layer whose top lists boxes: shape (1, 1, boxes, 7), as many rows as there are boxes.

    A row is image, label, score, xmin, ymin, xmax, ymax. `shapes` gives one row, as Caffe's Reshape
    does.
    """

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0

    def varying(
        self, bottoms: Sequence[Shape], axes: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        if any(axis is not None for axis in axes):
            raise UnsupportedModel(
                "a bottom's number of rows depends on the data, which this layer cannot go by here"
            )
        return [2]


def detections(rows: np.ndarray, images: int) -> np.ndarray:
    """The top that lists `rows` (M, 7): a row of -1 for each image where there are none at all."""
    if not len(rows):
        rows = np.full((images, COLUMNS), -1, np.float32)
        rows[:, 0] = np.arange(images)
    return rows.astype(np.float32)[None, None]


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) of xmin, ymin, xmax, ymax, broadcast.

    Infinite where it is not a number: to Caffe's comparison such boxes overlap
    (JaccardOverlap in SSD's bbox_util.cpp).
    """
    sides = np.minimum(first, second)[..., 2:] - np.maximum(first, second)[..., :2]
    both = sides[..., 0] * sides[..., 1]
    with np.errstate(all="ignore"):
        share = both / (_area(first) + _area(second) - both)
    share = np.where(np.isnan(share), np.float32(np.inf), share)
    return np.where((sides > 0).all(axis=-1), share, np.float32(0))


def _area(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def best_first(scores: np.ndarray, most: int) -> np.ndarray:
    """Places of the `most` greatest scores along the last axis; equal ones keep their order."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :most]


def without_overlaps(
    boxes: np.ndarray,
    candidates: np.ndarray,
    overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray],
    allowed: Callable[[np.ndarray, np.ndarray], np.ndarray],
    threshold: float,
    eta: float = 1.0,
) -> np.ndarray:
    """Greedy non-maximum suppression of several lists of boxes at once.

    Args:
        boxes: (lists, boxes, 4), the best of a list first.
        candidates: (lists, boxes), whether a box takes part.
        overlaps: of boxes, broadcast.
        allowed: whether an overlap with a kept box, compared with the threshold, is allowed.
        eta: what the threshold is multiplied by after each kept box while it is above 0.5
            (ApplyNMSFast in SSD's bbox_util.cpp).

    Returns:
        (lists, boxes): whether the box is kept.
    """
    left, kept = candidates.copy(), np.zeros_like(candidates)
    worst = np.full(candidates.shape, -np.inf, np.float32)
    limits = np.full((len(boxes), 1), threshold, np.float32)
    while True:
        free = left & allowed(worst, limits)
        lists = np.flatnonzero(free.any(axis=1))
        if not lists.size:
            return kept
        best = free[lists].argmax(axis=1)
        kept[lists, best], left[lists, best] = True, False
        found = overlaps(boxes[lists, best][:, None], boxes[lists])
        worst[lists] = np.maximum(worst[lists], found)
        if eta < 1:
            high = limits[lists] > 0.5
            limits[lists] = np.where(high, limits[lists] * np.float32(eta), limits[lists])
