"""Regions of interest: a grid of values out of each box (image, x1, y1, x2, y2) of [images, boxes].

The boxes are taken one after the other: all at once would need an image for each.
"""

import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, pair, registered


class RegionsCalls(Calls):
    def roi_pooling(self, tensors, grid, *, name, scale=1.0):
        """From [images, boxes]: the maxima of a grid of bins; `scale` takes a box to the images."""
        return self.add(ROIPooling(grid, scale, name=name), tensors)

    def roi_align(self, tensors, grid, *, name, scale=1.0, pad_ratio=0.0, cubic=True):
        """From [images, boxes]: interpolated samples in the middles of a grid of bins."""
        return self.add(ROIAlign(grid, scale, pad_ratio, cubic, name=name), tensors)

    def psroi_pooling(self, tensors, group, *, name, scale):
        """From [images, boxes]: means of a group x group grid of bins, each of its own channels."""
        return self.add(PSROIPooling(group, scale, name=name), tensors)

    def psroi_align(self, tensors, group, *, name, scale, samples=2):
        """As `psroi_pooling`, but the means of samples x samples interpolated samples of a bin."""
        return self.add(PSROIAlign(group, scale, samples, name=name), tensors)


def half_away(x):
    """C's round(): a half goes away from zero."""
    whole = tf.cast(tf.cast(x, tf.int32), x.dtype)
    return tf.where(tf.abs(x - whole) >= 0.5, whole + tf.sign(x), whole)


def clipped(x, limit):
    """x as whole numbers from 0 to `limit`."""
    return tf.cast(tf.clip_by_value(x, 0.0, tf.cast(limit, x.dtype)), tf.int32)


class Regions(CaffeLayer):
    """What the layers share; a cell of a grid is found by rows, then by columns."""

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False  # sizes that depend on the data are beyond XLA
        self.grid = pair(grid)

    def channels(self, channels):
        """How many channels come out."""
        return channels

    def compute_output_shape(self, shapes):
        images, boxes = shapes
        return (boxes[0], *self.grid, self.channels(images[3]))

    def maps(self, images):
        """What is cut, an item an image."""
        return images

    def axis(self, low, high, cells, limit):
        """What `cut` needs of an axis: tensors with a row for each box.

        Args:
            low, high: the boxes' ends as they are given.
            limit: the images' size.
        """
        raise NotImplementedError

    def cut(self, image, rows, columns):
        """The grid of one box, (height, width, channels)."""
        raise NotImplementedError

    def call(self, tensors):
        images, boxes = tensors
        height, width, channels = images.shape[1:]
        boxes = tf.reshape(boxes, [-1, 5])
        x1, y1, x2, y2 = tf.unstack(boxes[:, 1:], axis=1)
        rows = self.axis(y1, y2, self.grid[0], height)
        columns = self.axis(x1, x2, self.grid[1], width)
        place = clipped(boxes[:, 0], tf.shape(images)[0] - 1)
        maps = self.maps(images)
        return tf.map_fn(
            lambda box: self.cut(maps[box[0]], box[1], box[2]),
            (place, rows, columns),
            fn_output_signature=tf.TensorSpec([*self.grid, self.channels(channels)], images.dtype),
        )


# A graph of TensorFlow's makes x / 3 * 2 into x * (2 / 3), and even x / 3 into a product, which
# rounds otherwise. In float64, rounded back at each step, that does no harm.


def over(x, divisor):
    """x / divisor, rounded once."""
    return tf.cast(tf.cast(x, tf.float64) / divisor, x.dtype)


def times(x, factors):
    """x * factors, rounded once; `factors` are whole numbers and halves."""
    return tf.cast(tf.cast(x, tf.float64) * np.asarray(factors, np.float64), x.dtype)


def bins(start, size, cells, limit, whole):
    """(low, high) of each cell of equal size, rounded outwards; `whole`: before the start is added.

    The two are the last axis.
    """
    step, start = over(size, cells)[:, None], start[:, None]
    edges = times(step, np.arange(cells + 1))
    low, high = edges[:, :-1], edges[:, 1:]
    if whole:
        ends = tf.floor(low) + start, tf.math.ceil(high) + start
    else:
        ends = tf.floor(low + start), tf.math.ceil(high + start)
    return tf.stack([clipped(end, limit) for end in ends], -1)


@registered
class ROIPooling(Regions):
    """The maximum of each bin, 0 where it has no pixels (roi_pooling_layer.cpp)."""

    def __init__(self, grid, scale, **kwargs):
        super().__init__(grid, **kwargs)
        self.settings = {"grid": grid, "scale": scale}

    def axis(self, low, high, cells, limit):
        low, high = (half_away(end * self.settings["scale"]) for end in (low, high))
        return bins(low, tf.maximum(high - low + 1, 1), cells, limit, whole=True)

    def cut(self, image, rows, columns):
        # Only the columns that any bin has, so that a small box costs little.
        image, columns = image[:, columns[0, 0] : columns[-1, 1]], columns - columns[0, 0]
        bands = [tf.reduce_max(image[row[0] : row[1]], 0) for row in tf.unstack(rows)]
        bands = tf.stack(bands)
        cells = [
            tf.reduce_max(bands[:, column[0] : column[1]], 1) for column in tf.unstack(columns)
        ]
        empty = (rows[:, 0] >= rows[:, 1])[:, None] | (columns[:, 0] >= columns[:, 1])
        return tf.where(empty[..., None], 0.0, tf.stack(cells, 1))


