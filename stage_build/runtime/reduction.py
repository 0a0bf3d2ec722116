"""Reduction: one number from many."""

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ReductionCalls(Calls):
    def reduction(self, x, method, *, axes, name, coeff=1.0, order=None):
        """coeff times the "sum", "mean", "sum of magnitudes" or "sum of squares" over `axes`.

        `order` transposes what is left.
        """
        return self.add(Reduction(method, axes, coeff, order, name=name), x)


@registered
class Reduction(CaffeLayer):
    """One number from many (reduction_layer.cpp)."""

    def __init__(self, method, axes, coeff, order, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"method": method, "axes": tuple(axes), "coeff": coeff, "order": order}

    def compute_output_shape(self, shape):
        left = [size for axis, size in enumerate(shape) if axis not in self.settings["axes"]]
        order = self.settings["order"] or range(len(left))
        return tuple(left[axis] for axis in order)

    def call(self, x):
        s = self.settings
        if s["method"] == "sum of magnitudes":
            x = tf.abs(x)
        elif s["method"] == "sum of squares":
            x = tf.square(x)
        reduce = tf.reduce_mean if s["method"] == "mean" else tf.reduce_sum
        top = reduce(x, axis=s["axes"])
        top = top * s["coeff"] if s["coeff"] != 1 else top
        return tf.transpose(top, s["order"]) if s["order"] else top
