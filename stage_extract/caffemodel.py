"""The binary caffemodel, in each form that Caffe has had: current, V1 and V0.

Only names, types, bottoms, tops and blobs are read. Every other number means something else in some
fork, so such fields are stepped over and never interpreted. A blob remembers where its values lie.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple, Union

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from stage_extract import recognise
from stage_extract.mapped import MappedFile
from stage_extract.stored import (
    MAX_AXES,
    Piece,
    StoredBlob,
    StoredLayer,
    StoredModel,
    decode,
    is_possible,
)
from stage_extract.wire import BYTES, FIXED32, FIXED64, VARINT, Field, Schema, Wire, signed

MAX_NAME = 4096  # bytes

NET = Schema(
    "NetParameter",
    {1: "name", 2: "layers", 100: "layer"},
    hint="mean images and solver states are no caffemodels",
)
LAYER = Schema("LayerParameter", {1: "name", 2: "type", 3: "bottom", 4: "top", 7: "blobs"})
V1_LAYER = Schema(
    "V1LayerParameter",
    {1: "layer", 2: "bottom", 3: "top", 4: "name", 5: "type", 6: "blobs"},
    {5: (VARINT,)},
)
V0_LAYER = Schema("V0LayerParameter", {1: "name", 2: "type", 50: "blobs"})
SHAPE = Schema("BlobShape", {1: "dim"}, {1: (BYTES, VARINT)})

LEGACY_SHAPE = {1: "num", 2: "channels", 3: "height", 4: "width"}
BLOB = Schema(
    "BlobProto",
    {
        **LEGACY_SHAPE,
        5: "data",
        7: "shape",
        8: "double_data",
        10: "raw_data_type",
        11: "packed_data",
        12: "raw_data",
    },
    {
        **{number: (VARINT,) for number in LEGACY_SHAPE},
        5: (BYTES, FIXED32, VARINT),  # VARINT: the fifth size in C3D 1.0
        8: (BYTES, FIXED64),
        10: (VARINT, BYTES),  # BYTES: shape_stride in BVLC's opencl branch
        11: (BYTES, VARINT),  # VARINT: NVIDIA's raw_diff_type
    },
)
RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}  # NVIDIA's enum Type: DOUBLE, FLOAT, FLOAT16


def open_model(path: Union[str, os.PathLike]) -> StoredModel:
    """Opens a binary caffemodel.

    The type of a layer is its type string, for V1 (``layers``) the number of V1's enum.

    Raises:
        MalformedModel: the file is damaged, hostile, or something else; `where` names the byte.
        UnsupportedModel: values are stored in a fork's form that cannot be read.
        UsageError, EnvironmentProblem: the file cannot be opened.
    """
    file = MappedFile(path)
    try:
        refuse_mistaken(file)
        return StoredModel(file, _Reader(file).layers())
    except BaseException:
        file.close()
        raise


def read_blob(path: Union[str, os.PathLike]) -> np.ndarray:
    """The blob of a ``.binaryproto`` (a mean image) as a float32 array, in its stored shape.

    Raises:
        As `open_model`.
    """
    file = MappedFile(path)
    try:
        refuse_mistaken(file)
        return np.array(_Reader(file).blob(0, file.size).array())
    finally:
        file.close()


def refuse_mistaken(file: MappedFile) -> None:
    """Names what people give in place of a binary Caffe file.

    Raises:
        MalformedModel: the file is an archive, a web page, a text, ...
    """
    head = file.bytes[: recognise.HEAD]
    found = recognise.mistaken(head)
    if head.startswith(recognise.HDF5_SIGNATURE):
        found = recognise.Mistaken("HDF5", "is it a .caffemodel.h5?")
    elif found is None and recognise.is_text(head):
        found = recognise.Mistaken("text", "the prototxt comes first, the weights second")
    if found is not None:
        message = f"a binary Caffe file is expected, found {found.what}"
        raise MalformedModel(message, file.path, found.hint)


@dataclass
class _Draft:
    """A layer while it is read."""

    name: str = ""
    type: Union[str, int] = ""
    bottom: List[str] = field(default_factory=list)
    top: List[str] = field(default_factory=list)
    blobs: List[StoredBlob] = field(default_factory=list)

    def finished(self) -> StoredLayer:
        return StoredLayer(
            self.name, self.type, tuple(self.bottom), tuple(self.top), tuple(self.blobs)
        )


class _Reader:
    """Interprets the messages; one at a time, so that errors know where they are."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._wire = Wire(file, self._place)
        self._layer: Optional[_Draft] = None
        self._in_blob = False

    def _place(self) -> str:
        if self._layer is None:
            return ""
        blob = f", blob {len(self._layer.blobs)}" if self._in_blob else ""
        return f", layer {self._layer.name!r}{blob}"

    def layers(self) -> List[StoredLayer]:
        layers = []
        for part in self._wire.fields(0, self._file.size, NET):
            if part.name != "name":
                self._layer = _Draft()
                self._read_layer(self._layer, part, LAYER if part.name == "layer" else V1_LAYER)
                layers.append(self._layer.finished())
                self._layer = None
        if not layers:
            raise self._wire.damage(0, "there are no layers in this file", "is it a caffemodel?")
        return layers

    def _read_layer(self, layer: _Draft, span: Field, schema: Schema) -> None:
        for part in self._wire.fields(span.start, span.end, schema):
            if part.name == "blobs":
                self._in_blob = True
                layer.blobs.append(self.blob(part.start, part.end))
                self._in_blob = False
            elif part.name == "layer":
                self._read_layer(layer, part, V0_LAYER)
            elif part.wire == VARINT:
                layer.type = self._wire.int64(part.start, part.end)
            elif part.name in ("name", "type"):
                setattr(layer, part.name, self._text(part))
            else:
                getattr(layer, part.name).append(self._text(part))

    def _text(self, part: Field) -> str:
        size = part.end - part.start
        if size > MAX_NAME:
            raise self._wire.damage(
                part.start, f"a name of {size} bytes; at most {MAX_NAME} expected"
            )
        return decode(self._file.bytes[part.start : part.end])

    def blob(self, start: int, end: int) -> StoredBlob:
        """The BlobProto in [start, end).

        The old four sizes go before a shape, double_data before data (blob.cpp, FromProto).
        """
        sizes: Dict[str, int] = {}
        dims: List[int] = []
        data: List[Piece] = []
        double_data: List[Piece] = []
        others: Dict[str, Field] = {}
        for part in self._wire.fields(start, end, BLOB):
            if part.name == "data":
                data += self._pieces(part, 4, sizes)
            elif part.name == "double_data":
                double_data += self._pieces(part, 8, sizes)
            elif part.name == "shape":
                self._read_dims(dims, part)
            elif part.name in LEGACY_SHAPE.values():
                sizes[part.name] = self._wire.int64(part.start, part.end)
            else:
                others[part.name] = part

        if double_data:
            pieces, dtype = double_data, "<f8"
        elif data:
            pieces, dtype = data, "<f4"
        else:
            pieces, dtype = self._fork_values(start, others)

        shape = (
            tuple(sizes.get(name, 0) for name in LEGACY_SHAPE.values()) if sizes else tuple(dims)
        )
        if not is_possible(shape):
            raise self._wire.damage(start, f"no blob can have shape {list(shape)}")
        blob = StoredBlob(self._file, pieces, dtype, shape, start, legacy=bool(sizes))
        stored = sum(piece.size for piece in pieces)
        if blob.size != stored:
            raise self._wire.damage(
                start, f"shape {list(shape)} is announced, {stored} values follow"
            )
        return blob

    def _pieces(self, part: Field, width: int, sizes: Dict[str, int]) -> List[Piece]:
        """Where the values of a packed field, or of a run of unpacked ones, lie."""
        if part.wire == VARINT:
            if len(sizes) == len(LEGACY_SHAPE):
                raise self._unsupported(part.start, "a blob has five sizes, the form of C3D 1.0")
            raise self._wire.damage(part.start, "values are expected, found a number")
        stride = width if part.wire == BYTES else 1 + width
        nbytes = part.end - part.start + stride - width
        if nbytes % stride:
            raise self._wire.damage(
                part.start, f"{nbytes} bytes are no whole number of {width}-byte values"
            )
        return [Piece(part.start, nbytes // stride, stride)] if nbytes else []

    def _fork_values(self, start: int, others: Dict[str, Field]) -> Tuple[List[Piece], str]:
        """Values in NVIDIA's raw_data, which needs a raw_data_type to be told from other forks'."""
        kind, raw = others.get("raw_data_type"), others.get("raw_data")
        if raw is not None and kind is not None and kind.wire == VARINT:
            number = self._wire.int64(kind.start, kind.end)
            if number not in RAW_TYPES:
                raise self._unsupported(start, f"raw_data has type {number}; 0, 1 and 2 are floats")
            dtype = RAW_TYPES[number]
            return self._pieces(raw, np.dtype(dtype).itemsize, {}), dtype
        if "packed_data" in others and others["packed_data"].wire == BYTES:
            raise self._unsupported(start, "values are in packed_data, of BVLC's opencl branch")
        return [], "<f4"

    def _read_dims(self, dims: List[int], span: Field) -> None:
        for part in self._wire.fields(span.start, span.end, SHAPE):
            at = part.start
            while at < part.end:
                size, at = self._wire.varint(at, part.end)
                dims.append(signed(size))
                if len(dims) > MAX_AXES:
                    raise self._wire.damage(at, f"a blob has more than {MAX_AXES} axes")

    def _unsupported(self, at: int, message: str) -> UnsupportedModel:
        return UnsupportedModel(message, self._wire.where(at), "save the model with BVLC Caffe")
