"""Describes a file as a table: prototxt, weights of either format, interchange file, mean."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel, cannot_use
from schemas.events import Events
from schemas.graph import Net
from stage_extract import mean, recognise, weights

if TYPE_CHECKING:
    from schemas.preprocessing import Preprocessing


def inspect(path: Path, events: Events) -> Dict[str, Any]:
    """What a file holds, whatever its name is.

    Returns:
        JSON values: ``kind`` (``prototxt``, ``caffemodel``, ``hdf5 weights``, ``interchange`` or
        ``mean``),
        ``title``, ``facts`` (name -> text), and a table: ``columns`` and ``rows``.

    Raises:
        MalformedModel: the file is damaged, hostile or none of these.
        UsageError, EnvironmentProblem: it cannot be opened.
    """
    events.progress("open", 0, 1)
    try:
        with open(str(path), "rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise cannot_use(path, error) from error
    if start.startswith(recognise.HDF5_SIGNATURE):
        described = _hdf5(path)
    elif start.startswith(mean.NUMPY_MAGIC):
        described = _mean(path)
    elif start and recognise.is_text(start):
        described = _prototxt(path)
    else:
        described = _binary(path)
    events.progress("opened", 1, 1)
    described["facts"] = dict(
        {"size": f"{os.path.getsize(str(path)):,} bytes"}, **described["facts"]
    )
    return dict(described, title=path.name)


def _binary(path: Path) -> Dict[str, Any]:
    try:
        return _weights(path, "caffemodel")
    except MalformedModel:
        try:
            return _mean(path)
        except (MalformedModel, UnsupportedModel):
            pass
        raise


def _mean(path: Path) -> Dict[str, Any]:
    values = mean.image(str(path))
    channels = values.reshape(len(values), -1)
    rows = [
        [i, float(own.mean()), float(own.min()), float(own.max())] for i, own in enumerate(channels)
    ]
    return {
        "kind": "mean",
        "facts": {"shape": _shape(values.shape)},
        "columns": ["channel", "mean", "least", "largest"],
        "rows": rows,
    }


def _hdf5(path: Path) -> Dict[str, Any]:
    from schemas import interchange  # takes libhdf5 in

    if not interchange.has_index(path):
        return _weights(path, "hdf5 weights")
    content = interchange.read(path)
    net = content.net
    rows: List[List[Any]] = []
    for layer in net.layers:
        shapes = ", ".join(_shape(net.blobs[key].shape) for key in layer.tops)
        rows.append(
            [layer.name, layer.type, ", ".join(layer.bottoms), ", ".join(layer.tops), shapes]
        )
    facts = {
        "net": net.name,
        "inputs": ", ".join(f"{k} {_shape(net.blobs[k].shape)}" for k in net.inputs),
        "outputs": ", ".join(net.outputs),
        "batch": _batch(net),
        "sources": ", ".join(f"{s.name} (sha256 {s.sha256[:12]})" for s in content.sources),
        "reference": content.reference.recorder if content.reference else "none",
    }
    if content.means:
        means = {key: _shape(value.shape) for key, value in content.means.items()}
        facts["means"] = ", ".join(f"{key} {shape}" for key, shape in means.items())
    for key, image in content.images.items():
        facts[f"preprocessing of {key}"] = _preprocessing(image, content.means.get(key))
        if image.unknown:
            facts[f"assumed for {key}"] = "; ".join(image.unknown)
    if content.labels:
        first, last = content.labels[0], content.labels[-1]
        facts["labels"] = f"{len(content.labels):,}, from {first!r:.60} to {last!r:.60}"
    if content.filled:
        facts["untrained"] = f"{len(content.filled)} of {len(content.weights)} blobs"
    return {
        "kind": "interchange",
        "facts": facts,
        "columns": ["layer", "type", "bottoms", "tops", "shape"],
        "rows": rows,
    }


def _preprocessing(image: Preprocessing, mean: Optional[np.ndarray]) -> str:
    """The steps, in their order."""
    steps = []
    if image.size is not None:
        how = {"warp": "warped to ", "short_side": "shorter side resized to "}[image.resize]
        size = image.size if image.resize == "warp" else image.size[:1]
        steps.append(how + _shape(size))
    if image.crop is not None:
        steps.append(f"centre of {_shape(image.crop)}")
    steps.append(image.channels)
    if mean is not None:
        values = f"image of {_shape(mean.shape)}" if mean.ndim > 1 else _numbers(mean)
        steps.append(f"minus mean {values}")
    if image.scale != 1:
        steps.append(f"times {image.scale:g}")
    return ", ".join(steps)


def _numbers(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in values) + ")"


def _prototxt(path: Path) -> Dict[str, Any]:
    # These take protobuf and every layer in.
    from schemas.layers import registry
    from stage_extract import network, prototxt, upgrade
    from stage_extract.dialects import BVLC

    message = upgrade.upgrade(prototxt.read(path))
    rows = []
    for layer in message.fields.get("layer", []):
        fields = layer.fields
        rows.append(
            [
                layer.line,
                fields.get("name", ""),
                fields.get("type", ""),
                ", ".join(fields.get("bottom", [])),
                ", ".join(fields.get("top", [])),
                ", ".join(name or BVLC for name in registry.dialects(fields.get("type", "")))
                or "no",
            ]
        )
    facts = {"net": message.fields.get("name", "")}
    try:
        built = network.build(message, network.Options())
        facts["outputs"] = ", ".join(built.net.outputs)
        shapes = [shape for own in built.weight_shapes.values() for shape in own]
        facts["weights"] = f"{sum(map(math.prod, shapes)):,} numbers"
    except (MalformedModel, UnsupportedModel) as error:
        facts["problem"] = str(error)
    return {
        "kind": "prototxt",
        "facts": facts,
        "columns": ["line", "layer", "type", "bottoms", "tops", "known as"],
        "rows": rows,
    }


def _weights(path: Path, kind: str) -> Dict[str, Any]:
    with weights.open_weights(path) as model:
        rows = [
            [layer.name, str(layer.type), ", ".join(_shape(blob.shape) for blob in layer.blobs)]
            for layer in model.layers
            if layer.blobs
        ]
        total = sum(blob.size for layer in model.layers for blob in layer.blobs)
        count = len(model.layers)
    return {
        "kind": kind,
        "facts": {"layers": f"{count} ({len(rows)} with weights)", "weights": f"{total:,} numbers"},
        "columns": ["layer", "type", "blobs"],
        "rows": rows,
    }


def _batch(net: Net) -> str:
    if not net.dynamic_batch:
        return "fixed"
    sequences = any(net.blobs[key].sequence for key in net.inputs)
    return "any size, sequences of any length" if sequences else "any size"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
