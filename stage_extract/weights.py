"""Weights of either format, matched with a net's layers (net.cpp, CopyTrainedLayersFrom)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from schemas.errors import MalformedModel, listed
from schemas.graph import Shape
from stage_extract import caffemodel, recognise
from stage_extract.mapped import MappedFile
from stage_extract.stored import StoredBlob, StoredLayer, StoredModel

SHOWN = 5  # problems spelled out in one message
COLUMNS = ("layer", "blob", "the net's shape", "the file's shape")


@dataclass(frozen=True)
class Match:
    """What a net takes from a weight file.

    Attributes:
        blobs: layer name -> its parameter blobs by Caffe's index, in the shapes the net wants.
        unused: names of stored layers with weights that the net does not want, in file order.
        missing: names of wanted layers that are not stored, or without blobs.
    """

    blobs: Mapping[str, Mapping[int, StoredBlob]]
    unused: Tuple[str, ...]
    missing: Tuple[str, ...]


def open_weights(path: Union[str, os.PathLike]) -> StoredModel:
    """Opens a weight file by what it holds, whatever its name is.

    Raises:
        MalformedModel: the file is damaged, hostile or not a weight file.
        UnsupportedModel: a fork's form of storage that cannot be read.
        UsageError, EnvironmentProblem: the file cannot be opened.
    """
    file = MappedFile(path)
    is_hdf5 = file.bytes[:8] == recognise.HDF5_SIGNATURE
    file.close()
    if not is_hdf5:
        return caffemodel.open_model(path)
    from stage_extract import hdf5_weights  # takes libhdf5 in

    return hdf5_weights.open_hdf5(path)


def match(
    stored: Iterable[StoredLayer],
    wanted: Mapping[str, Sequence[Shape]],
    where: str = "",
    allow_missing: bool = False,
    shared: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> Match:
    """Finds the blobs of each wanted layer, by its name.

    Where a name is stored twice the last one counts, as in Caffe, but each must fit.

    Args:
        stored: the layers of a weight file.
        wanted: layer name -> shapes of its parameter blobs.
        where: the file, for errors.
        allow_missing: leave out wanted layers that are not stored.
        shared: layer name -> the places of the blobs that other layers own, which Caffe's HDF5
            leaves out (Net::CopyTrainedLayersFromHDF5).

    Raises:
        MalformedModel: wanted layers are missing, or have other blobs; one error tells of all, and
            its table of the unused blobs too.
    """
    blobs: Dict[str, Dict[int, StoredBlob]] = {}
    unused: Dict[str, StoredLayer] = {}
    problems: List[str] = []
    rows: List[List[str]] = []
    for layer in stored:
        shapes = wanted.get(layer.name)
        if shapes is None:
            if layer.blobs:
                unused[layer.name] = layer
        elif layer.blobs or not (shapes and allow_missing):
            misfits = _misfits(layer, shapes, shared.get(layer.name, ()))
            if misfits:
                problems += misfits
                rows += _rows(layer.name, shapes, layer)
            blobs[layer.name] = {
                place: blob.reshaped(tuple(shapes[place]))
                for place, blob in _placed(layer).items()
                if place < len(shapes)
            }
    missing = tuple(name for name in wanted if wanted[name] and name not in blobs)
    if not allow_missing:
        problems += [f"layer {name!r} is missing" for name in missing]
        rows += [row for name in missing for row in _rows(name, wanted[name])]
    if problems:
        hint = "are prototxt and weights of one model?"
        if unused:
            hint = f"layers in the file that the net lacks: {listed([*map(repr, unused)], SHOWN)}"
        if missing and not allow_missing:
            hint = f"--allow-missing fills what is missing; {hint}"
        error = MalformedModel(
            f"the weights do not fit the net: {listed(problems, SHOWN, '; ')}", where, hint
        )
        for layer in unused.values():
            rows += _rows(layer.name, [], layer)
        error.table = {"columns": list(COLUMNS), "rows": rows}
        raise error
    return Match(blobs, tuple(unused), missing)


def _placed(layer: StoredLayer) -> Dict[int, StoredBlob]:
    """Caffe's index -> blob."""
    places = range(len(layer.blobs)) if layer.places is None else layer.places
    return dict(zip(places, layer.blobs))


def _rows(
    name: str, wanted: Sequence[Shape], layer: Optional[StoredLayer] = None
) -> List[List[str]]:
    """A layer's blobs in the net and in the file, a row each."""

    def shown(shapes: Mapping[int, Shape], place: int) -> str:
        return "x".join(map(str, shapes[place])) or "scalar" if place in shapes else "none"

    ours = dict(enumerate(wanted))
    theirs = {place: blob.shape for place, blob in _placed(layer).items()} if layer else {}
    places = sorted(ours.keys() | theirs.keys())
    return [[name, str(place), shown(ours, place), shown(theirs, place)] for place in places]


def _misfits(layer: StoredLayer, shapes: Sequence[Shape], shared: Collection[int]) -> List[str]:
    found = _placed(layer)
    lacking = set(range(len(shapes))).difference(found)
    if layer.places is not None:
        lacking.difference_update(shared)
    if lacking or any(place >= len(shapes) for place in found):
        return [f"layer {layer.name!r}: {len(shapes)} blobs expected, found {len(found)}"]
    return [
        f"layer {layer.name!r}, blob {i}: shape {list(shapes[i])} expected, "
        f"found {list(blob.shape)}"
        for i, blob in found.items()
        if not _fits(blob, tuple(shapes[i]))
    ]


def _fits(blob: StoredBlob, shape: Shape) -> bool:
    """Blob::ShapeEquals (blob.cpp): the old four sizes are aligned at the right."""
    if blob.legacy:
        return len(shape) <= len(blob.shape) and (1,) * (4 - len(shape)) + shape == blob.shape
    return shape == blob.shape
