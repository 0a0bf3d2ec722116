"""Layers that pick rows by number."""

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class GatheringCalls(Calls):
    def embed(self, x, rows, size, *, name, bias=True):
        """Row number x of a table of `rows` rows, each of `size` values, plus a bias."""
        return self.add(Embed(rows, size, bias, name=name), x)

    def batch_reindex(self, tensors, *, name):
        """From [x, numbers]: the rows of x that the numbers name."""
        return self.add(BatchReindex(name=name), tensors)

    def filter(self, tensors, *, name):
        """From [x, ..., selector]: the rows of each x where the selector is not 0."""
        *given, selector = tensors
        if len(given) == 1:
            return self.add(Filter(name=name), [given[0], selector])
        return [self.add(Filter(name=f"{name}__{i}"), [x, selector]) for i, x in enumerate(given)]


@registered
class Embed(CaffeLayer):
    """Rows of a table by their number (embed_layer.cpp)."""

    def __init__(self, rows, size, bias, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"rows": rows, "size": size, "bias": bias}

    def build(self, shape):
        size = self.settings["size"]
        self.table = self.add_weight(name="table", shape=(self.settings["rows"], size))
        self.bias = self.add_weight(name="bias", shape=(size,)) if self.settings["bias"] else None

    def compute_output_shape(self, shape):
        order = {4: (0, 3, 1, 2)}.get(len(shape), range(len(shape)))
        shape = (*(shape[axis] for axis in order), self.settings["size"])
        return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape

    def call(self, x):
        if len(x.shape) == 4:  # the top keeps Caffe's order
            x = tf.transpose(x, [0, 3, 1, 2])
        top = tf.gather(self.table, tf.cast(x, tf.int32))
        if self.bias is not None:
            top = top + self.bias
        return tf.transpose(top, [0, 2, 3, 1]) if len(top.shape) == 4 else top


@registered
class BatchReindex(CaffeLayer):
    """Rows by their number (batch_reindex_layer.cpp)."""

    def compute_output_shape(self, shapes):
        return (shapes[1][0], *shapes[0][1:])

    def call(self, tensors):
        x, numbers = tensors
        return tf.gather(x, tf.cast(numbers, tf.int32))


@registered
class Filter(CaffeLayer):
    """The rows where the selector is not 0; how many, the data tell (filter_layer.cpp)."""

    def compute_output_shape(self, shapes):
        return (None, *shapes[0][1:])

    def call(self, tensors):
        x, selector = tensors
        return tf.boolean_mask(x, tf.reshape(selector, [-1]) != 0)
