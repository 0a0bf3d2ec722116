"""Losses and scores: dropped with their labels, or, where they are kept, computed from labels that
are inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count
from schemas.layers.labels import (
    Loss,
    Sides,
    counted,
    four_axes,
    one_label_each,
    same_first_axis,
    scalar,
    whole,
)
from schemas.layers.registry import ENGINE, layer

# What a probability is raised to before its logarithm is taken.
LEAST_FLOAT = np.float32(np.finfo(np.float32).tiny)  # FLT_MIN
LOG_THRESHOLD = np.float32(1e-20)  # kLOG_THRESHOLD

_FIXED = {"pre_fixed_normalizer": "read with normalization: PRE_FIXED alone"}


# ---- Scores --------------------------------------------------------------------------------------


@layer("Accuracy", message="accuracy_param")
class Accuracy(Loss):
    """The share of labels among the top_k scores along `axis`, and, on a second top, the share of
    each class (accuracy_layer.cpp). A score that equals the label's own counts against it."""

    top_k: int = 1
    axis: int = 1
    ignore_label: Optional[int] = None
    min_is_better: bool = False

    top_count = (1, 2)

    def need(self, bottoms: Sequence[Shape]) -> None:
        if self.min_is_better:
            raise UnsupportedModel("min_is_better is happynear's, whose rule is not known here")
        sides = Sides.of(bottoms[0], self.axis)
        sides.need_labels(bottoms[1])
        if self.top_k > sides.classes:
            raise MalformedModel(f"top_k {self.top_k} is more than the {sides.classes} classes")

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {1: Sides.of(bottoms[0], self.axis).classes}

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.need(bottoms)
        return [(), (bottoms[0][canonical(self.axis, len(bottoms[0]))],)][:tops]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        sides = Sides.of(bottoms[0].shape, self.axis)
        scores, own = bottoms[0].reshape(sides), sides.chosen(bottoms[1])
        own &= counted(bottoms[1], self.ignore_label).reshape(sides.outer, 1, sides.inner)
        best = np.where(own, scores, 0).sum(1, keepdims=True)
        hits = own & ((scores >= best).sum(1, keepdims=True) <= self.top_k)
        total = counted(bottoms[1], self.ignore_label).sum()
        each = hits.sum((0, 2)) / np.maximum(own.sum((0, 2)), 1)
        return [scalar(hits.sum() / max(total, 1)), each.astype(np.float32)][:tops]


