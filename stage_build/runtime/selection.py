"""The largest values and where they are."""

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class SelectionCalls(Calls):
    def argmax(self, x, *, name, axis=None, top=1, values=False):
        """Positions of the `top` largest values, as float32; of equal ones the last comes first.

        Args:
            axis: the axis that is searched; None searches each sample whole, in Caffe's order.
            values: with an axis, give the values instead; without, both on axis 1.
        """
        return self.add(ArgMax(axis, top, values, name=name), x)


@registered
class ArgMax(CaffeLayer):
    """Positions or values of the largest (argmax_layer.cpp)."""

    def __init__(self, axis, top, values, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"axis": axis, "top": top, "values": values}

    def compute_output_shape(self, shape):
        s = self.settings
        if s["axis"] is not None:
            shape = list(shape)
            shape[s["axis"]] = s["top"]
            return tuple(shape)
        rows = 2 if s["values"] else 1
        if len(shape) == 4:  # Caffe's (N, rows, top, 1)
            return (shape[0], s["top"], 1, rows)
        return (shape[0], rows, s["top"]) + (1,) * (len(shape) - 3)

    def call(self, x):
        s = self.settings
        if s["axis"] is not None:
            order = [a for a in range(len(x.shape)) if a != s["axis"] % len(x.shape)]
            order.append(s["axis"] % len(x.shape))
            values, places = self.largest(tf.transpose(x, order))
            back = [order.index(a) for a in range(len(order))]
            return tf.transpose(values if s["values"] else places, back)
        if len(x.shape) == 4:
            x = tf.transpose(x, [0, 3, 1, 2])
        values, places = self.largest(tf.reshape(x, [tf.shape(x)[0], -1]))
        found = tf.stack([places, values] if s["values"] else [places], 1)
        if len(x.shape) == 4:
            return tf.transpose(found, [0, 2, 1])[:, :, None, :]
        if len(x.shape) > 3:
            found = tf.reshape(found, [-1, *self.compute_output_shape(x.shape)[1:]])
        return found

    def largest(self, x):
        # top_k puts the first of equal values first, Caffe the last: search from the end.
        values, places = tf.math.top_k(tf.reverse(x, [-1]), self.settings["top"])
        return values, tf.cast(tf.shape(x)[-1] - 1 - places, x.dtype)
