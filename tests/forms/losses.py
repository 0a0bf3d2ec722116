"""Losses and scores; the labels are inputs."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import SHAPES, Form

RNG = np.random.default_rng(11)
KEPT = {"keep_losses": True}
N, C = 4, 5


def whole(below, *shape):
    return RNG.integers(below, size=shape).astype(np.float32)


def loss(id_, type_, parameters="", shape=(N, C), labels=(N,), below=C, tops="out", **more):
    """One loss of ``data`` and ``labels``, whole numbers below `below`; `more` are bottoms."""
    bottoms = " ".join(["data", "labels", *more])
    shapes = {"data": shape, "labels": labels, **{name: x.shape for name, x in more.items()}}
    values = {"labels": whole(below, *labels), **more}
    text = nets.layer(type_, bottoms, tops, parameters, name="loss")
    return Form(f"{type_}-{id_}", (text,), shapes, values, options=KEPT)


def of_classes():
    """Every rank and axis of classes; labels of every rank that holds as many."""
    for type_, message in (("SoftmaxWithLoss", "softmax_param"), ("Accuracy", "accuracy_param")):
        for rank in (2, 3, 4, 5):
            shape = SHAPES[rank]
            for axis in range(1, rank):
                labels = shape[:axis] + shape[axis + 1 :]
                yield loss(
                    f"rank-{rank}-axis-{axis}",
                    type_,
                    f"{message} {{ axis: {axis} }}",
                    shape,
                    labels,
                    shape[axis],
                    "out more",
                )
        yield loss("labels-rank-4", type_, "", SHAPES[4], (2, 1, 5, 7), 3)
        yield loss("labels-flat", type_, "", SHAPES[4], (2, 35), 3)
        yield loss("negative-axis", type_, f"{message} {{ axis: -1 }}", SHAPES[4], (2, 3, 5), 7)


MATRIX = RNG.standard_normal((C, C), np.float32)
IMAGE_MATRIX = RNG.standard_normal((1, 1, 3, 3), np.float32)
MODES = ("FULL", "VALID", "BATCH_SIZE", "NONE")
IMAGES = dict(shape=SHAPES[4], labels=(2, 5, 7), below=3)
TIES = np.array([[1, 1, 0], [2, 1, 1], [0, 0, 0], [-1, -2, -1]], np.float32)


def between(id_, type_, parameters="", shape=SHAPES[4], second=None, more=0, alike=False):
    """A loss of ``data`` and ``like``, with weights, or with which of them are alike."""
    bottoms = ["data", "like", *(f"w{i}" for i in range(more)), *["alike"] * alike]
    shapes = dict.fromkeys(bottoms, shape)
    values = {}
    if second:
        shapes["like"] = second
    if alike:
        shapes["alike"] = (shape[0],)
        values["alike"] = whole(2, shape[0])
    text = nets.layer(type_, bottoms, "out", parameters, name="loss")
    return Form(f"{type_}-{id_}", (text,), shapes, values, options=KEPT)


FORMS = [
    *of_classes(),
    *(
        loss(f"{mode}-ignore", "SoftmaxWithLoss",
             f"loss_param {{ ignore_label: 1 normalization: {mode} }}", **IMAGES)
        for mode in MODES
    ),
    loss("all-ignored", "SoftmaxWithLoss", "loss_param { ignore_label: 0 }", below=1),
    loss("no-class", "SoftmaxWithLoss", below=9),
    loss("top-3", "Accuracy", "accuracy_param { top_k: 3 }", tops="out more"),
    loss("ignore", "Accuracy", "accuracy_param { ignore_label: 2 }", tops="out more"),
    loss("all-ignored", "Accuracy", "accuracy_param { ignore_label: 0 }", below=1),
    loss("no-class", "Accuracy", "accuracy_param { top_k: 5 }", below=9, tops="out more"),
    Form("Accuracy-ties",
         (nets.layer("Accuracy", "data labels", "out more", "accuracy_param { top_k: 2 }"),),
         {"data": TIES.shape, "labels": (4,)},
         {"data": TIES, "labels": np.array([0, 2, 1, 1], np.float32)}, options=KEPT),
    loss("plain", "InfogainLoss", H=MATRIX),
    loss("probabilities", "InfogainLoss", "infogain_loss_param { axis: 1 } "
         "loss_param { ignore_label: 1 normalization: FULL }", tops="out more", H=IMAGE_MATRIX,
         **IMAGES),
    loss("rank-2", "MultinomialLogisticLoss"),
    loss("rank-4", "MultinomialLogisticLoss", shape=SHAPES[4], labels=(2, 1, 1, 1), below=105),
    loss("L1", "HingeLoss"),
    loss("L2", "HingeLoss", "hinge_loss_param { norm: L2 }"),
    loss("rank-4", "HingeLoss", shape=SHAPES[4], labels=(2,), below=105),
    loss("plain", "SigmoidCrossEntropyLoss", shape=SHAPES[4], labels=SHAPES[4], below=2),
    loss("flat-targets", "SigmoidCrossEntropyLoss", shape=SHAPES[4], labels=(2, 105), below=2),
    *(
        loss(f"{mode}-ignore", "SigmoidCrossEntropyLoss",
             f"loss_param {{ ignore_label: 2 normalization: {mode} }}",
             shape=SHAPES[4], labels=SHAPES[4], below=3)
        for mode in MODES
    ),
    between("rank-4", "EuclideanLoss"),
    between("flat", "EuclideanLoss", second=(2, 105)),
    between("rank-2", "ContrastiveLoss", "contrastive_loss_param { margin: 4 }", (6, C),
            alike=True),
    between("rank-4", "ContrastiveLoss", "contrastive_loss_param { margin: 3.5 }", (6, C, 1, 1),
            (6, C), alike=True),
    between("legacy", "ContrastiveLoss",
            "contrastive_loss_param { margin: 20 legacy_version: true }", (6, C), alike=True),
    between("ssd", "SmoothL1Loss"),
    between("ssd-weights", "SmoothL1Loss", more=1),
    between("sigma", "SmoothL1Loss", "smooth_l1_loss_param { sigma: 3 }"),
    between("weights", "SmoothL1Loss", "smooth_l1_loss_param { sigma: 2 }", more=2),
]  # fmt: skip

SAVED = [
    Form(
        "losses",
        (
            nets.layer("Accuracy", "data labels", "top2 each", "accuracy_param { top_k: 2 }"),
            nets.layer("SoftmaxWithLoss", "data labels", "softmax",
                       "loss_param { ignore_label: 2 normalization: FULL }"),
            nets.layer("InfogainLoss", "data labels H", "infogain"),
            nets.layer("MultinomialLogisticLoss", "data labels", "multinomial"),
            nets.layer("HingeLoss", "data labels", "hinge", "hinge_loss_param { norm: L2 }"),
            nets.layer("SigmoidCrossEntropyLoss", "data like", "sigmoid"),
            nets.layer("EuclideanLoss", "data like", "euclidean"),
            nets.layer("ContrastiveLoss", "data like alike", "contrastive",
                       "contrastive_loss_param { margin: 4.5 }"),
            nets.layer("SmoothL1Loss", "data like w v", "smooth",
                       "smooth_l1_loss_param { sigma: 0.5 }"),
        ),
        {
            **dict.fromkeys(("data", "like", "w", "v"), (N, C)),
            **dict.fromkeys(("labels", "alike"), (N,)),
            "H": (C, C),
        },
        {"labels": whole(C, N), "alike": whole(2, N)},
        options=KEPT,
    )
]  # fmt: skip

FLAT = ["Accuracy"]
# Labels are numbers of classes. InfogainLoss: the matrix comes behind them.
MOVED = [
    *((name, 1) for name in ("SoftmaxLoss", "InfogainLoss", "MultinomialLogisticLoss")),
    ("HingeLoss", 1),
    ("ContrastiveLoss", 2),
]
