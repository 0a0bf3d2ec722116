"""Functions of one number without a place in BVLC Caffe."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class UnaryCalls(Calls):
    def unary(self, x, function, *, name):
        """A function of tf.math: "sqrt", "square", "sin", "cos", "atan" or "acos"."""
        return self.add(Unary(function, name=name), x)

    def rounded(self, x, function, *, name):
        """The whole number given by "ceil", "floor" or "round" (halves to the even one)."""
        return self.add(Rounded(function, name=name), x)

    def overflowing_softplus(self, x, *, name):
        """log(exp(x) + 1), infinite where exp overflows."""
        return self.add(OverflowingSoftplus(name=name), x)

    def softsign(self, x, *, name):
        """x / (1 + |x|)."""
        return self.add(keras.layers.Activation("softsign", name=name), x)

    def hard_tanh(self, x, *, name):
        """x, kept within -1 and 1."""
        return self.add(keras.layers.Activation("hard_tanh", name=name), x)

    def scaled_tanh(self, x, *, name, scale, slope):
        """scale * tanh(slope * x)."""
        return self.add(ScaledTanH(scale, slope, name=name), x)


@registered
class Unary(CaffeLayer):
    """A function of tf.math, by its name."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"function": function}

    def call(self, x):
        return getattr(tf.math, self.settings["function"])(x)


@registered
class Rounded(Unary):
    """The same for the functions that have no gradient."""


@registered
class OverflowingSoftplus(CaffeLayer):
    """log(exp(x) + 1), infinite where exp overflows (Synopsys's softplus_layer.cpp)."""

    def call(self, x):
        return tf.math.log(tf.exp(x) + 1.0)


@registered
class ScaledTanH(CaffeLayer):
    """scale * tanh(slope * x) (Synopsys's scaled_tanh_layer.cpp)."""

    def __init__(self, scale, slope, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"scale": scale, "slope": slope}

    def call(self, x):
        return self.settings["scale"] * tf.tanh(self.settings["slope"] * x)
