"""What a data layer of Caffe does to images, by its transform_param (data_transformer.cpp)."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.preprocessing import MAX_SIDE
from schemas.recipe import Recipe, is_number

_CROPS = frozenset(("crop_size", "crop_h", "crop_w", "crop_height", "crop_width"))
_TELLING = _CROPS.union(
    ("new_height", "new_width", "resize_param", "scale", "mean_file", "mean_value"),
    ("force_color", "force_gray", "bgr2rgb"),
)


def recipe(transform: Mapping[str, Any], shape: Shape) -> Recipe:
    """What a transform_param tells of an input's images; nothing if it tells nothing of them.

    Images are decoded by OpenCV (io.cpp), whose order is BGR. A database holds images of a size
    that the prototxt does not tell; image files are warped to `new_height` x `new_width`.

    Args:
        transform: the layer's transform_param, with its own new_height and new_width.
        shape: the input's; a size that is too small for it is another input's.

    Raises:
        MalformedModel: the scale or the mean is not a number.
    """
    if not _TELLING.intersection(transform):
        return Recipe()
    told: Dict[str, Any] = {"scale": transform.get("scale", 1.0), "mean": None}
    doubts: Dict[str, str] = {}
    if shape[1] == 3:
        told["channels"] = "rgb" if transform.get("bgr2rgb") else "bgr"
    if _CROPS.intersection(transform):
        told["crop"] = shape[2:]
    size = _warped(transform)
    if all(own >= taken for own, taken in zip(size, shape[2:])) and max(size) <= MAX_SIDE:
        told.update(resize="warp", size=size)
    values = transform.get("mean_value", [])
    for value in (told["scale"], *values):
        if not is_number(value):
            raise MalformedModel(f"a number is expected, found {value}", "transform_param")
    if values:
        told["mean"] = tuple(values) if len(values) > 1 else values[0]
    elif "mean_file" in transform:
        name = transform["mean_file"]
        doubts["mean"] = f"the mean in {name!r:.200} is not known, and none is subtracted"
    return Recipe(told, doubts, "transform_param")


def _warped(transform: Mapping[str, Any]) -> Tuple[int, int]:
    """(height, width) that images are warped to before the crop; zeros where nothing tells.

    SSD's resize_param counts where there is one, and it is a WARP (im_transforms.cpp).
    """
    resizes = transform.get("resize_param", [])
    if len(resizes) == 1 and resizes[0].get("resize_mode", "WARP") == "WARP":
        return resizes[0].get("height", 0), resizes[0].get("width", 0)
    return transform.get("new_height", 0), transform.get("new_width", 0)
