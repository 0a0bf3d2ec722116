"""Functions of one number, and softmax."""

import math

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ActivationsCalls(Calls):
    def relu(self, x, *, name, slope=0.0):
        """max(x, 0) + slope * min(x, 0)."""
        if slope < 0:
            return self.add(Folded(slope, name=name), x)
        return self.add(keras.layers.ReLU(negative_slope=slope, name=name), x)

    def limited_relu(self, x, *, name, slope=0.0, least=None, greatest=None):
        """`relu`, NaN made 0, then at most `greatest`, then at least `least`."""
        return self.add(LimitedReLU(slope, least, greatest, name=name), x)

    def prelu(self, x, *, name, shared_axes=None):
        """max(x, 0) + weights * min(x, 0)."""
        return self.add(keras.layers.PReLU(shared_axes=shared_axes, name=name), x)

    def elu(self, x, *, name, alpha=1.0):
        """x where x > 0, else alpha * (exp(x) - 1)."""
        return self.add(keras.layers.ELU(alpha=alpha, name=name), x)

    def activation(self, x, function, *, name):
        """One of Keras's functions: "sigmoid", "tanh", "softplus" (Caffe's BNLL)."""
        return self.add(keras.layers.Activation(function, name=name), x)

    def swish(self, x, *, name, beta=1.0):
        """x * sigmoid(beta * x)."""
        if beta == 1:
            return self.add(keras.layers.Activation("silu", name=name), x)
        return self.add(Swish(beta, name=name), x)

    def clip(self, x, low, high, *, name):
        """max(low, min(x, high))."""
        return self.add(Clip(low, high, name=name), x)

    def threshold(self, x, *, name, threshold=0.0):
        """1 where x > threshold, else 0."""
        return self.add(Threshold(threshold, name=name), x)

    def abs_val(self, x, *, name):
        """|x|."""
        return self.add(AbsVal(name=name), x)

    def power(self, x, *, name, power=1.0, scale=1.0, shift=0.0):
        """(shift + scale * x) ** power."""
        return self.add(Power(power, scale, shift, name=name), x)

    def exp(self, x, *, name, base=None, scale=1.0, shift=0.0):
        """base ** (shift + scale * x); None is the base e."""
        return self.add(Exp(base or math.e, scale, shift, name=name), x)

    def log(self, x, *, name, base=None, scale=1.0, shift=0.0):
        """The logarithm of shift + scale * x; a base of None is e."""
        return self.add(Log(base or math.e, scale, shift, name=name), x)

    def softmax(self, x, *, name, axis=-1):
        """exp(x) / sum of exp(x) over `axis`."""
        if x.shape[axis] == 1:
            return self.add(SoftmaxOfOne(name=name), x)
        return self.add(keras.layers.Softmax(axis=axis, name=name), x)

    def dropout(self, x, rate, *, name, scale_train=True):
        """In training drops each value with probability `rate`, and divides the others by 1 - rate.

        Without `scale_train` the others stay as they are, and inference multiplies by 1 - rate.
        """
        make = keras.layers.Dropout if scale_train else UnscaledDropout
        return self.add(make(rate, name=name), x)


@registered
class UnscaledDropout(keras.layers.Dropout):
    """Dropout with ``scale_train: false`` (dropout_layer.cpp of the forks)."""

    def call(self, inputs, training=False):
        return super().call(inputs, training=training) * (1.0 - self.rate)


@registered
class Folded(CaffeLayer):
    """ReLU with a negative slope below 0, which Keras refuses (relu_layer.cpp)."""

    def __init__(self, slope, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"slope": slope}

    def call(self, x):
        return tf.maximum(x, 0.0) + self.settings["slope"] * tf.minimum(x, 0.0)


@registered
class LimitedReLU(CaffeLayer):
    """max(x, 0) + slope * min(x, 0) between limits (Synopsys's relu_layer.cpp)."""

    def __init__(self, slope, least, greatest, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"slope": slope, "least": least, "greatest": greatest}

    def call(self, x):
        s = self.settings
        x = tf.maximum(x, 0.0) + s["slope"] * tf.minimum(x, 0.0)
        x = tf.where(tf.math.is_nan(x), tf.zeros_like(x), x)
        x = x if s["greatest"] is None else tf.minimum(x, s["greatest"])
        return x if s["least"] is None else tf.maximum(x, s["least"])


@registered
class SoftmaxOfOne(CaffeLayer):
    """Softmax over an axis of one value, about which Keras's own layer warns at every call."""

    def call(self, x):
        return tf.math.exp(x - x)


@registered
class Swish(CaffeLayer):
    """x * sigmoid(beta * x) (swish_layer.cpp)."""

    def __init__(self, beta, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"beta": beta}

    def call(self, x):
        return x * tf.sigmoid(self.settings["beta"] * x)


@registered
class Clip(CaffeLayer):
    """max(low, min(x, high)) (clip_layer.cpp)."""

    def __init__(self, low, high, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"low": low, "high": high}

    def call(self, x):
        return tf.maximum(tf.minimum(x, self.settings["high"]), self.settings["low"])


@registered
class Threshold(CaffeLayer):
    """1 where x > threshold, else 0 (threshold_layer.cpp)."""

    def __init__(self, threshold, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"threshold": threshold}

    def call(self, x):
        return tf.cast(x > self.settings["threshold"], x.dtype)


@registered
class AbsVal(CaffeLayer):
    """|x|."""

    def call(self, x):
        return tf.abs(x)


@registered
class Power(CaffeLayer):
    """(shift + scale * x) ** power (power_layer.cpp)."""

    def __init__(self, power, scale, shift, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"power": power, "scale": scale, "shift": shift}

    def call(self, x):
        s = self.settings
        # Caffe never looks at x here, so that not even a NaN gets through.
        if s["power"] * s["scale"] == 0:
            with np.errstate(all="ignore"):
                value = np.float32(s["shift"]) ** np.float32(s["power"])
            return tf.fill(tf.shape(x), value)
        x = x * s["scale"] if s["scale"] != 1 else x
        x = x + s["shift"] if s["shift"] != 0 else x
        return x if s["power"] == 1 else tf.pow(x, s["power"])


@registered
class Exp(CaffeLayer):
    """base ** (shift + scale * x) (exp_layer.cpp)."""

    def __init__(self, base, scale, shift, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"base": base, "scale": scale, "shift": shift}

    def call(self, x):
        s = self.settings
        with np.errstate(all="ignore"):
            outer = np.float32(np.float64(s["base"]) ** s["shift"])
        return tf.exp(x * (math.log(s["base"]) * s["scale"])) * outer


@registered
class Log(CaffeLayer):
    """The logarithm to `base` of shift + scale * x (log_layer.cpp)."""

    def __init__(self, base, scale, shift, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"base": base, "scale": scale, "shift": shift}

    def call(self, x):
        s = self.settings
        return tf.math.log(x * s["scale"] + s["shift"]) * (1.0 / math.log(s["base"]))
