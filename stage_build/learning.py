"""What training may change: Caffe's learning rates, as far as Keras has a place for them."""

from __future__ import annotations

from schemas.graph import Layer, Net
from schemas.layers import registry as meanings


def rates(layer: Layer) -> list[float]:
    """The ``lr_mult`` of each parameter blob that a gradient reaches; 1 where none is written.

    Raises:
        MalformedModel: ``param`` is no list of messages.
    """
    cls = meanings.find(layer.type, layer.dialect)
    running = cls.running if cls else ()
    with meanings.located(layer):
        written = [dict(spec).get("lr_mult", 1.0) for spec in layer.fields.get("param", ())]
    all_rates = [*written, *[1.0] * len(layer.weights)][: len(layer.weights)]
    return [rate for place, rate in enumerate(all_rates) if place not in running]


def frozen(layer: Layer) -> bool:
    """Whether the layer has such blobs, and all of them have ``lr_mult: 0``."""
    found = rates(layer)
    return bool(found) and not any(found)


def partly_frozen(net: Net) -> list[str]:
    """The layers of which some blobs, but not all, have ``lr_mult: 0``."""
    found = {layer.name: rates(layer) for layer in net.layers}
    return [name for name, each in found.items() if any(each) and not all(each)]
