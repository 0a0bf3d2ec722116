"""Caffe's pooling: sizes round up, padding counts in an average, what overhangs does not."""

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, pair, registered


class PoolingCalls(Calls):
    def pooling(self, x, method, *, kernel, name, stride=1, pad=0, ceil=True):
        """ "max" or "average" pooling of an NHWC tensor; a size is a number or (height, width)."""
        layer = Pooling(method, kernel, stride, pad, ceil, name=name)
        windows = [layer.window(axis, size) for axis, size in enumerate(x.shape[1:3])]
        if any(before or after for _, before, after in windows):
            return self.add(layer, x)
        plain = keras.layers.MaxPooling2D if method == "max" else keras.layers.AveragePooling2D
        return self.add(plain(kernel, strides=stride, name=name), x)

    def global_pooling(self, x, method, *, name):
        """The "max" or "average" of each channel, as a 1 x 1 image."""
        layer = (
            keras.layers.GlobalMaxPooling2D
            if method == "max"
            else keras.layers.GlobalAveragePooling2D
        )
        return self.add(layer(keepdims=True, name=name), x)


@registered
class Pooling(CaffeLayer):
    """Pooling with padding or with windows that overhang the image (pooling_layer.cpp)."""

    def __init__(self, method, kernel, stride, pad, ceil, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "method": method,
            "kernel": kernel,
            "stride": stride,
            "pad": pad,
            "ceil": ceil,
        }
        self.sides = [pair(value) for value in (kernel, stride, pad)]

    def window(self, axis, size):
        """(out size, rows to add before, rows to add after); below 0: rows no window reaches."""
        kernel, stride, pad = (side[axis] for side in self.sides)
        room = size + 2 * pad - kernel
        out = (-(-room // stride) if self.settings["ceil"] else room // stride) + 1
        # Caffe drops a last window that starts in the padding, but looks only where there is any.
        if any(self.sides[2]) and (out - 1) * stride >= size + pad:
            out -= 1
        return out, pad, (out - 1) * stride + kernel - size - pad

    def compute_output_shape(self, shape):
        sides = (self.window(axis, size)[0] for axis, size in enumerate(shape[1:3]))
        return (shape[0], *sides, shape[3])

    def call(self, x):
        kernel, stride, pad = self.sides
        windows = [self.window(axis, size) for axis, size in enumerate(x.shape[1:3])]
        pads = [[0, 0], *([before, max(after, 0)] for _, before, after in windows), [0, 0]]
        if self.settings["method"] == "max":
            x = tf.pad(x, pads, constant_values=x.dtype.min)
            return tf.nn.max_pool2d(x, kernel, stride, "VALID")
        shares = []
        for axis, ((out, _, _), size) in enumerate(zip(windows, x.shape[1:3], strict=True)):
            start = np.arange(out) * stride[axis] - pad[axis]
            counted = np.minimum(start + kernel[axis], size + pad[axis]) - start
            with np.errstate(divide="ignore"):
                shares.append((kernel[axis] / counted).astype(np.float32))
        x = tf.nn.avg_pool2d(tf.pad(x, pads), kernel, stride, "VALID")
        return x * np.multiply.outer(*shares)[None, :, :, None]