# ---- Losses over classes -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Normalized(Loss):
    """A loss that is divided by a number, at least 1, which `normalization` names: all places
    (FULL), those not ignored (VALID), the places outside of the classes (BATCH_SIZE), 1 (NONE).
    """

    ignore_label: Optional[int] = None
    normalize: Optional[bool] = None
    normalization: Optional[str] = None
    class_weighting: Tuple[float, ...] = ()
    weight_by_label_freqs: bool = False
    label_smoothing: float = 0.0

    usual = "VALID"

    def need(self, bottoms: Sequence[Shape]) -> None:
        if self.normalization == "PRE_FIXED":
            raise UnsupportedModel("normalization: PRE_FIXED is R-FCN's, and not computed")
        if self.mode() not in self.sizes(0, 0, 0):
            raise MalformedModel(f"there is no normalization {self.normalization!r:.80}")
        if self.class_weighting or self.weight_by_label_freqs:
            raise UnsupportedModel("class_weighting is SegNet's, and not computed")
        if self.label_smoothing:
            raise UnsupportedModel("label_smoothing is Intel's and NVIDIA's, and not computed")
        same_first_axis(bottoms[:2])

    def mode(self) -> str:
        """The normalization; the older `normalize` counts where that is not written."""
        if self.normalization is None and self.normalize is not None:
            return "VALID" if self.normalize else "BATCH_SIZE"
        return self.normalization or self.usual

    @staticmethod
    def sizes(outer: int, inner: int, valid: int) -> Dict[str, int]:
        """Normalization -> what it counts."""
        return {"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}

    def by(self, outer: int, inner: int, valid: int) -> np.float32:
        """What the loss is divided by."""
        return np.float32(max(self.sizes(outer, inner, valid)[self.mode()], 1))


@dataclass(frozen=True, eq=False)
class OfSoftmax(Normalized):
    """A loss of softmax(scores) along `axis`; a second top is that softmax."""

    axis: int = 1

    top_count = (0, 2)
    head = "Softmax"

    def need(self, bottoms: Sequence[Shape]) -> None:
        super().need(bottoms)
        Sides.of(bottoms[0], self.axis).need_labels(bottoms[1])

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {1: Sides.of(bottoms[0], self.axis).classes}

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.need(bottoms)
        return [(), tuple(bottoms[0])][:tops]

    def each(self, probability: np.ndarray, own: np.ndarray, more: Sequence) -> np.ndarray:
        """The loss of each place, (outer, inner).

        Args:
            probability, own: (outer, classes, inner); `own` is where each place's own class is.
            more: the bottoms after the labels.
        """
        raise NotImplementedError

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        sides = Sides.of(bottoms[0].shape, self.axis)
        scores = bottoms[0].reshape(sides)
        probability = np.exp(scores - scores.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        valid = counted(bottoms[1], self.ignore_label).reshape(sides.outer, sides.inner)
        losses = self.each(probability, sides.chosen(bottoms[1]), bottoms[2:])
        total = np.where(valid, losses, 0).sum(dtype=np.float32)
        loss = total / self.by(sides.outer, sides.inner, int(valid.sum()))
        return [scalar(loss), probability.reshape(bottoms[0].shape)][:tops]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        mixed = batches[0] == canonical(self.axis, len(bottoms[0]))
        return [None, None if mixed else batches[0]][: len(tops)]


@layer(
    "SoftmaxWithLoss",
    messages=("softmax_param", "loss_param"),
    harmless={"engine": ENGINE, **_FIXED},
)
class SoftmaxWithLoss(OfSoftmax):
    """The mean of -log(softmax(scores)[label]), the probability being at least FLT_MIN, and, on a
    second top, the softmax (softmax_loss_layer.cpp)."""

    def each(self, probability: np.ndarray, own: np.ndarray, more: Sequence) -> np.ndarray:
        return -np.log(np.maximum(np.where(own, probability, 0).sum(1), LEAST_FLOAT))


@layer("InfogainLoss", messages=("infogain_loss_param", "loss_param"), harmless=_FIXED)
class InfogainLoss(OfSoftmax):
    """The mean of -sum H[label] log(softmax(scores)), the probability being at least 1e-20, with H
    from bottom 2, and, on a second top, the softmax (infogain_loss_layer.cpp)."""

    source: str = ""

    bottom_count = (2, 3)

    def need(self, bottoms: Sequence[Shape]) -> None:
        super().need(bottoms)
        if self.normalize is not None:
            raise MalformedModel("normalize should be written as normalization here")
        if len(bottoms) < 3:
            if not self.source:
                raise MalformedModel("the matrix H should come from bottom 2 or from source")
            raise UnsupportedModel(
                "the matrix H is in the file that source names, which is no part of the model: "
                "feed it as a third bottom"
            )
        classes = Sides.of(bottoms[0], self.axis).classes
        if count(bottoms[2]) != classes**2:
            raise MalformedModel(
                f"H should hold {classes} x {classes} values, found shape {list(bottoms[2])}"
            )

    def each(self, probability: np.ndarray, own: np.ndarray, more: Sequence) -> np.ndarray:
        classes = own.shape[1]
        rows = np.einsum("okc,kj->ojc", own.astype(np.float32), more[0].reshape(classes, classes))
        return -(rows * np.log(np.maximum(probability, LOG_THRESHOLD))).sum(1)


class OneLabelEach(Loss):
    """A loss over samples of four axes, or fewer, and their labels."""

    def need(self, bottoms: Sequence[Shape]) -> None:
        same_first_axis(bottoms)
        four_axes(bottoms[0])
        one_label_each(bottoms, 1)

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {1: count(bottoms[0][1:])}


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(OneLabelEach):
    """The mean of -log(probability of the label), the probability being at least 1e-20
    (multinomial_logistic_loss_layer.cpp)."""

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        samples = bottoms[0].reshape(len(bottoms[0]), -1)
        own = Sides(*samples.shape, inner=1).chosen(bottoms[1])[..., 0]
        probability = np.where(own, samples, 0).sum(1)
        total = -np.log(np.maximum(probability, LOG_THRESHOLD)).sum(dtype=np.float32)
        return [scalar(total / np.float32(len(samples)))][:tops]


@layer("HingeLoss", message="hinge_loss_param")
class HingeLoss(OneLabelEach):
    """The sum of max(0, 1 - x) at the label and max(0, 1 + x) elsewhere, or of their squares with
    ``norm: L2``, by N (hinge_loss_layer.cpp)."""

    norm: str = "L1"

    choices = {"norm": ("L1", "L2")}

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        samples = bottoms[0].reshape(len(bottoms[0]), -1)
        own = Sides(*samples.shape, inner=1).chosen(bottoms[1])[..., 0]
        short = np.maximum(np.float32(0), 1 + np.where(own, -samples, samples))
        total = (short if self.norm == "L1" else short * short).sum(dtype=np.float32)
        return [scalar(total / np.float32(len(samples)))][:tops]


# ---- Losses over values --------------------------------------------------------------------------


@layer("SigmoidCrossEntropyLoss", message="loss_param", harmless=_FIXED)
class SigmoidCrossEntropyLoss(Normalized):
    """The sum of -(t log p + (1 - t) log(1 - p)) with p = sigmoid(x), normalised by N unless
    something else is written (sigmoid_cross_entropy_loss_layer.cpp)."""

    usual = "BATCH_SIZE"
    head = "Sigmoid"

    def need(self, bottoms: Sequence[Shape]) -> None:
        super().need(bottoms)
        if count(bottoms[0]) != count(bottoms[1]):
            raise MalformedModel(
                f"a target for each value expected, found shapes {[list(b) for b in bottoms]}"
            )

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {1: 2}

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        x, target = bottoms[0].ravel(), bottoms[1].ravel()
        valid = counted(target, self.ignore_label)
        losses = np.log(1 + np.exp(-np.abs(x))) - x * (target - (x >= 0))
        total = np.where(valid, losses, 0).sum(dtype=np.float32)
        outer = len(bottoms[0])
        by = self.by(outer, x.size // outer, int(valid.sum()))
        return [scalar(total / by)][:tops]


@layer("EuclideanLoss")
class EuclideanLoss(Loss):
    """sum (a - b)^2 / 2N (euclidean_loss_layer.cpp)."""

    def need(self, bottoms: Sequence[Shape]) -> None:
        same_first_axis(bottoms)
        four_axes(bottoms[0])
        if count(bottoms[0]) != count(bottoms[1]):
            raise MalformedModel(
                f"both bottoms should be of one size, found shapes {[list(b) for b in bottoms]}"
            )

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        difference = bottoms[0].ravel() - bottoms[1].ravel()
        total = (difference * difference).sum(dtype=np.float32)
        return [scalar(total / np.float32(len(bottoms[0])) / np.float32(2))][:tops]


@layer("ContrastiveLoss", message="contrastive_loss_param")
class ContrastiveLoss(Loss):
    """sum (y d^2 + (1 - y) max(margin - d, 0)^2) / 2N with d = |a - b|, or, legacy_version,
    max(margin - d^2, 0) for the second term (contrastive_loss_layer.cpp). Bottom 2 is y."""

    margin: float = 1.0
    legacy_version: bool = False

    bottom_count = (3, 3)
    labels = 2

    def need(self, bottoms: Sequence[Shape]) -> None:
        same_first_axis(bottoms)
        first, second = four_axes(bottoms[0]), four_axes(bottoms[1])
        if first != second or first[2:] != (1, 1):
            raise MalformedModel(
                "bottoms 0 and 1 should both be N x C, found shapes "
                f"{[list(b) for b in bottoms[:2]]}"
            )
        one_label_each(bottoms, 2)

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        return {2: 2}

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        number, margin = len(bottoms[0]), np.float32(self.margin)
        difference = (bottoms[0].ravel() - bottoms[1].ravel()).reshape(number, -1)
        squares = (difference * difference).sum(1)
        if self.legacy_version:
            apart = np.maximum(margin - squares, np.float32(0))
        else:
            apart = np.maximum(margin - np.sqrt(squares), np.float32(0)) ** 2
        alike = whole(bottoms[2].ravel()) != 0
        total = np.where(alike, squares, apart).sum(dtype=np.float32)
        return [scalar(total / np.float32(number) / np.float32(2))][:tops]


_SMOOTH = ("smooth_l1_loss_param", "loss_param")
_ANY_SUM = {
    "abssum": "adds up errors that are not negative, in one way or another",
    "ignore_label": "there are no labels, and no code of the forks reads it",
    **_FIXED,
}


@layer("SmoothL1Loss", messages=_SMOOTH, harmless=_ANY_SUM, dialect="ssd")
class SmoothL1Loss(Loss):
    """sum f(w (a - b)) / N with f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else
    |d| - 1 / (2 sigma^2); the weights w are bottom 2 (SSD's smooth_L1_loss_layer.cpp, in which
    sigma is 1; Fast R-CNN's is the same with two bottoms)."""

    sigma: float = 1.0
    normalize: Optional[bool] = None
    normalization: Optional[str] = None

    bottom_count = (2, 3)

    def need(self, bottoms: Sequence[Shape]) -> None:
        if self.normalize is not None or self.normalization is not None:
            raise UnsupportedModel("a normalization of SmoothL1Loss is R-FCN's, and not computed")
        same_first_axis(bottoms)
        if len({four_axes(shape) for shape in bottoms}) > 1:
            raise MalformedModel(
                f"all bottoms should be of one shape, found {[list(b) for b in bottoms]}"
            )

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        a, b, *factors = (bottom.ravel() for bottom in bottoms)
        square = np.float32(self.sigma) * np.float32(self.sigma)
        difference = (a - b) * factors[0] if factors else a - b
        size, near = np.abs(difference), np.float32(0.5) * difference * difference * square
        losses = np.where(size < 1 / square, near, size - np.float32(0.5) / square)
        losses = losses * factors[1] if factors[1:] else losses
        return [scalar(losses.sum(dtype=np.float32) / np.float32(len(bottoms[0])))][:tops]


@layer("SmoothL1Loss", messages=_SMOOTH, harmless=_ANY_SUM, dialect="faster-rcnn")
class WeightedSmoothL1Loss(SmoothL1Loss):
    """sum w_out f(w_in (a - b)) / N with f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else
    |d| - 1 / (2 sigma^2); w_in and w_out are bottoms 2 and 3 (smooth_L1_loss_layer.cu of
    rbgirshick/caffe-fast-rcnn)."""

    bottom_count = (4, 4)
