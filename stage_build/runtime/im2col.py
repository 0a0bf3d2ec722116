"""Im2col: the windows of a convolution as channels."""

import math

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class Im2colCalls(Calls):
    def im2col(self, x, *, kernel, name, axes=2, stride=1, pad=0, dilation=1):
        """The pixels under each window over the last `axes` axes (height, width) as channels."""
        return self.add(Im2col(axes, kernel, stride, pad, dilation, name=name), x)


@registered
class Im2col(CaffeLayer):
    """The windows of a convolution as channels, in Caffe's order (im2col_layer.cpp)."""

    def __init__(self, axes, kernel, stride, pad, dilation, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "axes": axes,
            "kernel": kernel,
            "stride": stride,
            "pad": pad,
            "dilation": dilation,
        }

    def windows(self, sizes):
        """(kernel, windows, stride, pad, dilation) for each axis of these sizes."""
        given = (self.settings[name] for name in ("kernel", "stride", "pad", "dilation"))
        sides = (v if isinstance(v, (list, tuple)) else [v] * len(sizes) for v in given)
        for size, kernel, stride, pad, dilation in zip(sizes, *sides, strict=True):
            room = size + 2 * pad - (dilation * (kernel - 1) + 1)
            yield kernel, int(room / stride) + 1, stride, pad, dilation

    def compute_output_shape(self, shape):
        shape = [shape[axis] for axis in (0, 3, 1, 2)] if len(shape) == 4 else list(shape)
        first = len(shape) - self.settings["axes"]
        kernels, out, *_ = zip(*self.windows(shape[first:]), strict=True)
        shape[first - 1 :] = [shape[first - 1] * math.prod(kernels), *out]
        return tuple(shape[axis] for axis in (0, 2, 3, 1)) if len(shape) == 4 else tuple(shape)

    def call(self, x):
        rank = len(x.shape)
        if rank == 4:
            x = tf.transpose(x, [0, 3, 1, 2])
        axes = self.settings["axes"]
        first = rank - axes
        sizes = x.shape[first:]
        *left, channels = keras.ops.shape(x)[:first]
        kernels: list = []
        out: list = []
        # From the last axis on, so that those before it keep their places.
        for axis, window in reversed(list(enumerate(self.windows(sizes), start=first))):
            kernel, windows, stride, pad, dilation = window
            read = np.arange(windows)[:, None] * stride + np.arange(kernel) * dilation
            after = max(0, read.max() + 1 - sizes[axis - first] - pad)
            pads = [[0, 0]] * len(x.shape)
            pads[axis] = [pad, after]
            x = tf.gather(tf.pad(x, pads), read, axis=axis)
            kernels, out = [kernel, *kernels], [windows, *out]
        places = [*range(first), *range(first + 1, len(x.shape), 2), *range(first, len(x.shape), 2)]
        x = tf.reshape(tf.transpose(x, places), [*left, channels * math.prod(kernels), *out])
        return tf.transpose(x, [0, 2, 3, 1]) if rank == 4 else x
