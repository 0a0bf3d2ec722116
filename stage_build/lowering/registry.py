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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import stage_build.lowering
from schemas import plugins
from schemas.errors import MalformedModel, UnsupportedModel, UsageError
from schemas.graph import Blob, Layer, Net
from schemas.interchange import array_shape
from schemas.layers import registry as meanings


@dataclass(frozen=True)
class Site:
    """One layer, where it stands.

    Attributes:
        meaning: the layer's parameters (an instance of its class in schemas.layers).
        bottoms, tops: the blobs, with Caffe's shapes; where the layer has no bottoms, the call is
            given the net's first input, as Keras makes no layer from nothing.
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
        unheld: format (of `delivery.FORMATS`) -> why it cannot hold what the method makes.
    """

    method: str
    arguments: Mapping[Any, Any] = field(default_factory=dict)
    weights: Callable[[], list[np.ndarray]] = list
    alias: bool = False
    unheld: Mapping[str, str] = field(default_factory=dict)


Lowering = Callable[[Site], Call]
_registry: dict[tuple[str, str], Lowering] = {}
_any_size: set[tuple[str, str]] = set()


def lowering(
    *types: str, dialect: str = "", any_size: bool = False
) -> Callable[[Lowering], Lowering]:
    """Registers a function for one or more Caffe types.

    Args:
        any_size: where the call and its arguments are the same at every height and width, what it
            makes is right at every height and width, see `stage_build.sizes`.
    """

    def register(function: Lowering) -> Lowering:
        for type_ in types:
            if (type_, dialect) in _registry:
                raise RuntimeError(f"layer type {type_!r} (dialect {dialect!r}) is lowered twice")
            _registry[type_, dialect] = function
            if any_size:
                _any_size.add((type_, dialect))
        return function

    return register


# Family of a plug-in -> its runtime.py.
_runtimes: dict[str, Path] = {}


def runtime_file(family: str) -> Path | None:
    """The runtime module of a plug-in's family; None for the families of this project."""
    return _runtimes.get(family)


@contextmanager
def plugged_in(folders: Sequence[str | Path]) -> Iterator[None]:
    """Knows the plug-ins' meanings, lowerings and runtimes while it lasts.

    Raises:
        UsageError: there is no such plug-in, it cannot be loaded, or its name is taken.
    """
    families = {function.__module__.rsplit(".", 1)[-1] for function in registered().values()}
    before = dict(_registry)
    try:
        with plugins.meanings(folders):
            for folder in map(Path, folders):
                family = plugins.family(folder)
                if family in families | set(_runtimes):
                    raise UsageError(f"--plugin: there is a family {family!r} already", str(folder))
                if not (folder / "runtime.py").is_file():
                    raise UsageError("--plugin: the folder holds no runtime.py", str(folder))
                plugins.load(folder, "lowering")
                _runtimes[family] = folder / "runtime.py"
            yield
    finally:
        _runtimes.clear()
        _registry.clear()
        _registry.update(before)
        _any_size.intersection_update(before)


@lru_cache(maxsize=1)
def _load() -> None:
    for module in pkgutil.iter_modules(stage_build.lowering.__path__):
        importlib.import_module(f"stage_build.lowering.{module.name}")


def registered() -> dict[tuple[str, str], Lowering]:
    """Every (type, dialect) and its lowering."""
    _load()
    return dict(_registry)


def of_any_size(layer: Layer) -> bool:
    """Whether the layer's lowering is declared `any_size`."""
    registered()
    return (layer.type, layer.dialect) in _any_size


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


def given(net: Net, layer: Layer) -> tuple[str, ...]:
    """The keys of what the layer's call is given, see `Site.bottoms`."""
    return layer.bottoms or net.inputs[:1]


def _checked_inputs(net: Net) -> None:
    """Refuses inputs that no Input layer has.

    Raises:
        MalformedModel: one has a shape, or rows, that no input can have.
    """
    for key in net.inputs:
        fields = {"input_param": {"shape": [{"dim": list(net.blobs[key].shape)}]}}
        layer = Layer(key, "Input", (), (key,), fields)
        meanings.infer(layer, [])
        if net.blobs[key].varying is not None:
            raise MalformedModel("the size of an input depends on the data", str(layer))


