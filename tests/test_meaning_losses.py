"""Losses and scores, worked by hand; what cannot be kept is refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from schemas.layers import registry
from tests.meanings import close, infer, run, values

LOG2, LOG3, LOG4 = np.log(2), np.log(3), np.log(4)


def scores(*rows):
    """Logarithms: the softmax of a row is the row by its sum."""
    return np.log(np.array(rows, np.float64)).astype(np.float32)


# Softmax 1/4 1/2 1/4; 3/4 1/8 1/8.
TWO = scores([1, 2, 1], [6, 1, 1])


def losses(type_, bottoms, tops=1, **messages):
    """`run`, for parameters in several messages."""
    layer = Layer(
        "l",
        type_,
        tuple(f"b{i}" for i in range(len(bottoms))),
        tuple(f"t{i}" for i in range(tops)),
        {f"{name}_param": content for name, content in messages.items()},
    )
    made, _, shapes = registry.infer(layer, [bottom.shape for bottom in bottoms])
    results = made.forward(bottoms, [], tops)
    assert [top.shape for top in results] == shapes
    assert all(top.dtype == np.float32 for top in results)
    return results


# ---- Softmax -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss, expected",
    [
        # -log(1/2) - log(3/4) = 2 log 4 - log 2 - log 3, over 2 labels
        ({}, (2 * LOG4 - LOG2 - LOG3) / 2),
        (dict(normalization="FULL"), (2 * LOG4 - LOG2 - LOG3) / 2),
        (dict(normalization="NONE"), 2 * LOG4 - LOG2 - LOG3),
        (dict(normalize=False), (2 * LOG4 - LOG2 - LOG3) / 2),
        # label 0 does not count: -log(1/2) over the 1 that is left, over 2 where all count
        (dict(ignore_label=0), LOG2),
        (dict(ignore_label=0, normalize=True), LOG2),
        (dict(ignore_label=0, normalize=False), LOG2 / 2),
        (dict(ignore_label=0, normalization="FULL"), LOG2 / 2),
        (dict(ignore_label=0, normalization="BATCH_SIZE"), LOG2 / 2),
        # normalization goes before normalize
        (dict(ignore_label=0, normalization="NONE", normalize=False), LOG2),
    ],
    ids=str,
)
def test_softmax_with_loss(loss, expected):
    """softmax_loss_layer.cpp; the softmax of row 0 has 1/2 at label 1, that of row 1 3/4 at 0."""
    top, probabilities = losses(
        "SoftmaxWithLoss", [TWO, values((2,), 1, 0)], 2, loss=loss, softmax={"engine": "CAFFE"}
    )
    close(top, expected)
    close(probabilities, [[1 / 4, 1 / 2, 1 / 4], [3 / 4, 1 / 8, 1 / 8]])


def test_softmax_loss_at_each_pixel():
    """(N, C, H, W) = (1, 2, 1, 3): each pixel's softmax is 1/4 and 3/4, or 1/2 and 1/2.

    Labels 1, 0, 1: -log 3/4 - log 1/2 - log 3/4 = 2 (log 4 - log 3) + log 2. By 3 labels, or, with
    BATCH_SIZE, by the one image.
    """
    pixels = scores([[[1, 5, 1]], [[3, 5, 3]]]).reshape(1, 2, 1, 3)
    total = 2 * (LOG4 - LOG3) + LOG2
    for labels in ((1, 1, 1, 3), (1, 1, 3), (1, 3)):
        bottoms = [pixels, values(labels, 1, 0, 1)]
        close(losses("SoftmaxWithLoss", bottoms)[0], total / 3)
        close(losses("SoftmaxWithLoss", bottoms, loss={"normalization": "BATCH_SIZE"})[0], total)


def test_softmax_loss_along_another_axis():
    """(N, C, W) = (1, 2, 2), classes along W: outer is N * C, so BATCH_SIZE is 2.

    Rows 1 3 and 1 1, labels 0 and 1: -log 1/4 - log 1/2 = log 8.
    """
    bottoms = [scores([1, 3], [1, 1])[None], values((1, 2), 0, 1)]
    for mode in ("BATCH_SIZE", "VALID"):
        top = losses("SoftmaxWithLoss", bottoms, softmax={"axis": 2}, loss={"normalization": mode})[
            0
        ]
        close(top, 3 * LOG2 / 2)


def test_the_least_probability_is_the_smallest_float():
    """-log(FLT_MIN) = 126 log 2; all labels ignored: 0 by at least 1. 1.9 is label 1."""
    far = values((1, 2), 0, 1000)
    close(losses("SoftmaxWithLoss", [far, values((1,), 0)])[0], 126 * LOG2)
    ignored = losses("SoftmaxWithLoss", [far, values((1,), 0)], loss={"ignore_label": 0})
    assert ignored[0] == 0
    close(losses("SoftmaxWithLoss", [far, values((1,), 1.9)])[0], 0)
    # Caffe reads on in memory here.
    close(losses("SoftmaxWithLoss", [far, values((1,), 7)])[0], 126 * LOG2)


# ---- Infogain, multinomial -----------------------------------------------------------------------

H = np.array([[1, 0, 2], [0, 3, 0], [5, 5, 5]], np.float32)


@pytest.mark.parametrize(
    "loss, expected",
    [
        # label 1: 3 log 2; label 0: -log 3/4 - 2 log 1/8
        ({}, (3 * LOG2 + LOG4 - LOG3 + 2 * 3 * LOG2) / 2),
        (dict(ignore_label=0), 3 * LOG2),
        (dict(ignore_label=0, normalization="FULL"), 3 * LOG2 / 2),
        (dict(normalization="NONE"), 3 * LOG2 + LOG4 - LOG3 + 2 * 3 * LOG2),
    ],
    ids=str,
)
@pytest.mark.parametrize("matrix", [H, H[None, None], H.reshape(9)], ids=["2", "4", "1"])
def test_infogain_loss(loss, expected, matrix):
    """infogain_loss_layer.cpp: -sum over k of H[label, k] log p[k]; H in any shape."""
    top, probabilities = losses(
        "InfogainLoss", [TWO, values((2,), 1, 0), matrix], 2, loss=loss, infogain_loss={"axis": 1}
    )
    close(top, expected)
    close(probabilities[1], [3 / 4, 1 / 8, 1 / 8])


def test_infogain_loss_along_another_axis():
    """(N, K, C) = (1, 2, 2), classes along axis 2; softmax 1/4 3/4 and 1/2 1/2, labels 1 and 0.

    H = [[0, 1], [2, 0]]: -2 log 1/4 - 1 log 1/2 = 5 log 2, over 2. The least probability is 1e-20.
    """
    matrix = values((2, 2), 0, 1, 2, 0)
    bottoms = [scores([1, 3], [1, 1])[None], values((1, 2), 1, 0), matrix]
    close(losses("InfogainLoss", bottoms, infogain_loss={"axis": 2})[0], 5 * LOG2 / 2)
    far = [values((1, 2), 0, 1000), values((1,), 1), matrix]
    close(losses("InfogainLoss", far)[0], 2 * 20 * np.log(10))


def test_multinomial_logistic_loss():
    """multinomial_logistic_loss_layer.cpp: (log 4 - log 1e-20 + log 2) / 3; no softmax."""
    given = values((3, 2, 1, 1), 0.25, 9, 0, 1, 7, 0.5)
    (top,) = run("MultinomialLogisticLoss", {}, [given, values((3, 1, 1, 1), 0, 0, 1)])
    close(top, (LOG4 + 20 * np.log(10) + LOG2) / 3)


# ---- Hinge, sigmoid ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, expected", [("L1", 6.5), ("L2", 22.25)])
def test_hinge_loss(norm, expected):
    """hinge_loss_layer.cpp; labels 1 and 0.

    Row 0: 1 + 2 = 3, 1 - 0.5 = 0.5, 1 - 3 below 0; row 1: 1 + 1 = 2, 1 + 4 = 5, 1 + 1.5 = 2.5.
    L1: 13 by N = 2. L2: 9 + 0.25 + 4 + 25 + 6.25 = 44.5 by 2.
    """
    given = values((2, 3), 2, 0.5, -3, -1, 4, 1.5)
    close(run("HingeLoss", {"norm": norm}, [given, values((2,), 1, 0)])[0], expected)


ALL, SOME = 6 * LOG2 - 1.5 * LOG3, 3 * LOG2 - LOG3


@pytest.mark.parametrize(
    "loss, expected",
    [
        ({}, ALL / 2),
        (dict(normalize=True), ALL / 4),
        (dict(normalize=False), ALL / 2),
        (dict(normalization="FULL"), ALL / 4),
        (dict(normalization="VALID"), ALL / 4),
        (dict(normalization="BATCH_SIZE"), ALL / 2),
        (dict(normalization="NONE"), ALL),
        (dict(ignore_label=0), SOME / 2),
        (dict(ignore_label=0, normalization="VALID"), SOME / 2),
        (dict(ignore_label=0, normalization="FULL"), SOME / 4),
        (dict(ignore_label=0, normalization="NONE", normalize=True), SOME),
    ],
    ids=str,
)
def test_sigmoid_cross_entropy_loss(loss, expected):
    """sigmoid_cross_entropy_loss_layer.cpp; sigmoid(log k) = k / (1 + k), so 1/2 1/2 3/4 3/4.

    Targets 1, 0, 1 and 0.5: log 2 + log 2 - log 3/4 - (log 3/4 + log 1/4) / 2
    = 6 log 2 - 1.5 log 3. Targets that are cut to 0, the second and the last, are ignored:
    log 2 - log 3/4 = 3 log 2 - log 3. By N = 2, if nothing else is written.
    """
    logits = values((2, 2), 0, 0, LOG3, LOG3)
    close(run("SigmoidCrossEntropyLoss", loss, [logits, values((2, 2), 1, 0, 1, 0.5)])[0], expected)


def test_a_far_logit_does_not_overflow():
    """-1000 against 1 costs 1000, 1000 against 1 nothing; targets of another shape."""
    (top,) = run(
        "SigmoidCrossEntropyLoss", {}, [values((1, 2), -1000, 1000), values((1, 2, 1), 1, 1)]
    )
    close(top, 1000)


# ---- Distances -----------------------------------------------------------------------------------


def test_euclidean_loss():
    """euclidean_loss_layer.cpp: (1 + 4 + 9 + 0.25 + 0 + 16) / (2 * 2) = 7.5625."""
    a = values((2, 3), 1, 2, 3, 0.5, 0, 4)
    b = values((2, 3, 1), 2, 0, 0, 1, 0, 0)
    close(run("EuclideanLoss", {}, [a, b])[0], 7.5625)


@pytest.mark.parametrize(
    "param, expected",
    [
        # 25 + max(1 - 5, 0) + max(1 - 0.5, 0)^2 = 25.25
        ({}, 25.25 / 6),
        # 25 + (7 - 5)^2 + (7 - 0.5)^2 = 71.25
        (dict(margin=7), 71.25 / 6),
        # 25 + max(7 - 25, 0) + (7 - 0.25) = 31.75
        (dict(margin=7, legacy_version=True), 31.75 / 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 1, 1)], ids=str)
def test_contrastive_loss(param, expected, shape):
    """contrastive_loss_layer.cpp: distances 5, 5 and 0.5, of which the first pair is alike."""
    a = values(shape, 3, 4, 1, 0, 2, 2)
    b = values(shape, 0, 0, -2, 4, 2, 2.5)
    # 1.5 is cut to 1, 0.9 to 0
    close(run("ContrastiveLoss", param, [a, b, values((3,), 1.5, 0, 0.9)])[0], expected)


A, B = values((2, 2), 1, 3, 0.25, -1), values((2, 2), 0.5, 1, 0, 1)  # differences 0.5 2 0.25 -2


@pytest.mark.parametrize(
    "dialect, param, more, expected",
    [
        # 0.125 + 1.5 + 0.03125 + 1.5 = 3.15625
        ("ssd", {}, [], 3.15625),
        # differences 1 1 0.25 0: 0.5 + 0.5 + 0.03125
        ("ssd", {}, [values((2, 2), 2, 0.5, 1, 0)], 1.03125),
        # straight from 1/4 on: (0.5 - 1/8) + (2 - 1/8) + (0.25 - 1/8) + (2 - 1/8) = 4.25
        ("ssd", dict(sigma=2), [], 4.25),
        # straight from 4 on: (0.25 + 4 + 0.0625 + 4) / 8
        ("ssd", dict(sigma=0.5), [], 1.0390625),
        # inside 2 0.5 1 0, outside 1 3 2 5: 0.5 + 1.5 + 0.0625 + 0
        ("faster-rcnn", {}, [values((2, 2), 2, 0.5, 1, 0), values((2, 2), 1, 3, 2, 5)], 2.0625),
        # sigma 2: (1 - 1/8) + 3 (1 - 1/8) + 2 (0.25 - 1/8) = 3.75
        (
            "faster-rcnn",
            dict(sigma=2),
            [values((2, 2), 2, 0.5, 1, 0), values((2, 2), 1, 3, 2, 5)],
            3.75,
        ),
    ],
    ids=["plain", "weights", "sigma-2", "sigma-half", "both-weights", "both-weights-sigma"],
)
def test_smooth_l1_loss(dialect, param, more, expected):
    """smooth_L1_loss_layer.cpp of weiliu89/caffe and .cu of caffe-fast-rcnn; by N = 2.

    |d| < 1 / sigma^2: (sigma d)^2 / 2, else |d| - 1 / (2 sigma^2).
    """
    (top,) = run("SmoothL1Loss", param, [A, B, *more], dialect=dialect)
    close(top, expected / 2)


# ---- Accuracy ------------------------------------------------------------------------------------

SCORES = values((4, 3), 3, 2, 1, 1, 2, 3, 5, 5, 0, -1, -2, -1)


@pytest.mark.parametrize(
    "param, share, each",
    [
        # label 0 of 3 2 1: first; 1 of 1 2 3: second; 0 of 5 5 0 and of -1 -2 -1: second of equals
        ({}, 1 / 4, [1 / 3, 0, 0]),
        (dict(top_k=2), 4 / 4, [3 / 3, 1, 0]),
        (dict(ignore_label=0), 0, [0, 0, 0]),
        (dict(ignore_label=0, top_k=2), 1, [0, 1, 0]),
        (dict(ignore_label=1), 1 / 3, [1 / 3, 0, 0]),
        (dict(axis=-1), 1 / 4, [1 / 3, 0, 0]),
    ],
    ids=str,
)
def test_accuracy(param, share, each):
    """accuracy_layer.cpp: a score counts as better when it equals the label's own."""
    top, classes = run("Accuracy", param, [SCORES, values((4,), 0, 1, 0, 0)], tops=2)
    close(top, share)
    close(classes, each)


