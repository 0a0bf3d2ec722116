"""One layer's meaning, tried by hand-worked numbers. Runs on Python 3.8, without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.graph import Layer, Shape
from schemas.layers import registry


def values(shape: Shape, *numbers: float) -> np.ndarray:
    """A float32 array of these numbers, or of 0, 1, 2, ..."""
    given = numbers or range(int(np.prod(shape)))
    return np.array(list(given), np.float32).reshape(shape)


def row(*numbers: float) -> np.ndarray:
    """A blob (1, 1, 1, W)."""
    return values((1, 1, 1, len(numbers)), *numbers)


def layer(type_: str, param: Mapping[str, Any], bottoms: int, tops: int, dialect: str) -> Layer:
    """A layer whose parameters `param` stand in the one message that its meaning reads."""
    cls = registry.find(type_, dialect)
    assert cls is not None, (type_, dialect)
    return Layer(
        "l",
        type_,
        tuple(f"b{i}" for i in range(bottoms)),
        tuple(f"t{i}" for i in range(tops)),
        {cls.messages[0]: param} if param else {},
        dialect=dialect,
    )


def infer(
    type_: str,
    param: Mapping[str, Any],
    shapes: Sequence[Shape],
    tops: int = 1,
    dialect: str = "",
) -> tuple[registry.Meaning, list[Shape], list[Shape]]:
    """The meaning, and the shapes of parameters and tops."""
    return registry.infer(layer(type_, param, len(shapes), tops, dialect), shapes)


def run(
    type_: str,
    param: Mapping[str, Any],
    bottoms: Sequence[np.ndarray],
    blobs: Sequence[np.ndarray] = (),
    tops: int = 1,
    dialect: str = "",
) -> list[np.ndarray]:
    """The tops, held to their declared shapes and to float32; the bottoms stay as they were."""
    made, weights, shapes = infer(type_, param, [b.shape for b in bottoms], tops, dialect)
    assert [blob.shape for blob in blobs] == weights
    before = [bottom.copy() for bottom in bottoms]
    results = made.forward(bottoms, blobs, tops)
    assert [top.shape for top in results] == shapes
    assert all(isinstance(top, np.ndarray) and top.dtype == np.float32 for top in results)
    assert all(top.flags.c_contiguous for top in results)
    for index, bottom in enumerate(bottoms):
        np.testing.assert_array_equal(bottom, before[index])
    return results


def close(actual: Any, expected: Any) -> None:
    """Equal but for float32's rounding."""
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
