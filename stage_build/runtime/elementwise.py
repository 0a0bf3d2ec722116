"""Tensors of one shape, combined value by value."""

import keras

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ElementwiseCalls(Calls):
    def eltwise(self, tensors, operation="sum", *, name, coefficients=None):
        """The "sum" (each tensor times its coefficient), "product" or "max" of the tensors."""
        if coefficients is not None:
            return self.add(WeightedSum(coefficients, name=name), tensors)
        layer = {
            "sum": keras.layers.Add,
            "product": keras.layers.Multiply,
            "max": keras.layers.Maximum,
        }[operation]
        return self.add(layer(name=name), tensors)


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