def test_accuracy_at_each_pixel():
    """(N, C, H, W) = (1, 2, 1, 3): 1 > 0, 0 < 2, 4 > 3; labels 0, 0, 1: one hit of three.

    Class 0 is hit once of twice, class 1 not.
    """
    pixels = values((1, 2, 1, 3), 1, 0, 4, 0, 2, 3)
    for shape in ((1, 1, 3), (1, 1, 1, 3), (3,)):
        top, classes = run("Accuracy", {}, [pixels, values(shape, 0, 0, 1)], tops=2)
        close(top, 1 / 3)
        close(classes, [1 / 2, 0])


def test_accuracy_of_nothing():
    """All labels ignored: 0 (count == 0); a class that is not there is never hit."""
    bottoms = [SCORES[:2], values((2,), 1, 1)]
    assert [t.tolist() for t in run("Accuracy", dict(ignore_label=1), bottoms, tops=2)] == [
        0,
        [0] * 3,
    ]
    bottoms = [SCORES[:2], values((2,), 0, 5)]
    close(run("Accuracy", dict(top_k=3), bottoms)[0], 1 / 2)


def test_the_top_of_a_loss_need_not_be_named():
    for type_ in ("SoftmaxWithLoss", "EuclideanLoss"):
        shapes = [(2, 3), (2, 3) if type_ == "EuclideanLoss" else (2,)]
        assert infer(type_, {}, shapes, tops=0)[2] == []


