"""SSD's boxes to start from, worked out from the sizes of the feature map and the image."""

import keras
import numpy as np

from stage_build.runtime.base import CaffeLayer, Calls, pair, registered


class PriorsCalls(Calls):
    def prior_box(
        self,
        tensors,
        *,
        min_size,
        name,
        max_size=(),
        ratios=(),
        variance=0.1,
        image=None,
        step=None,
        offset=0.5,
        clip=False,
    ):
        """Boxes around the middle of every cell of a feature map, and their variances.

        The tensors are the feature map and the image, of which only the sizes are read. Sizes are
        in pixels; those of the image and of a cell (`step`) may be given in place of what the
        tensors say, as a number or (height, width).
        """
        layer = PriorBox(min_size, max_size, ratios, variance, image, step, offset, clip, name=name)
        return self.add(layer, tensors)


@registered
class PriorBox(CaffeLayer):
    """Corners of boxes, as fractions of the image, and variances (SSD's prior_box_layer.cpp)."""

    def __init__(self, min_size, max_size, ratios, variance, image, step, offset, clip, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "min_size": min_size,
            "max_size": max_size,
            "ratios": ratios,
            "variance": variance,
            "image": image,
            "step": step,
            "offset": offset,
            "clip": clip,
        }

    def compute_output_shape(self, shapes):
        _, height, width, _ = shapes[0]
        return (1, 2, height * width * len(self.sides()) * 4)

    def call(self, tensors):
        cells, image = (tuple(tensor.shape[1:3]) for tensor in tensors)
        return keras.ops.convert_to_tensor(self.boxes(cells, self.settings["image"] or image))

    def sides(self):
        """Width and height of every box of a cell."""
        sides = []
        for place, least in enumerate(self.settings["min_size"]):
            sides.append((least, least))
            if self.settings["max_size"]:
                middle = np.sqrt(least * self.settings["max_size"][place])
                sides.append((middle, middle))
            for ratio in np.sqrt(np.float32(self.settings["ratios"])):
                sides.append((least * ratio, least / ratio))
        return sides

    def boxes(self, cells, image):
        """The top's values for a map of `cells` in an `image`, each (height, width)."""
        image, step = pair(image), self.settings["step"]
        step = np.float32(pair(step) if step else np.float32(image) / np.float32(cells))
        # Caffe rounds the middles and the sides, and works on in double precision.
        sides = np.asarray(self.sides(), np.float32).astype(np.float64)
        boxes = np.empty((*cells, len(sides), 4), np.float32)
        for axis, place in ((0, 1), (1, 0)):
            middles = np.arange(cells[axis], dtype=np.float32) + np.float32(self.settings["offset"])
            middles = np.expand_dims(middles * step[axis], (1 - axis, 2))
            reach = sides[:, place] / 2
            boxes[..., place] = (middles - reach) / image[axis]
            boxes[..., place + 2] = (middles + reach) / image[axis]
        row = boxes.reshape(-1)
        if self.settings["clip"]:
            row = np.clip(row, 0, 1)
        return np.stack([row, np.resize(np.float32(self.settings["variance"]), row.shape)])[None]
