"""Learned scales and offsets, and those that another blob brings."""

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ScalingCalls(Calls):
    def scale(self, x, *, name, shape, bias=False):
        """x * weights, + bias; `shape` is lined up with the last axes of x."""
        return self.add(Affine(shape, True, bias, name=name), x)

    def bias(self, x, *, name, shape):
        """x + weights; `shape` is lined up with the last axes of x."""
        return self.add(Affine(shape, False, True, name=name), x)

    def scale_by(self, tensors, *, name, axis=1, bias_shape=None):
        """x * factor for [x, factor], lined up with Caffe's axes of x from `axis` on."""
        if bias_shape is None:
            return self.add(Aligned("multiply", axis, name=name), tensors)
        x = self.add(Aligned("multiply", axis, name=f"{name}__product"), tensors)
        return self.bias(x, name=name, shape=bias_shape)

    def bias_by(self, tensors, *, name, axis=1):
        """x + offset for [x, offset], lined up as in `scale_by`."""
        return self.add(Aligned("add", axis, name=name), tensors)


@registered
class Affine(CaffeLayer):
    """x * weights + bias, each of them optional."""

    def __init__(self, shape, scale, bias, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"shape": tuple(shape), "scale": scale, "bias": bias}

    def build(self, shape):
        s = self.settings
        self.weight = (
            self.add_weight(shape=s["shape"], initializer="ones", name="scale")
            if s["scale"]
            else None
        )
        self.bias = (
            self.add_weight(shape=s["shape"], initializer="zeros", name="bias")
            if s["bias"]
            else None
        )

    def call(self, x):
        if self.weight is not None:
            x = x * self.weight
        return x if self.bias is None else x + self.bias


@registered
class Aligned(CaffeLayer):
    """One tensor times or plus another whose axes start at Caffe's `axis` of the first."""

    def __init__(self, operation, axis, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"operation": operation, "axis": axis}

    def compute_output_shape(self, shape):
        return shape[0]

    def call(self, tensors):
        x, y = tensors
        axis, rank = self.settings["axis"], len(x.shape)
        if len(y.shape) == 4 and rank != 4:
            y = tf.transpose(y, [0, 3, 1, 2])
        if len(y.shape) != rank:
            shape = tf.shape(y)
            y = tf.reshape(
                y, tf.pad(shape, [[axis, rank - axis - len(y.shape)]], constant_values=1)
            )
            if rank == 4:
                y = tf.transpose(y, [0, 2, 3, 1])
        return x * y if self.settings["operation"] == "multiply" else x + y
