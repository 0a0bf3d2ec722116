"""Layers that move values without changing them."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, common_batch, count
from schemas.layers.registry import ENGINE, Meaning, layer


def _one_axis(axis: Optional[int], old: Optional[int], old_name: str) -> int:
    """The axis of Concat and Slice, which have an old name for it that takes no negative values."""
    if axis is not None and old is not None:
        raise MalformedModel(f"axis and {old_name} are both given")
    if old is not None and old < 0:
        raise MalformedModel(f"{old_name} should not be negative, found {old}")
    return next(value for value in (axis, old, 1) if value is not None)


@layer("Concat", message="concat_param", harmless={"engine": ENGINE})
class Concat(Meaning):
    """The bottoms one after the other along `axis`, in old files concat_dim (concat_layer.cpp)."""

    concat_dim: Optional[int] = None
    axis: Optional[int] = None

    bottom_count = (1, None)

    def check(self) -> None:
        _one_axis(self.axis, self.concat_dim, "concat_dim")

    def along(self, rank: int) -> int:
        """The axis, counted from the front."""
        return canonical(_one_axis(self.axis, self.concat_dim, "concat_dim"), rank)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        axis = self.along(len(bottoms[0]))
        top = list(bottoms[0])
        for index, shape in enumerate(bottoms[1:], start=1):
            if len(shape) != len(top) or any(
                a != b for i, (a, b) in enumerate(zip(shape, top)) if i != axis
            ):
                raise MalformedModel(
                    f"bottoms should differ along axis {axis} alone; bottom 0 has shape "
                    f"{list(bottoms[0])}, bottom {index} {list(shape)}"
                )
            top[axis] += shape[axis]
        return [tuple(top)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [np.concatenate(bottoms, axis=self.along(bottoms[0].ndim))]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        batch = common_batch(batches)
        return [None if batch == self.along(len(bottoms[0])) else batch]

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return bottoms == 1


@layer("Slice", message="slice_param")
class Slice(Meaning):
    """The bottom cut along `axis`, in old files slice_dim, before each slice_point or into equal
    parts (slice_layer.cpp)."""

    slice_dim: Optional[int] = None
    slice_point: Tuple[int, ...] = ()
    axis: Optional[int] = None

    top_count = (1, None)

    def check(self) -> None:
        _one_axis(self.axis, self.slice_dim, "slice_dim")

    def along(self, rank: int) -> int:
        """The axis, counted from the front."""
        return canonical(_one_axis(self.axis, self.slice_dim, "slice_dim"), rank)

    def points(self, size: int, tops: int) -> List[int]:
        """Where `tops` parts of an axis of `size` begin and end: tops + 1 increasing numbers.

        Raises:
            MalformedModel: the slice points do not make so many parts, or there are no equal parts.
        """
        if not self.slice_point:
            if size % tops:
                raise MalformedModel(f"an axis of {size} has no {tops} equal parts")
            return list(range(0, size + 1, size // tops))
        points = [0, *self.slice_point, size]
        if len(points) != tops + 1 or any(a >= b for a, b in zip(points, points[1:])):
            raise MalformedModel(
                f"{tops - 1} increasing slice points below {size} expected for {tops} tops, "
                f"found {list(self.slice_point)}"
            )
        return points

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        shape = tuple(bottoms[0])
        axis = self.along(len(shape))
        points = self.points(shape[axis], tops)
        return [shape[:axis] + (b - a,) + shape[axis + 1 :] for a, b in zip(points, points[1:])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        axis = self.along(bottoms[0].ndim)
        points = self.points(bottoms[0].shape[axis], tops)
        parts = np.split(bottoms[0], points[1:-1], axis=axis)
        return [np.ascontiguousarray(part) for part in parts]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        mixed = batches[0] == self.along(len(bottoms[0]))
        return [None if mixed else batches[0]] * len(tops)

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return tops == 1


@layer("Split")
class Split(Meaning):
    """The bottom, under as many names as there are tops (split_layer.cpp)."""

    top_count = (1, None)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0])] * tops

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [bottoms[0]] * tops

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [batches[0]] * len(tops)

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return True


@layer("Crop", message="crop_param")
class Crop(Meaning):
    """From `axis` on, as much of bottom 0 as bottom 1 is large, starting at `offset`, which is
    given for none, all or each of these axes (crop_layer.cpp)."""

    axis: int = 2
    offset: Tuple[int, ...] = ()

    bottom_count = (2, 2)

    def offsets(self, rank: int) -> List[int]:
        """The first kept place along each axis of bottom 0.

        Raises:
            MalformedModel: several offsets are given, but not one for each axis from `axis` on.
        """
        axis = canonical(self.axis, rank)
        cropped = rank - axis
        if len(self.offset) not in (0, 1, cropped):
            raise MalformedModel(
                f"offset should be given once or for each of {cropped} axes, "
                f"found {list(self.offset)}"
            )
        offsets = self.offset if len(self.offset) == cropped else (*self.offset, 0)[:1] * cropped
        return [0] * axis + list(offsets)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        shape, like = tuple(bottoms[0]), tuple(bottoms[1])
        axis = canonical(self.axis, len(shape))
        offsets = self.offsets(len(shape))
        if len(like) < len(shape) or any(
            offset + b > a for a, b, offset in list(zip(shape, like, offsets))[axis:]
        ):
            raise MalformedModel(
                f"bottom 1 of shape {list(like)} should fit into bottom 0 of shape {list(shape)} "
                f"from axis {axis} on, at offsets {offsets[axis:]}"
            )
        return [shape[:axis] + like[axis : len(shape)]]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottom.shape for bottom in bottoms], tops)
        kept = tuple(slice(o, o + n) for o, n in zip(self.offsets(len(shape)), shape))
        return [np.ascontiguousarray(bottoms[0][kept])]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        axis = canonical(self.axis, len(bottoms[0]))
        apart = all(batch is not None and batch < axis for batch in batches)
        return [batches[0] if apart else None]


class View(Meaning):
    """The bottom's values in the same order, under another shape."""

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
    one -1 takes what remains (reshape_layer.cpp)."""

    shape: Tuple[int, ...] = ()
    axis: int = 0
    num_axes: int = -1

    def check(self) -> None:
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

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        bottom = tuple(bottoms[0])
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

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        bottom, top, batch = bottoms[0], tops[0], batches[0]
        start, end = self.span(len(bottom))
        if batch is None or batch < start:
            return [batch]
        if batch >= end:
            return [batch - (end - start) + len(self.shape)]
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


@layer("Silence")
class Silence(Meaning):
    """Nothing: it keeps Caffe from printing unused blobs (silence_layer.cpp)."""

    bottom_count = (1, None)
    top_count = (0, 0)
    role = "sink"

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return []

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return []
