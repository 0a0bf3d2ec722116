"""The forks' layers that put the values of a blob into another order."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import canonical, need_axes
from schemas.layers.registry import Meaning, layer


class Ordered(Meaning):
    """A transpose: axis i of the top is axis ``axes(rank)[i]`` of the bottom."""

    copies = True

    def axes(self, rank: int) -> Tuple[int, ...]:
        """The bottom's axes in the top's order.

        Raises:
            MalformedModel: they are no order of `rank` axes.
        """
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0][axis] for axis in self.axes(len(bottoms[0])))]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [bottoms[0].transpose(self.axes(bottoms[0].ndim)).copy()]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        batch = batches[0]
        return [None if batch is None else self.axes(len(bottoms[0])).index(batch)]


def _checked_order(order: Sequence[int], rank: int) -> Tuple[int, ...]:
    if sorted(order) != list(range(rank)):
        raise MalformedModel(
            f"each of the bottom's {rank} axes should be named once, found {list(order)}"
        )
    return tuple(order)


@layer("Permute", message="permute_param", dialect="ssd")
class Permute(Ordered):
    """The axes in the order `order`, those it leaves out after them (SSD's permute_layer.cpp)."""

    order: Tuple[int, ...] = ()

    def axes(self, rank: int) -> Tuple[int, ...]:
        rest = (axis for axis in range(rank) if axis not in self.order)
        return _checked_order((*self.order, *rest), rank)

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        return self.order == tuple(range(len(self.order)))


@layer("Transpose", message="transpose_param", dialect="makefile-frcnn")
class Transpose(Ordered):
    """The axes in the order `dim`, which names all of them (makefile/frcnn's
    transpose_layer.cpp)."""

    dim: Tuple[int, ...] = ()

    def axes(self, rank: int) -> Tuple[int, ...]:
        return _checked_order(self.dim, rank)


class Mirrored(Meaning):
    """The bottom, with some axes running backwards."""

    copies = True

    def mirrored(self, rank: int) -> Tuple[int, ...]:
        """The axes that run backwards, counted from the front.

        Raises:
            MalformedModel: a bottom of `rank` axes lacks one of them.
        """
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.mirrored(len(bottoms[0]))
        return [tuple(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [np.ascontiguousarray(np.flip(bottoms[0], self.mirrored(bottoms[0].ndim)))]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [None if batches[0] in self.mirrored(len(bottoms[0])) else batches[0]]


@layer("Reverse", message="reverse_param", dialect="makefile-frcnn")
class Reverse(Mirrored):
    """Each of the axes `axis` backwards, axis 0 where none is given (makefile/frcnn's
    reverse_layer.cpp, which has one; synopsys-caffe's of that name takes several)."""

    axis: Tuple[int, ...] = ()

    def mirrored(self, rank: int) -> Tuple[int, ...]:
        return tuple(sorted({canonical(axis, rank) for axis in self.axis or (0,)}))


@layer("Flip", message="flip_param", dialect="happynear")
class Flip(Mirrored):
    """Images mirrored left to right and, with flip_height, top to bottom (happynear's
    flip_layer.cpp)."""

    flip_width: bool = True
    flip_height: bool = False

    def mirrored(self, rank: int) -> Tuple[int, ...]:
        return (2,) * self.flip_height + (3,) * self.flip_width

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        return super().shapes(bottoms, tops)


@layer(
    "ShuffleChannel",
    "ChannelShuffle",
    messages=("shuffle_channel_param", "channel_shuffle_param"),
    dialect="shufflenet",
)
class ShuffleChannel(Meaning):
    """The channels of `group` groups taken in turn: in channel i * (C / group) + j becomes channel
    j * group + i (farmingyard/ShuffleNet's shuffle_channel_layer.cpp).

    Forks that call the layer ChannelShuffle give it a group alone, as ShuffleNet's paper does.
    """

    group: int = 1

    copies = True

    def check(self) -> None:
        if self.group < 1:
            raise MalformedModel(f"group should be positive, found {self.group}")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        if len(bottoms[0]) != 4:
            raise UnsupportedModel(f"4 axes expected, found a bottom of shape {list(bottoms[0])}")
        if bottoms[0][1] % self.group:
            raise MalformedModel(
                f"channels in {self.group} equal groups expected, "
                f"found a bottom of shape {list(bottoms[0])}"
            )
        return [tuple(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        shape = bottoms[0].shape
        groups = bottoms[0].reshape(shape[0], self.group, shape[1] // self.group, -1)
        return [np.ascontiguousarray(groups.swapaxes(1, 2)).reshape(shape)]


@layer(
    "ChannelShuffle",
    message="channel_shuffle_param",
    harmless={"group": "read by pattern 1 alone", "shuffle_channel_num": "read by pattern 1 alone"},
    dialect="holmesshuan",
)
class ChannelShuffle(Meaning):
    """Pattern 0: the values in the order N, H, W, C under the shape N, C, H, W (HolmesShuan's
    channel_shuffle_layer.cpp)."""

    shuffle_pattern: int = 1

    copies = True

    def check(self) -> None:
        if self.shuffle_pattern > 1:
            raise MalformedModel(f"shuffle_pattern should be 0 or 1, found {self.shuffle_pattern}")
        if self.shuffle_pattern == 1:
            raise UnsupportedModel(
                "shuffle_pattern: 1 leaves the group out of the address it writes to, so that part "
                "of the top is never written"
            )

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        return [tuple(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        pixels = np.ascontiguousarray(bottoms[0].transpose(0, 2, 3, 1))
        return [pixels.reshape(bottoms[0].shape)]


@layer("Reorg", message="reorg_param", dialect="yolo")
class Reorg(Meaning):
    """Darknet's exchange of channels and space (MobileNet-YOLO's and caffe-yolov2's
    reorg_layer.cpp).

    `reverse` makes stride x stride pixels of that many channels. Without it the image is read as if
    it were C / stride^2 x H * stride x W * stride, its stride x stride blocks are made channels,
    and the values are given the shape C * stride^2 x H / stride x W / stride: neither undoes the
    other.
    """

    stride: int = 0
    reverse: bool = False

    copies = True

    def check(self) -> None:
        if self.stride < 1:
            raise MalformedModel(f"stride should be positive, found {self.stride}")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        batch, channels, height, width = bottoms[0]
        stride = self.stride
        if channels % stride**2 or (not self.reverse and (height % stride or width % stride)):
            raise MalformedModel(
                f"stride {stride} should divide height and width, and its square the channels, "
                f"found a bottom of shape {list(bottoms[0])}"
            )
        if self.reverse:
            return [(batch, channels // stride**2, height * stride, width * stride)]
        return [(batch, channels * stride**2, height // stride, width // stride)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        (shape,) = self.shapes([bottoms[0].shape], tops)
        batch, channels, height, width = bottoms[0].shape
        stride, fewer = self.stride, channels // self.stride**2
        if self.reverse:
            blocks = bottoms[0].reshape(batch, stride, stride, fewer, height, width)
            moved = blocks.transpose(0, 3, 4, 1, 5, 2)
        else:
            blocks = bottoms[0].reshape(batch, fewer, height, stride, width, stride)
            moved = blocks.transpose(0, 3, 5, 1, 2, 4)
        return [np.ascontiguousarray(moved).reshape(shape)]
