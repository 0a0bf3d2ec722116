"""The net within a caffemodel, for a user who has no prototxt: a NetParameter by BVLC's numbers.

Every other fork gives its own fields numbers that mean something else in BVLC's Caffe. Hence of a
layer only the messages are read that BVLC's layer of that type has, and a type that BVLC does not
have is refused.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Tuple, Union

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel, listed
from schemas.layers import registry
from stage_extract import caffemodel, descriptors, upgrade
from stage_extract.mapped import MappedFile
from stage_extract.prototxt import Message, Unknown
from stage_extract.stored import decode
from stage_extract.wire import BYTES, FIXED32, FIXED64, VARINT, Field, Schema, Wire, signed

MAX_TEXT = 1 << 16  # bytes of one string
MAX_NUMBERS = 1 << 18  # bytes of all numbers; real nets have some thousands
NOT_READ = ("blobs",)
RULES = ("include", "exclude", "phase")
DATA = "transform_param"


def read(path: Union[str, os.PathLike]) -> Message:
    """The NetParameter that a caffemodel holds: the net that it was saved from.

    Caffe saves it after its include and exclude rules, which are therefore dropped, and with the
    Split layers that it put in itself, which are taken out again.

    Raises:
        MalformedModel: the file is damaged, or no caffemodel.
        UnsupportedModel: all layers of types that BVLC's Caffe does not have, at once.
        UsageError, EnvironmentProblem: the file cannot be opened.
    """
    file = MappedFile(path)
    try:
        caffemodel.refuse_mistaken(file)
        net = upgrade.upgrade(_Reader(file).read())
    finally:
        file.close()
    layers = net.fields["layer"]
    if not layers:
        raise MalformedModel("there are no layers in this file", file.path, "is it a caffemodel?")
    strange = [layer for layer in layers if not _is_known(str(layer.fields.get("type")))]
    if strange:
        names = [f"{la.fields.get('name', '')!r} ({la.fields.get('type', '')})" for la in strange]
        raise UnsupportedModel(
            "layers of types that BVLC's Caffe does not have cannot be read from the weights "
            f"alone: {listed(names, len(names))}",
            file.path,
            "give the prototxt too: NET.prototxt WEIGHTS",
        )
    return replace(net, fields=dict(net.fields, layer=_without_splits(layers)))


def _is_known(type_: str) -> bool:
    """Whether BVLC's Caffe has the type, or it is one that is dropped, whatever its parameters."""
    known = registry.dialects(type_)
    dropped = [meaning.role in ("loss", "sink") for meaning in known.values()]
    return "" in known or (bool(dropped) and all(dropped))


def _without_splits(layers: List[Message]) -> List[Message]:
    """The layers that the user wrote, without rules, reading what the user said."""
    written: Dict[str, str] = {}
    kept = []
    for layer in layers:
        bottoms = [written.get(name, name) for name in layer.fields.get("bottom", [])]
        if _is_inserted(layer):
            written.update(dict.fromkeys(layer.fields["top"], bottoms[0]))
            continue
        fields = {name: value for name, value in layer.fields.items() if name not in RULES}
        if bottoms:
            fields["bottom"] = bottoms
        kept.append(replace(layer, fields=fields))
    return kept


def _is_inserted(layer: Message) -> bool:
    """Whether it is a Split that Caffe put in, ``<blob>_<layer>_<index>_split``
    (insert_splits.cpp)."""
    name, tops = str(layer.fields.get("name", "")), layer.fields.get("top", [])
    bottoms = layer.fields.get("bottom", [])
    if layer.fields.get("type") != "Split" or len(bottoms) != 1:
        return False
    start, end = f"{bottoms[0]}_", "_split"
    index = name[len(start) : -len(end)].rpartition("_")[2]
    return (
        name.startswith(start)
        and name.endswith(end)
        and index.isdigit()
        and tops == [f"{name}_{i}" for i in range(len(tops))]
    )


