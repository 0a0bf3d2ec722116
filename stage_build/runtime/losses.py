"""Caffe's losses and scores; the labels are inputs, cut to whole numbers."""

import math

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class LossesCalls(Calls):
    def accuracy(self, tensors, *, name, axis=-1, top_k=1, ignore_label=None, per_class=False):
        """From [scores, labels]: the share of labels among the `top_k` scores along `axis`.

        Args:
            per_class: give the share of each class as well.
        """
        if not per_class:
            return self.add(Accuracy(axis, top_k, ignore_label, False, name=name), tensors)
        return [
            self.add(Accuracy(axis, top_k, ignore_label, each, name=f"{name}__{i}"), tensors)
            for i, each in enumerate((False, True))
        ]

    def softmax_loss(
        self,
        tensors,
        *,
        name,
        axis=-1,
        ignore_label=None,
        normalization="VALID",
        probabilities=False,
    ):
        """From [scores, labels]: the mean of -log(softmax(scores)[label]).

        Args:
            normalization: what the sum is divided by: VALID, the labels that are not ignored;
                FULL, all labels; BATCH_SIZE; NONE.
            probabilities: give the softmax as well.
        """
        settings = (axis, ignore_label, normalization)
        return self._with_softmax(SoftmaxLoss, settings, tensors, name, probabilities)

    def infogain_loss(
        self,
        tensors,
        *,
        name,
        axis=-1,
        ignore_label=None,
        normalization="VALID",
        probabilities=False,
    ):
        """From [scores, labels, H]: the mean of -sum H[label] * log(softmax(scores)).

        Args:
            normalization, probabilities: see `softmax_loss`.
        """
        settings = (axis, ignore_label, normalization)
        return self._with_softmax(InfogainLoss, settings, tensors, name, probabilities)

    def _with_softmax(self, loss, settings, tensors, name, probabilities):
        if not probabilities:
            return self.add(loss(*settings, name=name), tensors)
        softmax = keras.layers.Softmax(axis=settings[0], name=f"{name}__1")
        return [
            self.add(loss(*settings, name=f"{name}__0"), tensors),
            self.add(softmax, tensors[0]),
        ]

    def multinomial_logistic_loss(self, tensors, *, name):
        """From [probabilities, labels]: the mean of -log(probability of the label)."""
        return self.add(MultinomialLogisticLoss(name=name), tensors)

    def hinge_loss(self, tensors, *, name, norm="L1"):
        """From [scores, labels]: by how much each misses 1 at the label and -1 elsewhere.

        Args:
            norm: "L1" adds that up, "L2" its squares; by the number of samples.
        """
        return self.add(HingeLoss(norm, name=name), tensors)

    def sigmoid_cross_entropy_loss(
        self, tensors, *, name, ignore_label=None, normalization="BATCH_SIZE"
    ):
        """From [logits, targets]: -(t * log(p) + (1 - t) * log(1 - p)) with p = sigmoid(logit).

        Args:
            normalization: see `softmax_loss`.
        """
        layer = SigmoidCrossEntropyLoss(ignore_label, normalization, name=name)
        return self.add(layer, tensors)

    def euclidean_loss(self, tensors, *, name):
        """From [a, b]: the sum of (a - b)^2 by twice the number of samples."""
        return self.add(EuclideanLoss(name=name), tensors)

    def contrastive_loss(self, tensors, *, name, margin=1.0, legacy=False):
        """From [a, b, alike]: d^2 where alike, else max(margin - d, 0)^2, with d = |a - b|.

        Added up, by twice the number of samples.

        Args:
            legacy: max(margin - d^2, 0) in place of the second.
        """
        return self.add(ContrastiveLoss(margin, legacy, name=name), tensors)

    def smooth_l1_loss(self, tensors, *, name, sigma=1.0):
        """From [a, b], [a, b, w] or [a, b, w, outer]: sum of outer * f(w * (a - b)) by N.

        f(d) is (sigma * d)^2 / 2 near 0 and straight past 1 / sigma^2.
        """
        return self.add(SmoothL1Loss(sigma, name=name), tensors)


# In Caffe's order of axes


def caffe_order(x):
    """N, C, H, W of an NHWC tensor; any other as it is."""
    return tf.transpose(x, [0, 3, 1, 2]) if len(x.shape) == 4 else x


