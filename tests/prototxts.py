"""Prototxt text for tests: layers from names, and the nets that stage 1 makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.graph import Net
from stage_extract import network, prototxt, reference, upgrade

FILE = "net.prototxt"


def quoted(name: str) -> str:
    """A name as a string of protobuf's text format, whatever is in it."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\"'\\" else f"\\{byte:03o}"
        for byte in name.encode()
    )
    return f'"{escaped}"'


def dims(shape: Sequence[int]) -> str:
    return " ".join(f"dim: {size}" for size in shape)


def inputs(**shapes: Sequence[int]) -> str:
    """Input layers, a line each: ``inputs(data=(2, 3, 5, 7))``."""
    return "\n".join(
        layer("Input", "", name, f"input_param {{ shape {{ {dims(shape)} }} }}")
        for name, shape in shapes.items()
    )


def layer(
    type_: str,
    bottoms: str | Sequence[str] = "data",
    tops: str | Sequence[str] = "out",
    parameters: str = "",
    name: str | None = None,
) -> str:
    """One layer, on one line; `bottoms` and `tops` are names, or one string of them."""
    bottoms = bottoms.split() if isinstance(bottoms, str) else bottoms
    tops = tops.split() if isinstance(tops, str) else tops
    blobs = [f"bottom: {quoted(b)}" for b in bottoms] + [f"top: {quoted(t)}" for t in tops]
    named = quoted(tops[0] if name is None else name)
    return f'layer {{ name: {named} type: "{type_}" {" ".join(blobs)} {parameters} }}'


def build(*text: str, **options: Any) -> network.Built:
    """The net of a prototxt of these lines; the options are those of `network.Options`."""
    message = upgrade.upgrade(prototxt.parse("\n".join(text), FILE))
    return network.build(message, network.Options(**options))


def seeded(net: Net, seed: int = 7) -> dict[str, np.ndarray]:
    """Normal random inputs at the prototxt's shapes, by key."""
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(net.blobs[key].shape, np.float32) for key in net.inputs}


def seeded_weights(built: network.Built, seed: int = 7) -> dict[str, np.ndarray]:
    """Normal random parameters, by key."""
    rng = np.random.default_rng(seed)
    return {
        f"{name}/{place}": rng.standard_normal(shape, np.float32)
        for name, shapes in built.weight_shapes.items()
        for place, shape in enumerate(shapes)
    }


def values(built: network.Built, given: Mapping[str, np.ndarray] | None = None):
    """Blob key -> value after a pass in NumPy, each held to the shape that the net declares."""
    fed = dict(seeded(built.net), **(given or {}))
    found = reference.forward(built.net, seeded_weights(built), fed)
    if given is None:
        for key, value in found.items():
            assert value.shape == built.net.blobs[key].shape, key
    return found