def test_samples_are_added_up():
    """No batch axis is left, but for the softmax's."""
    made, _, tops = infer("SoftmaxWithLoss", {}, [(2, 3), (2,)], 2)
    assert made.batch_axes([(2, 3), (2,)], [0, 0], tops) == [None, 0]
    # Classes along the batch: (1, 2) has one label for each of its 2 columns, in one row.
    made, _, tops = infer("SoftmaxWithLoss", {"axis": 0}, [(1, 2), (1, 2)], 2)
    assert made.batch_axes([(1, 2), (1, 2)], [0, 0], tops) == [None, None]


def test_labels_are_below_the_number_of_classes():
    for type_, shapes, expected in (
        ("SoftmaxWithLoss", [(2, 3, 5, 7), (2, 5, 7)], {1: 3}),
        ("Accuracy", [(2, 3, 5, 7), (2, 5, 7)], {1: 3}),
        ("HingeLoss", [(2, 3, 5, 7), (2,)], {1: 105}),
        ("MultinomialLogisticLoss", [(2, 3), (2,)], {1: 3}),
        ("SigmoidCrossEntropyLoss", [(2, 3), (2, 3)], {1: 2}),
        ("ContrastiveLoss", [(2, 3), (2, 3), (2,)], {2: 2}),
        ("EuclideanLoss", [(2, 3), (2, 3)], {}),
    ):
        assert infer(type_, {}, shapes)[0].numbers(shapes) == expected


