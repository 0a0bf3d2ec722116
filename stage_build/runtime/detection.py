"""What SSD and RefineDet found: boxes moved, sorted, thinned to those that do not overlap."""

import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class DetectionCalls(Calls):
    def detection_output(
        self,
        tensors,
        *,
        num_classes,
        name,
        share_location=True,
        background_label_id=0,
        code_type="CORNER",
        variance_encoded_in_target=False,
        confidence_threshold=None,
        nms_threshold=0.3,
        top_k=-1,
        eta=1.0,
        keep_top_k=-1,
        objectness_score=None,
    ):
        """The boxes found: rows of image, label, score, xmin, ymin, xmax, ymax along axis 1.

        The tensors are the locations and scores of (N, boxes * values), and the boxes to start
        from, as prior_box makes them; with an `objectness_score`, whether each box holds something,
        and what moves it first, too. Where nothing is found, each image has a row of -1.
        """
        options = {
            "num_classes": num_classes,
            "share_location": share_location,
            "background_label_id": background_label_id,
            "code_type": code_type,
            "variance_encoded_in_target": variance_encoded_in_target,
            "confidence_threshold": confidence_threshold,
            "nms_threshold": nms_threshold,
            "top_k": top_k,
            "eta": eta,
            "keep_top_k": keep_top_k,
            "objectness_score": objectness_score,
        }
        read = tensors[:3] if objectness_score is None else tensors
        return self.add(DetectionOutput(options, name=name), read)


class Detector(CaffeLayer):
    """A layer whose top lists boxes."""

    def compute_output_shape(self, shapes):
        return (1, None, 7, 1)

    def listed(self, rows, images):
        """The top that lists `rows`: a row of -1 for each image where there are none at all."""
        number = tf.cast(tf.range(images), rows.dtype)[:, None]
        nothing = tf.pad(number, [[0, 0], [0, 6]], constant_values=-1)
        rows = tf.concat([rows, nothing[: tf.where(tf.shape(rows)[0] > 0, 0, images)]], 0)
        return rows[None, :, :, None]


@registered
class DetectionOutput(Detector):
    """The boxes that are left of every image and class (SSD's detection_output_layer.cpp)."""

    def __init__(self, options, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"options": options}

    def call(self, tensors):
        boxes, scores = self.best_first(*self.moved(*tensors))
        places = tf.where(self.kept(boxes, scores))
        found = [tf.gather_nd(scores, places)[:, None], tf.gather_nd(boxes, places)]
        rows = tf.concat([tf.cast(places[:, :2], scores.dtype), *found], 1)
        return self.listed(rows, tf.shape(scores)[0])

    def moved(self, loc, conf, prior, holds=None, arm_loc=None):
        """The boxes (N, boxes, 1 or classes, 4) and the scores (N, classes, boxes)."""
        options = self.settings["options"]
        if len(prior.shape) == 4:
            prior = tf.transpose(prior, [0, 3, 1, 2])
        prior, variance = tf.unstack(tf.reshape(prior[0], [2, -1, 1, 4]))
        images, count = tf.shape(loc)[0], prior.shape[0]
        if arm_loc is not None:
            prior = self.decoded(prior, variance, tf.reshape(arm_loc, [images, count, 1, 4]))
        boxes = self.decoded(prior, variance, tf.reshape(loc, [images, count, -1, 4]))
        scores = tf.reshape(conf, [images, count, options["num_classes"]])
        if holds is not None:
            empty = tf.reshape(holds, [images, count, 2])[..., 1:] < options["objectness_score"]
            nothing = tf.one_hot(0, options["num_classes"], dtype=scores.dtype)
            scores = tf.where(empty, nothing, scores)
        return boxes, tf.transpose(scores, [0, 2, 1])

    def best_first(self, boxes, scores):
        """The `top_k` best of each image and class; scores that do not count are -inf."""
        options = self.settings["options"]
        count = scores.shape[2]
        most = count if options["top_k"] < 0 else min(options["top_k"], count)
        scores, order = tf.math.top_k(self.counted(scores), most)
        if options["share_location"]:
            return tf.gather(boxes[:, :, 0], order, batch_dims=1), scores
        return tf.gather(tf.transpose(boxes, [0, 2, 1, 3]), order, batch_dims=2), scores

    def kept(self, boxes, scores):
        """Whether each box is left after suppression, and is one of an image's `keep_top_k`."""
        options = self.settings["options"]
        images = tf.shape(scores)[0]
        classes, count = scores.shape[1:]
        kept = without_overlaps(
            tf.reshape(boxes, [images * classes, count, 4]),
            tf.reshape(scores > -float("inf"), [images * classes, count]),
            jaccard,
            tf.less_equal,
            options["nms_threshold"],
            options["eta"],
        )
        kept = tf.reshape(kept, [images, classes * count])
        if options["keep_top_k"] >= 0:
            left = tf.where(kept, tf.reshape(scores, tf.shape(kept)), -float("inf"))
            ranks = tf.argsort(tf.argsort(left, direction="DESCENDING", stable=True))
            kept &= ranks < options["keep_top_k"]
        return tf.reshape(kept, tf.shape(scores))

    def decoded(self, prior, variance, loc):
        """The boxes that locations make of `prior`; all are (..., 4)."""
        moved = loc if self.settings["options"]["variance_encoded_in_target"] else variance * loc
        code = self.settings["options"]["code_type"]
        if code == "CORNER":
            return prior + moved
        first, last = prior[..., :2], prior[..., 2:]
        size = last - first
        if code == "CORNER_SIZE":
            return prior + moved * tf.concat([size, size], -1)
        middle = moved[..., :2] * size + (first + last) / 2
        half = even_exp(moved[..., 2:]) * size / 2
        return tf.concat([middle - half, middle + half], -1)

    def counted(self, scores):
        """The scores (N, classes, boxes), those that do not count made -inf."""
        least = self.settings["options"]["confidence_threshold"]
        counts = scores > (scores.dtype.min if least is None else least)
        label = tf.range(self.settings["options"]["num_classes"])[None, :, None]
        counts &= label != self.settings["options"]["background_label_id"]
        return tf.where(counts, scores, -float("inf"))


