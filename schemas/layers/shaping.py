"""Layers that move values without changing them."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical
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
    per_fla_fuse: bool = False

    bottom_count = (1, None)
    copies = True

    def check(self) -> None:
        _one_axis(self.axis, self.concat_dim, "concat_dim")
        if self.per_fla_fuse:
            raise UnsupportedModel("per_fla_fuse: true is what Intel's Caffe makes of other layers")

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

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return self.along(len(bottoms[0]))

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
    copies = True

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

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return self.along(len(bottoms[0]))

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return tops == 1


@layer("Split")
class Split(Meaning):
    """The bottom, under as many names as there are tops (split_layer.cpp)."""

    top_count = (1, None)
    copies = True

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0])] * tops

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [bottoms[0]] * tops

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return len(bottoms[0])

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return True


class Cropped(Meaning):
    """From an axis on, as much of bottom 0 as bottom 1 is large, starting at an offset."""

    bottom_count = (2, 2)
    copies = True

    def first(self, rank: int) -> int:
        """The first cropped axis."""
        raise NotImplementedError

    def offsets(self, rank: int) -> List[int]:
        """The first kept place along each axis of bottom 0."""
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        shape, like = tuple(bottoms[0]), tuple(bottoms[1])
        axis, offsets = self.first(len(shape)), self.offsets(len(shape))
        if len(like) < len(shape) or any(
            offset < 0 or offset + b > a for a, b, offset in list(zip(shape, like, offsets))[axis:]
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

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return self.first(len(bottoms[0]))


@layer("Crop", message="crop_param")
class Crop(Cropped):
    """From `axis` on, as much of bottom 0 as bottom 1 is large, starting at `offset`, which is
    given for none, all or each of these axes (crop_layer.cpp)."""

    axis: int = 2
    offset: Tuple[int, ...] = ()

    def first(self, rank: int) -> int:
        return canonical(self.axis, rank)

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


@layer("Crop", message="crop_param", dialect="fcn-future")
class AlignedCrop(Cropped):
    """As many rows and columns of bottom 0 as bottom 1 has, those that lie where bottom 1 lies: the
    Crop of the old FCN branch, without parameters (crop_layer.cpp of HED and longjon/caffe:future).

    Stage 1 works out `aligned`, the first row and column, from the layers between the bottoms.
    """

    aligned: Tuple[int, ...] = ()

    contested = True

    def first(self, rank: int) -> int:
        if rank != 4:
            raise MalformedModel(f"bottom 0 should have 4 axes, found {rank}")
        return 2

    def offsets(self, rank: int) -> List[int]:
        if len(self.aligned) != 2:
            raise UnsupportedModel("where its bottoms lie in each other was not worked out")
        return [0, 0, *self.aligned]


@layer("Tile", message="tile_param")
class Tile(Meaning):
    """The bottom `tiles` times, one after the other along `axis` (tile_layer.cpp)."""

    axis: int = 1
    tiles: int = 0

    copies = True

    def check(self) -> None:
        if self.tiles < 1:
            raise MalformedModel(f"tiles should be positive, found {self.tiles}")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        top = list(bottoms[0])
        top[canonical(self.axis, len(top))] *= self.tiles
        return [tuple(top)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [np.concatenate([bottoms[0]] * self.tiles, axis=self.axis)]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return canonical(self.axis, len(bottoms[0]))


@layer("Silence")
class Silence(Meaning):
    """Nothing: it keeps Caffe from printing unused blobs (silence_layer.cpp)."""

    bottom_count = (1, None)
    top_count = (0, 0)
    role = "sink"
    labels = 0

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return []

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return []