# ---- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type_, loss, shapes, error, message",
    [
        ("SoftmaxWithLoss", {}, [(2, 3), (3,)], MalformedModel, "the same first axis"),
        ("SoftmaxWithLoss", {}, [(2, 3, 5), (2, 4)], MalformedModel, "10 labels .* found 8"),
        ("SoftmaxWithLoss", {}, [(2, 3), ()], MalformedModel, "first axis"),
        ("SoftmaxWithLoss", {"normalization": "x"}, [(2, 3), (2,)], MalformedModel,
         "no normalization 'x'"),
        ("SoftmaxWithLoss", {"normalization": "PRE_FIXED"}, [(2, 3), (2,)], UnsupportedModel,
         "R-FCN"),
        ("SoftmaxWithLoss", {"class_weighting": [1, 2]}, [(2, 3), (2,)], UnsupportedModel,
         "SegNet"),
        ("SoftmaxWithLoss", {"weight_by_label_freqs": True}, [(2, 3), (2,)], UnsupportedModel,
         "SegNet"),
        ("SoftmaxWithLoss", {"label_smoothing": 0.1}, [(2, 3), (2,)], UnsupportedModel, "NVIDIA"),
        ("InfogainLoss", {}, [(2, 3), (2,)], MalformedModel, "bottom 2 or from source"),
        ("InfogainLoss", {}, [(2, 3), (2,), (2, 3)], MalformedModel, "3 x 3 values"),
        ("InfogainLoss", {"normalize": True}, [(2, 3), (2,), (3, 3)], MalformedModel,
         "as normalization"),
        ("MultinomialLogisticLoss", {}, [(2, 3), (2, 2)], MalformedModel, "one label for each"),
        ("HingeLoss", {}, [(2, 3), (2, 2)], MalformedModel, "one label for each"),
        ("HingeLoss", {}, [(2, 3, 1, 1, 1), (2,)], MalformedModel, "at most 4 axes"),
        ("SigmoidCrossEntropyLoss", {}, [(2, 3), (2, 4)], MalformedModel, "for each value"),
        ("EuclideanLoss", {}, [(2, 3), (2, 4)], MalformedModel, "one size"),
        ("EuclideanLoss", {}, [(2, 3), (3, 2)], MalformedModel, "first axis"),
        ("ContrastiveLoss", {}, [(2, 3), (2, 4), (2,)], MalformedModel, "both be N x C"),
        ("ContrastiveLoss", {}, [(2, 3, 5), (2, 3, 5), (2,)], MalformedModel, "both be N x C"),
        ("ContrastiveLoss", {}, [(2, 3), (2, 3), (2, 2)], MalformedModel, "bottom 2"),
        ("Accuracy", {}, [(2, 3), (3,)], MalformedModel, "2 labels .* found 3"),
    ],
    ids=str,
)  # fmt: skip
def test_refused(type_, loss, shapes, error, message):
    with pytest.raises(error, match=message):
        losses(type_, [np.zeros(shape, np.float32) for shape in shapes], loss=loss)


