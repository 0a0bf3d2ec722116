"""Optical flow."""

import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class FlowCalls(Calls):
    def flow_warp(self, tensors, *, name, outside=None):
        """From [image, flow]: the image where the flow points; `outside` it 0, or "nan"."""
        return self.add(FlowWarp(outside, name=name), tensors)

    def correlation(
        self, tensors, *, name, displacement, kernel=1, pad=0, stride=1, step=1, differences=False
    ):
        """From two images: how alike places are, for each displacement; see `Correlation`."""
        return self.add(
            Correlation(displacement, kernel, pad, stride, step, differences, name=name), tensors
        )


@registered
class FlowWarp(CaffeLayer):
    """An image's values where a flow points, linearly interpolated (flow_warp_layer.cpp)."""

    def __init__(self, outside, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"outside": outside}

    def compute_output_shape(self, shapes):
        return shapes[0]

    def call(self, tensors):
        image, flow = tensors
        height, width = image.shape[1:3]
        x = flow[..., 0] + np.arange(width, dtype=np.float32)
        y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        x, y = tf.where(inside, x, 0.0), tf.where(inside, y, 0.0)
        left, top = tf.cast(x, tf.int32), tf.cast(y, tf.int32)
        right, bottom = tf.minimum(left + 1, width - 1), tf.minimum(top + 1, height - 1)
        along = (x - tf.cast(left, x.dtype))[..., None]
        down = (y - tf.cast(top, y.dtype))[..., None]

        def pixels(rows, columns):
            return tf.gather_nd(image, tf.stack([rows, columns], -1), batch_dims=1)

        warped = (
            (1 - along) * (1 - down) * pixels(top, left)
            + along * (1 - down) * pixels(top, right)
            + (1 - along) * down * pixels(bottom, left)
            + along * down * pixels(bottom, right)
        )
        return tf.where(inside[..., None], warped, float(self.settings["outside"] or 0))


@registered
class Correlation(CaffeLayer):
    """Means over windows and channels of a * b, or |a - b|, b being displaced (correlation_layer).

    A channel is a displacement, a multiple of `step` of at most `displacement` in y and x.
    """

    def __init__(self, displacement, kernel, pad, stride, step, differences, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "displacement": displacement,
            "kernel": kernel,
            "pad": pad,
            "stride": stride,
            "step": step,
            "differences": differences,
        }

    def displaced(self):
        """Where the displaced image starts in the padded one, for each displacement."""
        reach, step = self.settings["displacement"], self.settings["step"]
        starts = reach + np.arange(-(reach // step), reach // step + 1, dtype=np.int32) * step
        return np.stack(np.meshgrid(starts, starts, indexing="ij"), -1).reshape(-1, 2)

    def room(self, side):
        """How many places have all displacements within the padded image."""
        return side + 2 * self.settings["pad"] - 2 * self.settings["displacement"]

    def compute_output_shape(self, shapes):
        shape, s = shapes[0], self.settings
        sides = ((self.room(side) - s["kernel"]) // s["stride"] + 1 for side in shape[1:3])
        return (shape[0], *sides, len(self.displaced()))

    def call(self, tensors):
        s = self.settings
        pads = [[0, 0], [s["pad"]] * 2, [s["pad"]] * 2, [0, 0]]
        first, second = (tf.pad(x, pads) for x in tensors)
        height, width = (self.room(side) for side in tensors[0].shape[1:3])
        reach, channels = s["displacement"], first.shape[3]
        first = first[:, reach : reach + height, reach : reach + width]

        # One displacement after the other: all at once would need hundreds of images.
        def alike(start):
            moved = tf.slice(second, [0, start[0], start[1], 0], [-1, height, width, channels])
            each = tf.abs(first - moved) if s["differences"] else first * moved
            means = tf.reduce_mean(each, -1, keepdims=True)
            return tf.nn.avg_pool2d(means, s["kernel"], s["stride"], "VALID")[..., 0]

        found = tf.map_fn(alike, self.displaced(), fn_output_signature=first.dtype)
        return tf.transpose(found, [1, 2, 3, 0])
