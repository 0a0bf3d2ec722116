"""Region proposals: anchors moved by deltas, the best of those that do not overlap."""

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class ProposalsCalls(Calls):
    def proposal(
        self,
        tensors,
        *,
        name,
        ratios,
        scales,
        base=16,
        stride=16,
        smallest=16,
        candidates=6000,
        most=300,
        overlap=0.7,
        scores=False,
    ):
        """From [scores, deltas, im_info]: rows of 0, x1, y1, x2, y2; see `Proposals`.

        Args:
            scores: give the boxes' scores as well.
        """
        shapes, limits = (ratios, scales, base), (smallest, candidates, most, overlap)
        layer = Proposal(*shapes, stride, *limits, name=f"{name}__found")
        return self._proposed(layer, tensors, scores, name)

    def proposal_layer(
        self,
        tensors,
        *,
        name,
        ratios=(0.5, 1.0, 2.0),
        scales=(8.0, 16.0, 32.0),
        base=16,
        stride=16,
        smallest=16,
        candidates=6000,
        most=300,
        overlap=0.7,
        scores=False,
    ):
        """As `proposal`, but small boxes are dropped, and scores come as a column."""
        shapes, limits = (ratios, scales, base), (smallest, candidates, most, overlap)
        layer = ProposalLayer(*shapes, stride, *limits, name=f"{name}__found")
        return self._proposed(layer, tensors, scores, name)

    def _proposed(self, layer, tensors, scores, name):
        rois, values = self.add(layer, tensors)
        if not scores:
            return self.add(keras.layers.Identity(name=name), rois)
        return [
            self.add(keras.layers.Identity(name=f"{name}__{i}"), tensor)
            for i, tensor in enumerate((rois, values))
        ]


class Proposals(CaffeLayer):
    """The boxes and their scores, best first.

    At every place, `stride` pixels apart, there are anchors about the middle of a square of `base`
    pixels, ratio (height / width) by ratio and scale by scale. They are moved and stretched by
    their deltas and clipped to the image. Of the best `candidates`, those that overlap no better
    one by more than `overlap` are kept, at most `most`. Ends are counted as pixels.
    """

    def __init__(self, ratios, scales, base, stride, smallest, candidates, most, overlap, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False  # sizes that depend on the data are beyond XLA
        self.settings = {
            "ratios": tuple(ratios),
            "scales": tuple(scales),
            "base": base,
            "stride": stride,
            "smallest": smallest,
            "candidates": candidates,
            "most": most,
            "overlap": overlap,
        }

    def sides(self, ratios):
        """Width and height of an anchor of each ratio, whole numbers of pixels."""
        raise NotImplementedError

    def ranked(self, boxes, scores, info):
        """The candidates (boxes, 4) and their scores, best first."""
        raise NotImplementedError

    def compute_output_shape(self, shapes):
        return [(None, 5), (None,)]

    def call(self, tensors):
        scores, deltas, info = tensors
        info = tf.reshape(info, [-1])
        limit = tf.stack([info[1], info[0]] * 2) - 1
        boxes = tf.maximum(tf.minimum(self.moved(deltas), limit), 0)
        foreground = tf.reshape(scores[..., scores.shape[3] // 2 :], [-1])
        boxes, scores = self.ranked(boxes, foreground, info)
        kept = self.thinned(tf.stop_gradient(boxes))
        return [tf.pad(tf.gather(boxes, kept), [[0, 0], [1, 0]]), tf.gather(scores, kept)]

    def anchors(self):
        """(anchors, 4) at the first place."""
        s, middle = self.settings, (self.settings["base"] - 1) / 2
        half = [
            (np.outer(side, s["scales"]).reshape(-1) - 1) / 2 for side in self.sides(s["ratios"])
        ]
        ends = [middle - half[0], middle - half[1], middle + half[0], middle + half[1]]
        return np.stack(ends, 1).astype(np.float32)

    def moved(self, deltas):
        """The anchors of every place, moved: (boxes, 4)."""
        stride = self.settings["stride"]
        height, width = deltas.shape[1:3]
        x, y = np.meshgrid(np.arange(width) * stride, np.arange(height) * stride)
        shifts = np.stack([x, y, x, y], -1).astype(np.float32)
        at = (shifts[:, :, None] + self.anchors()).reshape(-1, 4)
        size = at[:, 2:] - at[:, :2] + 1
        middle = at[:, :2] + np.float32(0.5) * size
        deltas = tf.reshape(deltas, [-1, 4])
        middle = deltas[:, :2] * size + middle
        half = 0.5 * (tf.exp(deltas[:, 2:]) * size)
        return tf.concat([middle - half, middle + half], 1)

    def thinned(self, boxes):
        """Places of the boxes that are kept: a loop of at most `most` rounds, in little memory."""
        low, high = boxes[:, :2], boxes[:, 2:]
        area = tf.reduce_prod(high - low + 1, 1)
        number = tf.shape(boxes)[0]
        places = tf.range(number)

        def open_(left, kept):
            few = tf.reduce_sum(tf.cast(kept, tf.int32)) < self.settings["most"]
            return few & tf.reduce_any(left)

        def keep(left, kept):
            best = tf.reduce_min(tf.where(left, places, number))
            sides = tf.minimum(high[best], high) - tf.maximum(low[best], low) + 1
            both = tf.reduce_prod(tf.maximum(sides, 0), 1)
            too_much = both / (area[best] + area - both) > self.settings["overlap"]
            left = left & (places > best) & ~too_much
            return left, kept | (places == best)

        state = tf.fill([number], True), tf.fill([number], False)
        return tf.where(tf.while_loop(open_, keep, state)[1])[:, 0]

    def best(self, boxes, scores):
        """The candidates with the highest scores; of equal ones, the first."""
        number = tf.minimum(tf.size(scores), self.settings["candidates"])
        scores, order = tf.math.top_k(scores, number)
        return tf.gather(boxes, order), scores


def box_sides(boxes):
    """(boxes, 2): width and height in pixels."""
    return boxes[:, 2:] - boxes[:, :2] + 1


@registered
class Proposal(Proposals):
    """PVANet's: a box below `smallest` (before scaling) gets score 0 (proposal_layer.cpp)."""

    def sides(self, ratios):
        ratios = np.array(ratios, np.float32)
        width = np.floor(np.sqrt(np.float32(self.settings["base"] ** 2) / ratios) + 0.5)
        return width, np.floor(width * ratios + np.float32(0.5))

    def ranked(self, boxes, scores, info):
        least = self.settings["smallest"] * tf.stack([info[3], info[2]])
        large = tf.reduce_all(box_sides(boxes) >= least, 1)
        return self.best(boxes, tf.where(large, scores, 0.0))


@registered
class ProposalLayer(Proposals):
    """py-faster-rcnn's: a box smaller than `smallest` (before scaling) is dropped, and of equal
    scores the last is the best (proposal_layer.py)."""

    def sides(self, ratios):
        width = np.round(np.sqrt(self.settings["base"] ** 2 / np.array(ratios)))
        return width, np.round(width * ratios)

    def compute_output_shape(self, shapes):
        return [(None, 5), (None, 1)]

    def ranked(self, boxes, scores, info):
        large = tf.reduce_all(box_sides(boxes) >= self.settings["smallest"] * info[2], 1)
        places = tf.reverse(tf.where(large)[:, 0], [0])
        return self.best(tf.gather(boxes, places), tf.gather(scores, places))

    def call(self, tensors):
        rois, scores = super().call(tensors)
        return [rois, scores[:, None]]