def _checked_meaning(net: Net, layer: Layer, weights: Mapping[str, np.ndarray]) -> Any:
    """The layer's meaning, to which everything else that the net says of the layer is held.

    Raises:
        MalformedModel: they contradict each other.
        UnsupportedModel: see `meanings.infer`.
    """
    bottoms = [net.blobs[key] for key in layer.bottoms]
    shapes = [blob.shape for blob in bottoms]
    made, parameters, tops = meanings.infer(layer, shapes)
    first = [net.blobs[key] for key in given(net, layer)]
    with meanings.located(layer):
        batches = made.batch_axes([b.shape for b in first], [b.batch for b in first], tops)
        varying = made.varying(shapes, [blob.varying for blob in bottoms], tops)
        if len(layer.weights) != len(parameters):
            raise MalformedModel(
                f"{len(parameters)} parameters expected, found {len(layer.weights)}"
            )
        for key, shape in zip(layer.weights, parameters, strict=True):
            if array_shape(weights, key) != tuple(shape):
                raise MalformedModel(
                    f"parameter {key!r} has shape {list(array_shape(weights, key))}, "
                    f"expected {list(shape)}"
                )
        for i, (key, shape) in enumerate(zip(layer.tops, tops, strict=True)):
            blob = net.blobs[key]
            if blob.shape != tuple(shape):
                raise MalformedModel(
                    f"top {key!r} has shape {list(blob.shape)}, expected {list(shape)}"
                )
            if (blob.varying, blob.index) != (varying[i], i in made.index_tops):
                raise MalformedModel(f"top {key!r} is marked as what it is not")
            if blob.batch not in (None, batches[i]):
                raise MalformedModel(f"top {key!r} has no batch on axis {blob.batch}")
    return made


def lower_layer(net: Net, layer: Layer, weights: Mapping[str, np.ndarray]) -> Lowered:
    """One layer of the net as a call.

    Raises:
        MalformedModel, UnsupportedModel: see `lower`.
    """
    function = registered().get((layer.type, layer.dialect))
    if function is None:
        raise UnsupportedModel("this layer type has no TensorFlow form here", str(layer))
    site = Site(
        layer,
        _checked_meaning(net, layer, weights),
        tuple(net.blobs[key] for key in given(net, layer)),
        tuple(net.blobs[key] for key in layer.tops),
        _LayerArrays(weights, layer.weights),
    )
    with meanings.located(layer):
        call = function(site)
    return Lowered(site, call, function.__module__.rsplit(".", 1)[-1])


def lower(net: Net, weights: Mapping[str, np.ndarray]) -> list[Lowered]:
    """Every layer of the net as a call.

    Raises:
        MalformedModel: what the net says of a layer contradicts the layer's meaning.
        UnsupportedModel: lists every layer that cannot be lowered.
    """
    lowered, problems = [], []
    _checked_inputs(net)
    for layer in net.layers:
        try:
            lowered.append(lower_layer(net, layer, weights))
        except UnsupportedModel as error:
            problems.append(str(error))
    if problems:
        raise UnsupportedModel("; ".join(problems))
    return lowered


def require_held(lowered: Sequence[Lowered], formats: Collection[str]) -> None:
    """Refuses layers that a chosen format cannot hold, as `Call.unheld` declares them.

    Raises:
        UnsupportedModel: lists every such layer.
    """
    problems = [
        str(UnsupportedModel(f"{name} cannot hold this layer: {reason}", str(item.site.layer)))
        for item in lowered
        for name, reason in item.call.unheld.items()
        if name in formats
    ]
    if problems:
        named = sorted({name for item in lowered for name in item.call.unheld} & set(formats))
        raise UnsupportedModel(
            "; ".join(problems), hint=f"leave {' and '.join(named)} out of --formats"
        )


def unheld_loop(site: Site) -> dict[str, str]:
    """`Call.unheld` of a loop that collects tensors, one a round."""
    if site.tops[0].batch is None:
        return {}
    return {"tflite": "it collects tensors in a loop, which need a batch of fixed size there"}
