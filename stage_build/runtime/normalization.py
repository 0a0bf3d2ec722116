"""Local response and batch normalization."""

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered
from stage_build.runtime.pooling import Pooling


class NormalizationCalls(Calls):
    def lrn(self, x, *, name, size=5, alpha=1.0, beta=0.75, k=1.0):
        """x / (k + alpha / size * sum of squares over `size` channels) ** beta."""
        return self.add(LocalResponse(size, alpha, beta, k, name=name), x)

    def lrn_within_channel(self, x, *, name, size=5, alpha=1.0, beta=0.75):
        """x / (1 + alpha * mean of squares over a `size` x `size` window) ** beta."""
        return self.add(LocalResponseWithinChannel(size, alpha, beta, name=name), x)

    def batch_norm(self, x, *, name, axis=-1, eps=1e-5, momentum=0.999):
        """(x - mean) / sqrt(variance + eps) with the stored statistics; no scale and shift."""
        layer = BatchNorm(
            axis=axis, epsilon=eps, momentum=momentum, center=False, scale=False, name=name
        )
        return self.add(layer, x)

    def batch_statistics_norm(self, x, *, name, axis=-1, eps=1e-5):
        """(x - mean) / sqrt(variance + eps) with the statistics of the batch at hand."""
        return self.add(BatchStatisticsNorm(axis, eps, name=name), x)


@registered
class LocalResponse(CaffeLayer):
    """Normalization over neighbouring channels (lrn_layer.cpp, ACROSS_CHANNELS)."""

    def __init__(self, size, alpha, beta, k, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"size": size, "alpha": alpha, "beta": beta, "k": k}

    def call(self, x):
        s = self.settings
        return tf.nn.local_response_normalization(
            x, (s["size"] - 1) // 2, s["k"], s["alpha"] / s["size"], s["beta"]
        )


@registered
class LocalResponseWithinChannel(CaffeLayer):
    """Normalization over neighbouring pixels (lrn_layer.cpp, WITHIN_CHANNEL: k is 1)."""

    def __init__(self, size, alpha, beta, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"size": size, "alpha": alpha, "beta": beta}

    def build(self, shape):
        size = self.settings["size"]
        self.mean = Pooling("average", size, 1, (size - 1) // 2, True)

    def call(self, x):
        s = self.settings
        return x * tf.pow(1.0 + s["alpha"] * self.mean(tf.square(x)), -s["beta"])


@registered
class BatchNorm(keras.layers.BatchNormalization):
    """Keras's layer, but (x - mean) is taken first: x * s + (b - mean * s) cancels badly."""

    def call(self, inputs, training=None, mask=None):
        if training and self.trainable:
            return super().call(inputs, training=training, mask=mask)
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        mean = keras.ops.reshape(self.moving_mean, shape)
        variance = keras.ops.reshape(self.moving_variance, shape)
        return (inputs - mean) * (1.0 / keras.ops.sqrt(variance + self.epsilon))


@registered
class BatchStatisticsNorm(CaffeLayer):
    """batch_norm_layer.cpp with use_global_stats: false, at inference too."""

    def __init__(self, axis, eps, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"axis": axis, "eps": eps}

    def call(self, x):
        axes = np.delete(np.arange(len(x.shape)), self.settings["axis"])
        mean = tf.reduce_mean(x, axes, keepdims=True)
        centred = x - mean
        variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True)
        return centred / tf.sqrt(variance + self.settings["eps"])