def by_class(x, axis):
    """A tensor as (outer, classes, inner); `axis` is the tensor's axis of classes."""
    rank = len(x.shape)
    axis %= rank
    x = caffe_order(x)
    axis = (0, 2, 3, 1)[axis] if rank == 4 else axis
    return tf.reshape(x, [-1, x.shape[axis], math.prod(x.shape[axis + 1 :])])


def by_sample(x):
    """A tensor as (N, values)."""
    return tf.reshape(caffe_order(x), [tf.shape(x)[0], -1])


def flat(x):
    """All values of a tensor, one after the other."""
    return tf.reshape(caffe_order(x), [-1])


def whole(labels):
    """Labels cut to whole numbers, one after the other."""
    return tf.cast(flat(labels), tf.int32)


def counted(labels, ignored):
    """Whether each label counts."""
    return tf.ones_like(labels, tf.bool) if ignored is None else labels != ignored


def own_class(labels, scores):
    """Where each place's own class is, for scores of (outer, classes, inner)."""
    _, classes, inner = scores.shape
    return tf.range(classes)[:, None] == tf.reshape(labels, [-1, 1, inner])


def label_loss(probabilities, labels, least):
    """-log of the label's own probability, which is at least `least`; (outer, inner)."""
    chosen = tf.where(own_class(labels, probabilities), probabilities, 0.0)
    return -tf.math.log(tf.maximum(tf.reduce_sum(chosen, 1), least))


def normalized(losses, valid, outer, normalization):
    """The sum of the valid losses by what `normalization` says; `outer` is the batch's size."""
    places = tf.size(losses)
    valid = tf.reshape(valid, tf.shape(losses))
    number = {
        "FULL": places,
        "VALID": tf.math.count_nonzero(valid, dtype=tf.int32),
        "BATCH_SIZE": outer,
        "NONE": 1,
    }[normalization]
    total = tf.reduce_sum(tf.where(valid, losses, 0.0))
    return total / tf.cast(tf.maximum(number, 1), losses.dtype)


class Loss(CaffeLayer):
    """One number from several tensors."""

    def compute_output_shape(self, shapes):
        return ()


@registered
class Accuracy(CaffeLayer):
    """The share of labels that are hit, of all or of each class (accuracy_layer.cpp)."""

    def __init__(self, axis, top_k, ignore_label, per_class, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "axis": axis,
            "top_k": top_k,
            "ignore_label": ignore_label,
            "per_class": per_class,
        }

    def compute_output_shape(self, shapes):
        return (shapes[0][self.settings["axis"]],) if self.settings["per_class"] else ()

    def call(self, tensors):
        s = self.settings
        scores, labels = by_class(tensors[0], s["axis"]), whole(tensors[1])
        valid = counted(labels, s["ignore_label"])
        own = own_class(labels, scores)
        own &= tf.reshape(valid, [-1, 1, scores.shape[2]])
        best = tf.reduce_sum(tf.where(own, scores, 0.0), 1, keepdims=True)
        better = tf.math.count_nonzero(scores >= best, 1, keepdims=True)
        hits = tf.cast(own & (better <= s["top_k"]), scores.dtype)
        if not s["per_class"]:
            total = tf.reduce_sum(tf.cast(valid, scores.dtype))
            return tf.math.divide_no_nan(tf.reduce_sum(hits), total)
        totals = tf.reduce_sum(tf.cast(own, scores.dtype), [0, 2])
        return tf.math.divide_no_nan(tf.reduce_sum(hits, [0, 2]), totals)


class OfSoftmax(Loss):
    """A loss of the softmax over an axis of classes."""

    def __init__(self, axis, ignore_label, normalization, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "axis": axis,
            "ignore_label": ignore_label,
            "normalization": normalization,
        }

    def call(self, tensors):
        s = self.settings
        probabilities = tf.nn.softmax(by_class(tensors[0], s["axis"]), 1)
        labels = whole(tensors[1])
        losses = self.each(probabilities, labels, *tensors[2:])
        valid = counted(labels, s["ignore_label"])
        return normalized(losses, valid, tf.shape(losses)[0], s["normalization"])


@registered
class SoftmaxLoss(OfSoftmax):
    """-log(softmax(scores)[label]) (softmax_loss_layer.cpp)."""

    def each(self, probabilities, labels):
        return label_loss(probabilities, labels, np.finfo(np.float32).tiny)


