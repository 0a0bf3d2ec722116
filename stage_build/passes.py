"""Net -> Net rewrites: what is served is smaller than what was verified blob by blob."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from schemas.errors import UnsupportedModel, UsageError
from schemas.graph import Layer, Net
from schemas.interchange import array_shape
from schemas.layers import registry as meanings

Weights = Mapping[str, Any]


@dataclass(frozen=True)
class Changed(Mapping[str, Any]):
    """Weights of which some are new; the others are read when they are asked for."""

    before: Weights
    new: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.new[key] if key in self.new else self.before[key]

    def __iter__(self) -> Iterator[str]:
        yield from self.before
        yield from self.new

    def __len__(self) -> int:
        return len(self.before) + len(self.new)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of one, which is not read for it."""
        return tuple(self.new[key].shape) if key in self.new else array_shape(self.before, key)


def folded(net: Net, weights: Weights) -> tuple[Net, Weights]:
    """The net with every scale and shift of channels (BatchNorm, Scale, Bias) that follows a layer
    with weights folded into those; blobs between them are gone.

    A blob that something else reads, or that is an output, stays. Products are taken in double
    precision.
    """
    arrays = Changed(weights)
    readers = Counter(key for layer in net.layers for key in layer.bottoms)
    readers.update(net.outputs)
    layers: dict[str, Layer] = {}
    writers: dict[str, Layer] = {}
    for layer in net.layers:
        before = writers.get(layer.bottoms[0]) if len(layer.bottoms) == 1 else None
        merged = None
        if before and len(before.tops) == len(layer.tops) == 1 == readers[before.tops[0]]:
            merged = _merged(net, before, layer, arrays)
        made = merged or layer
        layers[made.name] = made
        writers.update(dict.fromkeys(made.tops, made))
    return _with_layers(net, layers), arrays


def _merged(net: Net, before: Layer, layer: Layer, arrays: Changed) -> Layer | None:
    """`before` with what `layer` does to its channels, if both are of the kind; adds its arrays."""
    made, shapes = _meaning(net, layer)
    affine = made.per_channel(shapes, _arrays(layer, arrays))
    if affine is None:
        return None
    made, shapes = _meaning(net, before)
    absorbed = made.absorbing(shapes, _arrays(before, arrays), *affine)
    if absorbed is None:
        return None
    changed, values = absorbed
    message = made.messages[0]
    fields = {**before.fields, message: {**before.fields.get(message, {}), **changed}}
    keys = tuple(f"{before.name}/served/{i}" for i in range(len(values)))
    arrays.new.update(zip(keys, (np.asarray(v, np.float32) for v in values), strict=True))
    return replace(before, tops=layer.tops, fields=fields, weights=keys)


def reversed_channels(net: Net, weights: Weights) -> tuple[Net, Weights]:
    """The net for images whose three channels come in reverse: the weights of every layer that
    reads one are reversed instead.

    Raises:
        UnsupportedModel: lists the layers that have no such weights.
        UsageError: there is no such image.
    """
    images = {key for key in net.inputs if net.blobs[key].shape[1:2] == (3,)}
    images = {key for key in images if len(net.blobs[key].shape) == 4}
    arrays = Changed(weights)
    layers, problems = {}, [f"output {key!r}" for key in net.outputs if key in images]
    for layer in net.layers:
        layers[layer.name] = layer
        if images.isdisjoint(layer.bottoms):
            continue
        made, shapes = _meaning(net, layer)
        values = None
        if images.issuperset(layer.bottoms):
            values = made.with_reversed_channels(shapes, _arrays(layer, weights))
        if values is None:
            problems.append(str(layer))
            continue
        keys = tuple(f"{layer.name}/reversed/{i}" for i in range(len(values)))
        arrays.new.update(zip(keys, values, strict=True))
        layers[layer.name] = replace(layer, weights=keys)
    if not images:
        raise UsageError("--swap-rgb: no input has three channels", hint="leave it out")
    if problems:
        raise UnsupportedModel(
            "--swap-rgb: only weights of a convolution or inner product can be reversed: "
            + "; ".join(problems),
            hint="leave --swap-rgb out, and reverse the channels of what is fed",
        )
    return _with_layers(net, layers), arrays


def _meaning(net: Net, layer: Layer) -> tuple[Any, list[tuple[int, ...]]]:
    shapes = [net.blobs[key].shape for key in layer.bottoms]
    return meanings.infer(layer, shapes)[0], shapes


def _arrays(layer: Layer, arrays: Weights) -> list[np.ndarray]:
    return [arrays[key] for key in layer.weights]


def _with_layers(net: Net, layers: Mapping[str, Layer]) -> Net:
    """The net with these layers; what they no longer write is forgotten."""
    written = {*net.inputs, *(key for layer in layers.values() for key in layer.tops)}
    return replace(
        net,
        layers=tuple(layers.values()),
        blobs={key: blob for key, blob in net.blobs.items() if key in written},
        names={name: key for name, key in net.names.items() if key in written},
    )
