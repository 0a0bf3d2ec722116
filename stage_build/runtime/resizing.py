"""Images at another size; a second tensor, where there is one, gave its size and is not read."""

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered, spatial_sizes


class ResizingCalls(Calls):
    def interp(self, x, size=None, *, name, crop=None, shrink=1, zoom=1, scale=None):
        """Linear interpolation with aligned corners; `crop`: rows and columns (before, after).

        Without a size, it is that of a second tensor, or what is left of a side n becomes
        n * scale, or (n - 1) // shrink * zoom + 1.
        """
        rule = Interp(size, crop, shrink, zoom, scale, name=name)
        both = isinstance(x, (list, tuple))
        out = rule.compute_output_shape([t.shape for t in x] if both else x.shape)[1:3]
        if None in out:
            return self.add(rule, x)
        return self.add(Interp(out, crop, name=name), first(x))

    def resample(self, x, size, method, *, name, antialias=True):
        """ "nearest", "linear" or "cubic" resampling as FlowNet2 does it."""
        return self.add(Resample(size, method, antialias, name=name), first(x))

    def downsample(self, x, size, *, name):
        """Means under triangles, corners aligned, NaNs left out."""
        x = first(x)
        if tuple(x.shape[1:3]) == tuple(size):
            return self.add(keras.layers.Identity(name=name), x)
        return self.add(Downsample(size, name=name), x)

    def accum(self, tensors, size, *, name, reference=False):
        """All tensors interpolated to one size and put together on the channel axis."""
        tensors = list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
        parts = [
            self.add(Interp(size, None, name=f"{name}__{i}"), x)
            for i, x in enumerate(tensors[:-1] if reference else tensors)
        ]
        if len(parts) == 1:
            return self.add(keras.layers.Identity(name=name), parts[0])
        return self.add(keras.layers.Concatenate(name=name), parts)

    def resize(self, x, size, *, name):
        """Linear interpolation with the first pixels on one another."""
        return self.add(Resize(size, name=name), x)


def first(tensors):
    """The first of several tensors, or the only one."""
    return tensors[0] if isinstance(tensors, (list, tuple)) else tensors


@registered
class Interp(CaffeLayer):
    """Linear interpolation with aligned corners, after a crop (PSPNet's interp_layer.cpp)."""

    def __init__(self, size, crop, shrink=1, zoom=1, scale=None, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "size": size and tuple(size),
            "crop": crop and tuple(crop),
            "shrink": shrink,
            "zoom": zoom,
            "scale": scale,
        }

    def side(self, size):
        """What becomes of a side of the image."""
        s = self.settings
        left = size - sum(s["crop"] or ())
        return left * s["scale"] if s["scale"] else (left - 1) // s["shrink"] * s["zoom"] + 1

    def compute_output_shape(self, shape):
        shape, *like = shape if isinstance(shape, list) else [shape]
        sides = self.settings["size"] or (like[0][1:3] if like else None)
        if sides is None:
            sides = [size and self.side(size) for size in shape[1:3]]
        return (shape[0], *sides, shape[3])

    def call(self, x):
        x, *like = x if isinstance(x, (list, tuple)) else [x]
        sides = spatial_sizes(x)
        size = self.settings["size"] or (spatial_sizes(like[0]) if like else None)
        if self.settings["crop"]:
            start, end = self.settings["crop"]
            x = x[:, start : sides[0] - end, start : sides[1] - end]
        size = size or [self.side(side) for side in sides]
        return tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)


class ByTaps(CaffeLayer):
    """Each row, then each column, as a weighted sum of some of x's."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"size": tuple(size)}

    def compute_output_shape(self, shape):
        return (shape[0], *self.settings["size"], shape[3])

    def taps(self, shape):
        """For the rows and the columns: pixels and their weights, both (taps, out)."""
        raise NotImplementedError

    def resized(self, x):
        """x with its rows and columns sampled."""
        for axis, (pixels, weights) in enumerate(self.taps(x.shape[1:3]), 1):
            sums = "nkvwc,kv->nvwc" if axis == 1 else "nvkuc,ku->nvuc"
            x = tf.einsum(sums, tf.gather(x, pixels, axis=axis), weights.astype(np.float32))
        return x

    def call(self, x):
        return self.resized(x)


def pixels_around(place, size, reach):
    """The pixels within `reach` of each place, and how far they are; beside the image: infinity."""
    radius = int(np.ceil(reach))
    pixels = np.floor(place) + np.arange(-radius, radius + 2, dtype=np.float32)[:, None]
    away = np.where((pixels < 0) | (pixels >= size), np.float32(np.inf), np.abs(place - pixels))
    return np.clip(pixels, 0, size - 1).astype(int), away


@registered
class Resample(ByTaps):
    """Resampling by a kernel (FlowNet2's resample_layer.cu)."""

    def __init__(self, size, method, antialias, **kwargs):
        super().__init__(size, **kwargs)
        self.settings = {"size": tuple(size), "method": method, "antialias": antialias}

    def taps(self, shape):
        size = np.array(self.settings["size"], np.float32)
        steps = np.array(shape, np.float32) / size
        stretched = self.settings["antialias"] and steps.max() > 1
        # The fork swaps the axes' halves.
        for inside, out, step, half in zip(shape, size, steps, steps[::-1] / 2, strict=True):
            place = np.arange(out, dtype=np.float32) * step + half - np.float32(0.5)
            yield self.kernel(place, inside, step if stretched else 1.0)

    def kernel(self, place, size, stretch):
        """Pixels and weights, which add up to 1, or are 0 beside the image."""
        if self.settings["method"] == "nearest":
            # Of two pixels as near, the one farther from 0.
            return np.floor(place + 0.5).astype(int)[None], np.ones((1, len(place)))
        cubic = self.settings["method"] == "cubic"
        pixels, away = pixels_around(place, size, (2 if cubic else 1) * stretch)
        away = np.minimum(away / stretch, 2)
        if cubic:
            near = away**2 * (1.5 * away - 2.5) + 1
            far = away * (away * (2.5 - 0.5 * away) - 4) + 2
            weights = np.where(away <= 1, near, far)
        else:
            weights = np.maximum(1 - away, 0)
        total = weights.sum(0)
        return pixels, np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)


@registered
class Downsample(ByTaps):
    """Means under triangles as wide as the step, NaNs left out (FlowNet2's downsample_layer.cu)."""

    def taps(self, shape):
        for inside, out in zip(shape, self.settings["size"], strict=True):
            # In float32, as there: a weight that is 0 or next to it decides what is NaN.
            inside_, out_ = np.float32(inside - 1), np.float32(out - 1)
            place, step = np.arange(out, dtype=np.float32) / out_ * inside_, inside_ / out_
            pixels, away = pixels_around(place, inside, step)
            yield pixels, np.maximum(1 - away / step, 0)

    def call(self, x):
        unknown = tf.math.is_nan(x)
        missing = self.resized(tf.cast(unknown, x.dtype))
        present = self.resized(tf.cast(~unknown, x.dtype))
        means = self.resized(tf.where(unknown, 0.0, x)) / present
        return tf.where(missing / present > 0.5, np.float32(np.nan), means)


@registered
class Resize(ByTaps):
    """Linear interpolation at i * in / out; the last pixel has no partner (happynear's
    resize_layer.cpp)."""

    def taps(self, shape):
        for inside, out in zip(shape, self.settings["size"], strict=True):
            place = np.arange(out, dtype=np.float32) * (np.float32(inside) / np.float32(out))
            pixels, away = pixels_around(place, inside, 0)
            yield pixels, np.maximum(1 - away, 0)
