"""Caffe's pooling: sizes round up, padding counts in an average, what overhangs does not."""

import functools
import itertools
import operator

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, pair, registered, spatial_sizes


class PoolingCalls(Calls):
    """A size is one number, or one for each axis; a pad may also be (before, after) for each."""

    def pooling(self, x, method, *, kernel, name, stride=1, pad=0, ceil=True, count_padding=True):
        """ "max" or "average" pooling of an NHWC tensor."""
        layer = Pooling(method, kernel, stride, pad, ceil, count_padding, name=name)
        padding = "same" if layer.needed(x.shape) else "valid"
        if padding == "same" and not layer.is_same(x.shape):
            return self.add(layer, x)
        plain = keras.layers.MaxPooling2D if method == "max" else keras.layers.AveragePooling2D
        return self.add(plain(kernel, strides=stride, padding=padding, name=name), x)

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

    def around(self, axis, size):
        """(rows to add before, rows to add after) an axis; a size of None stands for any.

        With those the windows that fit are Caffe's, at any size: rounding up is rounding down with
        a stride - 1 more, and no window of those that fit into kernel - 1 more starts in them.
        """
        if size is not None:
            _, before, after = self.window(axis, size)
            return before, max(after, 0)
        kernel, stride, (before, after) = self.sides(axis)
        after += stride - 1 if self.settings["ceil"] else 0
        clipped = self.settings["clip"] and np.any(self.settings["pad"])
        return before, min(after, kernel - 1) if clipped else after

    def out(self, axis, size):
        """How many windows there are; of a size that is a tensor, a tensor."""
        if isinstance(size, int):
            return self.window(axis, size)[0]
        kernel, stride, _ = self.sides(axis)
        return (size + sum(self.around(axis, None)) - kernel) // stride + 1

    def needed(self, shape):
        """Whether a pixel must, or may have to, be added to any side of such a tensor."""
        return any(any(self.around(axis, size)) for axis, size in enumerate(shape[1:-1]))

    def is_same(self, shape):
        """Whether TensorFlow's "SAME" has the same windows of such a tensor, and averages alike: it
        counts no padding."""
        counted = self.settings["method"] == "average" and self.settings["count_padding"]
        if counted and np.any(self.settings["pad"]):
            return False
        return all(self.is_same_axis(axis, size) for axis, size in enumerate(shape[1:-1]))

    def is_same_axis(self, axis, size):
        """As `is_same`, of one axis; a size of None stands for any."""
        kernel, stride, _ = self.sides(axis)
        if size is None and stride > 1:
            return False
        out = 1 if size is None else self.window(axis, size)[0]
        spare = kernel - 1 if size is None else max((out - 1) * stride + kernel - size, 0)
        fits = size is None or out == -(-size // stride)
        return fits and self.around(axis, size) == (spare // 2, spare - spare // 2)

    def compute_output_shape(self, shape):
        sides = (
            size if size is None else self.window(axis, size)[0]
            for axis, size in enumerate(shape[1:-1])
        )
        return (shape[0], *sides, shape[-1])

    def padded(self, x, value):
        """x with what its windows reach past it, then each axis's kernel, and its stride.

        A value of None is that of the edge.
        """
        sides = [self.around(axis, size) for axis, size in enumerate(x.shape[1:-1])]
        kernel, stride, _ = zip(*map(self.sides, range(len(sides))), strict=True)
        if value is None:
            for axis, (before, after) in enumerate(sides, 1):
                whole = (slice(None),) * axis
                first, last = [x[whole + (slice(1),)]], [x[whole + (slice(-1, None),)]]
                if before or after:
                    x = tf.concat([*first * before, x, *last * after], axis)
        else:
            x = tf.pad(x, [[0, 0], *sides, [0, 0]], constant_values=value)
        return x, list(kernel), list(stride)

    def meets_the_edge(self, shape):
        """Whether every window that reaches past the image has pixels of its edge too."""
        sides = [(self.sides(axis)[0], *self.around(axis, n)) for axis, n in enumerate(shape[1:-1])]
        return self.settings["clip"] and all(max(around) < kernel for kernel, *around in sides)

    def call(self, x):
        if self.settings["method"] == "max":
            # The edge once more changes no maximum; the least number would spoil int8's range.
            least = None if self.meets_the_edge(x.shape) else x.dtype.min
            x, kernel, stride = self.padded(x, least)
            return tf.nn.max_pool(x, kernel, stride, "VALID")
        sizes = spatial_sizes(x)
        shares = (self.share(axis, size, len(sizes)) for axis, size in enumerate(sizes))
        shares = functools.reduce(operator.mul, shares)
        x, kernel, stride = self.padded(x, 0)
        return tf.nn.avg_pool(x, kernel, stride, "VALID") * shares

    def share(self, axis, size, axes):
        """By how much each window's average over a whole kernel is too small; lined up with x."""
        kernel, stride, (before, after) = self.sides(axis)
        aligned = [-1 if place == axis + 1 else 1 for place in range(axes + 2)]
        if isinstance(size, int):
            least, greatest, count = np.minimum, np.maximum, np.arange
        else:
            least, greatest, count = tf.minimum, tf.maximum, tf.range
        start = count(self.out(axis, size)) * stride - before
        end = least(start + kernel, size + after)
        if not self.settings["count_padding"]:
            start, end = greatest(start, 0), least(end, size)
        if not isinstance(size, int):
            return tf.reshape(kernel / tf.cast(end - start, tf.float32), aligned)
        with np.errstate(divide="ignore"):
            return (kernel / (end - start)).astype(np.float32).reshape(aligned)


@registered
class Positions(Pooling):
    """Where in its plane (h * width + w) each window's greatest pixel stands; -1 for none."""

    def call(self, x):
        padded, kernel, (down, along) = self.padded(x, x.dtype.min)
        sizes = spatial_sizes(x)
        high, wide = (self.out(axis, size) for axis, size in enumerate(sizes))
        (_, _, (top, _)), (_, _, (left, _)) = (self.sides(axis) for axis in (0, 1))
        greatest, place = x.dtype.min, -1.0
        for i, j in itertools.product(*map(range, kernel)):
            pixel = padded[:, i : i + high * down : down, j : j + wide * along : along]
            pixel = pixel[:, :high, :wide]
            row, column = tf.range(high) * down + i - top, tf.range(wide) * along + j - left
            here = row[:, None, None] * sizes[1] + column[:, None]
            better = pixel > greatest
            greatest = tf.where(better, pixel, greatest)
            place = tf.where(better, tf.cast(here, x.dtype), place)
        return place
