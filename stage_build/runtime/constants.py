"""Layers without bottoms that are no inputs."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ConstantsCalls(Calls):
    def parameter(self, x, shape, *, name):
        """A weight of this shape, as a tensor; nothing is read of x."""
        return self.add(Parameter(shape, name=name), x)

    def constant(self, x, value, *, shape, name, axes=None):
        """A tensor of one value, where None in its shape is as large as that axis of x.

        `axes` are the axes of x that are meant, if others.
        """
        return self.add(Constant(value, shape, axes, name=name), x)

    def constants(self, x, values, *, shapes, name, axes=None):
        """Tensors of one value each, see `constant`."""
        axes = axes or [None] * len(values)
        return [
            self.constant(x, value, shape=shape, axes=read, name=f"{name}__{i}")
            for i, (value, shape, read) in enumerate(zip(values, shapes, axes, strict=True))
        ]


@registered
class Parameter(CaffeLayer):
    """A weight as a tensor (parameter_layer.hpp)."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"shape": tuple(shape)}

    def build(self, shape):
        self.value = self.add_weight(name="value", shape=self.settings["shape"])

    def compute_output_shape(self, shape):
        return self.settings["shape"]

    def call(self, x):
        return tf.identity(self.value)


@registered
class Constant(CaffeLayer):
    """A tensor of one value (dummy_data_layer.cpp, a constant filler)."""

    def __init__(self, value, shape, axes, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"value": value, "shape": tuple(shape), "axes": axes}

    def compute_output_shape(self, shape):
        own, axes = self.settings["shape"], self.settings["axes"]
        axes = iter(axes or [axis for axis, size in enumerate(own) if size is None])
        return tuple(shape[next(axes)] if size is None else size for size in own)

    def call(self, x):
        shape = self.compute_output_shape(keras.ops.shape(x))
        return tf.fill(shape, tf.constant(self.settings["value"], x.dtype))
