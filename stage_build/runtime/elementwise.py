"""Tensors of one shape, combined value by value."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ElementwiseCalls(Calls):
    def eltwise(self, tensors, operation="sum", *, name, coefficients=None):
        """The "sum" (each tensor times its coefficient), "product", "max" or "min" of the tensors,
        or the "quotient" of two. One tensor may stand without a list."""
        if coefficients is not None:
            tensors = tensors if isinstance(tensors, list) else [tensors]
            return self.add(WeightedSum(coefficients, name=name), tensors)
        layer = {
            "sum": keras.layers.Add,
            "product": keras.layers.Multiply,
            "max": keras.layers.Maximum,
            "min": keras.layers.Minimum,
            "quotient": Quotient,
        }[operation]
        return self.add(layer(name=name), tensors)

    def axpy(self, tensors, *, name):
        """scale * x + y for [scale, x, y], with one factor for each sample and channel of x."""
        return self.add(Axpy(name=name), tensors)


@registered
class WeightedSum(CaffeLayer):
    """The sum of coefficient * tensor (eltwise_layer.cpp)."""

    def __init__(self, coefficients, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"coefficients": tuple(coefficients)}

    def compute_output_shape(self, shapes):
        return shapes[0]

    def call(self, tensors):
        first, *rest = (x * c for x, c in zip(tensors, self.settings["coefficients"], strict=True))
        return sum(rest, first)


@registered
class Quotient(CaffeLayer):
    """The first tensor by the second (Synopsys's eltwise_layer.cpp)."""

    def compute_output_shape(self, shapes):
        return shapes[0]

    def call(self, tensors):
        return tensors[0] / tensors[1]


@registered
class Axpy(CaffeLayer):
    """scale * x + y for [scale, x, y] (SENet's axpy_layer.cpp)."""

    def compute_output_shape(self, shapes):
        return shapes[1]

    def call(self, tensors):
        scale, x, y = tensors
        rank = len(x.shape)
        last = rank == 4
        ones, channels = (1,) * (rank - 2), (x.shape[-1 if last else 1],)
        factors = tf.reshape(scale, (-1, *ones, *channels) if last else (-1, *channels, *ones))
        return factors * x + y
