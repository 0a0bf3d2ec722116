"""Fully connected layers."""

import math
from functools import partial

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class InnerProductCalls(Calls):
    """From axis 1 on, an NHWC tensor is flattened as it is and the weights are in that order; from
    any other axis on, it is brought into Caffe's order first.
    """

    def inner_product(self, x, units, *, name, axis=1, bias=True, relu=None):
        """A dense layer over all axes from Caffe's `axis` on, flattened; `relu` is the slope of a
        ReLU after it."""
        if relu is not None:
            x = self.inner_product(x, units, axis=axis, bias=bias, name=f"{name}__linear")
            return self.add(keras.layers.ReLU(negative_slope=relu, name=name), x)
        if axis == 0:
            return self._flattened(partial(WholeBatchDense, units, bias), x, axis, name)
        return self._flattened(partial(keras.layers.Dense, units, use_bias=bias), x, axis, name)

    def inner_distance(self, x, units, *, name, axis=1, absolute=False):
        """Distances of all axes from Caffe's `axis` on, flattened, to the rows of the weights: sums
        of squares or of `absolute` values."""
        return self._flattened(partial(Distances, units, absolute, axis), x, axis, name)

    def distance(self, tensors, *, name, axis=1, absolute=False):
        """From [x, rows]: the same distances of x to the rows of another tensor."""
        x, rows = (
            self.add(keras.layers.Permute((3, 1, 2), name=f"{name}__nchw_{i}"), tensor)
            if len(tensor.shape) == 4
            else tensor
            for i, tensor in enumerate(tensors)
        )
        last = axis != 3
        layer = DistancesBetween(absolute, axis, name=name if last else f"{name}__distances")
        x = self.add(layer, [x, rows])
        return x if last else self.add(keras.layers.Permute((2, 3, 1), name=name), x)

    def _flattened(self, make, x, axis, name):
        """The layer that `make` makes of a name, over all axes from `axis` on as one."""
        rank = len(x.shape)
        if rank == 4 and axis != 1:
            x = self.add(keras.layers.Permute((3, 1, 2), name=f"{name}__nchw"), x)
        if axis == 1 and rank > 2:
            x = self.add(keras.layers.Flatten(name=f"{name}__flat"), x)
        elif 0 < axis < rank - 1:
            x = self.add(FlattenFrom(axis, name=f"{name}__flat"), x)
        if axis == 3:  # four axes, in Caffe's order
            x = self.add(make(name=f"{name}__nchw_dense"), x)
            return self.add(keras.layers.Permute((2, 3, 1), name=name), x)
        return self.add(make(name=name), x)


def distances(rows, centres, absolute):
    """(..., K) and (count, K) -> (..., count)."""
    apart = tf.expand_dims(rows, -2) - centres
    return tf.reduce_sum(tf.abs(apart) if absolute else tf.square(apart), -1)


@registered
class Distances(CaffeLayer):
    """Distances of the last axis to rows of weights (inner_distance_layer.cpp of caffe-windows);
    from axis 0 on, of the whole tensor as one vector."""

    def __init__(self, units, absolute, axis, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"units": units, "absolute": absolute, "axis": axis}

    def build(self, shape):
        size = shape[-1] if self.settings["axis"] else math.prod(shape)
        self.centres = self.add_weight(shape=(self.settings["units"], size), name="centres")

    def compute_output_shape(self, shape):
        return (*(shape[:-1] if self.settings["axis"] else ()), self.settings["units"])

    def call(self, x):
        x = x if self.settings["axis"] else tf.reshape(x, [-1])
        return distances(x, tf.convert_to_tensor(self.centres), self.settings["absolute"])


@registered
class DistancesBetween(CaffeLayer):
    """Distances of all axes from `axis` on, as one, to the rows of a second tensor."""

    def __init__(self, absolute, axis, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"absolute": absolute, "axis": axis}

    def compute_output_shape(self, shapes):
        return (*shapes[0][: self.settings["axis"]], shapes[1][0])

    def call(self, tensors):
        x, centres = tensors
        axis, size = self.settings["axis"], math.prod(centres.shape[1:])
        rows = tf.reshape(x, tf.concat([tf.shape(x)[:axis], [size]], 0))
        return distances(rows, tf.reshape(centres, [-1, size]), self.settings["absolute"])


@registered
class FlattenFrom(CaffeLayer):
    """All axes from `axis` on as one; those before may be of any size."""

    def __init__(self, axis, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"axis": axis}

    def compute_output_shape(self, shape):
        axis = self.settings["axis"]
        return (*shape[:axis], math.prod(shape[axis:]))

    def call(self, x):
        axis = self.settings["axis"]
        return tf.reshape(x, tf.concat([tf.shape(x)[:axis], [math.prod(x.shape[axis:])]], 0))


@registered
class WholeBatchDense(CaffeLayer):
    """A dense layer over the whole batch as one vector."""

    def __init__(self, units, bias, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"units": units, "bias": bias}

    def build(self, shape):
        size, units = 1, self.settings["units"]
        for side in shape:
            size *= side
        self.kernel = self.add_weight(shape=(size, units), name="kernel")
        self.bias = self.add_weight(shape=(units,), name="bias") if self.settings["bias"] else None

    def compute_output_shape(self, shape):
        return (self.settings["units"],)

    def call(self, x):
        y = keras.ops.reshape(keras.ops.matmul(keras.ops.reshape(x, (1, -1)), self.kernel), (-1,))
        return y if self.bias is None else y + self.bias
