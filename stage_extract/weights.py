"""Weights of either format, matched with a net's layers (net.cpp, CopyTrainedLayersFrom)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, Sequence, Tuple, Union

from schemas.errors import MalformedModel, listed
from schemas.graph import Shape
from stage_extract import caffemodel, hdf5_weights
from stage_extract.stored import MappedFile, StoredBlob, StoredLayer, StoredModel

SHOWN = 5  # problems spelled out in one message


@dataclass(frozen=True)
class Match:
    """What a net takes from a weight file.

    Attributes:
        blobs: layer name -> its parameter blobs in Caffe's order, in the shapes the net wants.
        unused: names of stored layers with weights that the net does not want, in file order.
    """

    blobs: Mapping[str, List[StoredBlob]]
    unused: Tuple[str, ...]


def open_weights(path: Union[str, os.PathLike]) -> StoredModel:
    """Opens a weight file by what it holds, whatever its name is.

    Raises:
        MalformedModel: the file is damaged, hostile or not a weight file.
        UnsupportedModel: a fork's form of storage that cannot be read.
        UsageError, EnvironmentProblem: the file cannot be opened.
    """
    file = MappedFile(path)
    is_hdf5 = file.bytes[:8] == caffemodel.HDF5_SIGNATURE
    file.close()
    return hdf5_weights.open_hdf5(path) if is_hdf5 else caffemodel.open_model(path)


def match(
    stored: Iterable[StoredLayer], wanted: Mapping[str, Sequence[Shape]], where: str = ""
) -> Match:
    """Finds the blobs of each wanted layer, by its name.

    Where a name is stored twice the last one counts, as in Caffe, but each must fit.

    Args:
        stored: the layers of a weight file.
        wanted: layer name -> shapes of its parameter blobs.
        where: the file, for errors.

    Raises:
        MalformedModel: wanted layers are missing, or have other blobs; one error tells of all.
    """
    blobs: Dict[str, List[StoredBlob]] = {}
    unused: Dict[str, None] = {}
    problems: List[str] = []
    for layer in stored:
        shapes = wanted.get(layer.name)
        if shapes is not None:
            problems += _misfits(layer, shapes)
            blobs[layer.name] = [
                blob.reshaped(tuple(shape)) for blob, shape in zip(layer.blobs, shapes)
            ]
        elif layer.blobs:
            unused[layer.name] = None
    problems += [
        f"layer {name!r} is missing" for name in wanted if wanted[name] and name not in blobs
    ]
    if problems:
        raise MalformedModel(
            f"the weights do not fit the net: {listed(problems, SHOWN, '; ')}",
            where,
            f"layers in the file that the net lacks: {listed([*map(repr, unused)], SHOWN)}"
            if unused
            else "are prototxt and weights of one model?",
        )
    return Match(blobs, tuple(unused))


def _misfits(layer: StoredLayer, shapes: Sequence[Shape]) -> List[str]:
    if len(layer.blobs) != len(shapes):
        return [f"layer {layer.name!r}: {len(shapes)} blobs expected, found {len(layer.blobs)}"]
    return [
        f"layer {layer.name!r}, blob {i}: shape {list(shape)} expected, found {list(blob.shape)}"
        for i, (blob, shape) in enumerate(zip(layer.blobs, shapes))
        if not _fits(blob, tuple(shape))
    ]


def _fits(blob: StoredBlob, shape: Shape) -> bool:
    """Blob::ShapeEquals (blob.cpp): the old four sizes are aligned at the right."""
    if blob.legacy:
        return len(shape) <= len(blob.shape) and (1,) * (4 - len(shape)) + shape == blob.shape
    return shape == blob.shape
