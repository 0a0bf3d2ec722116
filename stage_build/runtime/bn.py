"""BN: with stored statistics, with those of the batch at hand, or with none."""

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered
from stage_build.runtime.batch_normalization import BatchNorm, BatchStatisticsNorm
from stage_build.runtime.normalization import as_images
from stage_build.runtime.scaling import Affine


class BnCalls(Calls):
    def bn(self, x, *, name, axis=-1, eps=1e-5, momentum=0.9, use_global_stats=False):
        """(x - mean) / sqrt(variance + eps) * slope + bias with the stored statistics; for
        training, see `BatchNorm`."""
        layer = BatchNorm(use_global_stats, axis=axis, epsilon=eps, momentum=momentum, name=name)
        return self.add(layer, x)

    def bn_of_batch(self, x, *, name, eps=1e-9, across_spatial=True, tops=1):
        """(x - mean) / sqrt(variance + eps) * scale + shift with the statistics of the batch.

        With several `tops`, the mean and the variance as well.
        """
        x, over = as_images(self, x, name), [0, 1, 2] if across_spatial else [0]
        names = [name] if tops == 1 else [f"{name}__{i}" for i in range(tops)]
        layers = [BatchStatisticsNorm(over, eps, True, True, name=names[0])]
        layers += [
            BatchStatistic(kind, name=top)
            for kind, top in zip(("mean", "variance"), names[1:], strict=False)
        ]
        outputs = [self.add(layer, x) for layer in layers]
        return outputs if tops > 1 else outputs[0]

    def bn_inference(self, x, *, name):
        """x * scale + shift for each channel."""
        x = as_images(self, x, name)
        return self.add(Affine((x.shape[-1],), True, True, name=name), x)


@registered
class BatchStatistic(CaffeLayer):
    """The "mean" or "variance" of each channel of an NHWC batch, as one pixel."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"kind": kind}

    def compute_output_shape(self, shape):
        return (1, 1, 1, shape[3])

    def call(self, x):
        mean = tf.reduce_mean(x, [0, 1, 2], keepdims=True)
        if self.settings["kind"] == "mean":
            return mean
        return tf.reduce_mean(tf.square(x - mean), [0, 1, 2], keepdims=True)
