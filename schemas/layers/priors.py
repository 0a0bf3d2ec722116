"""The boxes that a detector's predictions start from."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import need_axes
from schemas.layers.registry import MAX_COUNT, Meaning, layer

Pair = Tuple[float, float]

# Two ratios closer than this are one (prior_box_layer.cpp).
_SAME = 1e-6


@layer("PriorBox", message="prior_box_param", dialect="ssd")
class PriorBox(Meaning):
    """Boxes around the middle of every cell of a feature map (SSD's prior_box_layer.cpp).

    Bottoms: the feature map and the image, of which only the sizes are read. Top: shape
    (1, 2, H * W * boxes * 4); row 0 has xmin, ymin, xmax, ymax of each box as fractions of the
    image, row 1 their variances. A cell's boxes are, for each `min_size`: the square of that side,
    the square of side sqrt(min_size * max_size) where there are `max_size`, and for each
    `aspect_ratio` (and its reciprocal where `flip`) a box of the first square's area.

    ``img_size``, or ``img_h`` and ``img_w``, stand for the size of the image, and ``step``, or
    ``step_h`` and ``step_w``, for that of a cell, in pixels. Sides are cut to whole pixels.
    """

    min_size: Tuple[float, ...] = ()
    max_size: Tuple[float, ...] = ()
    aspect_ratio: Tuple[float, ...] = ()
    flip: bool = True
    clip: bool = False
    variance: Tuple[float, ...] = ()
    img_size: Optional[int] = None
    img_h: Optional[int] = None
    img_w: Optional[int] = None
    step: Optional[float] = None
    step_h: Optional[float] = None
    step_w: Optional[float] = None
    offset: float = 0.5
    reduce_boxes: bool = False
    faceboxes: bool = False
    box_width: Tuple[float, ...] = ()
    box_height: Tuple[float, ...] = ()
    tf: bool = False
    yx_order: bool = False
    keras: bool = False

    bottom_count = (2, 2)

    def check(self) -> None:
        if self.reduce_boxes:
            raise UnsupportedModel(
                "reduce_boxes, a field of chuanqi305's fork, is described nowhere"
            )
        for name in ("faceboxes", "box_width", "box_height", "tf", "yx_order", "keras"):
            if getattr(self, name):
                raise UnsupportedModel(f"{name}, Synopsys's own arrangement of boxes, is not known")
        if not self.min_size or not all(0 < size < MAX_COUNT for size in self.min_size):
            raise MalformedModel(f"positive min_size expected, found {list(self.min_size)}")
        if self.max_size and (
            len(self.max_size) != len(self.min_size)
            or not all(a < b < MAX_COUNT for a, b in zip(self.min_size, self.max_size))
        ):
            raise MalformedModel(
                f"a greater max_size for each of min_size {list(self.min_size)} expected, "
                f"found {list(self.max_size)}"
            )
        if any(ratio <= 0 for ratio in self.aspect_ratio):
            raise UnsupportedModel(f"aspect_ratio {list(self.aspect_ratio)} is not positive")
        if len(self.variance) not in (0, 1, 4) or any(value <= 0 for value in self.variance):
            raise MalformedModel(f"1 or 4 positive variances expected, found {list(self.variance)}")
        self.image()
        self.cell()

    def image(self) -> Optional[Pair]:
        """Height and width of the image in pixels, where they are given."""
        return self._pair("img", self.img_size, self.img_h, self.img_w)

    def cell(self) -> Optional[Pair]:
        """Height and width of a cell in pixels, where they are given."""
        return self._pair("step", self.step, self.step_h, self.step_w)

    @staticmethod
    def _pair(
        name: str, both: Optional[float], h: Optional[float], w: Optional[float]
    ) -> Optional[Pair]:
        given = [value for value in (both, h, w) if value is not None]
        if (h is None) != (w is None) or len(given) == 3 or any(value <= 0 for value in given):
            raise MalformedModel(
                f"{name}_h and {name}_w, or one value for both, should be given and positive"
            )
        if h is not None and w is not None:
            return h, w
        return None if both is None else (both, both)

    def ratios(self) -> List[np.float32]:
        """Width by height of the boxes that are not square."""
        known, count = np.ones(1 + 2 * len(self.aspect_ratio), np.float32), 1
        for value in map(np.float32, self.aspect_ratio):
            if (np.abs(known[:count] - value).astype(np.float64) >= _SAME).all():
                new = [value, np.float32(1) / value] if self.flip else [value]
                known[count : count + len(new)] = new
                count += len(new)
        return list(known[1:count])

    def sides(self) -> List[Pair]:
        """Width and height in pixels of every box of a cell."""
        sides: List[Pair] = []
        ratios = self.ratios()
        for place, least in enumerate(map(int, self.min_size)):
            sides.append((least, least))
            if self.max_size:
                middle = np.sqrt(least * int(self.max_size[place]))
                sides.append((middle, middle))
            for ratio in ratios:
                sides.append((least * np.sqrt(ratio), least / np.sqrt(ratio)))
        return sides

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        for bottom in bottoms:
            need_axes(bottom, 4)
        height, width = bottoms[0][2:]
        boxes = len(self.min_size) * (1 + len(self.ratios())) + len(self.max_size)
        return [(1, 2, height * width * boxes * 4)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (height, width), image = bottoms[0].shape[2:], self.image() or bottoms[1].shape[2:]
        cell = self.cell() or (
            np.float32(image[0]) / np.float32(height),
            np.float32(image[1]) / np.float32(width),
        )
        down, across = self._middles(height, cell[0]), self._middles(width, cell[1])
        # In double precision, as Caffe has it, from sides that are rounded.
        sides = np.asarray(self.sides(), np.float32).astype(np.float64)
        boxes = np.empty((height, width, len(sides), 4), np.float32)
        for first, sign in ((0, -1), (2, 1)):
            boxes[..., first] = (across[None, :, None] + sign * sides[:, 0] / 2) / image[1]
            boxes[..., first + 1] = (down[:, None, None] + sign * sides[:, 1] / 2) / image[0]
        row = boxes.reshape(-1)
        if self.clip:
            row = np.clip(row, np.float32(0), np.float32(1))
        variances = np.resize(np.array(self.variance or (0.1,), np.float32), row.shape)
        return [np.stack([row, variances])[None]]

    def _middles(self, count: int, step: float) -> np.ndarray:
        """The middle of each cell along one axis, in pixels."""
        return (np.arange(count, dtype=np.float32) + np.float32(self.offset)) * np.float32(step)

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0
