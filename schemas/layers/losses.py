"""Losses and Accuracy: a converted net ends before them, so they are declared and not computed."""

from __future__ import annotations

from typing import List, Optional, Sequence

import numpy as np

from schemas.errors import UnsupportedModel
from schemas.graph import Shape
from schemas.layers.registry import ENGINE, Meaning, layer

# Fields of the forks.
_WEIGHING = dict.fromkeys(
    ("class_weighting", "label_smoothing", "pre_fixed_normalizer", "weight_by_label_freqs"),
    "weighs a loss, which is dropped",
)


class Loss(Meaning):
    """Compares predictions with labels; the top of a loss need not be named."""

    bottom_count = (2, 2)
    top_count = (0, 1)
    role = "loss"

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        raise UnsupportedModel(f"{type(self).__name__} is dropped with its labels, not computed")

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        raise UnsupportedModel(f"{type(self).__name__} is dropped with its labels, not computed")


@layer("Accuracy", message="accuracy_param")
class Accuracy(Loss):
    """The share of labels among the top_k scores along `axis`, and, on a second top, the share of
    each class (accuracy_layer.cpp)."""

    top_k: int = 1
    axis: int = 1
    ignore_label: Optional[int] = None

    top_count = (1, 2)


@layer(
    "SoftmaxWithLoss",
    messages=("softmax_param", "loss_param"),
    harmless={"engine": ENGINE, **_WEIGHING},
)
class SoftmaxWithLoss(Loss):
    """The mean of -log(softmax(scores)[label]), and, on a second top, the softmax
    (softmax_loss_layer.cpp)."""

    axis: int = 1
    ignore_label: Optional[int] = None
    normalize: Optional[bool] = None
    normalization: Optional[str] = None

    top_count = (0, 2)


@layer("SigmoidCrossEntropyLoss", message="loss_param", harmless=_WEIGHING)
class SigmoidCrossEntropyLoss(Loss):
    """The sum of -(t log p + (1 - t) log(1 - p)) with p = sigmoid(x), normalised
    (sigmoid_cross_entropy_loss_layer.cpp)."""

    ignore_label: Optional[int] = None
    normalize: Optional[bool] = None
    normalization: Optional[str] = None


@layer("InfogainLoss", messages=("infogain_loss_param", "loss_param"), harmless=_WEIGHING)
class InfogainLoss(Loss):
    """The mean of -sum H[label] log(softmax(scores)), with H from `source` or bottom 2, and, on a
    second top, the softmax (infogain_loss_layer.cpp)."""

    source: str = ""
    axis: int = 1
    ignore_label: Optional[int] = None
    normalize: Optional[bool] = None
    normalization: Optional[str] = None

    bottom_count = (2, 3)
    top_count = (0, 2)


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """The mean of -log(probability of the label) (multinomial_logistic_loss_layer.cpp)."""


@layer("EuclideanLoss")
class EuclideanLoss(Loss):
    """sum (a - b)^2 / 2N (euclidean_loss_layer.cpp)."""


@layer("HingeLoss", message="hinge_loss_param")
class HingeLoss(Loss):
    """The sum of max(0, 1 - x) at the label and max(0, 1 + x) elsewhere, or of their squares with
    ``norm: L2``, by N (hinge_loss_layer.cpp)."""

    norm: str = "L1"


@layer("ContrastiveLoss", message="contrastive_loss_param")
class ContrastiveLoss(Loss):
    """sum (y d^2 + (1 - y) max(margin - d, 0)^2) / 2N with d = |a - b|, or, legacy_version,
    max(margin - d^2, 0) for the second term (contrastive_loss_layer.cpp)."""

    margin: float = 1.0
    legacy_version: bool = False

    bottom_count = (3, 3)
    labels = 2
