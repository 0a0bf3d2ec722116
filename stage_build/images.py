"""A net's preprocessing as the class takes images: what is printed, and the files beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import MalformedModel, UsageError
from schemas.graph import Net
from schemas.interchange import Interchange
from schemas.preprocessing import CHANNELS
from stage_build.delivery import Delivery
from stage_build.layout import Door
from stage_build.printing import WIDTH, filled, wrapped

MEAN, LABELS = "mean.npy", "labels.txt"
FAMILY = "images"  # of the runtime
_SWAPPED = {"bgr": "rgb", "rgb": "bgr", "gray": "gray"}


@dataclass(frozen=True)
class Images:
    """How the class makes its input of an image.

    Attributes:
        document: `ImagesCalls.images` of the runtime.
        mean: an image of means, (h, w, C) float32 in the class's order of channels, if it is one.
        unknown: what no one told and was assumed.
    """

    document: dict[str, Any]
    mean: np.ndarray | None
    unknown: Sequence[str]

    def lines(self) -> list[str]:
        """The class attribute, after a comment with what was assumed."""
        lines = [""]
        for text in self.unknown:
            safe = "".join(c if " " <= c <= "~" else "?" for c in f"Assumed: {text}")
            lines += [f"    # {line.strip()}"[:WIDTH] for line in filled(safe.split(" "), " " * 6)]
        return [*lines, *wrapped("    images = ", self.document)]

    def write(self, folder: Path) -> None:
        """Writes mean.npy where the mean is an image."""
        if self.mean is not None:
            np.save(folder / MEAN, self.mean, allow_pickle=False)


def images_of(content: Interchange, door: Door) -> Images | None:
    """The preprocessing of the net's images as they come through `door`.

    None where none is known, or where the inputs' differ: a class has one.

    Raises:
        MalformedModel: a mean is not of the image.
    """
    found = [(document, _mean(content, key)) for key, document in content.images.items()]
    if not found or not all(_alike(found[0], other) for other in found[1:]):
        return None
    document, mean = found[0]
    image, values = None, None
    if mean is not None:
        mean = mean[::-1] if door.swapped else mean
        if mean.ndim == 3:
            axes = (2, 1, 0) if door.transposed else (1, 2, 0)
            image = np.ascontiguousarray(mean.transpose(axes))
        else:
            values = tuple(map(float, mean))
    described = {
        "resize": document.resize,
        "size": _turned(document.size, door),
        "crop": _turned(document.crop, door),
        "channels": _SWAPPED[document.channels] if door.swapped else document.channels,
        "mean": values if image is None else MEAN,
        "scale": document.scale,
    }
    if door.layout == "nchw":
        described["layout"] = door.layout
    return Images(described, image, document.unknown)


def _mean(content: Interchange, key: str) -> np.ndarray | None:
    mean, channels = content.means.get(key), CHANNELS[content.images[key].channels]
    if mean is None:
        return None
    if mean.ndim not in (1, 3) or mean.shape[0] != channels or mean.dtype != np.float32:
        raise MalformedModel(
            f"input {key!r}: a mean of {mean.dtype} {list(mean.shape)}; {channels} channels of "
            "float32 are expected"
        )
    return mean


def _alike(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return one[0] == other[0] and np.array_equal(one[1], other[1])


def _turned(size: tuple[int, int] | None, door: Door) -> tuple[int, int] | None:
    return size[::-1] if size and door.transposed else size


def write_labels(folder: Path, labels: Sequence[str]) -> None:
    """Writes labels.txt, a name a line, where names are known."""
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")


def require(content: Interchange, delivery: Delivery) -> None:
    """Refuses to bake what is not known, or what has no place in the net, before work begins.

    Raises:
        UsageError: see above.
    """
    options = {
        "--bake-preprocess": delivery.bake_preprocess,
        "--bake-normalization": delivery.bake_normalization,
        "--quantize int8": delivery.quantize == "int8",
    }
    given = " and ".join(option for option, chosen in options.items() if chosen)
    if delivery.calibration is not None and not Path(delivery.calibration).is_dir():
        raise UsageError("--calibration: a folder of images was expected", delivery.calibration)
    if not given:
        return
    net, images = content.net, images_of(content, Door())
    if images is None:
        raise UsageError(
            f"{given}: the preprocessing of the net is not known", hint="tell it with --preprocess"
        )
    if len(net.inputs) != 1:
        raise UsageError(f"{given}: the net has {len(net.inputs)} inputs, one is expected")
    if delivery.bake_normalization and delivery.dynamic_size and images.mean is not None:
        raise UsageError(
            "--bake-normalization: an image of means is for one size of image",
            hint="leave --dynamic-size out, or give a mean for each channel",
        )
    if delivery.bake_preprocess:
        _require_classes(net, content.labels)
        if not (images.document["size"] or images.document["crop"]):
            raise UsageError(
                "--bake-preprocess: images of several sizes make no batch, and no resize is known",
                hint="tell it with --preprocess",
            )


def _require_classes(net: Net, labels: Sequence[str]) -> None:
    """Refuses a net whose output is not one score for each class."""
    shapes = {key: net.blobs[key].shape for key in net.outputs}
    _, *sides = next(iter(shapes.values()))
    classes = max(sides, default=0)
    if len(shapes) != 1 or math.prod(sides) != classes:
        found = ", ".join(f"{key!r} {list(shape)}" for key, shape in shapes.items())
        raise UsageError(f"--bake-preprocess: one output of classes is expected, found {found}")
    if labels and len(labels) != classes:
        raise UsageError(f"--bake-preprocess: {len(labels)} labels for {classes} classes")
