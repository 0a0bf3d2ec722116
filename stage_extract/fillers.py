"""Parameters that no weights are given for, filled as Caffe fills them (filler.hpp).

What is random has Caffe's distribution, and numbers of our own: the same for the same seed, layer
and blob on every machine, whatever else the net holds.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer, Shape
from schemas.layers import registry

# FillerParameter's fields and their defaults, the forks' last: FlowNet2's and happynear's.
DEFAULTS: Dict[str, Any] = {
    "type": "constant",
    "value": 0.0,
    "min": 0.0,
    "max": 1.0,
    "mean": 0.0,
    "std": 1.0,
    "sparse": -1,
    "variance_norm": "FAN_IN",
    "diag_val": (),
    "alpha": 0.0,
}

# How many values are drawn at a time, as float64.
PART = 1 << 20


def fill(layer: Layer, shapes: Sequence[Shape], seed: int) -> List[np.ndarray]:
    """The layer's parameter blobs, float32, of these shapes (as `registry.infer` gives them).

    Raises:
        UnsupportedModel: a filler of a type, or with a field, that is not known here.
        MalformedModel: a filler that Caffe would refuse.
    """
    made = registry.meaning(layer)
    with registry.located(layer):
        fillers = made.fillers(len(shapes))
        if len(fillers) != len(shapes):
            raise UnsupportedModel(
                f"the layer's meaning has fillers for {len(fillers)} of {len(shapes)} blobs"
            )
        content = {
            name: value
            for message in made.messages
            for name, value in layer.fields.get(message, {}).items()
        }
        return [
            _filled(filler, content, tuple(shape), _generator(seed, layer.name, place))
            for place, (filler, shape) in enumerate(zip(fillers, shapes))
        ]


def _generator(seed: int, name: str, place: int) -> np.random.Generator:
    digest = hashlib.sha256(json.dumps([seed, name, place]).encode("ascii")).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _filled(
    filler: registry.Filler,
    content: Mapping[str, Any],
    shape: Shape,
    generator: np.random.Generator,
) -> np.ndarray:
    """One parameter blob, by what the layer's message says."""
    written = content.get(filler.field, filler.value)
    try:
        given = written if isinstance(written, Mapping) else {"value": written}
        return _by_type(given, shape, generator)
    except (MalformedModel, UnsupportedModel) as error:
        error.message = f"{filler.field}: {error.message}"
        raise


def _by_type(
    written: Mapping[str, Any], shape: Shape, generator: np.random.Generator
) -> np.ndarray:
    given = {**DEFAULTS, **written}
    if given["type"] not in _TYPES:
        raise UnsupportedModel(
            f"filler type {given['type']!r} is not supported; supported: {', '.join(_TYPES)}"
        )
    if len(given) > len(DEFAULTS):
        raise UnsupportedModel(f"{min(set(given) - set(DEFAULTS))} is set but not understood")
    if given["sparse"] != -1 and given["type"] != "gaussian":
        raise MalformedModel(f"sparse is for type gaussian, found type {given['type']}")
    with np.errstate(over="ignore"):  # past the largest float32 is infinity, as in Caffe
        return _TYPES[given["type"]](given, shape, generator)


def _drawn(shape: Shape, draw: Callable[[int], np.ndarray]) -> np.ndarray:
    """A blob of the values that `draw` gives, so many at a time."""
    values = np.empty(math.prod(shape), np.float32)
    for start in range(0, len(values), PART):
        part = values[start : start + PART]
        part[...] = draw(len(part))
    return values.reshape(shape)


def _constant(given: Mapping[str, Any], shape: Shape, generator: np.random.Generator) -> np.ndarray:
    return np.full(shape, float(given["value"]), np.float32)


def _uniform(given: Mapping[str, Any], shape: Shape, generator: np.random.Generator) -> np.ndarray:
    low, high = float(given["min"]), float(given["max"])
    if not -math.inf < low <= high < math.inf:
        raise MalformedModel(f"min should be at most max, found {low:g} and {high:g}")
    return _drawn(shape, lambda count: low + (high - low) * generator.random(count))


