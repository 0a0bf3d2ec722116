"""Images as a net takes them: read and resized as OpenCV does it, the rest as Caffe does."""

import functools
import math
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from stage_build.runtime.base import Calls

# Of a resized image: a long thin one grows with its shorter side.
MAX_PIXELS = 1 << 26


class ImagesCalls(Calls):
    """What a net whose preprocessing is known does with images.

    Attributes:
        images: the work in its order (data_transformer.cpp). ``resize``: ``warp`` to ``size``
            (height, width), ``short_side`` of that length, or ``none``; ``crop``: (height, width)
            of the centre; ``channels``: ``bgr``, ``rgb`` or ``gray``, the order in the net;
            ``mean``: a value for each channel, the file of an image of means, or None; ``scale``:
            the factor after that; ``layout``: ``nchw`` where the net takes that, else absent.
    """

    images: dict
    inputs: dict
    folder: Path
    model: keras.Model

    @functools.cached_property
    def labels(self):
        """The names of the classes in the order of their indices; empty where none are known."""
        file = self.folder / "labels.txt"
        return tuple(file.read_text("utf-8").split("\n")[:-1]) if file.is_file() else ()

    @functools.cached_property
    def mean(self):
        """What is subtracted, in the net's channel order: (C) or an image (h, w, C), float32."""
        mean = self.images["mean"]
        if isinstance(mean, str):
            mean = np.load(self.folder / mean, allow_pickle=False)
        return np.zeros(1, np.float32) if mean is None else np.asarray(mean, np.float32)

    @property
    def color(self):
        """How many channels the net's images have: 3 or 1."""
        return 1 if self.images["channels"] == "gray" else 3

    def preprocess(self, image):
        """An image, or each of a list, as the net takes it.

        Args:
            image: a file's path; the bytes of a JPEG, PNG, BMP or GIF file; or uint8 pixels, (h, w)
                gray or (h, w, 3) RGB.

        Returns:
            (N, H, W, C) float32; (N, C, H, W) for a net with Caffe's layout at its door.

        Raises:
            ValueError: an image cannot be read, or is smaller than what is cut from it.
            OSError: a file cannot be opened.
        """
        images = image if isinstance(image, (list, tuple)) else [image]
        ready = [self._ready(each, place) for place, each in enumerate(images)]
        sizes = sorted({each.shape for each in ready})
        if len(sizes) > 1:
            raise ValueError(f"the images have several sizes, {sizes}: give them one at a time")
        return np.stack(ready)

    def classify(self, image, top=5):
        """The best classes of an image, or of each of a list.

        Args:
            image: as in `preprocess`.
            top: how many.

        Returns:
            [(label, probability), ...], best first; for a list of images, a list of those. The
            label is the index as text where labels are not known. The probability is what the net
            gives: no more than a score if the net does not end in a softmax.

        Raises:
            ValueError: as `preprocess`, or the net does not give one score for each class.
        """
        if len(self.inputs) != 1:
            raise ValueError(f"the net has {len(self.inputs)} inputs, {', '.join(self.inputs)}")
        scores = self.class_scores(self.model(self.preprocess(image), training=False)).numpy()
        found = []
        for row in scores:
            best = np.argsort(-row, kind="stable")[:top]
            found.append([(self.label(index), float(row[index])) for index in best])
        return found if isinstance(image, (list, tuple)) else found[0]

    def label(self, index):
        """The name of a class; its index as text where none is known."""
        return self.labels[index] if self.labels else str(index)

    def class_scores(self, outputs):
        """The scores among a net's outputs by name, as (N, classes).

        Raises:
            ValueError: there is not one output, or it is no list of scores, or not of all labels.
        """
        if len(outputs) != 1:
            names = ", ".join(outputs)
            raise ValueError(f"the net has {len(outputs)} outputs, not one of classes: {names}")
        ((name, scores),) = outputs.items()
        sides = [side or 1 for side in scores.shape[1:]]
        classes = max(sides, default=0)
        if len(scores.shape) < 2 or math.prod(sides) != classes:
            shape = tuple(scores.shape)
            raise ValueError(f"output {name} is no list of classes: it has shape {shape}")
        if self.labels and len(self.labels) != classes:
            raise ValueError(f"{len(self.labels)} labels, output {name} has {classes} classes")
        return tf.reshape(scores, [tf.shape(scores)[0], classes])

    @tf.autograph.experimental.do_not_convert
    def decoded(self, encoded):
        """An image file's bytes as (h, w, 3) uint8 RGB, or (h, w, 1) where the net takes gray.

        As cv2.imread has it: transparency dropped, 16 bits cut to 8, turned upright as EXIF tells.
        Works in graphs too, on a scalar string.
        """
        pixels = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.io.decode_jpeg(encoded, self.color, dct_method="INTEGER_ACCURATE"),
            lambda: self._colored(tf.io.decode_image(encoded, 3, expand_animations=False)),
        )
        return upright(pixels, orientation(encoded))

    @tf.autograph.experimental.do_not_convert
    def prepared(self, pixels):
        """(h, w, 3) RGB or (h, w, 1) gray uint8 pixels as an input of the net: (H, W, C) float32.

        Works in graphs too, as tf.data's; (C, H, W) for a net with Caffe's layout at its door.
        """
        values = self.normalized(self.fitted(pixels))
        return tf.transpose(values, [2, 0, 1]) if self.images.get("layout") == "nchw" else values

    def fitted(self, pixels):
        """The same pixels resized and cropped, (H, W, C) uint8."""
        size, crop = self.images["size"], self.images["crop"]
        if self.images["resize"] == "short_side":
            size = short_sized(pixels, size[0])
        if size is not None:
            pixels = resized(pixels, *size)
        if crop is not None:
            pixels = centre(pixels, *crop)
        return pixels

    @tf.autograph.experimental.do_not_convert
    def normalized(self, pixels):
        """(..., H, W, C) RGB or gray pixels with the net's order of channels, mean and scale."""
        values = tf.cast(pixels, tf.float32)
        if self.images["channels"] == "bgr":
            # Not tf.reverse: TensorFlow Lite gives its int8 form another scale than its input.
            values = tf.gather(values, [2, 1, 0], axis=-1)
        sides = [values.shape[axis] or tf.shape(values)[axis] for axis in (-3, -2)]
        return (values - self.cut_mean(*sides)) * np.float32(self.images["scale"])

    def cut_mean(self, height, width):
        """What is subtracted from an image of this size: an image of means is cut as images are."""
        return centre(self.mean, height, width) if self.mean.ndim == 3 else self.mean

    def _ready(self, image, place):
        """What `preprocess` makes of one image, the one at `place` in a list."""
        if isinstance(image, np.ndarray):
            name, read = f"image {place}, an array", self._taken
        else:
            name = f"image {place}" if isinstance(image, bytes) else str(image)
            image = image if isinstance(image, bytes) else Path(image).read_bytes()
            read = self.decoded
        try:
            return self.prepared(read(image)).numpy()
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            # TensorFlow puts the operation around what it says.
            text = re.sub(r"\{\{.*?\}\}|\[Op:.*|\n.*", "", getattr(error, "message", str(error)))
            raise ValueError(f"{name}: no image that can be used: {text.strip()}") from None

    def _taken(self, pixels):
        """An array's pixels with the net's number of channels."""
        plain = pixels[..., None] if pixels.ndim == 2 else pixels
        if plain.dtype != np.uint8 or plain.ndim != 3 or plain.shape[2] not in (1, 3):
            raise ValueError(
                f"uint8 of shape (h, w) or (h, w, 3) expected, found {pixels.dtype} {pixels.shape}"
            )
        return self._colored(plain)

    def _colored(self, pixels):
        """Gray or RGB pixels with the net's number of channels."""
        if pixels.shape[-1] == self.color:
            return tf.convert_to_tensor(pixels)
        return tf.repeat(pixels, 3, -1) if self.color == 3 else luma(pixels)


