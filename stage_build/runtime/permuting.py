"""The forks' layers that put values into another order."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered, spatial_sizes


class PermutingCalls(Calls):
    def permute(self, x, axes, *, name):
        """x with its axes in another order: axis i of the result is ``axes[i]`` of x."""
        if axes[0] or len(axes) == 1:
            return self.add(Transpose(axes, name=name), x)
        return self.add(keras.layers.Permute(axes[1:], name=name), x)

    def flip(self, x, axes, *, name):
        """x with some axes backwards."""
        return self.add(Flip(axes, name=name), x)

    def shuffle_channels(self, x, groups, *, name):
        """The channels of the groups taken in turn, so that each group gets some of all."""
        return self.add(ShuffledChannels(groups, name=name), x)

    def pixels_first(self, x, *, name):
        """The values in the order N, H, W, C, read as if they were N, C, H, W."""
        height, width, channels = x.shape[1:]
        read = keras.layers.Reshape((channels, height, width), name=f"{name}__read")
        return self.add(keras.layers.Permute((2, 3, 1), name=name), self.add(read, x))

    def reorg(self, x, stride, *, name, reverse=False):
        """Darknet's exchange of space for channels; `reverse` turns channels into space."""
        return self.add((DepthToSpace if reverse else Reorg)(stride, name=name), x)


@registered
class Transpose(CaffeLayer):
    """A transpose that moves the first axis too."""

    def __init__(self, axes, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"axes": tuple(axes)}

    def compute_output_shape(self, shape):
        return tuple(shape[axis] for axis in self.settings["axes"])

    def call(self, x):
        return tf.transpose(x, self.settings["axes"])


@registered
class Flip(CaffeLayer):
    """Some axes backwards (happynear's flip_layer.cpp, makefile/frcnn's reverse_layer.cpp)."""

    def __init__(self, axes, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"axes": tuple(axes)}

    def call(self, x):
        # One after the other: TensorFlow Lite takes neighbouring axes alone.
        for axis in self.settings["axes"]:
            x = tf.reverse(x, [axis])
        return x


@registered
class ShuffledChannels(CaffeLayer):
    """The channels of the groups taken in turn (ShuffleNet's shuffle_channel_layer.cpp)."""

    def __init__(self, groups, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"groups": groups}

    def call(self, x):
        groups, channels = self.settings["groups"], x.shape[3]
        sides = spatial_sizes(x)
        x = tf.reshape(x, [-1, *sides, groups, channels // groups])
        return tf.reshape(tf.transpose(x, [0, 1, 2, 4, 3]), [-1, *sides, channels])


@registered
class Reorg(CaffeLayer):
    """Space to channels in Darknet's order (MobileNet-YOLO's reorg_layer.cpp)."""

    def __init__(self, stride, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"stride": stride}

    def compute_output_shape(self, shape):
        batch, height, width, channels = shape
        stride = self.settings["stride"]
        height, width = (size and size // stride for size in (height, width))
        return batch, height, width, channels * stride**2

    def call(self, x):
        (height, width), channels = spatial_sizes(x), x.shape[3]
        stride = self.settings["stride"]
        # Caffe's memory, read as an image of fewer channels and more pixels.
        blocks = [-1, channels // stride**2, height, stride, width, stride]
        x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), blocks)
        x = tf.transpose(x, [0, 3, 5, 1, 2, 4])
        x = tf.reshape(x, [-1, channels * stride**2, height // stride, width // stride])
        return tf.transpose(x, [0, 2, 3, 1])


@registered
class DepthToSpace(CaffeLayer):
    """Channels to space (MobileNet-YOLO's reorg_layer.cpp, reverse)."""

    def __init__(self, stride, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"stride": stride}

    def compute_output_shape(self, shape):
        batch, height, width, channels = shape
        stride = self.settings["stride"]
        height, width = (size and size * stride for size in (height, width))
        return batch, height, width, channels // stride**2

    def call(self, x):
        stride = self.settings["stride"]
        return tf.nn.depth_to_space(x, stride) if stride > 1 else tf.identity(x)