def test_what_a_loss_has_of_a_fork_is_refused_only_where_it_is_kept():
    """A dropped loss is asked for its parameters, not for its shapes."""
    for type_, fields in (
        ("SoftmaxWithLoss", {"loss_param": {"normalization": "PRE_FIXED"}}),
        ("InfogainLoss", {"infogain_loss_param": {"source": "H.binaryproto"}}),
        ("Accuracy", {"accuracy_param": {"min_is_better": True}}),
    ):
        layer = Layer("l", type_, ("x", "y"), ("t",), fields)
        registry.meaning(layer)
        with pytest.raises(UnsupportedModel):
            registry.infer(layer, [(2, 3), (2,)])


def test_top_k_is_at_most_the_number_of_classes():
    infer("Accuracy", dict(top_k=3), [(2, 3), (2,)])
    with pytest.raises(MalformedModel, match="top_k 4 is more than the 3 classes"):
        infer("Accuracy", dict(top_k=4), [(2, 3), (2,)])


def test_smooth_l1_loss_needs_one_shape():
    with pytest.raises(MalformedModel, match="one shape"):
        infer("SmoothL1Loss", {}, [(2, 3), (2, 3, 2)], dialect="ssd")
    with pytest.raises(MalformedModel, match="4 bottoms expected, found 2"):
        infer("SmoothL1Loss", {}, [(2, 3), (2, 3)], dialect="faster-rcnn")


