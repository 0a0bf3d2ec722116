"""Images made larger."""

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, pair, registered


class UnpoolingCalls(Calls):
    def unpool(self, tensors, size, *, name):
        """From [x, positions]: x's values at those positions of planes of `size`, else zeros."""
        return self.add(Unpool(size, name=name), tensors)

    def upsample(self, x, scale, *, name):
        """Each pixel as a square of scale x scale."""
        return self.add(keras.layers.UpSampling2D(scale, name=name), x)

    def unpooling(self, x, method, *, kernel, name, stride=1, pad=0):
        """Each pixel in the "middle" of a window, "divide"d over it or "repeat"ed in it.

        Of a list of tensors, the first; the others only gave the window.
        """
        x = x[0] if isinstance(x, list) else x
        return self.add(Unpooling(method, kernel, stride, pad, name=name), x)


@registered
class Unpool(CaffeLayer):
    """The reverse of max pooling, by its positions (upsample_layer.cpp of caffe-segnet).

    Of several values for one position the last is kept; one outside of the plane is an error.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"size": tuple(size)}

    def compute_output_shape(self, shapes):
        return (shapes[0][0], *self.settings["size"], shapes[0][3])

    def call(self, tensors):
        x, at = (tf.transpose(tensor, [0, 3, 1, 2]) for tensor in tensors)
        (height, width), channels = self.settings["size"], x.shape[1]
        count, places = x.shape[2] * x.shape[3], height * width
        x = tf.reshape(x, [-1, count])
        at = tf.cast(tf.reshape(at, [-1, count]), tf.int32)
        inside = tf.debugging.Assert(
            tf.reduce_all((at >= 0) & (at < places)), ["positions outside of the plane"]
        )
        with tf.control_dependencies([inside] if inside is not None else []):
            planes = tf.shape(x)[0]
        last = tf.math.unsorted_segment_max(
            tf.broadcast_to(tf.range(count), tf.shape(at)),
            at + places * tf.range(planes)[:, None],
            planes * places,
        )
        last = tf.reshape(last, [planes, places])
        top = tf.gather(x, tf.maximum(last, 0), batch_dims=1)
        top = tf.where(last < 0, 0.0, top)
        top = tf.reshape(top, [-1, channels, height, width])
        return tf.transpose(top, [0, 2, 3, 1])


@registered
class Unpooling(CaffeLayer):
    """Pixels spread over windows, the same along rows and columns (ParseNet, unpooling_layer.cpp).

    Where windows overlap, "middle" keeps the last pixel and the others take the mean.
    """

    def __init__(self, method, kernel, stride, pad, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"method": method, "kernel": kernel, "stride": stride, "pad": pad}

    def window(self, axis):
        return [pair(self.settings[key])[axis] for key in ("kernel", "stride", "pad")]

    def compute_output_shape(self, shape):
        windows = zip(shape[1:3], map(self.window, (0, 1)), strict=True)
        sides = (stride * (n - 1) + kernel - 2 * pad for n, (kernel, stride, pad) in windows)
        return (shape[0], *sides, shape[3])

    def shares(self, axis, size, out):
        """(out, size): what each pixel of an axis gives to each place."""
        kernel, stride, pad = self.window(axis)
        start, place = np.arange(size) * stride - pad, np.arange(out)[:, None]
        if self.settings["method"] == "middle":
            middle = np.clip((2 * start + kernel - 1) // 2, 0, out - 1)
            last = np.append(middle[1:] != middle[:-1], True)
            return ((place == middle) & last).astype(np.float32)
        within = (start <= place) & (place < start + kernel)
        shares = within / np.maximum(within.sum(axis=1, keepdims=True), 1)
        if self.settings["method"] == "divide":
            shares = shares / (np.minimum(start + kernel, out + pad) - start)
        return shares.astype(np.float32)

    def call(self, x):
        out = self.compute_output_shape(x.shape)
        rows, columns = (self.shares(axis, x.shape[axis + 1], out[axis + 1]) for axis in (0, 1))
        return tf.einsum("nhwc,uh,vw->nuvc", x, rows, columns)
