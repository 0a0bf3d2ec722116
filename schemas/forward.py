"""One TEST-phase pass of a net in NumPy, layer after layer: what both stages hold others to."""

from __future__ import annotations

from typing import Callable, Dict, Mapping, Optional

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Net, Shape
from schemas.layers import registry


def forward(
    net: Net,
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dict[str, np.ndarray]:
    """Every blob of one TEST-phase pass in NumPy, by key.

    Raises:
        MalformedModel: a layer's result does not have the shape that was worked out for it.
    """
    values: Dict[str, np.ndarray] = dict(inputs)
    for done, layer in enumerate(net.layers):
        meaning = registry.meaning(layer)
        bottoms = [values[key] for key in layer.bottoms]
        expected = meaning.shapes([value.shape for value in bottoms], len(layer.tops))
        with np.errstate(all="ignore"):
            tops = meaning.forward(
                bottoms, [weights[key] for key in layer.weights], len(layer.tops)
            )
        if not layer.bottoms:
            tops = [_as_many(net, key, top, inputs) for key, top in zip(layer.tops, tops)]
            expected = [top.shape for top in tops]
        for key, top, shape in zip(layer.tops, tops, expected):
            if not _fits(top.shape, shape, net.blobs[key].varying):
                raise MalformedModel(
                    f"top {key!r} has shape {list(top.shape)}, expected {list(shape)}", str(layer)
                )
            values[key] = top
        progress(done + 1, len(net.layers))
    return values


def _as_many(
    net: Net, key: str, constant: np.ndarray, inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """A constant that is the same for all samples, for as many as there are."""
    for axis in net.free_axes(key):
        count = inputs[net.inputs[0]].shape[axis]
        constant = np.repeat(constant.take([0], axis), count, axis)
    return constant


def _fits(found: Shape, expected: Shape, varying: Optional[int]) -> bool:
    """Whether the shapes are equal, but for the axis whose size only the data tell."""
    return len(found) == len(expected) and all(
        axis == varying or sizes[0] == sizes[1] for axis, sizes in enumerate(zip(found, expected))
    )
