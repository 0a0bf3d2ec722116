"""Small nets from prototxt text: seeded weights, NumPy's forward pass, and a built package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.graph import Net
from schemas.interchange import Interchange, Reference, Source
from stage_build import codegen, weights_npz
from stage_build.lowering.registry import lower
from stage_extract import network, prototxt, reference, upgrade
from tests.prototxts import inputs, layer, quoted

__all__ = ["inputs", "layer", "net", "package", "quoted", "seeded_inputs", "seeded_weights"]

SEED = 7


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
    **options: Any,
) -> Interchange:
    """What stage 1 would hand on for a prototxt of these layers.

    Args:
        given: input values by key, in place of random ones at the prototxt's batch size.
        weights: parameters by key, in place of random ones.
        record: whether the reference is there: NumPy's forward pass.
        options: further fields of `network.Options`.
    """
    source = "\n".join((f"name: {quoted(name)}", *text))
    built = network.build(
        upgrade.upgrade(prototxt.parse(source, "net.prototxt")),
        network.Options(outputs=tuple(outputs), **options),
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
    weights_npz.write(folder / "weights.npz", lowered, lambda done, total: None)
    return folder