def _gaussian(given: Mapping[str, Any], shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """Normal; with `sparse`, each value is kept with probability sparse / shape[0], or else 0."""
    mean, std, sparse = float(given["mean"]), float(given["std"]), given["sparse"]
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise MalformedModel(f"std should be positive, found mean {mean:g} and std {std:g}")
    blob = _drawn(shape, lambda count: mean + std * generator.standard_normal(count))
    if sparse != -1:
        if not (shape and 0 <= sparse <= shape[0]):
            raise MalformedModel(
                f"sparse should be 0 to the size of axis 0, found {sparse} and shape {list(shape)}"
            )
        blob *= _drawn(shape, lambda count: generator.random(count) < sparse / shape[0])
    return blob


def _positive_unitball(
    given: Mapping[str, Any], shape: Shape, generator: np.random.Generator
) -> np.ndarray:
    """Uniform from 0 to 1, each entry of axis 0 divided by its sum."""
    blob = _drawn(shape, generator.random)
    rows = blob.reshape(_legacy(shape)[0], -1)
    # fsum is exact, and so the same whatever the order in which a machine sums.
    rows /= np.array([[math.fsum(row)] for row in rows], np.float32)
    return blob


def _xavier(given: Mapping[str, Any], shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """Uniform from -sqrt(3 / n) to sqrt(3 / n), of variance 1 / n; n by variance_norm."""
    bound = math.sqrt(3 / _fan(given, shape))
    return _uniform({"min": -bound, "max": bound}, shape, generator)


def _msra(given: Mapping[str, Any], shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """Normal of variance 2 / n; happynear's `alpha`, the slope of a leaky ReLU, makes it less."""
    variance = 2 / _fan(given, shape) / (1 + given["alpha"] ** 2)
    return _gaussian({"mean": 0, "std": math.sqrt(variance), "sparse": -1}, shape, generator)


def _fan(given: Mapping[str, Any], shape: Shape) -> float:
    """The inputs of one output, the outputs of one input, or their mean."""
    count, (num, channels) = math.prod(shape), _legacy(shape)[:2]
    fans = {"FAN_IN": count / num, "FAN_OUT": count / channels}
    fans["AVERAGE"] = sum(fans.values()) / 2
    return fans[given["variance_norm"]]


def _legacy(shape: Shape) -> Tuple[int, ...]:
    """At least 4 axes, where an axis that is not there has size 1 (Blob::LegacyShape)."""
    return shape + (1,) * (4 - len(shape))


def _bilinear(given: Mapping[str, Any], shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """The kernel that makes a Deconvolution an interpolation, the same for all of axes 0 and 1.

    As in BVLC's latest. Older Caffes and forks set its centre otherwise where the size is not the
    2 * stride - stride % 2 of an upsampling.
    """
    if len(shape) != 4 or shape[2] != shape[3]:
        raise MalformedModel(f"type bilinear is for square kernels, found shape {list(shape)}")
    size = shape[3]
    half = (size + 1) // 2
    centre = np.float32((size - 1) / (2 * half))
    away = np.abs(np.arange(size, dtype=np.float32) / np.float32(half) - centre)
    return np.broadcast_to(np.outer(1 - away, 1 - away), shape).copy()


def _diagonal(given: Mapping[str, Any], shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """FlowNet2's: output n is diag_val[n], or 1, times the mean of its window over channel n."""
    if len(shape) > 4:
        raise MalformedModel(f"type diagonal is for up to 4 axes, found shape {list(shape)}")
    num, channels, *kernel = _legacy(shape)
    blob = np.zeros((num, channels, *kernel), np.float32)
    for n in range(min(num, channels)):
        value = given["diag_val"][n] if n < len(given["diag_val"]) else 1
        blob[n, n] = np.float32(value) / np.float32(math.prod(kernel))
    return blob.reshape(shape)


_TYPES: Dict[str, Callable[[Mapping[str, Any], Shape, np.random.Generator], np.ndarray]] = {
    "constant": _constant,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
    "diagonal": _diagonal,
}
