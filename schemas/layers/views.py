"""Layers that give the values of a blob another shape."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, count, need_axes
from schemas.layers.registry import Meaning, layer


class View(Meaning):
    """The bottom's values in the same order, under another shape."""

    copies = True

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottoms[0].shape], tops)
        return [bottoms[0].reshape(shape)]

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return True


@layer("Flatten", message="flatten_param")
class Flatten(View):
    """The axes from `axis` to `end_axis`, both included, made one (flatten_layer.cpp)."""

    axis: int = 1
    end_axis: int = -1

    def span(self, rank: int) -> Tuple[int, int]:
        """The first flattened axis, and the first after the last.

        Raises:
            MalformedModel: the axes are out of range or out of order.
        """
        start, end = canonical(self.axis, rank), canonical(self.end_axis, rank, "end_axis") + 1
        if start > end:
            raise MalformedModel(f"axis {start} lies after end_axis {end - 1}")
        return start, end

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        shape = tuple(bottoms[0])
        start, end = self.span(len(shape))
        return [shape[:start] + (count(shape[start:end]),) + shape[end:]]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        start, end = self.span(len(bottoms[0]))
        batch = batches[0]
        if batch is None or batch < start:
            return [batch]
        if batch >= end:
            return [batch - (end - start) + 1]
        return [start if count(bottoms[0][start:end]) == bottoms[0][batch] else None]


@layer("Reshape", message="reshape_param")
class Reshape(View):
    """The `num_axes` axes from `axis` on replaced by `shape`, where 0 copies the bottom's axis and
    one -1 takes what remains (reshape_layer.cpp).

    With `pixelshuffler` other than 1 (Intel's and Synopsys' reshape_layer.cpp) it does something
    else: channel c * r^2 + i * r + j becomes the pixels (h * r + i, w * r + j) of channel c.
    """

    shape: Tuple[int, ...] = ()
    axis: int = 0
    num_axes: int = -1
    pixelshuffler: int = 1

    def check(self) -> None:
        if self.pixelshuffler < 1:
            raise MalformedModel(f"pixelshuffler should be positive, found {self.pixelshuffler}")
        if self.num_axes < -1 or self.shape.count(-1) > 1 or any(dim < -1 for dim in self.shape):
            raise MalformedModel(
                f"at most one -1 in shape and num_axes of -1 or more expected, "
                f"found {list(self.shape)} and {self.num_axes}"
            )

    def span(self, rank: int) -> Tuple[int, int]:
        """The first replaced axis, and the first after the last.

        Raises:
            MalformedModel: the axes are out of range.
        """
        start = self.axis if self.axis >= 0 else rank + self.axis + 1
        end = rank if self.num_axes == -1 else start + self.num_axes
        if not 0 <= start <= end <= rank:
            raise MalformedModel(
                f"axis {self.axis} and num_axes {self.num_axes} are out of range "
                f"for a bottom of {rank} axes"
            )
        return start, end

    def shuffled(self, bottom: Shape) -> Shape:
        """The top's shape with a pixelshuffler.

        Raises:
            MalformedModel: the bottom has not 4 axes or not enough channels.
        """
        need_axes(bottom, 4)
        factor = self.pixelshuffler
        batch, channels, height, width = bottom
        if channels % factor**2:
            raise MalformedModel(
                f"the square of pixelshuffler {factor} should divide the channels, "
                f"found a bottom of shape {list(bottom)}"
            )
        return (batch, channels // factor**2, height * factor, width * factor)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        bottom = tuple(bottoms[0])
        if self.pixelshuffler != 1:
            return [self.shuffled(bottom)]
        start, end = self.span(len(bottom))
        new = list(self.shape)
        for index, dim in enumerate(new):
            if dim == 0:
                if start + index >= len(bottom):
                    raise MalformedModel(
                        f"shape {list(self.shape)} copies axis {start + index}, "
                        f"which a bottom of shape {list(bottom)} lacks"
                    )
                new[index] = bottom[start + index]
        if -1 in new:
            rest = count(bottom[:start]) * count(bottom[end:]) * -count(new)
            new[new.index(-1)] = count(bottom) // rest if rest else 0
        top = bottom[:start] + tuple(new) + bottom[end:]
        if count(top) != count(bottom):
            raise MalformedModel(
                f"shape {list(self.shape)} cannot hold the {count(bottom)} values "
                f"of a bottom of shape {list(bottom)}"
            )
        return [top]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        factor = self.pixelshuffler
        if factor == 1:
            return super().forward(bottoms, weights, tops)
        shape = self.shuffled(bottoms[0].shape)
        blocks = bottoms[0].reshape(shape[:2] + (factor, factor) + bottoms[0].shape[2:])
        moved = np.ascontiguousarray(blocks.transpose(0, 1, 4, 2, 5, 3))
        return [moved.reshape(shape)]

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return self.pixelshuffler == 1

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        bottom, top, batch = bottoms[0], tops[0], batches[0]
        if self.pixelshuffler != 1:
            return [0 if batch == 0 else None]
        start, end = self.span(len(bottom))
        if batch is None or batch < start:
            return [batch]
        if batch >= end:
            return [batch - (end - start) + len(self.shape)]
        if batch == 1 and start == 0 and self.shape[:1] not in ((0,), (-1,)):
            return [None]  # the length of sequences is written down
        # The rows stay whole where an axis of the same size, copied or inferred, has as many values
        # before it as the batch axis had.
        for index, dim in enumerate(self.shape, start=start):
            follows = (dim == 0 and index == batch) or dim == -1
            if (
                follows
                and top[index] == bottom[batch]
                and count(top[:index]) == count(bottom[:batch])
            ):
                return [index]
        return [None]
