"""Why a reference differs: the deviations that are known, each tried with the NumPy meanings."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from schemas.errors import ConversionError
from schemas.graph import Layer
from schemas.interchange import Interchange
from schemas.layers import registry
from stage_build import verify

# Of parameters that are added to keep a divisor from 0: what frameworks have by default.
EPSILONS = {
    "eps": (1e-3, 1e-4, 2e-5, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 0.0),
    "var_eps": (1e-3, 1e-5, 1e-9, 1e-10, 1e-12),
    "k": (1.0, 2.0),
}
# Between two blobs of the reference, more layers than this are not tried one by one.
MOST_LAYERS = 8
PATIENCE = 60.0  # seconds, after which no further deviation is tried
# What a meaning may raise over parameters, weights or bottoms that are not its own.
SENSELESS = (ArithmeticError, ConversionError, LookupError, MemoryError, TypeError, ValueError)
# The deviation has to explain the difference, not just to change it.
GAIN = 10


@dataclass(frozen=True)
class _Deviation:
    """What may have been otherwise where the reference comes from.

    Attributes:
        said: how the reference looks, after "the reference looks as if ".
        inputs: blob key -> the values it had.
        meaning, weights, bottoms: what `layer` had in place of its own.
    """

    said: str
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    layer: str = ""
    meaning: Any = None
    weights: tuple[np.ndarray, ...] | None = None
    bottoms: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Stretch:
    """The layers that compute the blob `key` from `given`, values that the reference has.

    Attributes:
        want: the reference's value of the blob.
    """

    content: Interchange
    layers: tuple[Layer, ...]
    given: Mapping[str, np.ndarray]
    key: str
    want: np.ndarray

    def left_by(self, deviation: _Deviation) -> float:
        """The relative error that is left; infinite where shapes differ, or it makes no sense."""
        try:
            got = self._computed(deviation)
        except SENSELESS:
            return np.inf
        index = self.content.net.blobs[self.key].index
        compared = verify.compare(self.key, got, self.want, verify.NET_TOLERANCE, index)
        if compared.passed and not compared.magnitude:
            return 0.0  # zeros, as far as they can be compared
        return np.inf if index and not compared.passed else compared.relative

    def _computed(self, deviation: _Deviation) -> np.ndarray:
        values = {**self.given, **deviation.inputs}
        for layer in self.layers:
            meaning, bottoms = registry.meaning(layer), layer.bottoms
            weights = [self.content.weights[key] for key in layer.weights]
            if layer.name == deviation.layer:
                meaning = deviation.meaning or meaning
                weights = weights if deviation.weights is None else [*deviation.weights]
                bottoms = deviation.bottoms or bottoms
            with np.errstate(all="ignore"):
                arrays = [np.ascontiguousarray(values[key], np.float32) for key in bottoms]
                tops = meaning.forward(arrays, weights, len(layer.tops))
            values.update(zip(layer.tops, tops, strict=True))
        return values[self.key]


def cause(content: Interchange, known: Mapping[str, np.ndarray], key: str) -> str:
    """The likely cause of a difference, in one sentence; empty where no known one explains it.

    What is named makes the meanings of schemas.layers agree with the reference to 1e-4.

    Args:
        content: the net and its weights.
        known: the reference's inputs and blobs, by key, in Caffe's order.
        key: the first blob that differs even when it is computed from the reference's own.
    """
    stretch = _stretch(content, known, key)
    try:
        return _cause(stretch) if stretch else ""
    except SENSELESS:  # never in the way of the verdict
        return ""


def _cause(stretch: _Stretch) -> str:
    key, started = stretch.key, time.monotonic()
    plain = stretch.left_by(_Deviation(""))
    if plain <= verify.LAYER_TOLERANCE:
        return f"computed by NumPy, {key!r} agrees with the reference: the artefact is wrong"
    for group in _deviations(stretch):
        errors: dict[str, float] = {}
        for deviation in group:
            if time.monotonic() - started > PATIENCE:
                return ""
            errors[deviation.said] = stretch.left_by(deviation)
        said = min(errors, key=errors.__getitem__, default="")
        if said and errors[said] <= verify.NET_TOLERANCE and errors[said] < plain / GAIN:
            left = f"to {errors[said]:.0e}" if errors[said] else "exactly"
            return f"the reference looks as if {said}: then {key!r} agrees {left}"
    return ""


def _stretch(content: Interchange, known: Mapping[str, np.ndarray], key: str) -> _Stretch | None:
    """What lies between the blob and the nearest ones that are known; None where one is not."""
    writers = {top: layer for layer in content.net.layers for top in layer.tops}
    if key not in writers:
        return None
    names, given, ahead = {writers[key].name}, set(), [*writers[key].bottoms]
    while ahead:
        bottom = ahead.pop()
        if bottom in known:
            given.add(bottom)
        elif bottom not in writers:
            return None
        elif writers[bottom].name not in names:
            names.add(writers[bottom].name)
            ahead += writers[bottom].bottoms
    layers = tuple(layer for layer in content.net.layers if layer.name in names)
    start = {name: np.asarray(known[name]) for name in given}
    return _Stretch(content, layers, start, key, np.asarray(known[key]))


def _deviations(stretch: _Stretch) -> Iterator[list[_Deviation]]:
    """What to try, in groups, of each of which the best is taken."""
    net = stretch.content.net
    images = [key for key in net.inputs if stretch.given.get(key, np.zeros(0)).ndim == 4]
    yield [_reversed(stretch, key) for key in images if net.blobs[key].shape[1] == 3]
    yield [each for key in images for each in _unprepared(stretch, key)]
    if len(stretch.layers) > MOST_LAYERS:
        return
    for layer in stretch.layers:
        yield [*_swapped(layer)]
    for kinds in (_rounded, _padded, _epsilons, _transposed):
        for layer in stretch.layers:
            shapes = [net.blobs[key].shape for key in layer.bottoms]
            yield [*kinds(stretch.content, layer, shapes)]


# Inputs


def _reversed(stretch: _Stretch, key: str) -> _Deviation:
    image = stretch.content.images.get(key)
    orders = ("BGR", "RGB") if image and image.channels == "rgb" else ("RGB", "BGR")
    said = f"its images were {orders[0]}, not {orders[1]} (the channels of {key!r} reversed)"
    return _Deviation(said, {key: stretch.given[key][:, ::-1]})


def _unprepared(stretch: _Stretch, key: str) -> Iterator[_Deviation]:
    """The mean or the scale of the images left out, or applied once more."""
    content, x = stretch.content, stretch.given[key]
    image, mean = content.images.get(key), content.means.get(key)
    written = content.preprocessing.get(key, {}).get("scale", 1.0)
    scale = np.float32(image.scale if image else written)
    if mean is not None:
        mean = _fitted(np.asarray(mean), x.shape)
    if mean is not None:
        yield _Deviation(
            f"the mean of {key!r} had been subtracted once more", {key: x - mean * scale}
        )
        yield _Deviation(f"no mean had been subtracted from {key!r}", {key: x + mean * scale})
    if scale not in (0, 1):
        yield _Deviation(f"{key!r} had been scaled once more", {key: x * scale})
        yield _Deviation(f"{key!r} had not been scaled", {key: x / scale})
    if mean is not None and scale not in (0, 1):
        yield _Deviation(
            f"the mean and the scale of {key!r} had been applied once more",
            {key: (x - mean) * scale},
        )
        yield _Deviation(
            f"neither mean nor scale had been applied to {key!r}", {key: x / scale + mean}
        )


def _fitted(mean: np.ndarray, shape: Collection[int]) -> np.ndarray | None:
    """The mean as it is subtracted from images of this shape: its centre, where it is larger."""
    _, channels, height, width = shape
    if mean.ndim == 1:
        return mean.reshape(-1, 1, 1) if mean.size == channels else None
    top, left = ((mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2)
    if len(mean) != channels or min(top, left) < 0:
        return None
    return mean[:, top : top + height, left : left + width]


# Layers


def _meaning(layer: Layer) -> Any:
    """The layer's parameters; which it has, `registry.parameters` tells."""
    return registry.meaning(layer)