@registered
class InfogainLoss(OfSoftmax):
    """-sum H[label] * log(softmax(scores)) (infogain_loss_layer.cpp)."""

    def each(self, probabilities, labels, matrix):
        classes = probabilities.shape[1]
        own = tf.cast(own_class(labels, probabilities), matrix.dtype)
        rows = tf.einsum("okc,kj->ojc", own, tf.reshape(caffe_order(matrix), [classes] * 2))
        return -tf.reduce_sum(rows * tf.math.log(tf.maximum(probabilities, 1e-20)), 1)


@registered
class MultinomialLogisticLoss(Loss):
    """-log(probability of the label) (multinomial_logistic_loss_layer.cpp)."""

    def call(self, tensors):
        probabilities = by_sample(tensors[0])[..., None]
        return tf.reduce_mean(label_loss(probabilities, whole(tensors[1]), 1e-20))


@registered
class HingeLoss(Loss):
    """max(0, 1 - x) at the label, max(0, 1 + x) elsewhere (hinge_loss_layer.cpp)."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"norm": norm}

    def call(self, tensors):
        scores = by_sample(tensors[0])[..., None]
        own = own_class(whole(tensors[1]), scores)
        short = tf.nn.relu(1.0 + tf.where(own, -scores, scores))
        short = short if self.settings["norm"] == "L1" else short * short
        return tf.reduce_sum(short) / tf.cast(tf.shape(scores)[0], scores.dtype)


@registered
class SigmoidCrossEntropyLoss(Loss):
    """-(t * log(p) + (1 - t) * log(1 - p)) (sigmoid_cross_entropy_loss_layer.cpp)."""

    def __init__(self, ignore_label, normalization, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"ignore_label": ignore_label, "normalization": normalization}

    def call(self, tensors):
        s = self.settings
        x, target = flat(tensors[0]), flat(tensors[1])
        positive = tf.cast(x >= 0, x.dtype)
        losses = tf.math.log(1.0 + tf.exp(x - 2 * x * positive)) - x * (target - positive)
        valid = counted(tf.cast(target, tf.int32), s["ignore_label"])
        return normalized(losses, valid, tf.shape(tensors[0])[0], s["normalization"])


@registered
class EuclideanLoss(Loss):
    """The sum of (a - b)^2 by 2 N (euclidean_loss_layer.cpp)."""

    def call(self, tensors):
        number = tf.cast(tf.shape(tensors[0])[0], tensors[0].dtype)
        return tf.reduce_sum(tf.square(flat(tensors[0]) - flat(tensors[1]))) / number / 2


@registered
class ContrastiveLoss(Loss):
    """Draws what is alike together and the rest apart (contrastive_loss_layer.cpp)."""

    def __init__(self, margin, legacy, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"margin": margin, "legacy": legacy}

    def call(self, tensors):
        s = self.settings
        squares = tf.reduce_sum(tf.square(by_sample(tensors[0]) - by_sample(tensors[1])), 1)
        if s["legacy"]:
            apart = tf.nn.relu(s["margin"] - squares)
        else:
            # The square root of 0 has no slope: there it is not taken, for the gradient's sake.
            differ = squares > 0
            distances = tf.where(differ, tf.sqrt(tf.where(differ, squares, 1.0)), 0.0)
            apart = tf.square(tf.nn.relu(s["margin"] - distances))
        losses = tf.where(whole(tensors[2]) != 0, squares, apart)
        return tf.reduce_mean(losses) / 2


@registered
class SmoothL1Loss(Loss):
    """A square near 0 and straight farther out (smooth_L1_loss_layer.cpp)."""

    def __init__(self, sigma, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"sigma": sigma}

    def call(self, tensors):
        square = np.float32(self.settings["sigma"]) ** 2
        a, b, *factors = (flat(tensor) for tensor in tensors)
        difference = (a - b) * factors[0] if factors else a - b
        size = tf.abs(difference)
        near = 0.5 * tf.square(difference) * square
        losses = tf.where(size < 1 / square, near, size - 0.5 / square)
        losses = losses * factors[1] if factors[1:] else losses
        return tf.reduce_sum(losses) / tf.cast(tf.shape(tensors[0])[0], losses.dtype)
