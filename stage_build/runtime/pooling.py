"""Caffe's pooling: sizes round up, padding counts in an average, what overhangs does not."""

import functools

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, pair, registered


class PoolingCalls(Calls):
    """A size is one number, or one for each axis; a pad may also be (before, after) for each."""

    def pooling(self, x, method, *, kernel, name, stride=1, pad=0, ceil=True, count_padding=True):
        """ "max" or "average" pooling of an NHWC tensor."""
        layer = Pooling(method, kernel, stride, pad, ceil, count_padding, name=name)
        if layer.needed(x.shape):
            return self.add(layer, x)
        plain = keras.layers.MaxPooling2D if method == "max" else keras.layers.AveragePooling2D
        return self.add(plain(kernel, strides=stride, name=name), x)

    def pooling_with_positions(self, x, *, kernel, name, stride=1, pad=0, ceil=True):
        """Max pooling, and where in its plane each greatest pixel stands (h * width + w)."""
        window = dict(kernel=kernel, stride=stride, pad=pad, ceil=ceil)
        return [
            self.pooling(x, "max", **window, name=f"{name}__0"),
            self.add(Positions("max", **window, name=f"{name}__1"), x),
        ]

    def global_pooling(self, x, method, *, name):
        """The "max" or "average" of each channel, as a 1 x 1 image."""
        layer = (
            keras.layers.GlobalMaxPooling2D
            if method == "max"
            else keras.layers.GlobalAveragePooling2D
        )
        return self.add(layer(keepdims=True, name=name), x)

    def spatial_pyramid(self, x, method, levels, *, name):
        """The image pooled into 1, 4, 16, ... windows, level after level as one row."""
        rows = []
        for level in range(levels):
            kernel = [-(-size // 2**level) for size in x.shape[1:3]]
            pad = [(k * 2**level - n + 1) // 2 for n, k in zip(x.shape[1:3], kernel, strict=True)]
            label = f"{name}__{level}" if levels > 1 else name
            top = self.pooling(x, method, kernel=kernel, stride=kernel, pad=pad, name=label)
            if levels == 1:
                return top
            top = self.add(keras.layers.Permute((3, 1, 2), name=f"{label}_nchw"), top)
            rows.append(self.add(keras.layers.Flatten(name=f"{label}_row"), top))
        return self.add(keras.layers.Concatenate(name=name), rows)

    def pooling_3d(self, x, method, *, kernel, name, stride=1, pad=0):
        """Pooling over time, height and width of a tensor in Caffe's order (N, C, L, H, W)."""
        x = self.add(keras.layers.Permute((2, 3, 4, 1), name=f"{name}__last"), x)
        layer = Pooling(method, kernel, stride, pad, True, clip=False, name=f"{name}__pooled")
        if not layer.needed(x.shape):
            plain = keras.layers.MaxPooling3D if method == "max" else keras.layers.AveragePooling3D
            layer = plain(kernel, strides=stride, name=f"{name}__pooled")
        return self.add(keras.layers.Permute((4, 1, 2, 3), name=name), self.add(layer, x))


@registered
class Pooling(CaffeLayer):
    """Pooling with padding or with windows that overhang the image (pooling_layer.cpp).

    `clip` drops a last window that starts in the far padding.
    """

    def __init__(self, method, kernel, stride, pad, ceil, count_padding=True, clip=True, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "method": method,
            "kernel": kernel,
            "stride": stride,
            "pad": pad,
            "ceil": ceil,
            "count_padding": count_padding,
            "clip": clip,
        }

    def sides(self, axis):
        """(kernel, stride, (zeros before, zeros after)) of one axis."""
        kernel, stride, pad = (
            value[axis] if isinstance(value, (list, tuple)) else value
            for value in (self.settings[key] for key in ("kernel", "stride", "pad"))
        )
        return kernel, stride, pair(pad)

    def window(self, axis, size):
        """(out size, rows to add before, rows to add after); below 0: rows no window reaches."""
        kernel, stride, (before, after) = self.sides(axis)
        room = size + before + after - kernel
        out = (-(-room // stride) if self.settings["ceil"] else room // stride) + 1
        # Caffe drops a last window that starts in the padding, but looks only where there is any.
        padded = np.any(self.settings["pad"])
        if self.settings["clip"] and padded and (out - 1) * stride >= size + before:
            out -= 1
        return out, before, (out - 1) * stride + kernel - size - before

    def needed(self, shape):
        """Whether a pixel must be added to any side of such a tensor."""
        windows = (self.window(axis, size) for axis, size in enumerate(shape[1:-1]))
        return any(before or after > 0 for _, before, after in windows)

    def compute_output_shape(self, shape):
        sides = (self.window(axis, size)[0] for axis, size in enumerate(shape[1:-1]))
        return (shape[0], *sides, shape[-1])

    def padded(self, x, value):
        """x with what its windows reach past it, then each axis's kernel, and its stride."""
        windows = [self.window(axis, size) for axis, size in enumerate(x.shape[1:-1])]
        around = [[0, 0], *([before, max(after, 0)] for _, before, after in windows), [0, 0]]
        kernel, stride, _ = zip(*map(self.sides, range(len(windows))), strict=True)
        return tf.pad(x, around, constant_values=value), list(kernel), list(stride)

    def call(self, x):
        if self.settings["method"] == "max":
            x, kernel, stride = self.padded(x, x.dtype.min)
            return tf.nn.max_pool(x, kernel, stride, "VALID")
        shares = functools.reduce(
            np.multiply.outer,
            (self.share(axis, size) for axis, size in enumerate(x.shape[1:-1])),
        )
        x, kernel, stride = self.padded(x, 0)
        return tf.nn.avg_pool(x, kernel, stride, "VALID") * shares[None, ..., None]

    def share(self, axis, size):
        """By how much each window's average over a whole kernel is too small."""
        kernel, stride, (before, after) = self.sides(axis)
        start = np.arange(self.window(axis, size)[0]) * stride - before
        end = np.minimum(start + kernel, size + after)
        if not self.settings["count_padding"]:
            start, end = np.maximum(start, 0), np.minimum(end, size)
        with np.errstate(divide="ignore"):
            return (kernel / (end - start)).astype(np.float32)


@registered
class Positions(Pooling):
    """Where in its plane (h * width + w) each window's greatest pixel stands; -1 for none."""

    def call(self, x):
        _, height, width, channels = x.shape
        padded, kernel, stride = self.padded(x, x.dtype.min)
        greatest, place = tf.nn.max_pool_with_argmax(padded, kernel, stride, "VALID")
        row, column = place // channels // padded.shape[2], place // channels % padded.shape[2]
        place = (row - self.window(0, height)[1]) * width + column - self.window(1, width)[1]
        return tf.where(greatest > x.dtype.min, tf.cast(place, x.dtype), -1.0)
