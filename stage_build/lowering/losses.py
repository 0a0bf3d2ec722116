"""Losses and scores."""

from __future__ import annotations

from typing import Any

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


def _of_classes(site: Site) -> dict[str, Any]:
    """The axis of classes, and which labels do not count."""
    made, rank = site.meaning, len(site.bottoms[0].shape)
    axis = layout.tensor_axis(made.axis % rank, rank)
    return {"axis": axis, "ignore_label": made.ignore_label}


def _of_softmax(site: Site) -> dict[str, Any]:
    return {
        **_of_classes(site),
        "normalization": site.meaning.mode(),
        "probabilities": len(site.tops) == 2,
    }


@lowering("Accuracy")
def accuracy(site: Site) -> Call:
    return Call(
        "accuracy",
        {**_of_classes(site), "top_k": site.meaning.top_k, "per_class": len(site.tops) == 2},
    )


@lowering("SoftmaxWithLoss")
def softmax_loss(site: Site) -> Call:
    return Call("softmax_loss", _of_softmax(site))


@lowering("InfogainLoss")
def infogain_loss(site: Site) -> Call:
    return Call("infogain_loss", _of_softmax(site))


@lowering("MultinomialLogisticLoss")
def multinomial_logistic_loss(site: Site) -> Call:
    return Call("multinomial_logistic_loss")


@lowering("HingeLoss")
def hinge_loss(site: Site) -> Call:
    return Call("hinge_loss", {"norm": site.meaning.norm})


@lowering("SigmoidCrossEntropyLoss")
def sigmoid_cross_entropy_loss(site: Site) -> Call:
    made = site.meaning
    return Call(
        "sigmoid_cross_entropy_loss",
        {"ignore_label": made.ignore_label, "normalization": made.mode()},
    )


@lowering("EuclideanLoss")
def euclidean_loss(site: Site) -> Call:
    return Call("euclidean_loss")


@lowering("ContrastiveLoss")
def contrastive_loss(site: Site) -> Call:
    made = site.meaning
    return Call("contrastive_loss", {"margin": made.margin, "legacy": made.legacy_version})


@lowering("SmoothL1Loss", dialect="ssd")
@lowering("SmoothL1Loss", dialect="faster-rcnn")
def smooth_l1_loss(site: Site) -> Call:
    return Call("smooth_l1_loss", {"sigma": site.meaning.sigma})
