"""Normalization by stored statistics, or by those of the batch at hand."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered
from stage_build.runtime.normalization import root


class BatchNormalizationCalls(Calls):
    def batch_norm(
        self,
        x,
        *,
        name,
        axis=-1,
        eps=1e-5,
        momentum=0.999,
        scale=False,
        bias=False,
        relu=False,
        use_global_stats=False,
    ):
        """(x - mean) / sqrt(variance + eps) with the stored statistics, * scale, + bias; for
        training, see `BatchNorm`."""
        layer = BatchNorm(
            use_global_stats,
            axis=axis,
            epsilon=eps,
            momentum=momentum,
            center=bias,
            scale=scale,
            name=f"{name}__norm" if relu else name,
        )
        x = self.add(layer, x)
        return self.add(keras.layers.ReLU(name=name), x) if relu else x

    def batch_statistics_norm(
        self,
        x,
        *,
        name,
        axis=-1,
        eps=1e-5,
        scale=False,
        bias=False,
        relu=False,
        disable_mean=False,
        disable_variance=False,
    ):
        """(x - mean) / sqrt(variance + eps) with the statistics of the batch at hand."""
        over = [a for a in range(len(x.shape)) if a != axis % len(x.shape)]
        switches = {"disable_mean": disable_mean, "disable_variance": disable_variance}
        layer = BatchStatisticsNorm(
            over, eps, scale, bias, **switches, name=f"{name}__norm" if relu else name
        )
        x = self.add(layer, x)
        return self.add(keras.layers.ReLU(name=name), x) if relu else x


@registered
class BatchNorm(keras.layers.BatchNormalization):
    """Caffe's BatchNorm (batch_norm_layer.cpp).

    (x - mean) is taken first: Keras's x * s + (b - mean * s) cancels badly. In training the
    statistics are the batch's own, and the stored ones follow: they keep `momentum` (Caffe's
    moving_average_fraction) of themselves and take the rest from the batch, its variance being
    multiplied by m / (m - 1) for m values. With `use_global_stats`, and where the layer is not
    trainable, the stored ones serve in training too, and stay.
    """

    def __init__(self, use_global_stats=False, **kwargs):
        super().__init__(**kwargs)
        self.use_global_stats = use_global_stats

    def get_config(self):
        return {**super().get_config(), "use_global_stats": self.use_global_stats}

    def call(self, inputs, training=None, mask=None):
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1

        def spread(values):
            return tf.reshape(values, shape)

        mean, variance = self.moving_mean, self.moving_variance
        if training and self.trainable and not self.use_global_stats:
            mean, variance = tf.nn.moments(inputs, [a for a, n in enumerate(shape) if n == 1])
            self._follow(mean, variance, tf.size(inputs) / tf.size(mean))
        x = (inputs - spread(mean)) * (1.0 / tf.sqrt(spread(variance) + self.epsilon))
        x = x * spread(self.gamma) if self.scale else x
        return x + spread(self.beta) if self.center else x

    def _follow(self, mean, variance, count):
        """One step of the stored statistics; `count` values went into each of the batch's."""
        unbiased = tf.cast(count / tf.maximum(count - 1.0, 1.0), variance.dtype)
        for stored, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * unbiased),
        ):
            stored.assign(stored * self.momentum + value * (1.0 - self.momentum))


@registered
class BatchStatisticsNorm(CaffeLayer):
    """Normalization by the statistics of the batch over the axes `over`, at inference too."""

    def __init__(
        self, over, eps, scale, bias, disable_mean=False, disable_variance=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.settings = {
            "over": list(over),
            "eps": eps,
            "scale": scale,
            "bias": bias,
            "disable_mean": disable_mean,
            "disable_variance": disable_variance,
        }

    def build(self, shape):
        s = self.settings
        kept = [size for axis, size in enumerate(shape) if axis not in s["over"]]
        self.spread = [1 if axis in s["over"] else size for axis, size in enumerate(shape)]
        self.factors = (
            self.add_weight(shape=kept, initializer="ones", name="scale") if s["scale"] else None
        )
        self.bias = (
            self.add_weight(shape=kept, initializer="zeros", name="bias") if s["bias"] else None
        )

    def call(self, x):
        s = self.settings
        if not s["disable_mean"]:
            x = x - tf.reduce_mean(x, s["over"], keepdims=True)
        if not s["disable_variance"]:
            variance = tf.reduce_mean(tf.square(x), s["over"], keepdims=True)
            x = x / (tf.sqrt(variance + s["eps"]) if s["eps"] else root(variance))
        x = x if self.factors is None else x * tf.reshape(self.factors, self.spread)
        return x if self.bias is None else x + tf.reshape(self.bias, self.spread)
