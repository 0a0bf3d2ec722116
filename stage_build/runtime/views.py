"""Layers that give the values another shape."""

import math

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ViewsCalls(Calls):
    def flatten(self, x, *, name):
        """All axes but the first as one, in Caffe's order (C, H, W)."""
        return self.reshape(x, (-1,), name=name)

    def reshape(self, x, shape, *, name):
        """New sizes for all axes but the first, counted and read in Caffe's order (C, H, W)."""
        if len(x.shape) == 4 and tuple(x.shape[1:3]) != (1, 1):
            x = self.add(keras.layers.Permute((3, 1, 2), name=f"{name}__nchw"), x)
        last = len(shape) != 3
        reshaped = keras.layers.Reshape(shape, name=name if last else f"{name}__reshaped")
        x = self.add(reshaped, x)
        return x if last else self.add(keras.layers.Permute((2, 3, 1), name=name), x)

    def reshape_batch(self, x, shape, *, name):
        """New sizes for all axes, the batch's too, counted and read in Caffe's order.

        0 copies the size that x has on this axis, one -1 takes what remains.
        """
        return self.add(ReshapeBatch(shape, name=name), x)

    def pixel_shuffle(self, x, factor, *, name):
        """Each factor * factor channels as the pixels of a larger image."""
        return self.add(PixelShuffle(factor, name=name), x)


@registered
class ReshapeBatch(CaffeLayer):
    """A reshape that moves values from sample to sample (reshape_layer.cpp)."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"shape": tuple(shape)}

    def compute_output_shape(self, shape):
        old = [shape[axis] for axis in (0, 3, 1, 2)] if len(shape) == 4 else list(shape)
        new = [size or old[axis] for axis, size in enumerate(self.settings["shape"])]
        if -1 in new:
            known = None not in old
            new[new.index(-1)] = math.prod(old) // -math.prod(new) if known else None
        return tuple(new[axis] for axis in (0, 2, 3, 1)) if len(new) == 4 else tuple(new)

    def call(self, x):
        if len(x.shape) == 4:
            x = tf.transpose(x, [0, 3, 1, 2])
        old, new = tf.shape(x), self.settings["shape"]
        x = tf.reshape(x, [size or old[axis] for axis, size in enumerate(new)])
        return tf.transpose(x, [0, 2, 3, 1]) if len(x.shape) == 4 else x


@registered
class PixelShuffle(CaffeLayer):
    """Channels to pixels, those of one channel side by side (Synopsys' reshape_layer.cpp)."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"factor": factor}

    def compute_output_shape(self, shape):
        batch, height, width, channels = shape
        factor = self.settings["factor"]
        height, width = (size and size * factor for size in (height, width))
        return batch, height, width, channels // factor**2

    def call(self, x):
        factor = self.settings["factor"]
        batch, height, width, channels = keras.ops.shape(x)
        fewer = channels // factor**2
        x = tf.reshape(x, [batch, height, width, fewer, factor, factor])
        x = tf.transpose(x, [0, 1, 4, 2, 5, 3])
        return tf.reshape(x, [batch, height * factor, width * factor, fewer])