@registered
class ROIAlign(Regions):
    """An interpolated sample in the middle of each bin (makefile/frcnn's roi_align_layer.cpp)."""

    def __init__(self, grid, scale, pad_ratio, cubic, **kwargs):
        super().__init__(grid, **kwargs)
        self.settings = {"grid": grid, "scale": scale, "pad_ratio": pad_ratio, "cubic": cubic}

    def axis(self, low, high, cells, limit):
        scale, pad = self.settings["scale"], (high - low + 1) * self.settings["pad_ratio"]
        input_size = np.floor(np.float32(limit) / np.float32(scale) + 0.5)
        low = tf.maximum((low - pad) * scale, 0)
        high = tf.minimum((high + pad) * scale, np.float32(input_size - 1))
        step = over(tf.maximum(high - low + 1, 1), cells)[:, None]
        middle = times(step, np.arange(cells) + 0.5)
        place = tf.clip_by_value(middle + low[:, None], 0.0, limit - 1.0)
        first = tf.floor(place)
        part = place - first
        if self.settings["cubic"]:
            taps = np.arange(-1, 3, dtype=np.float32)
            weights = self.kernel(tf.abs(part[..., None] - taps))
            return clipped(first[..., None] + taps, limit - 1), weights
        last = tf.minimum(first + 1, limit - 1.0)
        # Both are 0 on the last pixel, as in the fork.
        return clipped(tf.stack([first, last], -1), limit), tf.stack([last - place, part], -1)

    @staticmethod
    def kernel(away):
        """The cubic kernel of a = -1."""
        near = 1 - 2 * away**2 + away**3
        far = 4 - 8 * away + 5 * away**2 - away**3
        return tf.where(away < 1, near, tf.where(away < 2, far, 0.0))

    def cut(self, image, rows, columns):
        bands = tf.einsum("itwc,it->iwc", tf.gather(image, rows[0]), rows[1])
        return tf.einsum("ijtc,jt->ijc", tf.gather(bands, columns[0], axis=1), columns[1])


class PositionSensitive(Regions):
    """Cell (i, j) of channel d is cut out of channel (d * group + i) * group + j."""

    def __init__(self, group, scale, **kwargs):
        super().__init__(group, **kwargs)
        self.settings = {"group": group, "scale": scale}

    def channels(self, channels):
        return channels // self.settings["group"] ** 2

    def maps(self, images):
        """(N, i, j, H, W, d)."""
        group, shape = self.settings["group"], images.shape
        maps = tf.reshape(images, [-1, *shape[1:3], self.channels(shape[3]), group, group])
        return tf.transpose(maps, [0, 4, 5, 1, 2, 3])


@registered
class PSROIPooling(PositionSensitive):
    """The mean of each bin, 0 where it has no pixels (R-FCN's psroi_pooling_layer)."""

    def axis(self, low, high, cells, limit):
        low, high = (half_away(end) for end in (low, high))
        low, high = low * self.settings["scale"], (high + 1) * self.settings["scale"]
        return bins(low, tf.maximum(high - low, np.float32(0.1)), cells, limit, whole=False)

    def cut(self, image, rows, columns):
        rows, columns = tf.unstack(rows), tf.unstack(columns)
        return tf.stack(
            [
                tf.stack([self.mean(image[i, j], row, column) for j, column in enumerate(columns)])
                for i, row in enumerate(rows)
            ]
        )

    @staticmethod
    def mean(image, row, column):
        pixels = image[row[0] : row[1], column[0] : column[1]]
        area = tf.cast(tf.reduce_prod(tf.shape(pixels)[:2]), image.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(pixels, [0, 1]), area)


@registered
class PSROIAlign(PositionSensitive):
    """The mean of interpolated samples of each bin (makefile/frcnn's psroi_align_layer.cpp)."""

    def __init__(self, group, scale, samples, **kwargs):
        super().__init__(group, scale, **kwargs)
        self.settings = {"group": group, "scale": scale, "samples": samples}

    def axis(self, low, high, cells, limit):
        scale, samples = self.settings["scale"], self.settings["samples"]
        start = low * scale
        step = over(tf.maximum((high + 1) * scale - start, np.float32(0.1)), cells)[:, None]
        last = limit - 1.0
        edges = tf.clip_by_value(times(step, np.arange(cells + 1)) + start[:, None], 0.0, last)
        low, high = edges[:, :-1, None], edges[:, 1:, None]
        between = over(step, samples + 1)[..., None]
        place = low + times(between, np.arange(1, samples + 1))
        counted = tf.cast(place < high, place.dtype) / samples
        place = tf.minimum(place, last)
        first = tf.floor(place)
        part = place - first
        pixels = tf.stack([first, tf.minimum(first + 1, last)], -1)
        weights = tf.stack([(1 - part) * counted, part * counted], -1)
        shape = [-1, cells, 2 * samples]
        return clipped(tf.reshape(pixels, shape), limit), tf.reshape(weights, shape)

    def cut(self, image, rows, columns):
        bands = tf.gather(image, rows[0], axis=2, batch_dims=1)
        bands = tf.einsum("ijtwd,it->jiwd", bands, rows[1])
        cells = tf.gather(bands, columns[0], axis=2, batch_dims=1)
        return tf.einsum("jitd,jt->ijd", cells, columns[1])
