"""Records one forward pass: every blob of the net, for stage 2 to be held to."""

from __future__ import annotations

import math
import os
from typing import Callable, Dict, List, Mapping, Optional

import numpy as np

from schemas.errors import EnvironmentProblem, MalformedModel
from schemas.graph import Net, Shape
from schemas.interchange import Reference
from schemas.layers import registry

SEED = 20151115
# Tried in turn until the pass stays finite; None lets the input's shape decide.
SCALES = (None, 1.0, 0.1)
# Image nets expect pixels minus a mean; other inputs are fed as they are drawn.
_IMAGE_SCALE, _IMAGE_SIDE = 50.0, 24

# Input key -> values in, every blob by key out.
Run = Callable[[Mapping[str, np.ndarray]], Dict[str, np.ndarray]]


def reference_shapes(net: Net) -> Dict[str, Shape]:
    """Input key -> shape to record at: one sample of a dynamic batch, else the prototxt's shape."""
    return {
        key: (1,) + net.blobs[key].shape[1:] if net.dynamic_batch else net.blobs[key].shape
        for key in net.inputs
    }


def seeded_inputs(net: Net, seed: int, scale: Optional[float] = None) -> Dict[str, np.ndarray]:
    """Normal random inputs, float32, in Caffe's axis order.

    Args:
        scale: the standard deviation; None takes 50 for images and 1 for the rest.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    inputs = {}
    for key, shape in reference_shapes(net).items():
        image = len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= _IMAGE_SIDE
        factor = scale if scale is not None else (_IMAGE_SCALE if image else 1.0)
        inputs[key] = generator.standard_normal(shape, np.float32) * np.float32(factor)
    return inputs


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
        for key, top, shape in zip(layer.tops, tops, expected):
            if top.shape != tuple(shape):
                raise MalformedModel(
                    f"top {key!r} has shape {list(top.shape)}, expected {list(shape)}", str(layer)
                )
            values[key] = top
        progress(done + 1, len(net.layers))
    return values


def record(
    net: Net,
    run: Run,
    recorder: str,
    seed: int = SEED,
) -> Reference:
    """One forward pass on seeded inputs, smaller ones where large leave float32's range.

    Args:
        run: the pass.
        recorder: who runs it, see `Reference`.

    Raises:
        EnvironmentProblem: the blobs are larger than this machine's memory.
    """
    _require_memory(net)
    for scale in SCALES:
        inputs = seeded_inputs(net, seed, scale)
        blobs = run(inputs)
        if not non_finite(blobs):
            break
    return Reference(recorder, seed, inputs, blobs)


def _require_memory(net: Net) -> None:
    needed = 0
    for blob in net.blobs.values():
        shape = blob.shape[1:] if net.dynamic_batch else blob.shape
        needed += math.prod(shape) * np.dtype(np.float32).itemsize
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise EnvironmentProblem(
            f"the blobs of the reference need {needed:,} bytes, this machine has {memory:,}",
            hint="--no-reference does without, --input-shape makes the input smaller",
        )


def non_finite(blobs: Mapping[str, np.ndarray]) -> List[str]:
    """Keys of the blobs that hold an infinity or a NaN."""
    return [key for key, value in blobs.items() if not np.isfinite(value).all()]
