"""Layers that move values and change none."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ShapingCalls(Calls):
    def concat(self, tensors, *, name, axis=-1):
        """The tensors one after the other on `axis`."""
        if axis == 0:
            return self.add(ConcatBatches(name=name), tensors)
        return self.add(keras.layers.Concatenate(axis=axis, name=name), tensors)

    def slice(self, x, points, *, name, axis=-1):
        """The parts of x between the `points` of `axis`."""
        ends = [*points, x.shape[axis]]
        return [
            self.add(Slice(axis, start, end, name=f"{name}__{i}"), x)
            for i, (start, end) in enumerate(zip([0, *points], ends, strict=True))
        ]

    def split(self, x, count):
        """The same tensor, `count` times."""
        return [x] * count

    def crop(self, tensors, offsets, *, name):
        """From [x, like]: the part of x that starts at `offsets` and has the size of `like`.

        An offset of None leaves its axis whole.
        """
        return self.add(Crop(offsets, name=name), tensors)

    def tile(self, x, count, *, name, axis=-1):
        """x `count` times, one after the other on `axis`."""
        return self.add(Tile(count, axis, name=name), x)


@registered
class ConcatBatches(CaffeLayer):
    """Concatenation on the first axis."""

    def compute_output_shape(self, shapes):
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def call(self, tensors):
        return tf.concat(tensors, 0)


@registered
class Slice(CaffeLayer):
    """x[start:end] on one axis."""

    def __init__(self, axis, start, end, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"axis": axis, "start": start, "end": end}

    def compute_output_shape(self, shape):
        shape, s = list(shape), self.settings
        # The last part of an axis of any size ends where the axis does.
        shape[s["axis"]] = None if s["end"] is None else s["end"] - s["start"]
        return tuple(shape)

    def call(self, x):
        part = [slice(None)] * len(x.shape)
        part[self.settings["axis"]] = slice(self.settings["start"], self.settings["end"])
        return x[tuple(part)]


@registered
class Crop(CaffeLayer):
    """The part of one tensor that has the size of another (crop_layer.cpp)."""

    def __init__(self, offsets, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"offsets": tuple(offsets)}

    def compute_output_shape(self, shapes):
        return tuple(
            size if offset is None else like
            for size, like, offset in zip(*shapes, self.settings["offsets"], strict=True)
        )

    def call(self, tensors):
        x, like = tensors
        sizes = tf.shape(like)
        return x[
            tuple(
                slice(None) if offset is None else slice(offset, offset + sizes[axis])
                for axis, offset in enumerate(self.settings["offsets"])
            )
        ]


@registered
class Tile(CaffeLayer):
    """Copies one after the other (tile_layer.cpp)."""

    def __init__(self, count, axis, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"count": count, "axis": axis}

    def compute_output_shape(self, shape):
        shape, axis = list(shape), self.settings["axis"]
        shape[axis] = None if shape[axis] is None else shape[axis] * self.settings["count"]
        return tuple(shape)

    def call(self, x):
        counts = [1] * len(x.shape)
        counts[self.settings["axis"]] = self.settings["count"]
        return tf.tile(x, counts)
