"""Records one forward pass: every blob of the net, for stage 2 to be held to."""

from __future__ import annotations

import math
from typing import Callable, Dict, List, Mapping, Optional

import numpy as np

from schemas import memory
from schemas.forward import forward
from schemas.graph import Net, Shape
from schemas.interchange import Reference
from schemas.layers import registry

__all__ = (
    "SEED",
    "forward",
    "non_finite",
    "record",
    "reference_shapes",
    "sample",
    "seeded_inputs",
    "without_rows",
)

SEED = 20151115
# Tried in turn until the pass stays finite; None lets the input's shape decide.
SCALES = (None, 1.0, 0.1)
# Image nets expect pixels minus a mean; other inputs are fed as they are drawn.
_IMAGE_SCALE, _IMAGE_SIDE = 50.0, 24

# Input key -> values in, every blob by key out.
Run = Callable[[Mapping[str, np.ndarray]], Dict[str, np.ndarray]]


def reference_shapes(net: Net) -> Dict[str, Shape]:
    """Input key -> shape to record at: one sample of a dynamic batch, else the prototxt's shape.

    What is time-major keeps its length. Beside a constant with a batch, which Caffe itself makes as
    large as the prototxt says, the inputs keep their batch too.
    """
    shapes = _recorded_shapes(net)
    return {key: shapes[key] for key in net.inputs}


def _recorded_shapes(net: Net) -> Dict[str, Shape]:
    constants = [key for layer in net.layers if not layer.bottoms for key in layer.tops]
    if constants:
        return {key: blob.shape for key, blob in net.blobs.items()}
    return {key: net.sample_shape(key) for key in net.blobs}


def sample(net: Net, key: str, value: np.ndarray) -> np.ndarray:
    """The first sample of a blob's value, which keeps its axes; all of it where samples mix."""
    return value[net.blobs[key].sample()]


def seeded_inputs(net: Net, seed: int, scale: Optional[float] = None) -> Dict[str, np.ndarray]:
    """Normal random inputs, float32, in Caffe's axis order; whole ones where rows are numbered.

    What a layer has an example for (`Meaning.examples`) is that example, at any seed and scale.

    Args:
        scale: the standard deviation; None takes 50 for images and 1 for the rest.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    below, examples = _numbers(net), _examples(net)
    inputs = {}
    for key, shape in reference_shapes(net).items():
        if key in examples:
            inputs[key] = examples[key]
            continue
        if key in below:
            inputs[key] = generator.integers(below[key], size=shape).astype(np.float32)
            continue
        image = len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= _IMAGE_SIDE
        factor = scale if scale is not None else (_IMAGE_SCALE if image else 1.0)
        inputs[key] = generator.standard_normal(shape, np.float32) * np.float32(factor)
    return inputs


def _numbers(net: Net) -> Dict[str, int]:
    """The blobs whose values number rows or classes -> below what they must be."""
    found: Dict[str, int] = {}
    for layer in reversed(net.layers):
        made = registry.meaning(layer)
        below = made.numbers([net.blobs[key].shape for key in layer.bottoms])
        moved = [found[key] for key in layer.tops if made.copies and key in found]
        for place, key in enumerate(layer.bottoms):
            limits = moved + [below[place]] if place in below else moved
            if limits:
                found[key] = min([*limits, found.get(key, limits[0])])
    return found


def _examples(net: Net) -> Dict[str, np.ndarray]:
    """Input key -> what it should hold for the first layer that has an example for it.

    The layer reads the input itself or a view of it, with the same values in another shape.
    """
    shapes = _recorded_shapes(net)
    viewed = {key: key for key in net.inputs}
    found: Dict[str, np.ndarray] = {}
    for layer in net.layers:
        if viewed.keys().isdisjoint(layer.bottoms):
            continue
        made = registry.meaning(layer)
        for place, values in made.examples([shapes[key] for key in layer.bottoms]).items():
            key = viewed.get(layer.bottoms[place])
            if key is not None:
                found.setdefault(key, values.reshape(shapes[key]))
        first = viewed.get(layer.bottoms[0])
        if first is not None and made.shares_memory(len(layer.bottoms), len(layer.tops)):
            viewed.update(dict.fromkeys(layer.tops, first))
    return found


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
        blobs: Dict[str, np.ndarray] = {}  # those of the last scale are gone before there are more
        blobs = run(inputs)
        if not non_finite(blobs):
            break
    return Reference(recorder, seed, inputs, blobs)


def _require_memory(net: Net) -> None:
    count = sum(math.prod(shape) for shape in _recorded_shapes(net).values())
    memory.require(
        count * np.dtype(np.float32).itemsize,
        "the blobs of the reference",
        "--no-reference does without, --input-shape makes the input smaller",
    )


def without_rows(blobs: Mapping[str, np.ndarray]) -> List[str]:
    """Keys of the blobs whose data-dependent axis came out empty: there is nothing to compare."""
    return [key for key, value in blobs.items() if value.size == 0]


def non_finite(blobs: Mapping[str, np.ndarray]) -> List[str]:
    """Keys of the blobs that hold an infinity or a NaN."""
    return [key for key, value in blobs.items() if not np.isfinite(value).all()]
