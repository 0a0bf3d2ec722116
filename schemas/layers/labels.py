"""Predictions and labels side by side: what the losses and scores share.

A label is cut to a whole number, as C++ does. Of one that is no class Caffe reads memory that is
not its own; here such a class has score and probability 0, and is never hit.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.registry import Meaning


class Loss(Meaning):
    """Compares predictions with labels; the top of a loss need not be named.

    What Caffe adds up one after the other is added in pairs here, which rounds less.
    """

    bottom_count = (2, 2)
    top_count: Tuple[int, Optional[int]] = (0, 1)
    role = "loss"

    def need(self, bottoms: Sequence[Shape]) -> None:
        """Refuses bottoms and parameters that the loss cannot be computed for.

        Raises:
            MalformedModel, UnsupportedModel: see `Meaning.check`.
        """
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.need(bottoms)
        return [()] * tops

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0


class Sides(NamedTuple):
    """A bottom seen from its axis of classes: as (outer, classes, inner)."""

    outer: int
    classes: int
    inner: int

    @classmethod
    def of(cls, shape: Shape, axis: int) -> Sides:
        axis = canonical(axis, len(shape))
        return cls(count(shape[:axis]), shape[axis], count(shape[axis + 1 :]))

    def need_labels(self, labels: Shape) -> None:
        """Refuses labels that are not one for each place beside the axis of classes.

        Raises:
            MalformedModel: they are not.
        """
        places = self.outer * self.inner
        if count(labels) != places:
            raise MalformedModel(
                f"{places} labels expected, one for each of the predictions, found {count(labels)}"
            )

    def chosen(self, labels: np.ndarray) -> np.ndarray:
        """Where each place's own class is: bool (outer, classes, inner)."""
        found = whole(labels).reshape(self.outer, 1, self.inner)
        return np.arange(self.classes).reshape(1, -1, 1) == found


def whole(labels: np.ndarray) -> np.ndarray:
    """``static_cast<int>``."""
    return labels.astype(np.int32)


def counted(labels: np.ndarray, ignored: Optional[int]) -> np.ndarray:
    """Which labels count: all but those to be ignored."""
    return np.ones(labels.shape, bool) if ignored is None else whole(labels) != ignored


def scalar(value: float) -> np.ndarray:
    """A blob without axes."""
    return np.array(value, np.float32)


def four_axes(shape: Shape) -> Shape:
    """num, channels, height, width, which only a blob of up to 4 axes has (blob.hpp).

    Raises:
        MalformedModel: it has more.
    """
    if len(shape) > 4:
        raise MalformedModel(f"a bottom should have at most 4 axes, found shape {list(shape)}")
    return tuple(shape) + (1,) * (4 - len(shape))


def same_first_axis(bottoms: Sequence[Shape]) -> None:
    """Refuses predictions and labels of different numbers of samples (loss_layer.cpp).

    Raises:
        MalformedModel: they differ, or one has no axes.
    """
    for shape in bottoms:
        if not shape or shape[0] != bottoms[0][0]:
            raise MalformedModel(
                "predictions and labels should have the same first axis, found shapes "
                f"{[list(shape) for shape in bottoms]}"
            )


def one_label_each(bottoms: Sequence[Shape], label: int) -> None:
    """Refuses labels that are not one for each sample.

    Raises:
        MalformedModel: they are not.
    """
    if four_axes(bottoms[label])[1:] != (1, 1, 1):
        raise MalformedModel(
            f"bottom {label} should hold one label for each sample, found shape "
            f"{list(bottoms[label])}"
        )
