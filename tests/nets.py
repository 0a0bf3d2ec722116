"""Small nets from prototxt text: seeded weights, NumPy's forward pass, and a built package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from schemas.graph import Net
from schemas.interchange import Interchange, Reference, Source
from stage_build import codegen
from stage_build.lowering.registry import lower
from stage_extract import network, prototxt, reference, upgrade

SEED = 7


def quoted(name: str) -> str:
    """A name as a string of protobuf's text format, whatever is in it."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\"'\\" else f"\\{byte:03o}"
        for byte in name.encode()
    )
    return f'"{escaped}"'


def inputs(**shapes: Sequence[int]) -> str:
    """Input layers: ``inputs(data=(2, 3, 5, 7))``."""
    return "\n".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {dim}" for dim in shape)
        + " } } }"
        for name, shape in shapes.items()
    )


def layer(
    type_: str,
    bottoms: str | Sequence[str] = "data",
    tops: str | Sequence[str] = "out",
    parameters: str = "",
    name: str | None = None,
) -> str:
    """One layer of a prototxt; `bottoms` and `tops` are names, or one string of them."""
    bottoms = bottoms.split() if isinstance(bottoms, str) else bottoms
    tops = tops.split() if isinstance(tops, str) else tops
    blobs = [f"bottom: {quoted(b)}" for b in bottoms] + [f"top: {quoted(t)}" for t in tops]
    named = quoted(tops[0] if name is None else name)
    return f'layer {{ name: {named} type: "{type_}" {" ".join(blobs)} {parameters} }}'


def seeded_weights(built: network.Built, seed: int = SEED) -> dict[str, np.ndarray]:
    """Normal random parameters; a BatchNorm's variance and factor are positive."""
    rng = np.random.default_rng(seed)
    types = {layer.name: layer.type for layer in built.net.layers}
    weights = {}
    for name, shapes in built.weight_shapes.items():
        for place, shape in enumerate(shapes):
            values = rng.standard_normal(shape, np.float32) * np.float32(0.5)
            if types[name] == "BatchNorm" and place:
                values = np.abs(values) + np.float32(0.5)
            weights[f"{name}/{place}"] = values
    return weights


def seeded_inputs(net: Net, seed: int = SEED) -> dict[str, np.ndarray]:
    """Normal random inputs, at the prototxt's own batch size."""
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(net.blobs[key].shape, np.float32) for key in net.inputs}


def net(
    *text: str,
    name: str = "net",
    outputs: Sequence[str] = (),
    given: Mapping[str, np.ndarray] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    record: bool = True,
) -> Interchange:
    """What stage 1 would hand on for a prototxt of these layers.

    Args:
        given: input values by key, in place of random ones at the prototxt's batch size.
        weights: parameters by key, in place of random ones.
        record: whether the reference is there: NumPy's forward pass.
    """
    source = "\n".join((f"name: {quoted(name)}", *text))
    built = network.build(
        upgrade.upgrade(prototxt.parse(source, "net.prototxt")),
        network.Options(outputs=tuple(outputs)),
    )
    parameters = {**seeded_weights(built), **(weights or {})}
    recorded = None
    if record:
        values = {**seeded_inputs(built.net), **(given or {})}
        blobs = reference.forward(built.net, parameters, values)
        recorded = Reference("numpy", SEED, values, blobs)
    sources = (Source("prototxt", "net.prototxt", len(source), "0123456789abcdef" * 4),)
    return Interchange(built.net, parameters, sources, recorded)


def package(content: Interchange, folder: Path) -> Path:
    """The generated class with its weights, in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lowered = lower(content.net, content.weights)
    codegen.write_package(folder, content, lowered)
    codegen.write_weights(folder / "weights.npz", lowered, lambda done, total: None)
    return folder