def even_exp(x):
    """exp, to two units of the last place.

    Equal values give equal results wherever in a tensor they stand, as those of sums and products
    do; TensorFlow's own exp is another one for the last few of a tensor.
    """
    x = tf.clip_by_value(x, -104.0, 89.0)
    twos = tf.round(x * 1.44269504)
    # ln 2, of which the first part times a whole number is exact.
    part = (x - twos * 0.693359375) + twos * 2.12194440e-4
    power = part * (1 / 5040) + 1 / 720
    for factor in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        power = power * part + factor
    # In two steps, for the power of two alone may be beyond what a float32 holds.
    first = tf.floor(twos / 2)
    return power * two_to(first) * two_to(twos - first)


def two_to(power):
    """2 to a whole number from -126 to 127, made of the bits of a float32."""
    return tf.bitcast((tf.cast(power, tf.int32) + 127) * 2**23, tf.float32)


def jaccard(first, second):
    """Intersection over union of boxes of xmin, ymin, xmax, ymax (SSD's bbox_util.cpp).

    Infinite where it is not a number: to Caffe's comparison such boxes overlap.
    """

    def area(box):
        return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])

    sides = tf.minimum(first, second)[..., 2:] - tf.maximum(first, second)[..., :2]
    both = sides[..., 0] * sides[..., 1]
    share = both / (area(first) + area(second) - both)
    share = tf.where(tf.math.is_nan(share), float("inf"), share)
    return tf.where(tf.reduce_all(sides > 0, -1), share, 0.0)


def without_overlaps(boxes, candidates, overlaps, allowed, threshold, eta=1.0):
    """Greedy non-maximum suppression of several lists of boxes (lists, boxes, 4), best first.

    Args:
        candidates: (lists, boxes), whether a box takes part.
        overlaps: of boxes, broadcast.
        allowed: whether an overlap with a kept box, compared with the threshold, is allowed.
        eta: what the threshold is multiplied by after each kept box while it is above 0.5.

    Returns:
        (lists, boxes): whether the box is kept.
    """
    boxes = tf.stop_gradient(boxes)
    count = tf.shape(boxes)[1]
    places = tf.range(count)

    def free(left, kept, worst, limits):
        return left & allowed(worst, limits)

    def some_free(*state):
        return tf.reduce_any(free(*state))

    def keep_one(left, kept, worst, limits):
        # The first free place of each list; past the end where there is none.
        best = tf.reduce_min(tf.where(free(left, kept, worst, limits), places, count), 1)
        chosen = places == best[:, None]
        box = tf.gather(boxes, tf.minimum(best, count - 1), batch_dims=1)
        worst = tf.maximum(worst, overlaps(box[:, None], boxes))
        if eta < 1:
            limits = tf.where(limits > 0.5, limits * eta, limits)
        return left & ~chosen, kept | chosen, worst, limits

    worst = tf.fill(tf.shape(candidates), -float("inf"))
    limits = tf.fill([tf.shape(candidates)[0], 1], threshold)
    state = candidates, tf.zeros_like(candidates), worst, limits
    return tf.while_loop(some_free, keep_one, state, parallel_iterations=1)[1]
