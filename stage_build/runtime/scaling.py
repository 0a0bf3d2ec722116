"""Learned scales and offsets, and those that another blob brings."""

import keras
import numpy as np
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

    def unscaled(self, tensors):
        """x of [x, factors]."""
        return tensors[0]

    def scale_places(self, tensors, *, name):
        """x * factors for [x, factors], a factor being for all channels of its place."""
        return self.add(PlaceScale(name=name), tensors)

    def scale_all(self, tensors, *, name, both=False):
        """x * weight for [x, ...]; `both`: and the weight."""
        if not both:
            return self.add(GlobalScale(False, name=name), tensors[0])
        return [
            self.add(keras.layers.Identity(name=f"{name}__{i}"), top)
            for i, top in enumerate(self.add(GlobalScale(True, name=name), tensors[0]))
        ]

    def shift_channels(
        self, tensors, values, *, name, shift_scale=1.0, input_scale=1.0, output_scale=1.0
    ):
        """output_scale * (input_scale * x + shift_scale * value) for each tensor x.

        Channel c takes value c modulo their number.
        """
        settings = (values, shift_scale, input_scale, output_scale)
        if not isinstance(tensors, (list, tuple)):
            return self.add(ShiftedChannels(*settings, name=name), tensors)
        return [
            self.add(ShiftedChannels(*settings, name=f"{name}__{i}"), x)
            for i, x in enumerate(tensors)
        ]


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


@registered
class PlaceScale(CaffeLayer):
    """x * factors with one factor for all channels of a place (happynear's
    channel_scale_layer.cpp)."""

    def compute_output_shape(self, shapes):
        return shapes[0]

    def call(self, tensors):
        x, factors = tensors
        if len(factors.shape) == 4:
            factors = tf.transpose(factors, [0, 3, 1, 2])
        if len(x.shape) == 4:
            return x * tf.reshape(factors, (-1, *x.shape[1:3], 1))
        return x * tf.reshape(factors, (-1, 1, *x.shape[2:]))


@registered
class GlobalScale(CaffeLayer):
    """x * weight; `both`: and the weight itself. It is a statistic, which training leaves alone
    (happynear's channel_scale_layer.cpp)."""

    def __init__(self, both, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"both": both}

    def build(self, shape):
        self.weight = self.add_weight(
            shape=(1,), initializer="ones", trainable=False, name="weight"
        )

    def compute_output_shape(self, shape):
        return [shape, (1,)] if self.settings["both"] else shape

    def call(self, x):
        weight = tf.convert_to_tensor(self.weight)
        return [x * weight, tf.identity(weight)] if self.settings["both"] else x * weight


@registered
class ShiftedChannels(CaffeLayer):
    """output_scale * (input_scale * x + shift_scale * value), values repeating over the channels
    (flownet2's mean_layer.cpp)."""

    def __init__(self, values, shift_scale, input_scale, output_scale, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "values": tuple(values),
            "shift_scale": shift_scale,
            "input_scale": input_scale,
            "output_scale": output_scale,
        }

    def call(self, x):
        s = self.settings
        values = np.resize(np.array(s["values"], np.float32), x.shape[-1])
        return s["output_scale"] * (s["input_scale"] * x + s["shift_scale"] * values)
