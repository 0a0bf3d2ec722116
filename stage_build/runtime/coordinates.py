"""Layers that tell each place where it is."""

import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class CoordinatesCalls(Calls):
    def append_places(self, x, *, name):
        """Two more channels of an NHWC tensor, row / height and column / width."""
        return self.add(AppendPlaces(name=name), x)


@registered
class AppendPlaces(CaffeLayer):
    """Two more channels, row / height and column / width (happynear's slope_layer.cpp)."""

    def compute_output_shape(self, shape):
        return (*shape[:3], shape[3] + 2)

    def call(self, x):
        height, width = x.shape[1:3]
        rows, columns = np.indices((height, width), np.float32)
        places = np.stack([rows / np.float32(height), columns / np.float32(width)], axis=-1)
        places = tf.broadcast_to(places, (tf.shape(x)[0], height, width, 2))
        return tf.concat([x, places], -1)
