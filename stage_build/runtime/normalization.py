"""Normalization of each sample alone: local response, mean and variance, length."""

import keras
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

    def mvn(
        self,
        x,
        *,
        name,
        across_channels=False,
        normalize_variance=True,
        eps=1e-9,
        add_eps_before_sqrt=False,
    ):
        """(x - mean) / (sqrt(variance) + eps) over the pixels of each channel, or sample."""
        layer = MVN(across_channels, normalize_variance, eps, add_eps_before_sqrt, name=name)
        return self.add(layer, as_images(self, x, name))

    def normalize(
        self,
        x,
        *,
        name,
        axis=-1,
        across_spatial=True,
        channel_shared=True,
        eps=1e-10,
        eps_after_root=False,
    ):
        """x / sqrt(sum of x ** 2 + eps) * scale over the channels of each pixel, or a sample."""
        layer = Normalize(axis, across_spatial, channel_shared, eps, eps_after_root, name=name)
        return self.add(layer, x)

    def normalize_channels(self, x, kind, *, name, eps=1e-6, with_length=False):
        """x by its "L1" or "L2" length over the channels of each pixel; that length, if asked."""
        x = as_images(self, x, name)
        if not with_length:
            return self.add(ByLength(kind, eps, name=name), x)
        return [
            self.add(ByLength(kind, eps, name=f"{name}__0"), x),
            self.add(Length(kind, eps, name=f"{name}__1"), x),
        ]

    def l2_normalization(self, x, *, name):
        """x / sqrt(sum of x ** 2) over each sample."""
        return self.add(L2Normalization(name=name), x)

    def channel_norm(self, x, *, name):
        """sqrt(sum of x ** 2) over the channels of each pixel."""
        return self.add(Length("L2", 0.0, name=name), as_images(self, x, name))


def as_images(calls, x, name):
    """A tensor of fewer axes as N x C x H x W, the last ones 1; NHWC."""
    if len(x.shape) == 4:
        return x
    batch, channels, height = (*x.shape, 1, 1)[:3]
    if height != 1 and channels != 1:
        x = calls.add(keras.layers.Permute((2, 1), name=f"{name}__nhc"), x)
    image = [-1 if size is None else size for size in (height, 1, channels)]
    return calls.add(keras.layers.Reshape(image, name=f"{name}__image"), x)


def root(x):
    """sqrt(x) for x >= 0; its gradient at 0, where the root is infinitely steep, is 1."""
    positive = x > 0.0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, 1.0)), x)


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
class MVN(CaffeLayer):
    """Mean-variance normalization (mvn_layer.cpp)."""

    def __init__(self, across_channels, normalize_variance, eps, add_eps_before_sqrt, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "across_channels": across_channels,
            "normalize_variance": normalize_variance,
            "eps": eps,
            "add_eps_before_sqrt": add_eps_before_sqrt,
        }

    def call(self, x):
        s = self.settings
        axes = [1, 2, 3] if s["across_channels"] else [1, 2]
        x = x - tf.reduce_mean(x, axes, keepdims=True)
        if not s["normalize_variance"]:
            return x
        variance = tf.reduce_mean(tf.square(x), axes, keepdims=True)
        if s["add_eps_before_sqrt"]:
            return x / tf.sqrt(variance + s["eps"])
        return x / (root(variance) + s["eps"])


@registered
class Normalize(CaffeLayer):
    """x by its length, times a scale that is learned (SSD's normalize_layer.cpp)."""

    def __init__(self, axis, across_spatial, channel_shared, eps, eps_after_root, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "axis": axis,
            "across_spatial": across_spatial,
            "channel_shared": channel_shared,
            "eps": eps,
            "eps_after_root": eps_after_root,
        }

    def build(self, shape):
        s, rank = self.settings, len(shape)
        channels = s["axis"] % rank
        self.over = list(range(1, rank)) if s["across_spatial"] else [channels]
        scales = () if s["channel_shared"] else (shape[channels],)
        self.factors = self.add_weight(shape=scales, initializer="ones", name="scale")
        self.spread = [1 if s["channel_shared"] or a != channels else -1 for a in range(rank)]

    def call(self, x):
        s = self.settings
        squares = tf.reduce_sum(tf.square(x), self.over, keepdims=True)
        eps, after = s["eps"], s["eps_after_root"]
        length = root(squares) + eps if after else root(squares + eps)
        return x / length * tf.reshape(self.factors, self.spread)


@registered
class Length(CaffeLayer):
    """The "L1" or "L2" length over the last axis, with eps added to it or under its root."""

    def __init__(self, kind, eps, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"kind": kind, "eps": eps}

    def compute_output_shape(self, shape):
        return (*shape[:-1], 1)

    def call(self, x):
        s = self.settings
        if s["kind"] == "L1":
            return tf.reduce_sum(tf.abs(x), -1, keepdims=True) + s["eps"]
        return root(tf.reduce_sum(tf.square(x), -1, keepdims=True) + s["eps"])


@registered
class ByLength(Length):
    """x by its length over the last axis."""

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return x / super().call(x)


@registered
class L2Normalization(CaffeLayer):
    """x by its length over the whole sample."""

    def call(self, x):
        squares = tf.square(x)
        return x / root(tf.reduce_sum(squares, list(range(1, len(x.shape))), keepdims=True))
