"""How a lowering is declared, and what it is given and gives.

    @lowering("ReLU")
    def relu(site: Site) -> Call:
        return Call("relu", {"slope": site.meaning.negative_slope})

The call is printed into the generated class as ``relu1 = self.relu(conv1, name="relu1")``; the
method lives in the runtime module of the same family, and arguments that equal its defaults are
left out.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import stage_build.lowering
from schemas.errors import UnsupportedModel
from schemas.graph import Blob, Layer, Net
from schemas.layers import registry as meanings


@dataclass(frozen=True)
class Site:
    """One layer, where it stands.

    Attributes:
        meaning: the layer's parameters (an instance of its class in schemas.layers).
        bottoms, tops: the blobs, with Caffe's shapes.
        arrays: the layer's parameter blobs in Caffe's order, read when asked for.
    """

    layer: Layer
    meaning: Any
    bottoms: tuple[Blob, ...]
    tops: tuple[Blob, ...]
    arrays: Sequence[np.ndarray]


@dataclass(frozen=True)
class Call:
    """A call of a runtime method.

    Attributes:
        method: its name.
        arguments: literals, by parameter name; a key that is an int is positional.
        weights: makes the arrays of the Keras layer, in the order Keras creates them. A function,
            so that a large array exists only while it is written.
        alias: the method makes no Keras layer: every top is the first bottom.
    """

    method: str
    arguments: Mapping[Any, Any] = field(default_factory=dict)
    weights: Callable[[], list[np.ndarray]] = list
    alias: bool = False


Lowering = Callable[[Site], Call]
_registry: dict[tuple[str, str], Lowering] = {}


def lowering(*types: str, dialect: str = "") -> Callable[[Lowering], Lowering]:
    """Registers a function for one or more Caffe types."""

    def register(function: Lowering) -> Lowering:
        for type_ in types:
            if (type_, dialect) in _registry:
                raise RuntimeError(f"layer type {type_!r} (dialect {dialect!r}) is lowered twice")
            _registry[type_, dialect] = function
        return function

    return register


def registered() -> dict[tuple[str, str], Lowering]:
    """Every (type, dialect) and its lowering."""
    for module in pkgutil.iter_modules(stage_build.lowering.__path__):
        importlib.import_module(f"stage_build.lowering.{module.name}")
    return dict(_registry)


@dataclass(frozen=True)
class Lowered:
    """A layer and the call it became; `family` names the runtime module the method lives in."""

    site: Site
    call: Call
    family: str


class _LayerArrays(Sequence[np.ndarray]):
    def __init__(self, weights: Mapping[str, np.ndarray], keys: Sequence[str]) -> None:
        self._weights = weights
        self._keys = keys

    def __getitem__(self, index: Any) -> Any:
        return self._weights[self._keys[index]]

    def __len__(self) -> int:
        return len(self._keys)


def lower(net: Net, weights: Mapping[str, np.ndarray]) -> list[Lowered]:
    """Every layer of the net as a call.

    Raises:
        UnsupportedModel: lists every layer that cannot be lowered.
    """
    known = registered()
    lowered, problems = [], []
    for layer in net.layers:
        try:
            function = known.get((layer.type, layer.dialect))
            if function is None:
                raise UnsupportedModel("this layer type has no TensorFlow form here", str(layer))
            site = Site(
                layer,
                meanings.meaning(layer),
                tuple(net.blobs[key] for key in layer.bottoms),
                tuple(net.blobs[key] for key in layer.tops),
                _LayerArrays(weights, layer.weights),
            )
            with meanings.located(layer):
                call = function(site)
            lowered.append(Lowered(site, call, function.__module__.rsplit(".", 1)[-1]))
        except UnsupportedModel as error:
            problems.append(str(error))
    if problems:
        raise UnsupportedModel("; ".join(problems))
    return lowered
