"""Fully connected layers."""

import keras

from stage_build.runtime.base import CaffeLayer, Calls, registered


class InnerProductCalls(Calls):
    def inner_product(self, x, units, *, name, axis=1, bias=True):
        """A dense layer over all axes from Caffe's `axis` on, flattened.

        From axis 1 on, an NHWC tensor is flattened as it is and the weights are in that order; from
        any other axis on, it is brought into Caffe's order first.
        """
        rank = len(x.shape)
        if rank == 4 and axis != 1:
            x = self.add(keras.layers.Permute((3, 1, 2), name=f"{name}__nchw"), x)
        if axis == 0:
            return self.add(WholeBatchDense(units, bias, name=name), x)
        if axis == 1 and rank > 2:
            x = self.add(keras.layers.Flatten(name=f"{name}__flat"), x)
        elif axis < rank - 1:
            x = self.add(keras.layers.Reshape((*x.shape[1:axis], -1), name=f"{name}__flat"), x)
        if axis == 3:  # four axes, in Caffe's order
            x = self.add(keras.layers.Dense(units, use_bias=bias, name=f"{name}__nchw_dense"), x)
            return self.add(keras.layers.Permute((2, 3, 1), name=name), x)
        return self.add(keras.layers.Dense(units, use_bias=bias, name=name), x)


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