def luma(pixels):
    """(h, w, 3) uint8 RGB as (h, w, 1) gray, with OpenCV's weights (color_rgb.simd.hpp)."""
    weighted = tf.cast(pixels, tf.int32) * [9798, 19235, 3735]
    return tf.cast((tf.reduce_sum(weighted, -1, keepdims=True) + 16384) // 32768, tf.uint8)


def resized(pixels, height, width):
    """(h, w, C) uint8 at another size, as OpenCV's INTER_LINEAR: in fixed point (resize.cpp)."""
    tf.debugging.assert_less(
        tf.cast(height, tf.int64) * tf.cast(width, tf.int64),
        tf.constant(MAX_PIXELS, tf.int64),
        "resized, the image has too many pixels",
    )
    blended = 0
    for row, row_weight in neighbours(tf.shape(pixels)[0], height):
        line, across = tf.gather(pixels, row), 0
        for column, weight in neighbours(tf.shape(pixels)[1], width):
            across += tf.cast(tf.gather(line, column, axis=1), tf.int32) * weight[:, None]
        blended += row_weight[:, None, None] * (across // 16) // 65536
    return tf.saturate_cast((blended + 2) // 4, tf.uint8)


def neighbours(size, wanted):
    """The two pixels around each of `wanted` places along `size` pixels, and their weights.

    Returns:
        (indices, weights) of the first, and of the second; two weights are 2048 together.
    """
    scale = 1.0 / (tf.cast(wanted, tf.float64) / tf.cast(size, tf.float64))
    place = tf.cast((tf.cast(tf.range(wanted), tf.float64) + 0.5) * scale - 0.5, tf.float32)
    before = tf.floor(place)
    second = place - before
    return [
        (
            tf.clip_by_value(tf.cast(before, tf.int32) + step, 0, size - 1),
            tf.cast(tf.round(share * 2048), tf.int32),
        )
        for step, share in ((0, 1 - second), (1, second))
    ]


def short_sized(pixels, side):
    """The height and width of (h, w, C) pixels whose shorter side is made `side` long."""
    sides = tf.cast(tf.shape(pixels)[:2], tf.float64)
    factor = side / tf.reduce_min(sides)
    height, width = tf.unstack(tf.cast(tf.round(sides * factor), tf.int32))
    return height, width


def centre(pixels, height, width):
    """The middle of (h, w, C) pixels; the odd one is left at the end (data_transformer.cpp)."""
    shape = tf.shape(pixels)
    tf.debugging.assert_greater_equal(
        shape[:2], tf.stack([height, width]), "smaller than what is cut from the middle"
    )
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    return tf.slice(pixels, [top, left, 0], [height, width, pixels.shape[-1]])


def upright(pixels, turn):
    """(h, w, C) pixels turned as EXIF's orientation `turn` has it, 1 to 8."""
    exchanged = tf.transpose(pixels, tf.where(turn >= 5, [1, 0, 2], [0, 1, 2]))
    rows, columns = tf.equal(turn, [[3], [4], [7], [8]]), tf.equal(turn, [[2], [3], [6], [7]])
    reversed_axes = tf.boolean_mask([0, 1], tf.reduce_any(tf.concat([rows, columns], 1), 0))
    return tf.ensure_shape(tf.reverse(exchanged, reversed_axes), [None, None, pixels.shape[-1]])


# How far headers are walked: files made to be walked for long are taken as they are.
MOST_SEGMENTS = 64


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def orientation(encoded):
    """EXIF's orientation of a JPEG or PNG file's bytes, 1 to 8; 1 where there is none."""
    data = tf.io.decode_raw(encoded, tf.uint8)
    jpeg = exif_of_jpeg(data)
    tiff = tf.cond(tf.size(jpeg) > 0, lambda: jpeg, lambda: exif_of_png(data))
    return tiff_orientation(tiff)


def exif_of_jpeg(data):
    """The TIFF data in the first APP1 segment that is EXIF's; empty where there is none."""

    def is_exif(at):
        return matches(data, at + 1, b"\xe1") & matches(data, at + 4, b"Exif\0\0")

    def goes_on(at):
        known = matches(data, at, b"\xff") & ~matches(data, at + 1, b"\xda")
        return known & ~is_exif(at)

    def following(at):
        # 0xFF may be repeated before a marker.
        filled = matches(data, at + 1, b"\xff")
        return tf.where(filled, at + 1, at + 2 + tf.maximum(number(data, at + 2, 2), 2))

    at = walked(goes_on, following, data, 2)
    length = tf.where(matches(data, 0, b"\xff\xd8") & is_exif(at), number(data, at + 2, 2) - 8, 0)
    return part(data, at + 10, length)


def exif_of_png(data):
    """The TIFF data in the eXIf chunk before the pixels; empty where there is none."""

    def goes_on(at):
        return ~matches(data, at + 4, b"eXIf") & ~matches(data, at + 4, b"IDAT")

    def following(at):
        return at + 12 + number(data, at, 4)

    at = walked(goes_on, following, data, 8)
    found = matches(data, 0, b"\x89PNG") & matches(data, at + 4, b"eXIf")
    return part(data, at + 8, tf.where(found, tf.minimum(number(data, at, 4), 1 << 16), 0))


def tiff_orientation(tiff):
    """The value of tag 0x112 in the first directory; 1 where it is none of 1 to 8."""
    little = matches(tiff, 0, b"II")

    def read(at, size):
        return tf.where(little, number(tiff, at, size, little=True), number(tiff, at, size))

    directory = read(4, 4)
    there = tf.size(tiff, tf.int64) - directory - 2
    count = tf.clip_by_value(there // 12, 0, read(directory, 2))
    entries = tf.reshape(part(tiff, directory + 2, count * 12), [-1, 12])
    entries = tf.cast(entries, tf.int32)
    low, high = (tf.where(little, entries[:, i::8], entries[:, 1 - i :: 8]) for i in (0, 1))
    pairs = low + 256 * high  # of bytes 0 and 1, the tag, and 8 and 9, the value
    values = tf.boolean_mask(pairs[:, 1], pairs[:, 0] == 0x112)
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def walked(goes_on, following, data, start):
    """Where a walk over the segments of `data` ends: at most `MOST_SEGMENTS`, and at the end."""
    size = tf.size(data, tf.int64)
    (at,) = tf.while_loop(
        lambda at: (at < size) & goes_on(at),
        lambda at: (following(at),),
        (tf.constant(start, tf.int64),),
        maximum_iterations=MOST_SEGMENTS,
    )
    return at


def part(data, at, length):
    """`length` values of `data` from `at`, fewer where it ends before."""
    size = tf.size(data, tf.int64)
    at = tf.clip_by_value(tf.cast(at, tf.int64), 0, size)
    return data[at : at + tf.maximum(tf.cast(length, tf.int64), 0)]


def matches(data, at, expected):
    """Whether these bytes are at `at`."""
    found = part(data, at, len(expected))
    return tf.reduce_all(tf.equal(tf.size(found), len(expected))) & tf.reduce_all(
        tf.equal(padded(found, len(expected)), list(expected))
    )


def number(data, at, size, little=False):
    """The unsigned number of `size` bytes at `at`, the last byte the lowest unless `little`."""
    factors = [256**place for place in range(size)]
    digits = tf.cast(padded(part(data, at, size), size), tf.int64)
    return tf.reduce_sum(digits * (factors if little else factors[::-1]))


def padded(data, size):
    """At most `size` values, filled with zeros to as many."""
    return tf.pad(data, [[0, size - tf.size(data)]])
