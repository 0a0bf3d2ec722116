"""Axes, counts and sliding windows: what the families share."""

from __future__ import annotations

import math
from typing import Iterator, List, Sequence, Tuple

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.registry import Meaning


def canonical(axis: int, rank: int, what: str = "axis") -> int:
    """The axis counted from the front, a negative one being counted from the end (blob.hpp).

    Raises:
        MalformedModel: a blob of `rank` axes has no such axis.
    """
    if not -rank <= axis < rank:
        raise MalformedModel(f"{what} {axis} is out of range for a bottom of {rank} axes")
    return axis % rank


def count(shape: Sequence[int]) -> int:
    """How many values a blob of this shape holds."""
    return math.prod(shape)


def need_axes(shape: Shape, rank: int) -> None:
    """Refuses a bottom that has not exactly `rank` axes.

    Raises:
        MalformedModel: it has not.
    """
    if len(shape) != rank:
        raise MalformedModel(f"the bottom should have {rank} axes, found shape {list(shape)}")


def same_shapes(bottoms: Sequence[Shape]) -> None:
    """Refuses bottoms of different shapes.

    Raises:
        MalformedModel: they differ.
    """
    for index, shape in enumerate(bottoms):
        if tuple(shape) != tuple(bottoms[0]):
            raise MalformedModel(
                f"all bottoms should have the shape of the first, {list(bottoms[0])}; "
                f"bottom {index} has {list(shape)}"
            )


def taps(
    size: int, out: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1
) -> Iterator[Tuple[int, slice, slice]]:
    """Each tap of a window sliding along one axis: (tap, outputs it serves, inputs it reads).

    Places in the padding, on either side, are left out, so that no padded copy is needed; taps
    that meet nothing but padding are not yielded.

    Args:
        size, out: how many inputs and outputs the axis has.
        kernel, stride, pad, dilation: the window; for output `o`, a tap reads input
            ``o * stride - pad + tap * dilation``.
    """
    tap = max(0, -(((out - 1) * stride - pad) // dilation))
    last_tap = min(kernel - 1, (size - 1 + pad) // dilation)
    while tap <= last_tap:
        shift = tap * dilation - pad
        first = max(0, -(shift // stride))
        last = min(out - 1, (size - 1 - shift) // stride)
        if first <= last:
            yield (
                tap,
                slice(first, last + 1),
                slice(first * stride + shift, last * stride + shift + 1, stride),
            )
            tap += 1
        else:
            # The stride is larger than the axis: on to the first tap that serves output `last`.
            tap = -((last * stride - pad) // dilation)


class Elementwise(Meaning):
    """Each value of the top depends on the value at the same place of the bottom alone."""

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0])]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return len(bottoms[0])
