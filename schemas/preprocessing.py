"""What is done to an image before a net sees it, and the names of the classes it may find.

The order of work is Caffe's (data_transformer.cpp): resize, crop the centre, order the channels,
subtract the mean, multiply by the scale. The mean is an array, and is kept apart from the rest.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from schemas.graph import Net, Shape
from schemas.graph_json import Checked

RESIZES = ("warp", "short_side", "none")
CHANNELS = {"bgr": 3, "rgb": 3, "gray": 1}  # and how many there are
MAX_SIDE = 1 << 14  # pixels
MAX_SCALE = 1e30  # float32 ends at 3.4e38
MAX_MEAN = 1 << 26  # numbers of a mean image
MAX_UNKNOWN = 64
MAX_LABELS = 1 << 17
MAX_LABEL = 1024  # characters
# Controls and separators of lines: one label is one line of text.
_UNPRINTABLE = frozenset(("Cc", "Zl", "Zp"))

Size = Tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input of the net.

    Attributes:
        resize: ``warp`` (to `size`, whatever its shape), ``short_side`` (so that its shorter side
            is `size`, whose two numbers are the same) or ``none``.
        size: (height, width) in pixels; None only where `resize` is ``none``.
        crop: (height, width) of the centre that is cut out after that; None: nothing is.
        channels: their order in the net: ``bgr``, ``rgb`` or ``gray``.
        scale: the factor, after the mean.
        unknown: what no one told and was assumed, each with the reason.

    Raises:
        ValueError: a member is out of its range, or does not go with another.
    """

    resize: str
    size: Optional[Size] = None
    crop: Optional[Size] = None
    channels: str = "bgr"
    scale: float = 1.0
    unknown: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"resize is one of {', '.join(RESIZES)}, found {self.resize!r:.80}")
        if self.channels not in CHANNELS:
            known = ", ".join(CHANNELS)
            raise ValueError(f"channels is one of {known}, found {self.channels!r:.80}")
        for name in ("size", "crop"):
            size = getattr(self, name)
            if size is not None and not (len(size) == 2 and all(0 < n <= MAX_SIDE for n in size)):
                raise ValueError(
                    f"{name} is a height and a width, each from 1 to {MAX_SIDE}, found {size!r:.80}"
                )
        if (self.size is None) != (self.resize == "none"):
            raise ValueError(f"resize is {self.resize!r}, and size {self.size}")
        if self.resize == "short_side" and self.size and self.size[0] != self.size[1]:
            raise ValueError(f"the shorter side has one length, found {self.size}")
        if self.size and self.crop and any(c > s for c, s in zip(self.crop, self.size)):
            raise ValueError(f"crop {self.crop} is larger than size {self.size}")
        if not abs(self.scale) <= MAX_SCALE:  # a NaN neither
            raise ValueError(f"scale is {self.scale}")

    def document(self) -> Dict[str, Any]:
        """It as JSON values; `images_from` is the way back."""
        return {
            "resize": self.resize,
            "size": self.size and list(self.size),
            "crop": self.crop and list(self.crop),
            "channels": self.channels,
            "scale": self.scale,
            "unknown": list(self.unknown),
        }


def images_from(
    document: Checked, net: Net, means: Mapping[str, Shape]
) -> Dict[str, Preprocessing]:
    """Input key -> what `Preprocessing.document` described in an index's `images`, if it has any.

    Args:
        means: input key -> the shape of its mean, (C) or (C, H, W).

    Raises:
        MalformedModel: there is no such document, or it does not go with the net.
    """
    if "images" not in document.value:  # as in older files
        return {}
    found = document.child("images")
    images = {key: _preprocessing(found.child(key)) for key in found.value}
    for key, image in images.items():
        shape = net.blobs[key].shape if key in net.inputs else ()
        if len(shape) != 4 or shape[1] != CHANNELS[image.channels]:
            raise found.damage(key, f"the net has no such input of {image.channels} images")
        made = image.crop or (image.size if image.resize == "warp" else None)
        if made not in (None, shape[2:]):
            raise found.damage(key, f"gives images of {made}, the input takes {shape[2:]}")
        mean = means.get(key, ())[1:]
        if any(size < taken for size, taken in zip(mean, shape[2:])):
            raise found.damage(key, f"has a mean image of {mean}, the input takes {shape[2:]}")
    return images


def labels_from(document: Checked) -> Tuple[str, ...]:
    """An index's `labels`, if it has any.

    Raises:
        MalformedModel: they are no names of classes.
    """
    if "labels" not in document.value:  # as in older files
        return ()
    labels = document.strings("labels")
    try:
        check_labels(labels)
    except ValueError as error:
        raise document.damage("labels", f"are not names of classes: {error}") from error
    return labels


def _preprocessing(document: Checked) -> Preprocessing:
    scale = document.value.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise document.damage("scale", f"should be a number, found {scale!r:.80}")
    unknown = document.strings("unknown")
    if len(unknown) > MAX_UNKNOWN:
        raise document.damage("unknown", f"has {len(unknown):,} texts, more than {MAX_UNKNOWN}")
    try:
        return Preprocessing(
            document.get("resize", str),
            _size(document, "size"),
            _size(document, "crop"),
            document.get("channels", str),
            float(scale),
            unknown,
        )
    except (ValueError, OverflowError) as error:
        raise document.error(f"{document.path}: {error}") from error


def _size(document: Checked, name: str) -> Optional[Size]:
    if document.value.get(name) is None:
        return None
    size = document.shape(name)
    if len(size) != 2:
        raise document.damage(name, f"is not a height and a width: {size!r:.80}")
    return size[0], size[1]


def check_labels(labels: Sequence[str]) -> None:
    """Holds the names of the classes to what one line of text each can hold.

    Raises:
        ValueError: there are too many, or one is empty, too long, or has characters that none has.
    """
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels):,} labels, more than {MAX_LABELS:,}")
    for index, label in enumerate(labels):
        if not label.strip():
            raise ValueError(f"label {index} is empty")
        if len(label) > MAX_LABEL:
            raise ValueError(f"label {index} has {len(label):,} characters, more than {MAX_LABEL}")
        if any(unicodedata.category(character) in _UNPRINTABLE for character in label):
            raise ValueError(f"label {index} has control characters: {label!r:.80}")
