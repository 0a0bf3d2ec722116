"""ReLU's relatives in Caffe's forks."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class RectifiersCalls(Calls):
    def capped_relu(self, x, maximum, *, name, slope=0.0, falling=False):
        """min(max(x, 0), maximum) + slope * min(x, 0); `falling`: the second term is capped too."""
        if maximum >= 0 and slope >= 0:
            return self.add(keras.layers.ReLU(maximum, slope, name=name), x)
        return self.add(CappedReLU(maximum, slope, falling, name=name), x)

    def negative_relu(self, x, *, name, slope=0.0):
        """min(x, 0) + slope * max(x, 0)."""
        return self.add(NegReLU(slope, name=name), x)

    def concatenated_relu(self, x, *, name, axis=-1, slope=0.0):
        """ReLU of x and of -x, one after the other along `axis`."""
        return self.add(CReLU(axis, slope, name=name), x)

    def selu(self, x, *, name, scale=1.050700987, alpha=1.67326324):
        """scale * x where x > 0, else scale * alpha * (exp(x) - 1)."""
        return self.add(SELU(scale, alpha, name=name), x)

    def hard_sigmoid(self, x, *, name, slope=0.2, shift=0.5):
        """slope * x + shift, kept within 0 and 1."""
        return self.add(HardSigmoid(slope, shift, name=name), x)

    def gated(self, x, function, *, name):
        """One of Keras's functions: "hard_silu" (Caffe's HardSwish) or "mish"."""
        return self.add(keras.layers.Activation(function, name=name), x)


@registered
class CappedReLU(CaffeLayer):
    """A capped ReLU with a slope or a maximum below 0, which Keras refuses."""

    def __init__(self, maximum, slope, falling, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"maximum": maximum, "slope": slope, "falling": falling}

    def call(self, x):
        s = self.settings
        rising, rest = tf.maximum(x, 0.0), s["slope"] * tf.minimum(x, 0.0)
        if s["falling"]:
            return tf.minimum(rising + rest, s["maximum"])
        return tf.minimum(rising, s["maximum"]) + rest


@registered
class NegReLU(CaffeLayer):
    """min(x, 0) + slope * max(x, 0) (flownet2's neg_relu_layer.cpp)."""

    def __init__(self, slope, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"slope": slope}

    def call(self, x):
        return tf.minimum(x, 0.0) + self.settings["slope"] * tf.maximum(x, 0.0)


@registered
class CReLU(CaffeLayer):
    """max(x, 0) + slope * min(x, 0) of x and of -x along `axis` (Cambricon's crelu_layer.cpp)."""

    def __init__(self, axis, slope, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"axis": axis, "slope": slope}

    def compute_output_shape(self, shape):
        axis = self.settings["axis"] % len(shape)
        size = shape[axis]
        return (*shape[:axis], size if size is None else 2 * size, *shape[axis + 1 :])

    def call(self, x):
        both = tf.concat([x, -x], self.settings["axis"])
        return tf.maximum(both, 0.0) + self.settings["slope"] * tf.minimum(both, 0.0)


@registered
class SELU(CaffeLayer):
    """scale * x where x > 0, else scale * alpha * (exp(x) - 1) (py-RFCN-priv's selu_layer.cpp)."""

    def __init__(self, scale, alpha, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"scale": scale, "alpha": alpha}

    def call(self, x):
        s = self.settings
        falling = s["scale"] * s["alpha"] * tf.math.expm1(tf.minimum(x, 0.0))
        return s["scale"] * tf.maximum(x, 0.0) + falling


@registered
class HardSigmoid(CaffeLayer):
    """slope * x + shift, kept within 0 and 1 (Synopsys's hard_sigmoid_layer.cpp)."""

    def __init__(self, slope, shift, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"slope": slope, "shift": shift}

    def call(self, x):
        s = self.settings
        return tf.minimum(tf.maximum(s["slope"] * x + s["shift"], 0.0), 1.0)
