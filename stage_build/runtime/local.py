"""Convolution with weights of its own for each place."""

import itertools

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class LocalCalls(Calls):
    def local(self, x, filters, *, kernel, name, stride=1, pad=0, bias=True):
        """A convolution of an NHWC tensor whose weights differ from place to place."""
        return self.add(Local(filters, kernel, stride, pad, bias, name=name), x)


@registered
class Local(CaffeLayer):
    """Each window times its own weights (local_layer.cpp of caffe-windows)."""

    def __init__(self, filters, kernel, stride, pad, bias, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "filters": filters,
            "kernel": kernel,
            "stride": stride,
            "pad": pad,
            "bias": bias,
        }

    def build(self, shape):
        s = self.settings
        _, *out, filters = self.compute_output_shape(shape)
        taps = s["kernel"] ** 2 * shape[-1]
        self.kernel = self.add_weight(shape=(*out, taps, filters), name="kernel")
        self.bias = self.add_weight(shape=(*out, filters), name="bias") if s["bias"] else None

    def compute_output_shape(self, shape):
        s = self.settings
        sides = (max(n + 2 * s["pad"] - s["kernel"], 0) // s["stride"] + 1 for n in shape[1:3])
        return (shape[0], *sides, s["filters"])

    def call(self, x):
        s = self.settings
        k, stride = s["kernel"], s["stride"]
        around = [(s["pad"], max(s["pad"], k - n - s["pad"])) for n in x.shape[1:3]]
        x = tf.pad(x, [(0, 0), *around, (0, 0)])
        height, width = (1 + (n - k) // stride * stride for n in x.shape[1:3])
        taps = itertools.product(range(k), repeat=2)
        windows = tf.concat(
            [x[:, i : i + height : stride, j : j + width : stride] for i, j in taps], -1
        )
        y = tf.einsum("nhwk,hwkf->nhwf", windows, tf.convert_to_tensor(self.kernel))
        return y if self.bias is None else y + self.bias