def _swapped(layer: Layer) -> Iterator[_Deviation]:
    if len(set(layer.bottoms)) > 1:
        said = f"the bottoms of {layer.name!r} were in reverse order"
        yield _Deviation(said, layer=layer.name, bottoms=layer.bottoms[::-1])


def _rounded(content: Interchange, layer: Layer, shapes: list) -> Iterator[_Deviation]:
    """Another number of windows, and averages that leave the padding out."""
    made = _meaning(layer)
    known = registry.parameters(type(made))
    if "round_mode" in known:
        mode, word = ("FLOOR", "down") if made.rounds_up() else ("CEIL", "up")
        other = replace(made, round_mode=mode, ceil_mode=None, torch_pooling=None)
        said = f"the size of {layer.name!r} were rounded {word} ({mode.lower()})"
        yield _Deviation(said, layer=layer.name, meaning=other)
    if "avg_include_pad" in known:
        other = replace(made, avg_include_pad=not made.avg_include_pad)
        word = "did not count" if made.avg_include_pad else "counted"
        said = f"the averages of {layer.name!r} {word} padding"
        yield _Deviation(said, layer=layer.name, meaning=other)


def _padded(content: Interchange, layer: Layer, shapes: list) -> Iterator[_Deviation]:
    """Windows of the same stride that start elsewhere; by the parameters of Synopsys' fork."""
    made = _meaning(layer)
    if "pad_t" not in registry.parameters(type(made)) or len(shapes[0]) != 4:
        return
    size = shapes[0][2:]
    placed = getattr(made, "placed", None)
    window = placed(size)[0] if placed else made.geometry(*size)
    extent = getattr(window, "extent", window.kernel)
    lacking = [
        max((-(-n // s) - 1) * s + e - n, 0)
        for n, e, s in zip(size, extent, window.stride, strict=True)
    ]
    pads = window.pad
    styles = {
        "padded the bottom and the right more, as TensorFlow's SAME": [
            (zeros // 2, zeros - zeros // 2) for zeros in lacking
        ],
        "padded the top and the left more": [(zeros - zeros // 2, zeros // 2) for zeros in lacking],
        "padded the bottom and the right alone": [(0, 2 * pad) for pad in pads],
        "padded the top and the left alone": [(2 * pad, 0) for pad in pads],
        "did not pad": [(0, 0) for _ in pads],
    }
    bare = {name: None for name in ("pad_h", "pad_w", "pad_type")}
    for style, ((top, bottom), (left, right)) in styles.items():
        sides = {"pad_t": top, "pad_b": bottom, "pad_l": left, "pad_r": right}
        other = replace(made, pad=() if placed else None, **bare, **sides)
        yield _Deviation(f"{layer.name!r} {style}", layer=layer.name, meaning=other)


def _epsilons(content: Interchange, layer: Layer, shapes: list) -> Iterator[_Deviation]:
    made = _meaning(layer)
    for name in EPSILONS.keys() & registry.parameters(type(made)).keys():
        for value in EPSILONS[name]:
            if value != getattr(made, name):
                said = f"{name} of {layer.name!r} were {value:g}, not {getattr(made, name):g}"
                other = replace(made, **{name: value})
                yield _Deviation(said, layer=layer.name, meaning=other)


def _transposed(content: Interchange, layer: Layer, shapes: list) -> Iterator[_Deviation]:
    """The same numbers, stored in another order."""
    for place, key in enumerate(layer.weights):
        weight = np.asarray(content.weights[key])
        for said, other in _orders(weight, shapes[0] if shapes else ()):
            weights = [np.asarray(content.weights[each]) for each in layer.weights]
            weights[place] = np.ascontiguousarray(other)
            yield _Deviation(
                f"the weights of {layer.name!r} {said}", layer=layer.name, weights=tuple(weights)
            )


def _orders(weight: np.ndarray, bottom: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if weight.ndim == 4:
        filters, channels, height, width = weight.shape
        yield (
            "had height and width swapped",
            weight.reshape(filters, channels, width, height).swapaxes(2, 3),
        )
        yield "were turned by 180 degrees, a convolution's", weight[:, :, ::-1, ::-1]
        yield (
            "had inputs and outputs swapped",
            weight.reshape(channels, filters, height, width).swapaxes(0, 1),
        )
    if weight.ndim == 2:
        outputs, inputs = weight.shape
        yield "were transposed", weight.reshape(inputs, outputs).T
        if len(bottom) == 4 and inputs == np.prod(bottom[1:]):
            channels, height, width = bottom[1:]
            yield (
                "were for a bottom flattened as height, width, channels",
                weight.reshape(outputs, height, width, channels)
                .transpose(0, 3, 1, 2)
                .reshape(weight.shape),
            )
            yield (
                "were for a bottom flattened as channels, width, height",
                weight.reshape(outputs, channels, width, height)
                .swapaxes(2, 3)
                .reshape(weight.shape),
            )