def test_a_normalized_smooth_l1_loss_is_refused_where_it_is_kept():
    for content in ({"normalization": "PRE_FIXED"}, {"normalize": True}):
        layer = Layer(
            "l", "SmoothL1Loss", ("a", "b"), ("t",), {"loss_param": content}, dialect="ssd"
        )
        registry.meaning(layer)
        with pytest.raises(UnsupportedModel, match="R-FCN's"):
            registry.infer(layer, [(2, 3), (2, 3)])


def test_the_file_of_an_infogain_matrix_is_refused():
    with pytest.raises(UnsupportedModel, match="feed it as a third bottom"):
        infer("InfogainLoss", dict(source="H.binaryproto"), [(2, 3), (2,)])


@pytest.mark.parametrize("type_", ["SigmoidCrossEntropyLoss", "InfogainLoss"])
@pytest.mark.parametrize(
    "field, fork",
    [
        ({"class_weighting": [1, 2]}, "SegNet's"),
        ({"weight_by_label_freqs": True}, "SegNet's"),
        ({"label_smoothing": 0.1}, "NVIDIA's"),
    ],
    ids=str,
)
def test_what_forks_add_to_every_loss_is_refused(type_, field, fork):
    shapes = [(2, 3), (2, 3)] if type_ == "SigmoidCrossEntropyLoss" else [(2, 3), (2,), (3, 3)]
    with pytest.raises(UnsupportedModel, match=fork):
        losses(type_, [np.zeros(shape, np.float32) for shape in shapes], loss=field)


def test_an_ignored_label_changes_no_smooth_l1_loss():
    """|2 - 5| - 1/2, of one image."""
    layer = Layer(
        "l", "SmoothL1Loss", ("a", "b"), ("t",), {"loss_param": {"ignore_label": 2}}, dialect="ssd"
    )
    top = registry.meaning(layer).forward([values((1, 1), 2), values((1, 1), 5)], [], 1)
    close(top, [2.5])