class _Reader:
    """Reads messages by their descriptors; a field is a value, a list of them, or a Message."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._wire = Wire(file, lambda: self._place)
        self._place = ""
        self._numbers_left = MAX_NUMBERS
        self._schemas: Dict[str, Tuple[Schema, Mapping[str, Any]]] = {}
        self._unknown: List[Unknown] = []

    def read(self) -> Message:
        net = self._message("NetParameter", 0, self._file.size, "")
        net.unknown = self._unknown
        return net

    def _schema(self, type_: str) -> Tuple[Schema, Mapping[str, Any]]:
        """What BVLC's message has: the fields by number, and their descriptors by name."""
        if type_ not in self._schemas:
            known = {
                field.name: field
                for field in descriptors.message(type_).fields
                if field.number < descriptors.FORKS
            }
            wires = {field.number: _wires(field) for field in known.values()}
            names = {field.number: name for name, field in known.items()}
            self._schemas[type_] = Schema(type_, names, wires, others=True), known
        return self._schemas[type_]

    def _message(self, type_: str, start: int, end: int, path: str) -> Message:
        schema, known = self._schema(type_)
        made = Message(type_, line=0, column=0, source=self._file.path)
        already = len(self._unknown)
        if type_ == "LayerParameter":
            self._place = ""
        parts = list(self._wire.fields(start, end, schema))
        skipped = self._skipped(parts) if type_ == "LayerParameter" else NOT_READ
        for part in parts:
            inner = f"{path}.{part.name}" if path else part.name
            if part.name.isdigit():
                number = f"field number {part.name}"
                self._unknown.append(Unknown(f"{path}.{number}" if path else number, number, 0, 0))
            elif part.name not in skipped:
                self._add(made, known[part.name], part, inner)
        made.unknown = self._unknown[already:]
        return made

    def _skipped(self, parts: List[Field]) -> Tuple[str, ...]:
        """The fields of a layer that are not looked at: other types' messages."""
        texts = {part.name: self._text(part) for part in parts if part.name in ("name", "type")}
        self._place = f", layer {texts.get('name', '')!r}"
        meanings = registry.dialects(texts.get("type", "")).values()
        own = {DATA, *(name for meaning in meanings for name in meaning.messages)}
        others = (part.name for part in parts if part.name.endswith("_param"))
        return (*NOT_READ, *(name for name in others if name not in own))

    def _add(self, into: Message, field: Any, part: Field, path: str) -> None:
        name = field.name
        into.lines.setdefault(name, 0)
        if not descriptors.is_repeated(field):
            into.fields[name] = self._values(field, part, path)[-1]
            return
        found = into.fields.setdefault(name, [])
        found += self._values(field, part, f"{path}[{len(found)}]")

    def _values(self, field: Any, part: Field, path: str) -> List[Any]:
        if field.message_type is not None:
            type_ = field.message_type.full_name[len(descriptors.PACKAGE) + 1 :]
            return [self._message(type_, part.start, part.end, path)]
        if field.cpp_type == field.CPPTYPE_STRING:
            return [self._text(part)]
        return [self._plain(field, value) for value in self._numbers(field, part)]

    def _text(self, part: Field) -> str:
        if part.end - part.start > MAX_TEXT:
            message = f"a text of {part.end - part.start} bytes; at most {MAX_TEXT} expected"
            raise self._wire.damage(part.start, message)
        return decode(self._file.bytes[part.start : part.end])

    def _numbers(self, field: Any, part: Field) -> List[Any]:
        """The numbers in a field: one, a packed list of them, or a run of unpacked ones."""
        self._numbers_left -= part.end - part.start
        if self._numbers_left < 0:
            message = f"the file has more than {MAX_NUMBERS} bytes of parameters"
            raise self._wire.damage(part.start, message)
        width = {field.CPPTYPE_FLOAT: 4, field.CPPTYPE_DOUBLE: 8}.get(field.cpp_type)
        found: List[Any] = []
        if width is None:
            at = part.start
            while at < part.end:
                value, at = self._wire.varint(at, part.end)
                found.append(signed(value))
            return found
        stride = width if part.wire == BYTES else width + 1
        nbytes = part.end - part.start + stride - width
        if nbytes % stride:
            raise self._wire.damage(part.start, f"{nbytes} bytes are no whole number of values")
        form = "<f" if width == 4 else "<d"
        for at in range(part.start, part.start + nbytes, stride):
            found.append(struct.unpack_from(form, self._file.bytes, at)[0])
        return found

    def _plain(self, field: Any, value: Any) -> Any:
        """A number as a prototxt has it."""
        if field.enum_type is not None:
            names = {item.number: item.name for item in field.enum_type.values}
            if value not in names:
                raise UnsupportedModel(
                    f"{field.name} is {value}, which means nothing in BVLC's Caffe",
                    self._file.path + self._place,
                    "give the prototxt too: NET.prototxt WEIGHTS",
                )
            return names[value]
        if field.cpp_type == field.CPPTYPE_BOOL:
            return bool(value)
        if field.cpp_type == field.CPPTYPE_FLOAT:
            return float(str(np.float32(value)))  # 0.1 as it was written, not 0.10000000149
        if field.cpp_type == field.CPPTYPE_UINT32:
            return value % (1 << 32)
        if field.cpp_type == field.CPPTYPE_INT32:  # all but the low bits are dropped
            return (value + (1 << 31)) % (1 << 32) - (1 << 31)
        return value


def _wires(field: Any) -> Tuple[int, ...]:
    if field.cpp_type in (field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE):
        return (BYTES,)
    fixed = {field.CPPTYPE_FLOAT: FIXED32, field.CPPTYPE_DOUBLE: FIXED64}
    wire = fixed.get(field.cpp_type, VARINT)
    return (wire, BYTES) if descriptors.is_repeated(field) else (wire,)
